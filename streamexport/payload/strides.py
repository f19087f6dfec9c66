"""Strided views of a source, read in runs: stretches of bytes that lie close together there.

A read costs about as much as the copying of 4 KiB, so elements with less between them are read as one run, and of runs
thousands are asked for at once. Where runs would be short, because neighbours in the source are far apart in the view (a
transpose), they grow with the number of rows of the view that are read together; `block` says how many that should be.
Memory is bounded by `BUFFER` and `AHEAD`, whatever the view.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import prod
from operator import mul
from typing import TYPE_CHECKING, Any

from .pieces import BUFFER, Source

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

AHEAD = 8 << 20
"""Bytes that a block takes at most."""

LONG = 2 << 10
"""Bytes from which on a run is not worth more rows."""

FEW = 64
"""Elements that are quicker read one by one than a block."""

GAP = 4 << 10
"""Bytes between two elements that are quicker read with them than asked for apart."""

RUNS = 4096
"""Runs that are asked for at once."""


def block(shape: Sequence[int], strides: Sequence[int], itemsize: int) -> int:
    """Elements of a view that should be read together: whole rows, as many as make runs long, or as `AHEAD` has room for."""
    elements = length = 1
    for axis in sorted(range(len(shape)), key=strides.__getitem__):
        row, step = prod(shape[axis + 1 :]), strides[axis]
        rows = min(shape[axis], AHEAD // (row * itemsize))
        if not rows or (step - length) * itemsize > GAP or length * itemsize >= LONG:
            break
        if step and rows > 1:
            rows = min(rows, 1 + -(-(LONG // itemsize - length) // step))
            length += (rows - 1) * step
            elements = max(elements, rows * row if row > 1 else 1)
    return elements


def runs(offset: int, strides: Sequence[int], shape: Sequence[int], itemsize: int) -> Iterator[tuple[int, int]]:
    """What `read_box` reads for a box of that shape: where each run begins, and how many bytes it has."""
    slowest = sorted(range(len(shape)), key=strides.__getitem__, reverse=True)
    steps = [strides[axis] * itemsize for axis in slowest]
    for box, length, inner in _cut([range(shape[axis]) for axis in slowest], steps, itemsize):
        first = offset + sum(axis.start * step for axis, step in zip(box[inner:], steps[inner:], strict=True))
        for index in product(*box[:inner]):
            yield first + sum(map(mul, index, steps)), length


def read_box(source: Source, offset: int, strides: Sequence[int], into: Array) -> None:
    """Fills an array with the elements that lie `strides`, in elements, apart in a source, the first of them at `offset`."""
    slowest = sorted(range(into.ndim), key=strides.__getitem__, reverse=True)
    steps, into = [strides[axis] * into.itemsize for axis in slowest], into.transpose(slowest)
    for box, length, inner in _cut([*map(range, into.shape)], steps, into.itemsize):
        first = offset + sum(axis.start * step for axis, step in zip(box, steps, strict=True))
        part: tuple[Any, ...] = (..., *(slice(axis.start, axis.stop) for axis in box))
        _fill_runs(source, first, steps, into[part], length, inner)


def _cut(box: list[range], steps: Sequence[int], itemsize: int) -> Iterator[tuple[list[range], int, int]]:
    """Cuts a box until its runs fit the buffer.

    Parameters
    ----------
    box : the indices along each axis
    steps : bytes between neighbours along them, which never grow from one axis to the next

    Yields
    ------
    Parts of the box, the bytes of a run in each, and the first of the axes that lie within one.
    """
    length, inner = itemsize, len(box)
    while inner and (len(box[inner - 1]) == 1 or steps[inner - 1] - length <= GAP):
        axis = box[inner - 1]
        size, step = len(axis), steps[inner - 1]
        if length + (size - 1) * step > BUFFER:
            part = 1 + (BUFFER - length) // step
            for index in range(0, size, part):
                yield from _cut([*box[: inner - 1], axis[index : index + part], *box[inner:]], steps, itemsize)
            return
        length, inner = length + (size - 1) * step, inner - 1
    yield box, length, inner


def _fill_runs(source: Source, offset: int, steps: Sequence[int], into: Array, length: int, inner: int) -> None:
    """Fills an array with elements `steps` bytes apart, where each run of `length` bytes holds the axes from `inner` on."""
    import numpy as np

    order = sorted(range(inner), key=into.shape.__getitem__) + list(range(inner, into.ndim))  # most runs along one axis
    into, steps = into.transpose(order), [steps[axis] for axis in order]
    if not inner:
        into, steps, inner = into[None], [length, *steps], 1
    *outer, count = into.shape[:inner]
    step, batch = steps[inner - 1], max(1, min(RUNS, BUFFER // length))
    for index in np.ndindex(*outer):
        first = offset + sum(map(mul, index, steps))
        for begin in range(0, count, batch):
            end = min(begin + batch, count)
            runs = source.read_runs(range(first + begin * step, first + end * step, step), length)
            shape = (end - begin, *into.shape[inner:])
            into[index][begin:end] = np.ndarray(shape, into.dtype, runs, 0, [length, *steps[inner:]])
