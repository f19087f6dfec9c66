"""Layer names, the last pass of all.

torch     the module's path, with a suffix where a module becomes several layers; each top is called like its layer
classic   the names of the prototxts published for the ResNets: conv1, batch_norm1, bn_scale1, relu1, ... counted in
          execution order, tops conv_blob1, batch_norm_blob1 (with the Scale in place), relu_blob1, ...; layers that those
          nets do not have are called after their type
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from ..nets.graph import Layer, Net

STYLES = ("torch", "classic")

_STEMS = {
    "Convolution": "conv",
    "BatchNorm": "batch_norm",
    "ReLU": "relu",
    "Eltwise": "add",
    "Flatten": "view",
    "InnerProduct": "fc",
}


def rename(net: Net, style: str) -> Net:
    if style == "torch":
        return net
    counts: Counter[str] = Counter()
    names: dict[str, str] = {}
    tops: dict[str, str] = {}
    writers: dict[str, str] = {}
    layers = []
    scaled = _only_scaled(net)
    for layer in net.layers:
        base, _, part = layer.name.rpartition(".")
        if layer.type in ("Pooling", "Crop") and base in names:  # made by a pass from the layer called `base`
            name, top = f"{names[base]}_{part}", f"{tops[base]}_{part}"
        elif layer.type in ("Input", "Softmax"):
            name = top = layer.name
        else:
            stem = _stem(layer, writers[layer.bottoms[0]])
            counts[stem] += 1
            name = f"{stem}{counts[stem]}"
            is_in_place = layer.tops == layer.bottoms or (stem == "bn_scale" and layer.bottoms[0] in scaled)
            top = tops[layer.bottoms[0]] if is_in_place else f"{stem}_blob{counts[stem]}"
        bottoms = tuple(tops[bottom] for bottom in layer.bottoms)
        made = (top,) if len(layer.tops) == 1 else tuple(f"{top}_{n}" for n, _ in enumerate(layer.tops))
        names[layer.name] = name
        tops.update(zip(layer.tops, made, strict=True))
        writers.update(dict.fromkeys(layer.tops, layer.type))
        layers.append(replace(layer, name=name, bottoms=bottoms, tops=made))
    return replace(net, layers=tuple(layers), outputs=tuple(tops[top] for top in net.outputs))


def _only_scaled(net: Net) -> set[str]:
    """Tops of BatchNorm layers that nobody but one Scale takes, which may write over them."""
    takers: dict[str, list[Layer]] = {}
    for layer in net.layers:
        for bottom in layer.bottoms:
            takers.setdefault(bottom, []).append(layer)
    tops = {top for layer in net.layers if layer.type == "BatchNorm" for top in layer.tops}.difference(net.outputs)
    return {top for top in tops if [layer.type for layer in takers.get(top, [])] == ["Scale"]}


def _stem(layer: Layer, before: str) -> str:
    """`before` is the type of the layer that it takes its first bottom from."""
    if (layer.type, before) == ("Scale", "BatchNorm"):
        return "bn_scale"
    if layer.type == "Pooling":
        return "ave_pool" if layer.parameters["pooling_param"]["pool"] == "AVE" else "max_pool"
    return _STEMS.get(layer.type, layer.type.lower())
