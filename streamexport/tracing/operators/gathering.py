"""Elements at places that are constants or are computed themselves: what is computed shows one of several by a mask."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from ..node import Node, Scope
from ..operands import Constant, Operand, Value
from .arithmetic import common, multiplied
from .assigning import repeated, viewed
from .comparisons import shown
from .indexing import constant_places, picked
from .reductions import reduced
from .registry import operator
from .shapes import activations, broadcast, sliced

if TYPE_CHECKING:
    import torch


@operator("gather")
def _gather(node: Node, x: Operand, dim: int, index: Operand, *, sparse_grad: bool = False) -> Value:
    """The index may be smaller than what it picks from: of other dimensions the first elements are meant."""
    assert isinstance(index, (Value, Constant))
    (x,) = activations(node, [x]) if isinstance(x, Value) else activations(node, [x, node.activation(index)])[:1]
    axis = dim % len(x.shape)
    for other, size in enumerate(index.shape):
        if other != axis:
            x = sliced(node, x, other, 0, size, 1)
    return _at(node, x, axis, index)


@operator("take_along_dim")
def _take_along(node: Node, x: Operand, indices: Operand, dim: int | None = None) -> Value:
    x = node.activation(x)
    assert isinstance(indices, (Value, Constant))
    if dim is None:
        return _at(node, node.viewed(x, (prod(x.shape),)), 0, viewed(node, indices, node.shape))
    axis = dim % len(x.shape)
    one = (*indices.shape[:axis], 1, *indices.shape[axis + 1 :])
    shape = common(x.shape, one)
    return _at(node, broadcast(node, x, shape), axis, repeated(node, indices, node.shape))


def _at(scope: Scope, x: Value, axis: int, index: Value | Constant) -> Value:
    """Of which both have the same shape but along the axis."""
    if isinstance(index, Constant):
        return _at_constants(scope, x, axis, constant_places(index, x.shape[axis]))
    size, count = x.shape[axis], index.shape[axis]
    if count == 1:
        return reduced(scope, multiplied(scope, shown(scope, index, axis, size), x), axis, True, "SUM")
    several = scope.viewed(index, (*index.shape[: axis + 1], 1, *index.shape[axis + 1 :]))
    beside = scope.viewed(x, (*x.shape[:axis], 1, *x.shape[axis:]))
    return reduced(scope, multiplied(scope, shown(scope, several, axis + 1, size), beside), axis + 1, False, "SUM")


def _at_constants(scope: Scope, x: Value, axis: int, places: torch.Tensor) -> Value:
    """Dimensions along which the places differ are picked from as one."""
    import torch

    shape = tuple(places.shape)
    varying = [dim for dim in range(len(shape)) if bool((places != places.narrow(dim, 0, 1)).any())]
    first, last = min([*varying, axis]), max([*varying, axis]) + 1
    for dim in [*range(first), *range(last, len(shape))]:
        places = places.narrow(dim, 0, 1)
    sizes = x.shape[first:last]
    flat = torch.zeros_like(places)
    for dim in range(first, last):
        at = torch.arange(places.shape[dim]).reshape(-1, *(1,) * (len(shape) - dim - 1))
        flat = flat * sizes[dim - first] + (places if dim == axis else at)
    joined = scope.viewed(x, (*x.shape[:first], prod(sizes), *x.shape[last:]))
    return scope.viewed(picked(scope, joined, first, flat.flatten().tolist()), shape)
