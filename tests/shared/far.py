"""A file that is far away: read by blocks, each of which is counted, and nothing is confirmed before it has come."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import groupby

from streamexport.payload.pieces import Source
from streamexport.sources.local import LocalFile


class Far(Source):
    """A local file as a store would give it: in blocks, the last four of which are held.

    `requests` counts runs of neighbouring blocks that were asked for, `awaited` holds what is still to be confirmed.
    """

    defers = True

    def __init__(self, path: str | os.PathLike[str], block: int = 1 << 20) -> None:
        self.window = block
        self.file = LocalFile.at(path)
        self.name, self.size = self.file.name, self.file.size
        self.requests = 0
        self.held: dict[int, bytes] = {}
        self.awaited: list[tuple[int, int, Callable[[bytes], None]]] = []

    def read_into(self, offset: int, into: memoryview) -> None:
        blocks = range(offset // self.window, -(-(offset + len(into)) // self.window))
        self._fetch([block for block in blocks if block not in self.held])
        data = b"".join(self.held[block] for block in blocks)
        start = offset - blocks.start * self.window
        into[:] = data[start : start + len(into)]
        for block in [*self.held][:-4]:
            del self.held[block]

    def _fetch(self, blocks: list[int]) -> None:
        for _, run in groupby(enumerate(blocks), lambda pair: pair[1] - pair[0]):
            numbers = [block for _, block in run]
            start, stop = numbers[0] * self.window, min(self.size, (numbers[-1] + 1) * self.window)
            data = self.file.read(start, stop - start)
            self.requests += 1
            for at, block in enumerate(numbers):
                self.held[block] = data[at * self.window : (at + 1) * self.window]
        self._settle()

    def _settle(self) -> None:
        """Confirms what has come."""
        awaited, self.awaited = self.awaited, []
        for offset, length, check in awaited:
            blocks = range(offset // self.window, -(-(offset + length) // self.window))
            if all(block in self.held for block in blocks):
                check(self.file.read(offset, length))
            else:
                self.awaited.append((offset, length, check))

    def confirm(self, offset: int, length: int, check: Callable[[bytes], None]) -> None:
        self.awaited.append((offset, length, check))
        self._settle()

    def confirm_all(self) -> None:
        """What happens in the end where all of the file passes by."""
        for offset, length, check in self.awaited:
            check(self.file.read(offset, length))

    def fileno(self) -> None:
        return None

    def check(self) -> None:
        self.file.check()
