"""The part of a net that ends where the user says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ..net.fitting import no_end
from ..net.graph import Layer, Net
from .cleaning import without_dead


def cut(net: Net, end: Sequence[str]) -> Net:
    """What these layers and modules need, and no more; several ends are the net's outputs, in that order.

    Each is a layer, or a module that holds layers: `layer4` is cut behind the last layer whose name begins with `layer4.`.
    """
    last = [_last(net, name) for name in end]
    tops = tuple(top for layer in last for top in layer.tops)
    needed = without_dead(replace(net, outputs=tops))
    return replace(needed, outputs=tops if net.outputs or len(tops) > 1 else ())


def _last(net: Net, name: str) -> Layer:
    inside = [layer for layer in net.layers if layer.name == name or layer.name.startswith(name + ".")]
    if not inside:
        raise no_end(name, [*dict.fromkeys(_modules(net))])
    return inside[-1]


def _modules(net: Net) -> Iterator[str]:
    """Every path that names layers: their own, and those of the modules around them."""
    for layer in net.layers:
        parts = layer.name.split(".")
        yield from (".".join(parts[:count]) for count in range(1, len(parts) + 1))
