"""Pieces that end the process that renders them, which workers import."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from streamexport.payload.pieces import Extent, Piece, Source


@dataclass(frozen=True)
class Deadly:
    """The bytes of another piece, whose middle kills: whoever renders it first, or, without a `mark`, everybody."""

    piece: Piece
    mark: Path | None

    @property
    def size(self) -> int:
        return self.piece.size

    @property
    def sources(self) -> tuple[Source, ...]:
        return self.piece.sources

    def reads(self, start: int, stop: int) -> Sequence[Extent]:
        return self.piece.reads(start, stop)

    def render(self, start: int, stop: int, into: memoryview) -> None:
        self.piece.render(start, stop, into)
        if start <= self.size // 2 < stop and (self.mark is None or not self.mark.exists()):
            if self.mark is not None:
                self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
