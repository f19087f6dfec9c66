"""Strided views of a source, read in runs: stretches of bytes that lie close together there.

A read costs about as much as the copying of 4 KiB, so elements with less between them are read as one run, and of runs
thousands are asked for at once. Where runs would be short, because neighbours in the source are far apart in the view (a
transpose), they grow with the number of rows of the view that are read together; `block` says how many that should be.
Memory is bounded by `BUFFER` and `AHEAD`, whatever the view.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from operator import mul
from typing import TYPE_CHECKING, Any

from .extents import BUFFER, Source

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


def read_box(source: Source, offset: int, strides: Sequence[int], into: Array) -> None:
    """Fills an array with the elements that lie `strides`, in elements, apart in a source, the first of them at `offset`."""
    slowest = sorted(range(into.ndim), key=strides.__getitem__, reverse=True)
    _fill(source, offset, [strides[axis] * into.itemsize for axis in slowest], into.transpose(slowest))


def _fill(source: Source, offset: int, steps: list[int], into: Array) -> None:
    """The same with strides in bytes that never grow from one axis to the next, which may be cut until a run fits."""
    length, inner = into.itemsize, into.ndim  # bytes of a run, and the first of the axes that lie within one
    while inner and (into.shape[inner - 1] == 1 or steps[inner - 1] - length <= GAP):
        size, step = into.shape[inner - 1], steps[inner - 1]
        if length + (size - 1) * step > BUFFER:
            part = 1 + (BUFFER - length) // step
            for index in range(0, size, part):
                some = (slice(None),) * (inner - 1) + (slice(index, index + part),)
                _fill(source, offset + index * step, steps, into[some])
            return
        length, inner = length + (size - 1) * step, inner - 1
    _fill_runs(source, offset, steps, into, length, inner)


def _fill_runs(source: Source, offset: int, steps: list[int], into: Array, length: int, inner: int) -> None:
    """The same where each run of `length` bytes holds the axes from `inner` on."""
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
