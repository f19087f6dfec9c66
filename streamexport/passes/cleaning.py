"""Layers that a net can do without. Each function is a pass of its own; what the net is there for keeps its name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ..net.graph import Layer, Net, written
from ..net.operations import Bias, Dropout, Eltwise, Flatten, InnerProduct, Input, Power, Silence

NOTHING = Power()
"""A Power that changes nothing."""


def clean(net: Net) -> Net:
    """The net without layers that come to nothing: identities, chains of Power, Flatten in front of InnerProduct, and
    what no output needs. A net that does not say what it is there for stays as it is: it was written so on purpose."""
    if not net.outputs:
        return net
    return without_dead(without_flatten(merge_powers(without_identities(net))))


def without_identities(net: Net) -> Net:
    """Without Dropout, which does nothing but in training, and without Power that changes nothing."""
    return without(
        net, (layer for layer in net.layers if isinstance(layer.operation, Dropout) or layer.operation == NOTHING)
    )


def without_flatten(net: Net) -> Net:
    """Without Flatten in front of InnerProduct, which flattens its bottom itself."""
    consumers = net.consumers
    flat = (layer for layer in net.layers if isinstance(layer.operation, Flatten))
    return without(net, (layer for layer in flat if _is_flattened(consumers.get(layer.tops[0], ()))))


def merge_powers(net: Net) -> Net:
    """Power behind Power as one: (t + s x) ** p with x = b + a y is ((t + s b) + s a y) ** p."""
    consumers = net.consumers
    merged: dict[str, Layer] = {}  # by top, what stands for it by now
    layers: list[Layer] = []
    for layer in net.layers:
        first = merged.get(layer.bottoms[0]) if layer.bottoms else None
        power = layer.operation
        if isinstance(power, Power):
            if first is not None and len(consumers[first.tops[0]]) == 1 and first.tops[0] not in net.outputs:
                inner = first.operation
                assert isinstance(inner, Power)
                layers.remove(first)
                power = Power(power.power, power.scale * inner.scale, power.shift + power.scale * inner.shift)
                layer = replace(layer, bottoms=first.bottoms, operation=power)
            if power.power == 1:
                merged[layer.tops[0]] = layer
        layers.append(layer)
    return net.with_layers(tuple(layers))


def without_dead(net: Net) -> Net:
    """Without layers that no output depends on; inputs stay, since who runs the net fills them.

    Who works with a blob that layers write depends on these. What keeps a top from being an output stays with its maker.
    """
    needed, kept = set(net.outputs), set()
    tops = {name: top for top, name in written(net.layers).items()}
    for layer in reversed(net.layers):
        if isinstance(layer.operation, Input) or needed.intersection(layer.tops):
            kept.add(layer.name)
            needed.update(layer.bottoms)
            needed.update(tops[name] for name in layer.shared if name in tops)
    made = {top for layer in net.layers if layer.name in kept for top in layer.tops}
    kept.update(
        layer.name for layer in net.layers if isinstance(layer.operation, Silence) and made.issuperset(layer.bottoms)
    )
    return net.with_layers(tuple(layer for layer in net.layers if layer.name in kept))


def write_in_place(net: Net) -> Net:
    """Layers that may, write over a bottom, where nobody else takes it: activations then take less memory."""
    consumers = net.consumers
    makers = {top: layer for layer in net.layers for top in layer.tops}
    outputs = set(net.outputs)
    renamed: dict[str, str] = {}
    layers = []
    for layer in net.layers:
        free = (
            bottom
            for bottom in _overwritable(layer)
            if not makers[bottom].operation.shares_memory and len(consumers[bottom]) == 1 and bottom not in outputs
        )
        over = None if outputs.intersection(layer.tops) else next(free, None)
        bottoms = layer.bottoms
        if over is not None:
            bottoms = (over, *(bottom for bottom in bottoms if bottom != over))
        bottoms = tuple(renamed.get(bottom, bottom) for bottom in bottoms)
        tops = layer.tops if over is None else bottoms[:1]
        renamed.update({} if over is None else {layer.tops[0]: bottoms[0]})
        layers.append(replace(layer, bottoms=bottoms, tops=tops))
    return net.with_layers(tuple(layers))


def _overwritable(layer: Layer) -> tuple[str, ...]:
    """The bottoms that a layer may be written over, in Caffe: its only one, one of two factors, or what is offset."""
    operation, bottoms = layer.operation, layer.bottoms
    if isinstance(operation, Eltwise):
        return bottoms if operation.method == "PROD" and len(set(bottoms)) == len(bottoms) == 2 else ()
    if isinstance(operation, Bias):
        return bottoms[:1]
    return bottoms if operation.writes_in_place and len(bottoms) == 1 else ()


def without(net: Net, dropped: Iterable[Layer]) -> Net:
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
        isinstance(layer.operation, InnerProduct) and layer.operation.axis == 1 for layer in consumers
    )
