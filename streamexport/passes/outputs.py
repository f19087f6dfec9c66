"""What a net is there for: outputs without softmax, and each of them a top that no layer takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..net.graph import Layer, Net
from ..net.operations import Flatten, Input, Rearrange, Reshape, Softmax, Split
from .cleaning import without_dead

MOVES = (Reshape, Flatten, Rearrange)
"""Layers whose top has the elements of their bottom, in another shape or order."""


def without_softmax(net: Net) -> Net:
    """The net whose outputs are what the softmax was taken of, where they were one, in whatever shape or order.

    What else takes the softmax keeps it.
    """
    ends = net.ends
    makers = {top: layer for layer in net.layers for top in layer.tops}
    chains = [_chain(makers, top) for top in ends]
    bare = {softmax.tops[0]: softmax.bottoms[0] for softmax, *_ in filter(None, chains)}
    moves = {layer.name for chain in chains for layer in chain[1:]}
    roots = tuple(bare[chain[0].tops[0]] if chain else top for top, chain in zip(ends, chains, strict=True))
    needed = {layer.name for layer in without_dead(replace(net, outputs=roots)).layers}
    layers: list[Layer] = []
    for layer in net.layers:
        if layer.name in needed:
            layers.append(layer)
        if layer.name in moves:
            name = f"{layer.name}.logits" if layer.name in needed else layer.name
            (bottom,), (top,) = layer.bottoms, layer.tops
            layers.append(replace(layer, name=name, bottoms=(bare[bottom],), tops=(name,), origin=None))
            bare[top] = name
    outputs = tuple(bare[top] if chain else top for top, chain in zip(ends, chains, strict=True))
    return replace(net, layers=tuple(layers), outputs=outputs if net.outputs else (), left_out=tuple(chains))


def apart(net: Net) -> Net:
    """The net with a layer of its own for each output that others take, or that is the same as another output.

    Caffe and OpenCV hand over what nobody takes, and nothing else; OpenCV only the first of several tops.
    """
    consumers, names = net.consumers, {layer.name for layer in net.layers}
    makers = {top: (layer, index) for layer in net.layers for index, top in enumerate(layer.tops)}
    copies: dict[str, list[Layer]] = {}
    outputs: list[str] = []
    for output in net.outputs:
        maker, index = makers[output]
        if output in consumers or net.outputs.count(output) > 1 or len(maker.tops) > 1:
            name = _free(f"{output}.output", names)
            origin = None if index else maker.origin
            copy = Layer(name, Split(), (output,), (name,), origin=origin, shapes=maker.shapes[index : index + 1])
            copies.setdefault(maker.name, []).append(copy)
            names.add(name)
            output = name
        outputs.append(output)
    layers = tuple(made for layer in net.layers for made in (layer, *copies.get(layer.name, ())))
    return replace(net, layers=layers, outputs=tuple(outputs))


def _chain(makers: Mapping[str, Layer], top: str) -> tuple[Layer, ...]:
    """The softmax that an output is, and what gives it another shape or order; () if it is none."""
    layer = makers[top]
    if isinstance(layer.operation, Softmax):
        return (layer,) if not isinstance(makers[layer.bottoms[0]].operation, Input) else ()
    chain = _chain(makers, layer.bottoms[0]) if isinstance(layer.operation, MOVES) else ()
    return (*chain, layer) if chain else ()


def _free(name: str, taken: set[str]) -> str:
    return name if name not in taken else _free(f"{name}_", taken)
