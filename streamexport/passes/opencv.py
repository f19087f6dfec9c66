"""What OpenCV merges, kept to what it merges rightly.

OpenCV's `dnn` takes into a layer what follows it, if nobody else reads what is between them: BatchNorm, Scale and Power as
factors and offsets (`tryFuse`), then one activation, and BatchNorm and PReLU count as one (`setActivation`). What is taken
in may take in the next. Some layers compute wrongly then: a grouped Deconvolution with factors of its channels, a sum of
vectors with a BatchNorm, an InnerProduct of rows with slopes of channels, a square root with a factor behind it.

What is wrong differs from version to version, and no list of it is ever whole. So this is the list of what is right:
`tests/test_pairs.py` holds it against OpenCV, every two kinds of layers, and three in a row. Whatever else follows a layer
is kept apart by a Reshape to the shape that is there: OpenCV merges it with nothing, and it takes no time, since its top is
its bottom's memory, as in Caffe. A convolution rightly takes in everything, so that usual nets gain no layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache

from ..nets.graph import Layer, Net
from .cleaning import POINTWISE

READ_BY_OPENCV = ("portable", "opencv", "ssd")

Ranks = Callable[[Net], Mapping[str, int]]
"""Says how many dimensions each top of a net has: Caffe's rules, which are not known here."""

CHANNELS, FACTOR, ACTIVATION = "channels", "factor", "activation"
"""What may be taken in: numbers for each channel, one factor and offset for all elements, a function of each element."""

RIGHT = (
    *("AbsVal", "BNLL", "BatchNorm", "ELU", "Exp", "Log", "PReLU", "ReLU", "ReLU6", "Scale", "Sigmoid", "TanH"),
    *("Concat", "Convolution", "Crop", "Flatten", "Input", "Permute", "Pooling", "Reshape", "Slice", "Softmax"),
)
"""Layers that take in whatever OpenCV has them take in, which is often nothing, and are right."""


def keep_apart(net: Net, dialect: str, ranks_of: Ranks) -> Net:
    """The net with a Reshape wherever OpenCV might merge what is not known to be right; it computes the same."""
    if dialect not in READ_BY_OPENCV:
        return net
    ranks, consumers = cache(lambda: ranks_of(net)), net.consumers
    merged: dict[str, tuple[Layer, ...]] = {}  # by top, who may take in its reader: its maker, and who takes in that
    layers: list[Layer] = []
    for layer in net.layers:
        makers: tuple[Layer, ...] = ()
        kind = _taken_as(layer)
        if kind is not None and len(consumers[layer.bottoms[0]]) == 1:
            makers = merged[layer.bottoms[0]]
            if not all(_is_right(maker, kind, ranks) for maker in makers):
                layers.append(_reshape(makers[-1], ranks()[layer.bottoms[0]]))
                layer, makers = replace(layer, bottoms=layers[-1].tops), ()
        layers.append(layer)
        merged.update((top, (*makers, layer)) for top in layer.tops)
    return net.with_layers(tuple(layers))


def _taken_as(layer: Layer) -> str | None:
    """As what a layer may be taken into the one in front of it; None if it never is."""
    if layer.type in ("BatchNorm", "PReLU", "Scale"):
        return CHANNELS if len(layer.bottoms) == 1 else None
    if layer.type == "Power" and _power(layer, "power", 1.0) == 1:
        return FACTOR
    return ACTIVATION if layer.type in POINTWISE else None


def _is_right(maker: Layer, kind: str, ranks: Callable[[], Mapping[str, int]]) -> bool:
    """Whether a layer is right with what it may take in."""
    if maker.type in RIGHT:
        return True
    if maker.type == "Power":  # one that raises to a power takes in factors, unless it adds something first
        return kind == ACTIVATION or _power(maker, "power", 1.0) == 1 or _power(maker, "shift", 0.0) != 0
    if maker.type == "MVN":
        return kind == ACTIVATION
    if maker.type == "Deconvolution":
        return kind != CHANNELS or maker.parameters["convolution_param"].get("group", 1) == 1
    if maker.type == "InnerProduct":
        return kind != CHANNELS or maker.parameters["inner_product_param"].get("axis", 1) == 1
    if maker.type == "Eltwise":
        return kind != CHANNELS or ranks()[maker.tops[0]] == 4
    return False


def _power(layer: Layer, name: str, default: float) -> float:
    value: float = layer.parameters.get("power_param", {}).get(name, default)
    return value


def _reshape(maker: Layer, rank: int) -> Layer:
    """A Reshape of a layer's only top to the shape that it has, whatever it is."""
    name = f"{maker.name}.apart"
    return Layer(name, "Reshape", maker.tops, (name,), {"reshape_param": {"shape": {"dim": [0] * rank}}})
