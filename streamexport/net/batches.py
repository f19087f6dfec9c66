"""Whether a net takes any number of images at once, and which layer keeps it from that.

The net's shapes are inferred with the batch that its inputs declare, and with one image more. It takes any batch if every
layer works with both, all tops grow by their first axis and nothing else, and no layer mixes what stands along it: then the
elements that belong to an image follow each other in every blob. Blobs that no input makes stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from ..errors import NetError
from .graph import Layer, Net
from .inference import understood
from .operations import Input, Shape


def said(net: Net) -> str:
    """A sentence about the batch of a net."""
    batch = _declared(net)
    if batch is None:
        return "batch is fixed: its inputs begin with different sizes"
    layer = fixing(net, batch)
    return f"batch is fixed at {batch} by {layer.name} ({layer.type})" if layer else "batch is free"


def fixing(net: Net, batch: int) -> Layer | None:
    """The first layer that does not work with other batches than this, which the inputs declare; None if there is none.

    NetError : the net does not work as it stands
    """
    known: dict[str, tuple[Shape, Shape]] = {}
    for layer in net.layers:
        pairs = [known[bottom] for bottom in layer.bottoms]
        made = _tops(layer, pairs, batch)
        if made is None:
            return layer
        known.update(zip(layer.tops, made, strict=True))
    return None


def _declared(net: Net) -> int | None:
    batches = {shape[0] if shape else 0 for shape in net.input_shapes}
    return batches.pop() if len(batches) == 1 else None


def _tops(layer: Layer, bottoms: Sequence[tuple[Shape, Shape]], batch: int) -> list[tuple[Shape, Shape]] | None:
    """A layer's tops with a batch, and with one image more; None if it does not work so."""
    here = understood(layer, [shapes[0] for shapes in bottoms])
    if isinstance(layer.operation, Input):
        return [(shape, (batch + 1, *shape[1:])) for shape in here.tops]
    if all(shape == other for shape, other in bottoms):
        return [(shape, shape) for shape in here.tops]
    try:
        there = understood(layer, [shapes[1] for shapes in bottoms])
    except NetError:
        return None
    grown = all(_is_grown(shape, other, batch) for shape, other in zip(here.tops, there.tops, strict=True))
    if not grown or here.blobs != there.blobs or layer.operation.mixes_images(here.bottoms):
        return None
    return [*zip(here.tops, there.tops, strict=True)]


def _is_grown(shape: Shape, other: Shape, batch: int) -> bool:
    """Whether one of two shapes has a batch of one more, and nothing else is different."""
    whole, more = prod(shape[:1]), prod(other[:1])
    return bool(shape) and shape[1:] == other[1:] and more * batch == whole * (batch + 1)
