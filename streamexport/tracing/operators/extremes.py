"""The largest and the smallest elements along dimensions, and where they stand."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from ...net.operations import ArgMax
from ..arranged import arrange
from ..node import Node, Scope
from ..operands import Constant, Operand, UnsupportedError, Value
from ..views import Shape
from .arithmetic import add
from .comparisons import larger
from .indexing import picked
from .reductions import Dims, reduced
from .registry import operator
from .shapes import sliced

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


@operator("sort", "sort.stable")
def _sort(
    node: Node, x: Operand, dim: int = -1, descending: bool = False, *, stable: bool | None = None
) -> list[Value | None]:
    return top(node, x, _count(node, dim), dim, descending, bool(stable))


def _count(node: Node, dim: int) -> int:
    return node.shape[dim] if node.shape else 1


@operator("kthvalue")
def _kth_value(node: Node, x: Operand, k: int, dim: int = -1, keepdim: bool = False) -> list[Value | None]:
    x = node.activation(x)
    axis, size = dim % len(x.shape), x.shape[dim]
    count = min(k, size + 1 - k)  # from the side that it is nearer to
    made = top(node, x, count, axis, count < k)
    return [
        None if each is None else node.viewed(sliced(node, each, axis, count - 1, count, 1), shape)
        for each, shape in zip(made, node.shapes, strict=True)
    ]


@operator("median.dim")
def _median_along(node: Node, x: Operand, dim: int, keepdim: bool = False) -> list[Value | None]:
    """Of an even number of elements the smaller one of the two in the middle."""
    x = node.activation(x)
    return _kth_value(node, x, (x.shape[dim] + 1) // 2, dim, keepdim)


@operator("median")
def _median(node: Node, x: Operand) -> Value:
    x = node.activation(x)
    values, _ = _median_along(
        replace(node, used=frozenset({0}), shapes=(node.shape,) * 2), node.viewed(x, (prod(x.shape),)), 0
    )
    assert values is not None
    return values


def top(node: Node, x: Operand, count: int, dim: int, largest: bool, is_stable: bool = False) -> list[Value | None]:
    """The largest or smallest elements along a dimension, those first that are most so, and where they stand: as many of the
    two as are used. If it is stable, the first of equal elements comes first; Caffe's ArgMax has the last."""
    if count == 1:
        return _along(node, x, dim, True, "MAX" if largest else "MIN")
    x = node.activation(x) if largest else node.power(x, scale=-1, part="negated")
    values = _top(node, x, count, dim, True) if 0 in node.used else None
    values = values if largest or values is None else node.power(values, scale=-1)
    if 1 not in node.used:
        return [values, None]
    if not is_stable:
        return [values, _top(node, x, count, dim, False)]
    axis, size = dim % len(x.shape), x.shape[dim]
    from_behind = _top(node, picked(node, x, axis, range(size)[::-1]), count, dim, False)
    return [values, node.power(from_behind, scale=-1, shift=size - 1)]


def _top(scope: Scope, x: Value, count: int, dim: int, has_values: bool) -> Value:
    given = arrange(scope, x, [dim])
    whole = scope.reshaped(given.value, given.value.shape)
    layer = ArgMax(given.axis(dim), count, has_values)
    return given.back(scope.layer(layer, [whole], part="values" if has_values else "places"))
