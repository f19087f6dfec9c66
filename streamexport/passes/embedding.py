"""Rows of a table by their numbers, for who has no Embed: a matrix times vectors that have a single 1.

1 - |x - k| for every row k, cut off below 0, is 1 for the row that is meant and 0 for all others, where x is whole. These are
channels of a pixel, and a deconvolution of 1x1, whose weights are as the table is, makes the row: bit for bit, of finite ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import prod

from ..net import kernels
from ..net.graph import Blob, Layer
from ..net.operations import AbsVal, Convolution, Deconvolution, Embed, Operation, Power, ReLU, Reshape, Shape
from ..net.windows import ONE_PIXEL


def picked(layer: Layer, bottom: Shape) -> Iterator[Layer]:
    """An Embed in other words. Of its bottom's shape are as many images of a pixel as it has numbers."""
    embed = layer.operation
    assert isinstance(embed, Embed)
    count, numbers, top = embed.inputs, prod(bottom), (*bottom, embed.outputs)
    distances = kernels.filled((count, 1, 1, 1), 1), kernels.literal((count,), range(0, -count, -1))
    table = replace(layer.blobs[0], shape=(count, embed.outputs, 1, 1))
    steps: list[tuple[str, Operation, int, Sequence[Blob]]] = [
        ("pixels", Reshape.to((numbers, 1, 1, 1), bottom), 1, ()),
        ("away", Convolution(count, ONE_PIXEL), count, distances),
        ("size", AbsVal(), count, ()),
        ("near", Power(scale=-1.0, shift=1.0), count, ()),
        ("one", ReLU(), count, ()),
        ("row", Deconvolution(embed.outputs, ONE_PIXEL, has_bias=False), embed.outputs, (table,)),
    ]
    bottoms = layer.bottoms
    for part, operation, channels, blobs in steps:
        name = f"{layer.name}.{part}"
        yield Layer(name, operation, bottoms, (name,), tuple(blobs), shapes=((numbers, channels, 1, 1),))
        bottoms = (name,)
    yield replace(layer, operation=Reshape.to(top, (numbers, embed.outputs, 1, 1)), bottoms=bottoms, blobs=())
