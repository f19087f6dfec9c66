"""Elements at places that are known beforehand, one after the other: flips, rolls, repetitions, indices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from ...net import kernels
from ...net.operations import InnerProduct
from ..arranged import arrange
from ..node import Scope
from ..operands import Constant, Operand, UnsupportedError, Value
from ..views import View
from .registry import operator


@operator("roll")
def _roll(scope: Scope, x: Operand, shifts: Sequence[int], dims: Sequence[int] = ()) -> Value:
    x = scope.activation(x)
    if not dims:
        raise UnsupportedError("rolls without saying which dimensions", "name them")
    for dim, shift in zip(dims, shifts, strict=True):
        size = x.shape[dim]
        x = picked(scope, x, dim % len(x.shape), [(place - shift) % size for place in range(size)])
    return x


@operator("repeat")
def _repeat(scope: Scope, x: Operand, repeats: Sequence[int]) -> Value:
    x = scope.activation(x)
    x = scope.viewed(x, (1,) * (len(repeats) - len(x.shape)) + x.shape)
    for dim, times in enumerate(repeats):
        x = picked(scope, x, dim, [*range(x.shape[dim])] * times)
    return x


@operator("index_select")
def _index_select(scope: Scope, x: Operand, dim: int, index: Operand) -> Value:
    x = scope.activation(x)
    return picked(scope, x, dim % len(x.shape), places_of(index, x.shape[dim]))


@operator("index.Tensor")
def _index(scope: Scope, x: Operand, indices: Sequence[Operand | None]) -> Value:
    x = scope.activation(x)
    said = [(dim, index) for dim, index in enumerate(indices) if index is not None]
    if len(said) != 1:
        raise UnsupportedError("is indexed by several tensors", "index one dimension after the other")
    ((dim, index),) = said
    return picked(scope, x, dim, places_of(index, x.shape[dim]))


def places_of(index: Operand, size: int) -> list[int]:
    """What a constant list of places says."""
    if not isinstance(index, Constant) or len(index.shape) != 1:
        raise UnsupportedError("picks elements by what is no constant list of places")
    return [int(place) % size for place in index.value()]


@operator("flip")
def _flip(scope: Scope, x: Operand, dims: Sequence[int]) -> Value:
    x = scope.activation(x)
    for dim in dims:
        x = picked(scope, x, dim % len(x.shape), range(x.shape[dim])[::-1])
    return x


def picked(scope: Scope, x: Value, dim: int, places: Sequence[int | None]) -> Value:
    """Elements at these places of a dimension, one after the other, 0 for None: a product with a matrix."""
    if list(places) == list(range(x.shape[dim])):
        return x
    given = arrange(scope, x, [dim])
    x, axis = given.value, given.axis(dim)
    size, behind = x.shape[axis], prod(x.shape[axis + 1 :])
    if not axis:
        raise UnsupportedError("picks from the batch")
    shape = (*x.shape[:axis], len(places), *x.shape[axis + 1 :])
    if behind == 1 and len(shape) > 2:
        rows = kernels.selected((len(places), size), places)
        columns = scope.reshaped(x, x.shape, "columns")
        made = scope.layer(InnerProduct(len(places), has_bias=False, axis=axis), [columns], [rows])
        return given.back(replace(scope.reshaped(made, shape, "back"), view=View.of(shape)))
    rest = x.shape[2:] if axis == 1 and len(x.shape) == 4 else (1, behind)
    columns = scope.reshaped(x, (prod(x.shape[:axis]), size, *rest), "columns")
    made = scope.pointwise_convolution(columns, kernels.selected((len(places), size), places))
    return given.back(replace(scope.reshaped(made, shape, "back"), view=View.of(shape)))
