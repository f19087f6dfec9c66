"""Blobs that no checkpoint holds: constants, selections, and kernels that are embedded in larger ones.

All are computed range by range, like everything else that becomes a file.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import prod
from sys import byteorder
from typing import TYPE_CHECKING

from ..payload.pieces import Extent, Layout, Literal, Piece, Source
from ..payload.tensors import FLOAT32, Computed
from .graph import Blob, computed
from .windows import Axis, Window

if TYPE_CHECKING:
    from ..payload.tensors import Array

Shape = tuple[int, ...]


def filled(shape: Shape, value: float) -> Blob:
    """A blob whose elements are all alike."""
    return Blob(shape, Filled(prod(shape), value))


def selected(shape: Shape, columns: Sequence[int | None]) -> Blob:
    """A blob whose rows (its first axis) have a single 1, at these places of the row, or none."""
    return Blob(shape, Selected(prod(shape[1:]), columns))


def triangle(size: int) -> Blob:
    """A square matrix of ones on its diagonal and below, zeros else."""
    return Blob((size, size), Triangle(size))


Row = tuple[int, Sequence[float]]
"""The column from which on a row of a matrix has other numbers than zeros, and these."""


def banded(rows: Sequence[Row], width: int) -> Blob:
    """A matrix of so many columns whose rows have few numbers, one behind the other, and zeros else."""
    return Blob((len(rows), width), Banded(rows, width))


def literal(shape: Shape, values: Sequence[float]) -> Blob:
    """A small blob of these values, rounded to float32."""
    floats = array("f", values)
    if byteorder == "big":
        floats.byteswap()
    return Blob(shape, Literal(floats.tobytes()))


def in_blocks(blob: Blob, count: int, order: Sequence[int]) -> Blob:
    """A blob whose first axis is so many blocks, in another order; what lies in a file is moved from there."""
    size = blob.values.size // count
    if isinstance(blob.values, Extent):
        values: Piece = Layout.of(blob.values.part(block * size, (block + 1) * size) for block in order)
    else:
        values = Blocks(computed(blob), blob.count // count, order)
    return replace(blob, shape=(blob.shape[0] // count * len(order), *blob.shape[1:]), values=values)


def joined(*blobs: Blob) -> Blob:
    """Blobs one behind the other along their first axis."""
    shape = (sum(blob.shape[0] for blob in blobs), *blobs[0].shape[1:])
    return Blob(shape, Layout.of(blob.values for blob in blobs), origin=_origins(blobs))


def total(*blobs: Blob) -> Blob:
    """The sum of blobs of one shape."""
    return replace(blobs[0], values=Sum([computed(blob) for blob in blobs]), origin=_origins(blobs))


def _origins(blobs: Sequence[Blob]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for blob in blobs for name in blob.origin))


def symmetric(window: Window, weight: Blob) -> tuple[Window, Blob]:
    """A window with as much padding on both sides, as Caffe pads, and a kernel with zeros on the side that had less.

    For padding l and r, pad max(l, r) and |r - l| more rows: exact at every size.
    """
    if window.is_symmetric:
        return window, weight
    axes, rooms, offsets, steps = [], [], [], []
    for axis in window.axes:
        most, missing = max(axis.low, axis.high), abs(axis.high - axis.low)
        # Zeros between the elements where the dilated kernel would not meet the room's edge.
        step = axis.dilation if missing % axis.dilation else 1
        dilation = axis.dilation // step
        rooms.append((axis.extent + missing - 1) // dilation + 1)
        offsets.append((most - axis.low) // dilation)
        steps.append(step)
        axes.append(Axis(rooms[-1], axis.stride, most, most, dilation))
    values = Embedded(computed(weight), window.kernel, tuple(rooms), tuple(offsets), tuple(steps))
    return Window(tuple(axes)), replace(weight, shape=(*weight.shape[:2], *rooms), values=values)


def cropped(window: Window, weight: Blob) -> tuple[Window, Blob]:
    """A window of a transposed convolution, and its kernel, with a border where OpenCV would not crop what it makes: a single
    pixel."""
    if all((axis.kernel, axis.stride) == (1, 1) for axis in window.axes) and any(axis.low for axis in window.axes):
        return bordered(window, weight)
    return window, weight


def bordered(window: Window, weight: Blob) -> tuple[Window, Blob]:
    """The same with a border of zeros around the kernel, and as much more padding; of a window padded alike."""
    grown, ones = window.grown(1), (1,) * len(window.axes)
    values = Embedded(computed(weight), window.kernel, grown.kernel, ones, ones)
    return grown, replace(weight, shape=(*weight.shape[:2], *grown.kernel), values=values)


class _OfNothing(Computed):
    """What is computed without reading anything."""

    dtype = FLOAT32

    @property
    def sources(self) -> tuple[Source, ...]:
        return ()

    def extents(self, first: int, last: int) -> Sequence[Extent]:
        return ()


class Filled(_OfNothing):
    """`count` times the same number."""

    name = "constant"

    def __init__(self, count: int, value: float) -> None:
        self.count, self.value = count, value

    def elements(self, first: int, last: int) -> Array:
        import numpy as np

        return np.full(last - first, self.value, self.dtype.code)


class Triangle(_OfNothing):
    """The rows of a square matrix of `size` columns with ones up to the diagonal, zeros else."""

    name = "triangle"

    def __init__(self, size: int) -> None:
        self.width, self.count = size, size * size

    def elements(self, first: int, last: int) -> Array:
        import numpy as np

        rows, columns = np.divmod(np.arange(first, last), self.width)
        made: Array = (columns <= rows).astype(self.dtype.code)
        return made


class Banded(_OfNothing):
    """The rows of a matrix of `width` columns with some numbers from a column on, zeros else."""

    name = "band"

    def __init__(self, rows: Sequence[Row], width: int) -> None:
        self.rows, self.width, self.count = rows, width, width * len(rows)

    def elements(self, first: int, last: int) -> Array:
        import numpy as np

        begin, end = first // self.width, -(-last // self.width)
        made = np.zeros((end - begin, self.width), self.dtype.code)
        for row, (column, numbers) in zip(made, self.rows[begin:end], strict=True):
            row[column : column + len(numbers)] = numbers
        return made.reshape(-1)[first - begin * self.width : last - begin * self.width]


class Selected(_OfNothing):
    """The rows of a matrix of `width` columns with a 1 at one place of each, zeros else."""

    name = "selection"

    def __init__(self, width: int, columns: Sequence[int | None]) -> None:
        self.width, self.count = width, width * len(columns)
        self.ones = [row * width + column for row, column in enumerate(columns) if column is not None]

    @property
    def columns(self) -> list[int]:
        """Where the ones are in their rows; nothing for rows that have none."""
        return [one % self.width for one in self.ones]

    def elements(self, first: int, last: int) -> Array:
        from bisect import bisect_left

        import numpy as np

        made = np.zeros(last - first, self.dtype.code)
        inside = self.ones[bisect_left(self.ones, first) : bisect_left(self.ones, last)]
        made[[one - first for one in inside]] = 1
        return made


class Embedded(Computed):
    """Kernels in larger ones that are zero around them and, with steps, between their elements.

    The last axes of `values`, of shape `kernel`, are laid out in `room`, from `offset` on and `step` apart.
    """

    def __init__(self, values: Computed, kernel: Shape, room: Shape, offset: Shape, step: Shape) -> None:
        self.values, self.kernel, self.room, self.offset, self.step = values, kernel, room, offset, step
        self.name, self.dtype = values.name, values.dtype
        self.count = values.count // prod(kernel) * prod(room)

    @property
    def sources(self) -> tuple[Source, ...]:
        return self.values.sources

    def extents(self, first: int, last: int) -> Sequence[Extent]:
        begin, end = self._whole(first, last)
        return self.values.extents(begin * prod(self.kernel), end * prod(self.kernel))

    def _whole(self, first: int, last: int) -> tuple[int, int]:
        """The kernels that some elements lie in. Kernels are small: whole ones are made, and cut."""
        large = prod(self.room)
        return first // large, -(-last // large)

    def elements(self, first: int, last: int) -> Array:
        import numpy as np

        large, small = prod(self.room), prod(self.kernel)
        begin, end = self._whole(first, last)
        made = np.zeros((end - begin, *self.room), self.dtype.code)
        kernels = self.values.elements(begin * small, end * small).reshape(end - begin, *self.kernel)
        inside = (slice(o, o + s * k, s) for o, s, k in zip(self.offset, self.step, self.kernel, strict=True))
        places = (slice(None), *inside)
        made[places] = kernels
        return made.reshape(-1)[first - begin * large : last - begin * large]


class Blocks(Computed):
    """Blocks of `size` elements of other values, in another order."""

    def __init__(self, values: Computed, size: int, order: Sequence[int]) -> None:
        self.values, self.block, self.order = values, size, tuple(order)
        self.name, self.dtype, self.count = values.name, values.dtype, size * len(order)

    @property
    def sources(self) -> tuple[Source, ...]:
        return self.values.sources

    def _ranges(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Where the elements are among the values."""
        while first < last:
            place, offset = divmod(first, self.block)
            count = min(self.block - offset, last - first)
            begin = self.order[place] * self.block + offset
            yield begin, begin + count
            first += count

    def extents(self, first: int, last: int) -> Sequence[Extent]:
        return [extent for part in self._ranges(first, last) for extent in self.values.extents(*part)]

    def elements(self, first: int, last: int) -> Array:
        import numpy as np

        return np.concatenate(
            [np.empty(0, self.dtype.code), *(self.values.elements(*part) for part in self._ranges(first, last))]
        )


class Sum(Computed):
    """Element by element."""

    def __init__(self, parts: Sequence[Computed]) -> None:
        self.parts, (first, *_) = tuple(parts), parts
        self.name, self.dtype, self.count = first.name, first.dtype, first.count

    @property
    def sources(self) -> tuple[Source, ...]:
        return tuple(dict.fromkeys(source for part in self.parts for source in part.sources))

    def extents(self, first: int, last: int) -> Sequence[Extent]:
        return [extent for part in self.parts for extent in part.extents(first, last)]

    def elements(self, first: int, last: int) -> Array:
        total, *others = (part.elements(first, last) for part in self.parts)
        for other in others:
            total += other
        return total
