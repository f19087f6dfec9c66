"""The largest and the smallest elements along dimensions, and where they stand."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from ...net.operations import ArgMax
from ..arranged import arrange
from ..node import Node, Scope
from ..operands import Constant, Operand, UnsupportedError, Value
from ..views import Shape
from .arithmetic import add
from .comparisons import larger
from .reductions import Dims, reduced
from .registry import operator

if TYPE_CHECKING:
    import torch

MOST_PLACES = 1 << 24
"""Up to which floats count."""


@operator("amax")
def _amax(scope: Scope, x: Operand, dim: Dims = (), keepdim: bool = False) -> Value:
    return reduced(scope, x, dim, keepdim, "MAX")


@operator("amin")
def _amin(scope: Scope, x: Operand, dim: Dims = (), keepdim: bool = False) -> Value:
    return reduced(scope, x, dim, keepdim, "MIN")


@operator("aminmax")
def _aminmax(scope: Scope, x: Operand, *, dim: int | None = None, keepdim: bool = False) -> list[Value]:
    return [reduced(scope, x, dim, keepdim, method, method.lower()) for method in ("MIN", "MAX")]


@operator("max")
def _max(scope: Scope, x: Operand) -> Value:
    return reduced(scope, x, None, False, "MAX")


@operator("min")
def _min(scope: Scope, x: Operand) -> Value:
    return reduced(scope, x, None, False, "MIN")


@operator("max.dim")
def _max_along(node: Node, x: Operand, dim: int, keepdim: bool = False) -> list[Value | None]:
    return _along(node, x, dim, keepdim, "MAX")


@operator("min.dim")
def _min_along(node: Node, x: Operand, dim: int, keepdim: bool = False) -> list[Value | None]:
    return _along(node, x, dim, keepdim, "MIN")


def _along(node: Node, x: Operand, dim: int, keepdim: bool, method: str) -> list[Value | None]:
    """The values, and where they stand."""
    values = reduced(node, x, dim, keepdim, method) if 0 in node.used else None
    places = _standing(node, x, dim, node.shapes[1], method) if 1 in node.used else None
    return [values, places]


@operator("argmax")
def _argmax(node: Node, x: Operand, dim: int | None = None, keepdim: bool = False) -> Value:
    return _standing(node, x, dim, node.shape, "MAX")


@operator("argmin")
def _argmin(node: Node, x: Operand, dim: int | None = None, keepdim: bool = False) -> Value:
    return _standing(node, x, dim, node.shape, "MIN")


def _standing(scope: Scope, x: Operand, dim: int | None, shape: Shape, method: str) -> Value:
    """Where the largest or smallest element stands, along a dimension or of all, in this shape."""
    x = scope.activation(x) if method == "MAX" else scope.power(x, scale=-1, part="negated")
    if dim is None:
        x, dim = scope.viewed(x, (prod(x.shape),)), 0
    return scope.viewed(place_of_largest(scope, x, dim), shape)


def place_of_largest(scope: Scope, x: Value, dim: int) -> Value:
    """Along a dimension, which stays, of size 1. Of equal elements the first, as in torch; Caffe's ArgMax says the last.

    n - max(n - i - n below), where an element at place i of n is below the largest one.
    """
    count = x.shape[dim]
    if count > MOST_PLACES:
        raise UnsupportedError(f"says which of {count} elements it is", f"floats count up to {MOST_PLACES}")
    below = larger(scope, reduced(scope, x, dim, True, "MAX", "largest"), x, "below")
    behind = (1,) * (len(x.shape) - dim % len(x.shape) - 1)
    places = Constant((count, *behind), (), None, lambda: _countdown(count).reshape(count, *behind))
    left = add(scope, scope.power(below, scale=-count, part="behind"), places)
    return scope.power(reduced(scope, left, dim, True, "MAX", "first"), scale=-1, shift=count)


def _countdown(count: int) -> torch.Tensor:
    import torch

    return torch.arange(count, 0, -1)


@operator("topk")
def _topk(
    node: Node,
    x: Operand,
    k: int,
    dim: int = -1,
    largest: bool = True,
    sorted: bool = True,  # noqa: A002
) -> list[Value | None]:
    return top(node, x, k, dim, largest)


@operator("sort")
def _sort(node: Node, x: Operand, dim: int = -1, descending: bool = False) -> list[Value | None]:
    return top(node, x, node.shape[dim] if node.shape else 1, dim, descending)


def top(node: Node, x: Operand, count: int, dim: int, largest: bool) -> list[Value | None]:
    """The largest or smallest elements along a dimension, those first that are most so, and where they stand: as many of the
    two as are used."""
    if count == 1:
        return _along(node, x, dim, True, "MAX" if largest else "MIN")
    x = node.activation(x) if largest else node.power(x, scale=-1, part="negated")
    given = arrange(node, x, [dim])
    whole, axis = node.reshaped(given.value, given.value.shape), given.axis(dim)
    values, places = (
        given.back(node.layer(ArgMax(axis, count, has_values), [whole], part=part)) if index in node.used else None
        for index, (has_values, part) in enumerate(((True, "values"), (False, "places")))
    )
    return [values if largest or values is None else node.power(values, scale=-1), places]
