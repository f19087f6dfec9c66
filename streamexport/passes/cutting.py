"""The part of a net that ends where the user says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from difflib import get_close_matches

from ..errors import NetError
from ..nets.graph import Net
from .cleaning import without_dead


def cut(net: Net, end: str) -> Net:
    """What the module called `end` needs, with the last of the layers that it became as the last of all.

    `end` is a layer, or a module that holds layers: `layer4` is cut behind the last layer whose name begins with `layer4.`.
    """
    inside = [index for index, layer in enumerate(net.layers) if layer.name == end or layer.name.startswith(end + ".")]
    if not inside:
        near = get_close_matches(end, [*dict.fromkeys(_modules(net))], 3)
        advice = f"did you mean {' or '.join(near)}?" if near else f"the last one is {net.layers[-1].name}"
        raise NetError(f"there is no layer {end!r} to end with", advice=advice)
    last = inside[-1]
    tops = net.layers[last].tops
    needed = without_dead(replace(net, layers=net.layers[: last + 1], outputs=tops))
    return replace(needed, outputs=net.outputs and tops)


def _modules(net: Net) -> Iterator[str]:
    """Every path that names layers: their own, and those of the modules around them."""
    for layer in net.layers:
        parts = layer.name.split(".")
        yield from (".".join(parts[:count]) for count in range(1, len(parts) + 1))
