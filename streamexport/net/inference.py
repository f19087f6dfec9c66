"""The shapes of everything in a net, from those of its inputs.

    infer(net, shapes of its inputs) -> Steps: its layers in order, each with the shapes of its bottoms, tops and blobs

The rules are Caffe's, written down beside each operation. Taken, though Caffe refuses them: two sizes that are alike, of a
window over more axes. Refused, though Caffe takes them: convolutions over more than three axes, with channels
elsewhere or of several bottoms at once, kernels larger than the padded bottom (Caffe takes them if the stride is more than 1),
and blobs without elements.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, prod

from ..errors import NetError
from .graph import Layer, Net
from .operations import Input, Shape

AXES_LIMIT, COUNT_LIMIT = 32, 2**63 - 1
"""Axes that Caffe allows a blob, and elements that anybody can count. Caffe ends at 2**31 - 1 of them; we need not."""


@dataclass(frozen=True, slots=True)
class Step:
    """A layer in its place in a net, with the shapes of its bottoms, of its tops, and of the blobs that it needs."""

    layer: Layer
    bottoms: tuple[Shape, ...]
    tops: tuple[Shape, ...]
    blobs: tuple[Shape, ...]

    @property
    def multiply_adds(self) -> int:
        return self.layer.operation.multiply_adds(self.bottoms, self.blobs)


def infer(net: Net, inputs: Mapping[str, Shape] | None = None) -> tuple[Step, ...]:
    """The layers of a net with the shapes of everything in it.

    Parameters
    ----------
    inputs : shapes of input blobs, instead of those that the net declares

    Raises
    ------
    NetError : a layer is not known, or cannot work as it stands; it is named
    """
    steps = []
    shapes: dict[str, Shape] = {}
    for layer in net.layers:
        try:
            step = understood(_with_inputs(layer, inputs or {}), [_of(shapes, name) for name in layer.bottoms])
            for index, top in enumerate(layer.tops):
                if top in shapes and layer.bottoms[index : index + 1] != (top,):  # else it is written in place
                    raise NetError(f"its top {top} is another layer's top already")
        except NetError as error:
            error.tensor = f"layer {layer.name}"
            raise
        shapes.update(zip(layer.tops, step.tops, strict=True))
        steps.append(step)
    return tuple(steps)


def understood(layer: Layer, bottoms: Sequence[Shape]) -> Step:
    """A layer with bottoms of these shapes. NetError if it is not known or cannot work."""
    operation = layer.operation
    _check_count("bottoms", len(layer.bottoms), operation.bottoms)
    _check_count("tops", len(layer.tops), operation.tops)
    step = Step(layer, tuple(bottoms), operation.top_shapes(bottoms, len(layer.tops)), operation.blob_shapes(bottoms))
    for shape in step.tops:
        if min(shape, default=1) < 1:
            raise NetError(f"its top has shape {list(shape)}, which holds nothing")
        if len(shape) > AXES_LIMIT or prod(shape) > COUNT_LIMIT:
            raise NetError(f"its top has shape {list(shape)}, more than a blob can have")
    return step


def ranks_of(net: Net) -> dict[str, int]:
    """How many dimensions each top of a net has."""
    return {top: len(shape) for step in infer(net) for top, shape in zip(step.layer.tops, step.tops, strict=True)}


def fits(held: Shape, expected: Shape) -> bool:
    """Whether a blob of a file may fill one of a layer: the same shape, or the four dimensions of Caffe's first years,
    when (C) was written as (1, 1, 1, C) and (N, K) as (1, 1, N, K).

    Caffe takes the latter only where a file has them in the fields of those years, which readers do not tell.
    """
    return held == expected or held == (1,) * (4 - len(expected)) + expected


def _of(shapes: Mapping[str, Shape], bottom: str) -> Shape:
    if bottom not in shapes:
        raise NetError(f"its bottom {bottom} is the top of no layer before it")
    return shapes[bottom]


def _with_inputs(layer: Layer, inputs: Mapping[str, Shape]) -> Layer:
    """An Input layer with the shapes given, where they are."""
    operation = layer.operation
    if not isinstance(operation, Input) or inputs.keys().isdisjoint(layer.tops):
        return layer
    declared = operation.declared(len(layer.tops)) or ((),) * len(layer.tops)
    shapes = tuple(inputs.get(name, shape) for name, shape in zip(layer.tops, declared, strict=True))
    return replace(layer, operation=Input(shapes))


def _check_count(what: str, count: int, allowed: tuple[float, float]) -> None:
    least, most = allowed
    if not least <= count <= most:
        wanted = f"{least}" if least == most else f"{least} to {most}" if most < inf else f"{least} or more"
        raise NetError(f"has {count} {what}, not {wanted}")
