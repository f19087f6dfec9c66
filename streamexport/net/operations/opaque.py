"""Layers of which nobody here knows what they compute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...errors import NetError
from .operation import ANY, Count, Operation, Shape

if TYPE_CHECKING:
    from ...payload.pieces import Piece


@dataclass(frozen=True, slots=True)
class Opaque(Operation):
    """A layer as a file has it: its type, and what the file says of it besides names and blobs, as it stood there."""

    type: str
    fields: tuple[Piece, ...] = ()
    bottoms: ClassVar[Count] = (0, ANY[1])
    tops: ClassVar[Count] = (0, ANY[1])

    def top_shapes(self, bottoms: Sequence[Shape], count: int) -> tuple[Shape, ...]:
        raise NetError(f"is of type {self.type!r}, and what that computes is not known here")
