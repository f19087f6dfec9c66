"""Layers that a net can do without. Each function is a pass of its own; what the net is there for keeps its name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..nets.graph import Layer, Net

# What works on every element by itself.
POINTWISE = ("AbsVal", "BNLL", "Clip", "ELU", "Exp", "Log", "PReLU", "Power", "ReLU", "ReLU6", "Sigmoid", "TanH")
SHARED = ("Input", "Split", "Reshape", "Flatten")  # a top of theirs is their bottom's memory, in Caffe
IN_PLACE = (*(kind for kind in POINTWISE if kind != "AbsVal"), "BatchNorm", "Scale")  # Caffe has AbsVal refuse it


def clean(net: Net) -> Net:
    """The net without layers that come to nothing: identities, chains of Power, Flatten in front of InnerProduct, and
    what no output needs. A net that does not say what it is there for stays as it is: it was written so on purpose."""
    if not net.outputs:
        return net
    return without_dead(without_flatten(merge_powers(without_identities(net))))


def without_identities(net: Net) -> Net:
    """Without Dropout, which does nothing but in training, and without Power that changes nothing."""
    return _without(net, (layer for layer in net.layers if layer.type == "Dropout" or _power(layer) == (1, 1, 0)))


def without_flatten(net: Net) -> Net:
    """Without Flatten in front of InnerProduct, which flattens its bottom itself."""
    consumers = net.consumers
    flat = (layer for layer in net.layers if layer.type == "Flatten")
    return _without(net, (layer for layer in flat if _is_flattened(consumers.get(layer.tops[0], ()))))


def merge_powers(net: Net) -> Net:
    """Power behind Power as one: (t + s x) ** p with x = b + a y is ((t + s b) + s a y) ** p."""
    consumers = net.consumers
    merged: dict[str, Layer] = {}  # by top, what stands for it by now
    layers: list[Layer] = []
    for layer in net.layers:
        first = merged.get(layer.bottoms[0]) if layer.bottoms else None
        power = _power(layer)
        is_only = first is not None and len(consumers[first.tops[0]]) == 1 and first.tops[0] not in net.outputs
        if power is not None and first is not None and is_only:
            _, a, b = _power(first) or (1.0, 1.0, 0.0)
            p, s, t = power
            layers.remove(first)
            layer = replace(layer, bottoms=first.bottoms, parameters={"power_param": _parameters(p, s * a, t + s * b)})
            power = (p, s * a, t + s * b)
        if power is not None and power[0] == 1:
            merged[layer.tops[0]] = layer
        layers.append(layer)
    return net.with_layers(tuple(layers))


def without_dead(net: Net) -> Net:
    """Without layers that no output depends on; inputs stay, since who runs the net fills them."""
    needed, kept = set(net.outputs), []
    for layer in reversed(net.layers):
        if layer.type == "Input" or needed.intersection(layer.tops):
            kept.append(layer)
            needed.update(layer.bottoms)
    return net.with_layers(tuple(reversed(kept)))


def write_in_place(net: Net) -> Net:
    """Layers that may, write over their bottom, where nobody else takes it: activations then take less memory."""
    consumers = net.consumers
    makers = {top: layer for layer in net.layers for top in layer.tops}
    renamed: dict[str, str] = {}
    layers = []
    for layer in net.layers:
        bottoms = tuple(renamed.get(bottom, bottom) for bottom in layer.bottoms)
        tops = layer.tops
        if layer.type in IN_PLACE and len(layer.bottoms) == 1:
            (bottom,), (top,) = layer.bottoms, layer.tops
            may = makers[bottom].type not in SHARED and len(consumers[bottom]) == 1
            if may and bottom not in net.outputs and top not in net.outputs:
                tops = bottoms
                renamed[top] = bottoms[0]
        layers.append(replace(layer, bottoms=bottoms, tops=tops))
    return net.with_layers(tuple(layers))


def _without(net: Net, dropped: Iterable[Layer]) -> Net:
    """Without layers whose top is what their bottom is, unless an output is called after one."""
    renamed: dict[str, str] = {}
    names = {layer.name for layer in dropped if layer.tops[0] not in net.outputs}
    layers = []
    for layer in net.layers:
        layer = replace(layer, bottoms=tuple(renamed.get(bottom, bottom) for bottom in layer.bottoms))
        if layer.name in names:
            renamed[layer.tops[0]] = layer.bottoms[0]
        else:
            layers.append(layer)
    return net.with_layers(tuple(layers))


def _is_flattened(consumers: Sequence[Layer]) -> bool:
    """Whether all of them, and there are some, take a vector whatever they get."""
    return bool(consumers) and all(
        layer.type == "InnerProduct" and layer.parameters["inner_product_param"].get("axis", 1) == 1
        for layer in consumers
    )


def _power(layer: Layer) -> tuple[float, float, float] | None:
    """Power, scale and shift of such a layer."""
    if layer.type != "Power":
        return None
    given = layer.parameters.get("power_param", {})
    return given.get("power", 1.0), given.get("scale", 1.0), given.get("shift", 0.0)


def _parameters(power: float, scale: float, shift: float) -> Mapping[str, Any]:
    """Without those that Caffe takes for granted."""
    given = {"power": (power, 1.0), "scale": (scale, 1.0), "shift": (shift, 0.0)}
    return {name: value for name, (value, default) in given.items() if value != default}
