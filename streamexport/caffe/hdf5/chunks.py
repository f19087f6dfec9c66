"""Chunked HDF5 datasets: blocks of one shape, each somewhere in the file, as it is or through filters.

A chunk is row-major and whole, beyond the dataset's edges too; one that nobody wrote is the fill value. Filters are undone
in reverse order: gzip (1), shuffle (2: bytes of all elements grouped by their place in the element), Fletcher-32 (3: a
checksum of 16-bit words behind the bytes). Learnt from the HDF5 file format specification, III.A.1 and IV.A.2.l.

Filtered chunks are decoded whole. Those that a pass through the dataset comes back to are kept; they may take `MOST` bytes.
"""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any, NoReturn

from ...errors import FormatError
from ...payload.pieces import BUFFER, Extent, Source
from ...payload.tensors import Computed, DType, boxes, contiguous_strides, span

if TYPE_CHECKING:
    from ...payload.tensors import Array

MOST = 32 << 20
"""Bytes of decoded chunks held at a time."""

DEFLATE, SHUFFLE, FLETCHER32 = 1, 2, 3
LITTLE = "<"
PLACE = struct.Struct("<QQQ")  # offset, stored bytes, mask of filters that were skipped


@dataclass(frozen=True)
class Chunks:
    """How a dataset is cut.

    Attributes
    ----------
    shape : of each chunk
    table : a PLACE for each, in row-major order; 0 bytes for one that was never written
    filters : HDF5's numbers of them, in the order in which they were applied
    """

    shape: tuple[int, ...]
    table: bytes
    filters: tuple[int, ...] = ()


class Chunked(Computed):
    """The elements of a chunked dataset in row-major order.

    Parameters
    ----------
    dtype, order : of its elements; ">" for big-endian ones, which are turned round
    shape : of the dataset
    fill : what elements are that nobody wrote

    Raises
    ------
    FormatError : a filter is not known, or chunks are too large to be decoded
    """

    def __init__(
        self, source: Source, name: str, dtype: DType, order: str, shape: tuple[int, ...], chunks: Chunks, fill: float
    ) -> None:
        self.source, self.name, self.dtype, self.shape, self.fill = source, name, dtype, shape, fill
        self.code = order + dtype.code[1:]
        self.chunk, self.table, self.filters = chunks.shape, chunks.table, chunks.filters
        self.count = prod(shape)
        self.grid = tuple(-(-size // step) for size, step in zip(shape, self.chunk, strict=True))
        if prod(self.grid) * PLACE.size != len(self.table):
            self._fail("has a table of chunks that does not fit its shape")
        if unknown := set(self.filters).difference((DEFLATE, SHUFFLE, FLETCHER32)):
            self._fail(f"is stored through HDF5 filter {min(unknown)}, which is not known here")
        if self.filters and self._held() > MOST:
            self._fail(
                f"is compressed in chunks of {list(self.chunk)}: reading on means to hold more than {MOST >> 20} MiB"
            )

    def _held(self) -> int:
        """Bytes of the chunks that a row-major pass comes back to: those along the axes behind the first long one."""
        axis = next((axis for axis, step in enumerate(self.chunk) if step > 1), len(self.chunk))
        rows = self.chunk[axis : axis + 1]
        behind = (step * count for step, count in zip(self.chunk[axis + 1 :], self.grid[axis + 1 :], strict=True))
        return prod((*rows, *behind, self.dtype.itemsize))

    @property
    def sources(self) -> tuple[Source, ...]:
        return (self.source,)

    def elements(self, first: int, last: int) -> Array:
        import numpy as np

        array = np.empty(last - first, self.code)
        at = 0
        for corner, shape in boxes(self.shape, first, last):
            size = prod(shape)
            self._read_box(corner, array[at : at + size].reshape(shape))
            at += size
        return array.astype(self.dtype.code, copy=False)

    def extents(self, first: int, last: int) -> Sequence[Extent]:
        shares = (share for corner, shape in boxes(self.shape, first, last) for share in self._shares(corner, shape))
        return [extent for share in shares if share.place.size for extent in self._stored(share)]

    def _stored(self, share: Share) -> Iterator[Extent]:
        """What is read for a share of a chunk that somebody wrote: all of the chunk, if it was filtered."""
        if self.filters:
            yield self._extent(share.place.offset, share.place.size)
            return
        strides = contiguous_strides(self.chunk)
        for index, offset in self._runs(self._offset(share), strides, share.shape):
            length = span(share.shape[len(index) :], strides[len(index) :]) * self.dtype.itemsize
            yield self._extent(offset, length)

    def _read_box(self, corner: Sequence[int], into: Array) -> None:
        """Fills `into` with the elements of its shape that begin at `corner`, from every chunk that has some."""
        for share in self._shares(corner, into.shape):
            self._read_share(share, into[share.window(share.target)])

    def _shares(self, corner: Sequence[int], shape: Sequence[int]) -> Iterator[Share]:
        """What each chunk has of the elements of that shape that begin at `corner`."""
        ends = [start + size for start, size in zip(corner, shape, strict=True)]
        low = [start // step for start, step in zip(corner, self.chunk, strict=True)]
        high = [-(-end // step) for end, step in zip(ends, self.chunk, strict=True)]
        for index in product(*map(range, low, high)):
            origin = [i * step for i, step in zip(index, self.chunk, strict=True)]
            start = [max(c, o) for c, o in zip(corner, origin, strict=True)]
            stop = [min(e, o + step) for e, o, step in zip(ends, origin, self.chunk, strict=True)]
            number = sum(map(int.__mul__, index, contiguous_strides(self.grid)))
            yield Share(
                Place(*PLACE.unpack_from(self.table, number * PLACE.size)),
                tuple(b - a for a, b in zip(start, stop, strict=True)),
                tuple(a - o for a, o in zip(start, origin, strict=True)),
                tuple(a - c for a, c in zip(start, corner, strict=True)),
            )

    def _read_share(self, share: Share, into: Array) -> None:
        """Fills `into` with what a chunk has."""
        import numpy as np

        place = share.place
        if not place.size:
            with np.errstate(over="ignore"):
                into[...] = self.fill
        elif self.filters:
            into[...] = self._decoded(place).reshape(self.chunk)[share.window(share.start)]
        else:
            self._read_plain(self._offset(share), into)

    @property
    def _chunk_bytes(self) -> int:
        return prod(self.chunk) * self.dtype.itemsize

    def _offset(self, share: Share) -> int:
        """Where the first element of a share lies, in a chunk without filters."""
        if share.place.size != self._chunk_bytes:
            self._fail(f"has a chunk of {share.place.size} bytes, not {self._chunk_bytes}", share.place.offset)
        first = sum(map(int.__mul__, share.start, contiguous_strides(self.chunk)))
        return share.place.offset + first * self.dtype.itemsize

    def _runs(self, offset: int, strides: Sequence[int], shape: Sequence[int]) -> Iterator[tuple[tuple[int, ...], int]]:
        """Rows of a box that are read at once, by their index along the first axes; and where each begins."""
        if span(shape, strides) * self.dtype.itemsize <= 2 * BUFFER or len(shape) < 2:
            yield (), offset
            return
        for row in range(shape[0]):
            for index, at in self._runs(offset + row * strides[0] * self.dtype.itemsize, strides[1:], shape[1:]):
                yield (row, *index), at

    def _read_plain(self, offset: int, into: Array) -> None:
        """Fills `into` from bytes of a chunk that begin at `offset`."""
        import numpy as np

        strides = contiguous_strides(self.chunk)
        for index, at in self._runs(offset, strides, into.shape):
            where: tuple[Any, ...] = (*index, ...)
            row, steps = into[where], strides[len(index) :]
            run = np.empty(span(row.shape, steps), self.code)
            extent = self._extent(at, run.nbytes)
            extent.render(0, extent.size, run.data.cast("B"))
            row[...] = np.lib.stride_tricks.as_strided(run, row.shape, [step * run.itemsize for step in steps])

    def _extent(self, offset: int, length: int) -> Extent:
        if offset + length > self.source.size:
            self._fail("reaches beyond the end of the file", offset)
        return Extent(self.source, offset, length)

    def _decoded(self, place: Place) -> Array:
        """A filtered chunk's elements, one after the other."""
        key = (self.source, place)
        found = _HELD.get(key)
        if found is None:
            found = self._decode(place)
            _HELD.add(key, found)
        return found

    def _decode(self, place: Place) -> Array:
        import numpy as np

        most = self._chunk_bytes + 4 * len(self.filters)  # of checksums; what gzip made larger, HDF5 keeps as it was
        if place.size > 2 * most + 64 or place.offset + place.size > self.source.size:
            self._fail(f"has a chunk of {place.size} bytes that decode to {self._chunk_bytes}", place.offset)
        data = self.source.read(place.offset, place.size)
        for position, number in reversed([*enumerate(self.filters)]):
            if not place.mask >> position & 1:
                data = self._undone(number, data, most, place)
        if len(data) != self._chunk_bytes:
            self._fail(f"has a chunk that decodes to {len(data)} bytes, not {self._chunk_bytes}", place.offset)
        return np.frombuffer(data, self.code)

    def _undone(self, number: int, data: bytes, most: int, place: Place) -> bytes:
        if number == DEFLATE:
            inflate = zlib.decompressobj()
            try:
                data = inflate.decompress(data, most + 1)
            except zlib.error as error:
                self._fail(f"has a chunk that gzip did not write ({error})", place.offset)
            if not inflate.eof:
                self._fail("has a chunk that is cut short, or larger than a chunk", place.offset)
            return data
        if number == SHUFFLE:
            return _unshuffled(data, self.dtype.itemsize)
        if _fletcher32(data[:-4]) != [sum16 % 65535 for sum16 in struct.unpack("<HH", data[-4:].rjust(4, b"\0"))]:
            self._fail("has a chunk whose checksum is wrong", place.offset)
        return data[:-4]

    def _fail(self, what: str, offset: int | None = None) -> NoReturn:
        advice = "rewrite it with `h5repack -f NONE -l CONTI OLD NEW`"
        raise FormatError(what, file=self.source.name, tensor=self.name, offset=offset, advice=advice)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a chunk is stored, in how many bytes, 0 if nobody wrote it; and which filters were skipped."""

    offset: int
    size: int
    mask: int


@dataclass(frozen=True, slots=True)
class Share:
    """What a chunk has of a box: elements of some shape, from `start` on in the chunk, from `target` on in the box."""

    place: Place
    shape: tuple[int, ...]
    start: tuple[int, ...]
    target: tuple[int, ...]

    def window(self, corner: Sequence[int]) -> tuple[slice, ...]:
        """Its elements in an array where they begin at `corner`."""
        return tuple(slice(at, at + size) for at, size in zip(corner, self.shape, strict=True))


class _Held:
    """The decoded chunks of all datasets, the oldest forgotten when they take more than MOST bytes."""

    def __init__(self) -> None:
        self.chunks: dict[Any, Array] = {}
        self.bytes, self.lock = 0, threading.Lock()

    def get(self, key: Any) -> Array | None:
        return self.chunks.get(key)

    def add(self, key: Any, chunk: Array) -> None:
        with self.lock:
            if key not in self.chunks:
                self.chunks[key] = chunk
                self.bytes += chunk.nbytes
            while self.bytes > MOST:
                self.bytes -= self.chunks.pop(next(iter(self.chunks))).nbytes


_HELD = _Held()


def _unshuffled(data: bytes, itemsize: int) -> bytes:
    """Bytes grouped by their place in the element, back in the elements; what makes no whole element stays at the end."""
    import numpy as np

    whole = len(data) // itemsize * itemsize
    grouped = np.frombuffer(data, np.uint8, whole).reshape(itemsize, -1)
    return bytes(grouped.T.tobytes()) + data[whole:]


def _fletcher32(data: bytes) -> list[int]:
    """Both sums modulo 65535 over big-endian words of 16 bits."""
    import numpy as np

    one = two = 0
    for start in range(0, len(data), 1 << 16):
        part = data[start : start + (1 << 16)]
        words = np.frombuffer(part + b"\0" * (len(part) % 2), ">u2").astype(np.uint64)
        two += one * words.size + int((words * np.arange(words.size, 0, -1).astype(np.uint64)).sum())
        one += int(words.sum())
    return [one % 65535, two % 65535]
