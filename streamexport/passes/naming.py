"""Layer names, the last pass of all.

torch     the module's path, with a suffix where a module becomes several layers; each top is called like its layer
classic   the names of the prototxts published for these nets: conv1, batch_norm1, bn_scale1, relu1, ... counted in
          execution order, tops conv_blob1, batch_norm_blob1 (with the Scale in place), relu_blob1, ...
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from ..nets.graph import Layer, Net

STYLES = ("torch", "classic")

_STEMS = {
    "Convolution": "conv",
    "BatchNorm": "batch_norm",
    "Scale": "bn_scale",
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
    layers = []
    for layer in net.layers:
        base, _, part = layer.name.rpartition(".")
        if layer.type in ("Pooling", "Crop") and base in names:  # made by a pass from the layer called `base`
            name, top = f"{names[base]}_{part}", f"{tops[base]}_{part}"
        elif layer.type in ("Input", "Softmax"):
            name = top = layer.name
        else:
            stem = _stem(layer)
            counts[stem] += 1
            name = f"{stem}{counts[stem]}"
            is_in_place = layer.type == "Scale" or layer.tops == layer.bottoms
            top = tops[layer.bottoms[0]] if is_in_place else f"{stem}_blob{counts[stem]}"
        names[layer.name] = name
        tops[layer.tops[0]] = top
        bottoms = tuple(tops[bottom] for bottom in layer.bottoms)
        layers.append(replace(layer, name=name, bottoms=bottoms, tops=(top,)))
    return replace(net, layers=tuple(layers), outputs=tuple(tops[top] for top in net.outputs))


def _stem(layer: Layer) -> str:
    if layer.type == "Pooling":
        return "ave_pool" if layer.parameters["pooling_param"]["pool"] == "AVE" else "max_pool"
    return _STEMS[layer.type]
