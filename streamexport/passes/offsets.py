"""Sums as Bias, in nets that nobody but Caffe runs: it takes less memory than Eltwise for the same numbers.

`unspread`    a number for each pixel, which a convolution of ones repeats for every channel to have it subtracted, is the
              second bottom of a Bias, where there is one image: that covers axes that follow each other
`over_a_term` a sum that is written over one of its terms, which Bias can: Eltwise begins with zeros there
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ..net.graph import Layer, Net, written
from ..net.kernels import Filled
from ..net.operations import Bias, Convolution, Eltwise, Power, Reshape, Shape
from ..net.windows import ONE_PIXEL


def unspread(net: Net) -> Net:
    """The net with means subtracted from channels as they are; it computes the same."""
    if not written(net.layers):
        return net
    consumers = net.consumers
    spread = {
        layer.tops[0]: layer
        for layer in net.layers
        if _spreads(layer) and len(consumers[layer.tops[0]]) == 1 and layer.tops[0] not in net.outputs
    }
    gone: set[str] = set()
    made: list[Layer] = []
    for layer in net.layers:
        by = spread.get(layer.bottoms[-1]) if layer.operation == Eltwise("SUM", (1.0, -1.0)) else None
        made += [layer] if by is None else _subtracted(layer, by)
        gone |= {by.name} if by else set()
    return net.with_layers(tuple(layer for layer in made if layer.name not in gone))


def _spreads(layer: Layer) -> bool:
    """Whether it repeats the only channel of one image."""
    operation = layer.operation
    if not isinstance(operation, Convolution) or operation.window != ONE_PIXEL or not layer.blobs or operation.has_bias:
        return False
    (weight,) = layer.blobs
    is_ones = isinstance(weight.values, Filled) and weight.values.value == 1 and weight.shape[1] == 1
    return is_ones and operation.groups == 1 and bool(layer.shapes) and layer.shapes[0][0] == 1


def _subtracted(layer: Layer, spread: Layer) -> Iterator[Layer]:
    pixels: Shape = spread.shapes[0][2:]
    negated, offset = f"{spread.name}.negated", f"{spread.name}.offset"
    yield Layer(negated, Power(scale=-1.0), spread.bottoms, (negated,), shapes=((1, 1, *pixels),))
    yield Layer(offset, Reshape(pixels), (negated,), (offset,), shapes=(pixels,))
    yield replace(layer, operation=Bias(2), bottoms=(layer.bottoms[0], offset))


def over_a_term(net: Net) -> Net:
    """The net with sums of two as Bias, the first bottom being one that nobody else takes; for `write_in_place`."""
    if not written(net.layers):
        return net
    consumers = net.consumers
    makers = {top: layer for layer in net.layers for top in layer.tops}

    def free(bottoms: Sequence[str]) -> list[str]:
        alone = (name for name in bottoms if len(consumers[name]) == 1 and name not in net.outputs)
        return [name for name in alone if not makers[name].operation.shares_memory]

    layers = []
    for layer in net.layers:
        over = free(layer.bottoms) if layer.operation == Eltwise() and len(layer.bottoms) == 2 else []
        if over and layer.tops[0] not in net.outputs:
            (other,) = set(layer.bottoms) - {over[0]}
            layer = replace(layer, operation=Bias(0), bottoms=(over[0], other))
        layers.append(layer)
    return net.with_layers(tuple(layers))
