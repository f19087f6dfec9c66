"""Rows of a table by their numbers, for who has no Embed: a matrix times vectors that have a single 1.

1 - |x - k| for every row k, cut off below 0, is 1 for the row that is meant and 0 for all others, where x is whole. These are
channels of a pixel, and a deconvolution of 1x1, whose weights are as the table is, makes the row: bit for bit, of finite ones.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from ..net import kernels
from ..net.graph import Layer
from ..net.operations import AbsVal, Convolution, Deconvolution, Embed, Power, ReLU, Shape
from ..net.windows import ONE_PIXEL
from .steps import Steps, Top


def picked(layer: Layer, bottom: Shape) -> list[Layer]:
    """An Embed in other words. Of its bottom's shape are as many images of a pixel as it has numbers."""
    embed, (table,) = layer.operation, layer.blobs
    assert isinstance(embed, Embed)
    count = embed.inputs
    distances = kernels.filled((count, 1, 1, 1), 1), kernels.literal((count,), range(0, -count, -1))
    steps = Steps(layer)
    x = steps.reshaped("pixels", Top(layer.bottoms[0], bottom), (prod(bottom), 1, 1, 1))
    x = steps.add("size", AbsVal(), steps.add("away", Convolution(count, ONE_PIXEL), x, blobs=distances))
    x = steps.add("one", ReLU(), steps.add("near", Power(scale=-1.0, shift=1.0), x))
    weight = replace(table, shape=(count, embed.outputs, 1, 1))
    x = steps.add("row", Deconvolution(embed.outputs, ONE_PIXEL, has_bias=False), x, blobs=[weight])
    steps.reshaped("top", x, (*bottom, embed.outputs))
    return steps.finished()
