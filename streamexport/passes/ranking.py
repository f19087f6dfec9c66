"""The largest along an axis one by one (`ArgMax`), in the words of those that have no layer for it.

Every element is compared with every other: how many come before it is its rank, and the element of rank r is the only one
that a mask shows, of whose products the sum is exact. Of equal ones the last comes first, as in Caffe's ArgMax. With n for
how many there are, that takes n times the memory of what is ranked, and always as many layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod

from ..errors import NetError
from ..net import kernels
from ..net.graph import Blob, Layer
from ..net.operations import AbsVal, ArgMax, Convolution, Eltwise, Operation, Power, Reshape, Scale, Shape, Threshold
from ..net.operations.operation import axis_of
from ..net.windows import ONE_PIXEL

MOST = 1 << 26
"""Comparisons of one layer: 256 MiB, of which a net holds some five at once."""


@dataclass(frozen=True, slots=True)
class _Top:
    name: str
    shape: Shape


@dataclass(slots=True)
class _Steps:
    """The layers that one becomes, each called after its part."""

    name: str
    layers: list[Layer] = field(default_factory=list)

    def add(self, part: str, operation: Operation, *bottoms: _Top, blobs: Sequence[Blob] = ()) -> _Top:
        name = f"{self.name}.{part}"
        (shape,) = operation.top_shapes([bottom.shape for bottom in bottoms], 1)
        names = tuple(bottom.name for bottom in bottoms)
        self.layers.append(Layer(name, operation, names, (name,), tuple(blobs), shapes=(shape,)))
        return _Top(name, shape)

    def reshaped(self, part: str, x: _Top, shape: Shape) -> _Top:
        return x if x.shape == shape else self.add(part, Reshape.to(shape, x.shape), x)

    def repeated(self, part: str, x: _Top, count: int) -> _Top:
        """An image's only channel, several times."""
        ones = kernels.filled((count, 1, 1, 1), 1)
        return self.add(part, Convolution(count, ONE_PIXEL, has_bias=False), x, blobs=[ones])

    def summed(self, part: str, x: _Top, weights: Sequence[float] = ()) -> _Top:
        """The channels of images, all of them or times these weights, added up."""
        shape = (1, x.shape[1], 1, 1)
        weight = kernels.literal(shape, weights) if weights else kernels.filled(shape, 1)
        return self.add(part, Convolution(1, ONE_PIXEL, has_bias=False), x, blobs=[weight])


def ranked(layer: Layer, bottom: Shape) -> list[Layer]:
    """The layers that an ArgMax along an axis becomes; a Threshold is among them. NetError if they are too large."""
    top = layer.operation
    assert isinstance(top, ArgMax)
    if top.axis is None:
        what = "looks for the largest of all that is behind the first axis, which OpenCV has no layer for"
        raise NetError(what, tensor=f"layer {layer.name}", advice="use `dialect=bvlc` or ssd")
    axis = axis_of(top.axis, len(bottom))
    before, size, behind = prod(bottom[:axis]), bottom[axis], prod(bottom[axis + 1 :])
    if before * size * size * behind > MOST:
        what = f"compares {size} elements with each other, {before * behind} times, for which OpenCV has no layer"
        advice = f"use `dialect=bvlc` or ssd, whose ArgMax does not, or {MOST} comparisons at most"
        raise NetError(what, tensor=f"layer {layer.name}", advice=advice)
    steps = _Steps(layer.name)
    rows = steps.reshaped("rows", _Top(layer.bottoms[0], bottom), (before, 1, size, behind))
    shown = _shown(steps, _ranks(steps, rows), top.count)
    if top.with_values:
        shown = steps.add("shown", Eltwise("PROD"), shown, steps.repeated("each", rows, top.count))
    columns = steps.reshaped("columns", shown, (before * top.count, size, 1, behind))
    made = steps.summed("sum", columns, () if top.with_values else range(size))
    steps.reshaped("top", made, top.top_shapes([bottom], 1)[0])
    return [*steps.layers[:-1], replace(steps.layers[-1], name=layer.name, tops=layer.tops)]


def _ranks(steps: _Steps, rows: _Top) -> _Top:
    """How many come before each element, of images of one channel whose rows are ranked.

    That are those above it that are larger, and those below it that are not smaller, as many as there are but for those that
    it is larger than: comparisons of each with those above it are enough for both.
    """
    before, _, size, behind = rows.shape
    every = (before, size, size, behind)
    single = steps.reshaped("single", rows, (before * size, 1, 1, behind))
    own = steps.reshaped("own", steps.repeated("single_repeated", single, size), every)
    more = steps.add("more", Eltwise("SUM", (1.0, -1.0)), steps.repeated("others", rows, size), own)
    pairs = steps.reshaped("pairs", steps.add("larger", Threshold(), more), (before, size * size, 1, behind))
    triangle = replace(kernels.triangle(size), shape=(size * size,))
    above = steps.reshaped("above", steps.add("first", Scale(), pairs, blobs=[triangle]), every)
    by_row = steps.summed("larger_above", steps.reshaped("by_row", above, (before * size, size, 1, behind)))
    channels = (before, size, 1, behind)
    counts = [
        steps.reshaped("counted", by_row, channels),
        steps.reshaped("counted_below", steps.summed("smaller_below", above), channels),
    ]
    count = steps.add("count", Eltwise("SUM", (1.0, -1.0)), *counts)
    below = [kernels.filled((size,), 1), kernels.literal((size,), range(size)[::-1])]
    return steps.reshaped("rank", steps.add("ranks", Scale(has_bias=True), count, blobs=below), rows.shape)


def _shown(steps: _Steps, ranks: _Top, count: int) -> _Top:
    """For each of the first ranks a mask of who has it, a channel each."""
    blobs = [kernels.filled((count, 1, 1, 1), 1), kernels.literal((count,), range(0, -count, -1))]
    distance = steps.add("distance", Convolution(count, ONE_PIXEL), ranks, blobs=blobs)
    others = steps.add("others_of", Threshold(), steps.add("far", AbsVal(), distance))
    return steps.add("is", Power(scale=-1.0, shift=1.0), others)
