"""What OpenCV merges, kept to what it merges rightly.

OpenCV's `dnn` takes into a layer what follows it, if nobody else reads what is between them: BatchNorm, Scale and Power as
factors and offsets (`tryFuse`), then one activation, and BatchNorm and PReLU count as one (`setActivation`). What is taken
in may take in the next. Some layers compute wrongly then: a grouped Deconvolution with factors of its channels, a sum of
vectors with a BatchNorm, an InnerProduct of rows with slopes of channels, a square root with a factor behind it.

What is wrong differs from version to version, and no list of it is ever whole. So each kind of layer says what it is right
with (`Operation.may_merge`): `tests/passes/test_pairs.py` holds it against OpenCV, every two kinds of layers, and three in
a row. Whatever else follows a layer is kept apart by a Reshape to the shape that is there: OpenCV merges it with nothing,
and it takes no time, since its top is its bottom's memory, as in Caffe. A convolution rightly takes in everything, so that
usual nets gain no layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache

from ..net.graph import Layer, Net
from ..net.inference import ranks_of
from ..net.operations import Merge, Reshape

READ_BY_OPENCV = ("portable", "opencv", "ssd")


def keep_apart(net: Net, dialect: str) -> Net:
    """The net with a Reshape wherever OpenCV might merge what is not known to be right; it computes the same."""
    if dialect not in READ_BY_OPENCV:
        return net
    ranks, consumers = cache(lambda: ranks_of(net)), net.consumers
    merged: dict[str, tuple[Layer, ...]] = {}  # by top, who may take in its reader: its maker, and who takes in that
    layers: list[Layer] = []
    for layer in net.layers:
        makers: tuple[Layer, ...] = ()
        merge = layer.operation.merged_as(len(layer.bottoms))
        if merge is not None and len(consumers[layer.bottoms[0]]) == 1:
            makers = merged[layer.bottoms[0]]
            if not all(_is_right(maker, merge, ranks) for maker in makers):
                layers.append(_reshape(makers[-1], layer.bottoms[0], ranks()[layer.bottoms[0]]))
                layer, makers = replace(layer, bottoms=layers[-1].tops), ()
        layers.append(layer)
        merged.update((top, (*makers, layer)) for top in layer.tops)
    return net.with_layers(tuple(layers))


def _is_right(maker: Layer, merge: Merge, ranks: Callable[[], Mapping[str, int]]) -> bool:
    return maker.operation.may_merge(merge, lambda: ranks()[maker.tops[0]])


def _reshape(maker: Layer, top: str, rank: int) -> Layer:
    """A Reshape of a layer's top to the shape that it has, whatever it is."""
    name = f"{maker.name if len(maker.tops) == 1 else top}.apart"
    return Layer(name, Reshape((0,) * rank), (top,), (name,))
