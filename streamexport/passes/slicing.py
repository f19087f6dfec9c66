"""Parts of one blob that convolutions pick, each by itself, as one Slice, where together they are all of it.

Whoever takes a part of a blob does not know who takes the others (the queries, keys and values of a packed product), and a
Slice leaves tops behind that nobody takes. So each part is picked by a convolution at first, whose multiplications by 0 are as
many as those that made the blob.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from ..net.graph import Layer, Net
from ..net.kernels import Selected
from ..net.operations import Convolution, Shape, Slice
from ..net.windows import ONE_PIXEL, Window


@dataclass(frozen=True, slots=True)
class _Pick:
    """A layer that takes elements [first, last) of `size` along an axis of its bottom."""

    layer: Layer
    axis: int
    first: int
    last: int
    size: int


def slice_parts(net: Net) -> Net:
    """The net with a Slice wherever layers pick all parts of a blob; it computes the same."""
    shapes = {top: shape for layer in net.layers for top, shape in zip(layer.tops, layer.shapes, strict=False)}
    groups: dict[tuple[str, int], list[_Pick]] = {}
    for pick in (pick for layer in net.layers for pick in _picks(layer, shapes)):
        groups.setdefault((pick.layer.bottoms[0], pick.axis), []).append(pick)
    made: dict[str, Layer | None] = {}
    for picks in groups.values():
        parts = sorted(picks, key=lambda pick: pick.first)
        ends = [(0, 0), *((pick.first, pick.last) for pick in parts), (parts[0].size, 0)]
        if len(parts) > 1 and all(before[1] == behind[0] for before, behind in pairwise(ends)):
            made |= {pick.layer.name: None for pick in picks}
            made[picks[0].layer.name] = _sliced(picks[0].layer, parts)
    layers = (made.get(layer.name, layer) for layer in net.layers)
    return net.with_layers(tuple(layer for layer in layers if layer is not None))


def _sliced(layer: Layer, parts: list[_Pick]) -> Layer:
    """In place of the first of the layers."""
    return replace(
        layer,
        operation=Slice(parts[0].axis, tuple(pick.first for pick in parts[1:])),
        tops=tuple(pick.layer.tops[0] for pick in parts),
        blobs=(),
        shapes=tuple(pick.layer.shapes[0] for pick in parts),
        origin=parts[0].layer.origin,
    )


def _picks(layer: Layer, shapes: Mapping[str, Shape]) -> Iterator[_Pick]:
    """What a layer picks, if it does nothing else: channels by a matrix, or rows or columns by a kernel for each channel."""
    operation = layer.operation
    if not isinstance(operation, Convolution) or operation.has_bias or not layer.blobs or not layer.shapes:
        return
    (weight,), bottom = layer.blobs, shapes.get(layer.bottoms[0], ())
    if not isinstance(weight.values, Selected) or len(bottom) != 4:
        return
    top, firsts = layer.shapes[0], weight.values.columns
    if operation.window == ONE_PIXEL and operation.groups == 1:
        axis = 1
        expected = [*range(firsts[0], firsts[0] + top[1])] if firsts else []
    else:
        axis = 3 if bottom[2] == top[2] else 2
        reach = bottom[axis] - top[axis] + 1
        expected = [firsts[0]] * bottom[1] if firsts else []
        if operation.groups != bottom[1] or operation.window != Window.of((reach, 1) if axis == 2 else (1, reach)):
            return
    if firsts and expected == firsts:
        yield _Pick(layer, axis, firsts[0], firsts[0] + top[axis], bottom[axis])
