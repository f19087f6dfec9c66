"""Layer names, the last pass of all.

torch     the module's path, with a suffix where a module becomes several layers; each top is called like its layer
classic   the names of the prototxts published for these nets: conv1, batch_norm1, bn_scale1, relu1, ... counted in
          execution order, tops conv_blob1, batch_norm_blob1 (with the Scale in place), relu_blob1, ...
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import chain, count

from ..net.graph import Layer, Net
from ..net.operations import BatchNorm, Crop, Input, Pooling, Scale, Softmax

STYLES = ("torch", "classic")


def taken(net: Net) -> set[str]:
    """What layers and tops are called."""
    return {name for layer in net.layers for name in (layer.name, *layer.tops)}


def unlike(layer: Layer, become: Callable[[Layer], Iterable[Layer]], names: set[str]) -> list[Layer]:
    """What a layer becomes, of which nothing new is called like what is there: `names`, which gets the new ones, too."""
    given = {f"\0{place}": bottom for place, bottom in enumerate(layer.bottoms)}  # told apart from all that is made
    steps = list(become(replace(layer, bottoms=tuple(given))))
    called = given | {name: name for name in (layer.name, *layer.tops)}
    for name in (name for step in steps for name in (step.name, *step.tops)):
        if name not in called:
            free = chain((name,), (f"{name}_{number}" for number in count(2)))
            called[name] = next(other for other in free if other not in names)
            names.add(called[name])
    return [
        replace(
            step,
            name=called[step.name],
            bottoms=tuple(called[bottom] for bottom in step.bottoms),
            tops=tuple(called[top] for top in step.tops),
        )
        for step in steps
    ]


def rename(net: Net, style: str) -> Net:
    if style == "torch":
        return net
    makers = {top: layer for layer in net.layers for top in layer.tops}
    takers = Counter(bottom for layer in net.layers for bottom in layer.bottoms)

    def follows_norm(layer: Layer) -> bool:
        """Whether a Scale alone takes what a BatchNorm makes, over which it is written then."""
        if not isinstance(layer.operation, Scale) or len(layer.bottoms) > 1:
            return False
        bottom = layer.bottoms[0]
        return isinstance(makers[bottom].operation, BatchNorm) and takers[bottom] == 1 and bottom not in net.outputs

    counts: Counter[str] = Counter()
    names: dict[str, str] = {}
    tops: dict[str, str] = {}
    layers = []
    for layer in net.layers:
        base, _, part = layer.name.rpartition(".")
        if (
            isinstance(layer.operation, (Pooling, Crop)) and base in names
        ):  # made by a pass from the layer called `base`
            name, top = f"{names[base]}_{part}", f"{tops[base]}_{part}"
        elif isinstance(layer.operation, (Input, Softmax)):
            name = top = layer.name
        else:
            stem = "bn_scale" if follows_norm(layer) else layer.operation.stem
            counts[stem] += 1
            name = f"{stem}{counts[stem]}"
            is_in_place = follows_norm(layer) or layer.tops == layer.bottoms[:1]
            top = tops[layer.bottoms[0]] if is_in_place else f"{stem}_blob{counts[stem]}"
        names[layer.name] = name
        bottoms = tuple(tops[bottom] for bottom in layer.bottoms)
        named = [top] if len(layer.tops) == 1 else [f"{top}_{index}" for index in range(1, len(layer.tops) + 1)]
        tops.update(zip(layer.tops, named, strict=True))
        layers.append(replace(layer, name=name, bottoms=bottoms, tops=tuple(named)))
    return replace(net, layers=tuple(layers), outputs=tuple(tops[top] for top in net.outputs))
