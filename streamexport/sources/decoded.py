"""Sources whose bytes do not lie anywhere as they are, but follow from bytes that do. All can be read at any offset."""

from __future__ import annotations

import os
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from ..errors import FormatError
from ..payload.pieces import Extent, Source

STEP = 1 << 16
"""Bytes of a text between two places where the number of characters before is known."""
_CONTINUATION = bytes(range(0x80, 0xC0))


@dataclass(frozen=True)
class Held(Source):
    """A few bytes that we hold, out of the file `name`."""

    name: str
    size: int
    data: bytes | memoryview

    def read_into(self, offset: int, into: memoryview) -> None:
        into[:] = self.data[offset : offset + len(into)]

    def reads(self, offset: int, length: int) -> Sequence[Extent]:
        return ()

    def fileno(self) -> None:
        return None

    def check(self) -> None:
        pass


@dataclass(frozen=True)
class Kept(Source):
    """Bytes out of the file `name` that lie in a file of ours, from `start` of an open descriptor on."""

    name: str
    size: int
    descriptor: int
    start: int

    def read_into(self, offset: int, into: memoryview) -> None:
        while into:
            count = os.preadv(self.descriptor, [into], self.start + offset)
            offset, into = offset + count, into[count:]

    def fileno(self) -> None:
        return None

    def check(self) -> None:
        pass


@dataclass(frozen=True)
class Swapped(Source):
    """Numbers of 2, 4 or 8 bytes in the other byte order."""

    name: str
    size: int
    numbers: Extent
    itemsize: int

    @property
    def is_far(self) -> bool:
        return self.numbers.source.is_far

    @classmethod
    def of(cls, numbers: Extent, itemsize: int) -> Extent:
        """All of them."""
        return Extent(cls(numbers.source.name, numbers.length, numbers, itemsize), 0, numbers.length)

    def reads(self, offset: int, length: int) -> Sequence[Extent]:
        return self.numbers.reads(*self._whole(offset, length)) if length else ()

    def read_into(self, offset: int, into: memoryview) -> None:
        start, stop = self._whole(offset, len(into))
        before = offset - start
        raw = self.numbers.source.read(self.numbers.offset + start, stop - start)
        swapped = array({2: "H", 4: "I", 8: "Q"}[self.itemsize], raw)
        swapped.byteswap()
        into[:] = memoryview(swapped).cast("B")[before : before + len(into)]

    def _whole(self, offset: int, length: int) -> tuple[int, int]:
        """The range of the numbers that some bytes lie in."""
        return offset // self.itemsize * self.itemsize, -(-(offset + length) // self.itemsize) * self.itemsize

    def fileno(self) -> None:
        return None

    def check(self) -> None:
        self.numbers.source.check()


@dataclass(frozen=True)
class Latin1(Source):
    """Bytes that stand in a file as text: as characters of Latin-1, in UTF-8. How many they are is known beforehand."""

    name: str
    size: int
    text: Extent

    @property
    def is_far(self) -> bool:
        return self.text.source.is_far

    @classmethod
    def of(cls, text: Extent, size: int) -> Extent:
        """All of them."""
        return Extent(cls(text.source.name, size, text), 0, size)

    def reads(self, offset: int, length: int) -> Sequence[Extent]:
        return self.text.reads(0, self.text.length) if length else ()  # all of it is counted, once

    def read_into(self, offset: int, into: memoryview) -> None:
        step = bisect_right(self._counts, offset, hi=len(self._counts) - 1) - 1
        while into:
            first, last = self._counts[step : step + 2]
            begun = self._read(step * STEP, STEP + 1).lstrip(_CONTINUATION)  # by a character of the step before
            part = self._decoded(begun, last - first)[offset - first :][: len(into)]
            into[: len(part)] = part
            offset, into, step = offset + len(part), into[len(part) :], step + 1

    def fileno(self) -> None:
        return None

    def check(self) -> None:
        self.text.source.check()

    @cached_property
    def _counts(self) -> Sequence[int]:
        """Characters that begin before each STEP of the text, and all of them. Continuation bytes begin none."""
        steps = (self._read(at, STEP).translate(None, _CONTINUATION) for at in range(0, self.text.length, STEP))
        counts = list(accumulate(map(len, steps), initial=0))
        if counts[-1] != self.size:
            raise self._malformed(f"{counts[-1]} characters, not {self.size}")
        return counts

    def _decoded(self, text: bytes, count: int) -> bytes:
        decoded = text.decode("utf-8", "ignore")[:count].encode("latin-1", "ignore")
        if len(decoded) != count:
            raise self._malformed("characters that are no bytes")
        return decoded

    def _read(self, at: int, length: int) -> bytes:
        return self.text.source.read(self.text.offset + at, min(length, self.text.length - at))

    def _malformed(self, what: str) -> FormatError:
        return FormatError(f"an array of bytes is text of {what}", file=self.name, offset=self.text.offset)
