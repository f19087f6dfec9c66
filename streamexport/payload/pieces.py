"""Bytes that exist and bytes to come.

A converted model is an ordered list of *pieces*. Every piece knows its size before anything is read, and can render
any range of its bytes on its own, into a buffer of the caller's:

- `Literal`: a few bytes that we hold (headers, lengths, small parameters);
- `Extent`: bytes that lie in a source, at an offset. Making one does no I/O, and whoever moves bytes may move them
  without looking (splice, clone, copy);
- anything else with `size`, `sources`, `reads` and `render`: *computed* bytes (see `tensors`), which nobody special-cases;
- `Layout`: the pieces of a whole file in order, and a piece itself.

Memory is bounded by the buffers that callers pass in; nothing here holds payload.
"""

from __future__ import annotations

import os
import pickle
import zlib
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Protocol

BUFFER = 128 << 10
"""Bytes moved at a time. It has to stay in a core's cache, even a shared one: 1 MiB took up to twice as long."""


class Source(ABC):
    """Who holds the bytes: an identity that can be compared and pickled, opened only by who reads.

    Attributes
    ----------
    name : path or URL, for messages
    size : bytes in all
    """

    name: str
    size: int

    @property
    def is_far(self) -> bool:
        """Whether asking takes long: what follows from other bytes is not read first but confirmed, and payload is asked for
        before it is read, many ranges at once.
        """
        return False

    @property
    def retries(self) -> int:
        """How often something was asked for once more, so far, in this process."""
        return 0

    def __fspath__(self) -> str:
        """Its name, so that a source stands wherever something is asked for that can be opened."""
        return self.name

    @abstractmethod
    def read_into(self, offset: int, into: memoryview) -> None:
        """Fills `into` with the bytes from `offset` on; SourceError if that is not possible."""

    def read_runs(self, offsets: Sequence[int], length: int) -> bytes:
        """`length` bytes at each of the offsets, one after the other."""
        return b"".join(self.read(offset, length) for offset in offsets)

    @abstractmethod
    def fileno(self) -> int | None:
        """A descriptor of the kernel's for moves without a copy, or None where there is none."""

    def expect(self, offset: int, length: int) -> None:  # noqa: B027 # a hint: most sources have no use for it
        """Says that these bytes will be read soon."""

    def reads(self, offset: int, length: int) -> Sequence[Extent]:
        """What has to be read for these bytes, and where: of the source itself, unless it is made of others."""
        return (Extent(self, offset, length),) if length else ()

    def beside(self, file: str) -> str:
        """The name of another file in the same place, to be opened by."""
        return os.path.join(os.path.dirname(self.name), file)

    def confirm(self, offset: int, length: int, check: Callable[[bytes], None]) -> None:
        """Hands these bytes to `check`, which raises an error of ours if they are not what was taken for granted.

        At once; of a source that is far away when they pass by, with the headers or with the payload behind them.
        """
        check(self.read(offset, length))

    @abstractmethod
    def check(self) -> None:
        """Raises SourceChangedError unless the source still is what it was when its identity was taken."""

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes at `offset`: for headers, not for payload."""
        data = bytearray(length)
        self.read_into(offset, memoryview(data))
        return bytes(data)


class Piece(Protocol):
    """Bytes of known length, wherever they come from. What is neither Literal nor Extent is computed.

    Any process, and any thread, renders any range on its own: pieces can be pickled and copied. What a range reads is known
    before, so that whoever moves bytes can ask for them in time, many at once, wherever they lie.
    """

    @property
    def size(self) -> int: ...

    @property
    def sources(self) -> tuple[Source, ...]:
        """The sources that rendering reads."""

    def reads(self, start: int, stop: int) -> Sequence[Extent]:
        """The bytes that rendering [start, stop) reads, none of them empty, in no order; ValueError outside the piece.

        Nothing is read to say so. What is kept from an earlier range is named all the same.
        """

    def render(self, start: int, stop: int, into: memoryview) -> None:
        """Writes bytes [start, stop) of the piece into `into`, which is `stop - start` bytes long; else ValueError."""


def check_range(size: int, start: int, stop: int, into: memoryview | None = None) -> None:
    """ValueError unless bytes [start, stop) lie in a piece of `size` bytes, and `into` has just the room for them."""
    if not 0 <= start <= stop <= size:
        raise ValueError(f"range {start} to {stop} lies outside a piece of {size} bytes")
    if into is not None and len(into) != stop - start:
        raise ValueError(f"range {start} to {stop} does not fit a buffer of {len(into)} bytes")


@dataclass(frozen=True, slots=True)
class Literal:
    """Bytes that we hold."""

    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    @property
    def sources(self) -> tuple[Source, ...]:
        return ()

    def reads(self, start: int, stop: int) -> Sequence[Extent]:
        check_range(self.size, start, stop)
        return ()

    def render(self, start: int, stop: int, into: memoryview) -> None:
        check_range(self.size, start, stop, into)
        into[:] = self.data[start:stop]


@dataclass(frozen=True, slots=True)
class Extent:
    """`length` bytes at `offset` of a source. ValueError if they do not all lie inside it."""

    source: Source
    offset: int
    length: int

    def __post_init__(self) -> None:
        if self.offset < 0 or self.length < 0 or self.offset + self.length > self.source.size:
            raise ValueError(f"bytes {self.offset} to {self.offset + self.length} lie outside {self.source.name}")

    @property
    def size(self) -> int:
        return self.length

    @property
    def sources(self) -> tuple[Source, ...]:
        return (self.source,)

    @property
    def end(self) -> int:
        return self.offset + self.length

    def part(self, start: int, stop: int) -> Extent:
        """Bytes [start, stop) of this extent."""
        check_range(self.length, start, stop)
        return Extent(self.source, self.offset + start, stop - start)

    def reads(self, start: int, stop: int) -> Sequence[Extent]:
        check_range(self.length, start, stop)
        return self.source.reads(self.offset + start, stop - start)

    def render(self, start: int, stop: int, into: memoryview) -> None:
        check_range(self.length, start, stop, into)
        self.source.read_into(self.offset + start, into)


@dataclass(frozen=True)
class Layout:
    """A file as an ordered list of pieces; `Layout.of` flattens layouts inside layouts and joins neighbours."""

    pieces: tuple[Piece, ...]

    @classmethod
    def of(cls, pieces: Iterable[Piece]) -> Layout:
        return cls(tuple(_joined(pieces)))

    def __reduce__(self) -> tuple[Callable[[bytes], Layout], tuple[bytes]]:
        """Packed, since it travels: the headers of an HDF5 file are half a megabyte, and nearly all of it zeros."""
        return _unpacked, (zlib.compress(pickle.dumps(self.pieces, pickle.HIGHEST_PROTOCOL), 1),)

    @cached_property
    def starts(self) -> list[int]:
        """Where each piece begins, and, last of all, where the layout ends."""
        return list(accumulate((piece.size for piece in self.pieces), initial=0))

    @property
    def size(self) -> int:
        return self.starts[-1]

    @cached_property
    def sources(self) -> tuple[Source, ...]:
        return tuple(dict.fromkeys(source for piece in self.pieces for source in piece.sources))

    @property
    def is_far(self) -> bool:
        return any(source.is_far for source in self.sources)

    def parts(self, start: int, stop: int) -> Iterator[tuple[Piece, int, int]]:
        """What makes up bytes [start, stop): pieces, each with the range of it that is wanted, none empty."""
        check_range(self.size, start, stop)
        index = bisect_right(self.starts, start) - 1
        while start < stop:
            piece, begin, end = self.pieces[index], self.starts[index], self.starts[index + 1]
            if end > start:
                yield piece, start - begin, min(stop, end) - begin
                start = min(stop, end)
            index += 1

    def reads(self, start: int, stop: int) -> Sequence[Extent]:
        return [extent for piece, first, last in self.parts(start, stop) for extent in piece.reads(first, last)]

    def render(self, start: int, stop: int, into: memoryview) -> None:
        check_range(self.size, start, stop, into)
        at = 0
        for piece, first, last in self.parts(start, stop):
            piece.render(first, last, into[at : at + last - first])
            at += last - first


def _unpacked(data: bytes) -> Layout:
    return Layout(pickle.loads(zlib.decompress(data)))


def _joined(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Leaf pieces: empty ones dropped, neighbouring literals and neighbouring extents each made one."""
    literal: list[bytes] = []
    extent: Extent | None = None
    for piece in _leaves(pieces):
        if literal and not isinstance(piece, Literal):
            yield Literal(b"".join(literal))
            literal = []
        if extent is not None:
            if isinstance(piece, Extent) and piece.source == extent.source and piece.offset == extent.end:
                extent = Extent(extent.source, extent.offset, extent.length + piece.length)
                continue
            yield extent
            extent = None
        if isinstance(piece, Literal):
            literal.append(piece.data)
        elif isinstance(piece, Extent):
            extent = piece
        else:
            yield piece
    if literal:
        yield Literal(b"".join(literal))
    if extent is not None:
        yield extent


def _leaves(pieces: Iterable[Piece]) -> Iterator[Piece]:
    for piece in pieces:
        if isinstance(piece, Layout):
            yield from piece.pieces
        elif piece.size:
            yield piece
