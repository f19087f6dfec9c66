"""A net in several files, cut at layer boundaries. Each is a model by itself; Caffe matches layers by name."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import LimitError
from ..net.graph import Layer, Net


def split(net: Net, limit: int, overhead: int, layer_size: Callable[[Layer], int]) -> list[Net]:
    """The net in as few parts, in order, as hold at most `limit` bytes each.

    Parameters
    ----------
    overhead : bytes of a file without layers
    layer_size : bytes that a layer adds to a file, at most

    Raises
    ------
    LimitError : a layer does not fit into a file of its own; names it
    """
    parts: list[list[Layer]] = [[]]
    used = overhead
    for layer in net.layers:
        length = layer_size(layer)
        if used + length > limit and parts[-1]:
            parts.append([])
            used = overhead
        if used + length > limit:
            raise LimitError(
                f"needs a file of {used + length} bytes, the limit is {limit}", tensor=f"layer {layer.name}"
            )
        parts[-1].append(layer)
        used += length
    return [net.with_layers(tuple(part)) for part in parts]
