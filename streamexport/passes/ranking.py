"""The largest along an axis one by one (`ArgMax`), in the words of those that have no layer for it.

Every element is compared with every other: how many come before it is its rank, and the element of rank r is the only one
that a mask shows, of whose products the sum is exact. Of equal ones the last comes first, as in Caffe's ArgMax. With n for
how many there are, that takes n times the memory of what is ranked, and always as many layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from ..errors import NetError
from ..net import kernels
from ..net.graph import Layer
from ..net.operations import AbsVal, ArgMax, Convolution, Eltwise, Power, Scale, Shape, Threshold
from ..net.operations.operation import axis_of
from ..net.windows import ONE_PIXEL
from .steps import Steps, Top

MOST = 1 << 26
"""Comparisons of one layer: 256 MiB, of which a net holds some five at once."""


class _Ranking(Steps):
    """What ranks, and shows."""

    __slots__ = ()

    def seen(self, part: str, x: Top, shape: Shape) -> Top:
        return x if x.shape == shape else self.reshaped(part, x, shape)

    def repeated(self, part: str, x: Top, count: int) -> Top:
        """An image's only channel, several times."""
        ones = kernels.filled((count, 1, 1, 1), 1)
        return self.add(part, Convolution(count, ONE_PIXEL, has_bias=False), x, blobs=[ones])

    def summed(self, part: str, x: Top, weights: Sequence[float] = ()) -> Top:
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
    steps = _Ranking(layer)
    rows = steps.seen("rows", Top(layer.bottoms[0], bottom), (before, 1, size, behind))
    shown = _shown(steps, _ranks(steps, rows), top.count)
    if top.with_values:
        shown = steps.add("shown", Eltwise("PROD"), shown, steps.repeated("each", rows, top.count))
    columns = steps.seen("columns", shown, (before * top.count, size, 1, behind))
    made = steps.summed("sum", columns, () if top.with_values else range(size))
    steps.seen("top", made, top.top_shapes([bottom], 1)[0])
    return steps.finished()


def _ranks(steps: _Ranking, rows: Top) -> Top:
    """How many come before each element, of images of one channel whose rows are ranked.

    That are those above it that are larger, and those below it that are not smaller, as many as there are but for those that
    it is larger than: comparisons of each with those above it are enough for both.
    """
    before, _, size, behind = rows.shape
    every = (before, size, size, behind)
    single = steps.seen("single", rows, (before * size, 1, 1, behind))
    own = steps.seen("own", steps.repeated("single_repeated", single, size), every)
    more = steps.add("more", Eltwise("SUM", (1.0, -1.0)), steps.repeated("others", rows, size), own)
    pairs = steps.seen("pairs", steps.add("larger", Threshold(), more), (before, size * size, 1, behind))
    triangle = replace(kernels.triangle(size), shape=(size * size,))
    above = steps.seen("above", steps.add("first", Scale(), pairs, blobs=[triangle]), every)
    by_row = steps.summed("larger_above", steps.seen("by_row", above, (before * size, size, 1, behind)))
    channels = (before, size, 1, behind)
    counts = [
        steps.seen("counted", by_row, channels),
        steps.seen("counted_below", steps.summed("smaller_below", above), channels),
    ]
    count = steps.add("count", Eltwise("SUM", (1.0, -1.0)), *counts)
    below = [kernels.filled((size,), 1), kernels.literal((size,), range(size)[::-1])]
    return steps.seen("rank", steps.add("ranks", Scale(has_bias=True), count, blobs=below), rows.shape)


def _shown(steps: _Ranking, ranks: Top, count: int) -> Top:
    """For each of the first ranks a mask of who has it, a channel each."""
    blobs = [kernels.filled((count, 1, 1, 1), 1), kernels.literal((count,), range(0, -count, -1))]
    distance = steps.add("distance", Convolution(count, ONE_PIXEL), ranks, blobs=blobs)
    others = steps.add("others_of", Threshold(), steps.add("far", AbsVal(), distance))
    return steps.add("is", Power(scale=-1.0, shift=1.0), others)
