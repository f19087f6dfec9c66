"""A dimension times a matrix of constants: elements at places that are known beforehand (flips, rolls, repetitions, indices,
windows), and sums of what comes before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

from ...net import kernels
from ...net.graph import Blob
from ...net.operations import Embed, InnerProduct
from ..arranged import arrange
from ..node import Node, Scope
from ..operands import Constant, Operand, UnsupportedError, Value
from ..views import View
from .registry import operator
from .shapes import broadcast

if TYPE_CHECKING:
    import torch


@operator("roll")
def _roll(scope: Scope, x: Operand, shifts: Sequence[int], dims: Sequence[int] = ()) -> Value:
    x = scope.activation(x)
    if not dims:
        flat = scope.viewed(x, (prod(x.shape),))
        return scope.viewed(_roll(scope, flat, shifts, [0]), x.shape)
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
def _index(node: Node, x: Operand, indices: Sequence[Operand | None]) -> Value:
    """By tensors of places, repeated to a shape that stands in the dimensions' place, or in front, if these do not follow each
    other. Each varies along dimensions of its own, or they vary together, and the dimensions are picked from as one."""
    said = {dim: index for dim, index in enumerate(indices) if index is not None}
    if isinstance(x, Constant) and list(said) == [0]:
        return _row_of(node, x, indices[0])
    x = node.activation(x)
    if list(said) != list(range(min(said), max(said) + 1)):
        order = [*said, *(dim for dim in range(len(x.shape)) if dim not in said)]
        x = replace(x, view=x.view.permuted(order), label=node.label)
        said = dict(enumerate(said.values()))
    first = min(said)
    given = [constant_places(index, x.shape[dim]) for dim, index in said.items()]
    spread = _spread(given)
    axes: list[int] = []
    sizes: list[int] = []
    groups = _groups(spread)
    for place, (begin, end) in enumerate(groups):
        x, steps = _joined(node, x, first + place, spread[begin:end])
        x = picked(node, x, first + place, steps.flatten().tolist())
        axes += _varied(steps)
        sizes += [size for size in steps.shape if size != 1]
    x = node.viewed(x, (*x.shape[:first], *sizes, *x.shape[first + len(groups) :]))
    order = [first + axes.index(axis) for axis in sorted(axes)]
    moved = [*range(first), *order, *range(first + len(order), len(x.shape))]
    return node.viewed(replace(x, view=x.view.permuted(moved)), node.shape)


def _spread(given: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Places with as many dimensions, each of size 1 where they are the same all along and others are not."""
    rank = max(places.dim() for places in given)
    spread = [places.reshape((1,) * (rank - places.dim()) + tuple(places.shape)) for places in given]
    for axis in range(rank):
        varying = [bool((places != places.narrow(axis, 0, 1)).any()) for places in spread]
        if any(varying):
            spread = [
                places if varies else places.narrow(axis, 0, 1) for places, varies in zip(spread, varying, strict=True)
            ]
    return spread


def _varied(places: torch.Tensor) -> list[int]:
    """The dimensions along which places vary."""
    return [axis for axis, size in enumerate(places.shape) if size != 1]


def _groups(places: Sequence[torch.Tensor]) -> list[tuple[int, int]]:
    """Which of them, from one to another, vary together: no dimension of a group is one of another's."""
    groups: list[tuple[int, int, set[int]]] = []
    for number, each in enumerate(places):
        begin, axes = number, set(_varied(each))
        while any(not axes.isdisjoint(others) for _, _, others in groups):
            begin, _, others = groups.pop()
            axes |= others
        groups.append((begin, number + 1, axes))
    return [(begin, end) for begin, end, _ in groups]


def _joined(scope: Scope, x: Value, first: int, places: Sequence[torch.Tensor]) -> tuple[Value, torch.Tensor]:
    """Dimensions that places vary in together as one, and the places there."""
    if len(places) == 1:
        return x, places[0]
    behind = first + len(places)
    sizes = x.shape[first:behind]
    weights = [prod(sizes[dim + 1 :]) for dim in range(len(sizes))]
    steps = sum(each * weight for each, weight in zip(places[1:], weights[1:], strict=True)) + places[0] * weights[0]
    return scope.viewed(x, (*x.shape[:first], prod(sizes), *x.shape[behind:])), steps


def _row_of(node: Node, table: Constant, index: Operand | None) -> Value:
    """Rows of a table of constants, by places that are computed, or come in."""
    places = node.activation(index)  # type: ignore[arg-type]
    rows, columns = table.shape[0], table.count // table.shape[0]
    embed = Embed(columns, rows, has_bias=False)
    blobs = [node.blob(table, (rows, columns))]
    return node.viewed(node.layer(embed, [node.reshaped(places, places.shape or (1,))], blobs), node.shape)


@operator("embedding")
def _embedding(node: Node, weight: Operand, indices: Operand, *_: Any, **__: Any) -> Value:
    """What is left out, `padding_idx` among it, is for training."""
    if not isinstance(weight, Constant):
        raise UnsupportedError("takes rows of what depends on the input")
    return _row_of(node, weight, indices)


def places_of(index: Operand, size: int) -> list[int]:
    """What a constant list of places says."""
    places: list[int] = constant_places(index, size).flatten().tolist()
    return places


def constant_places(index: Operand, size: int) -> torch.Tensor:
    """The places that a constant names, none of them counted from the end."""
    if not isinstance(index, Constant):
        raise UnsupportedError("picks elements by what is no constant")
    values: torch.Tensor = index.value()
    if str(values.dtype) == "torch.bool":
        raise UnsupportedError("picks elements by a mask", "name their places")
    places = values.long()
    if places.numel() and not -size <= int(places.min()) <= int(places.max()) < size:
        raise UnsupportedError(f"picks places {int(places.min())} to {int(places.max())} of {size}")
    return places % size


@operator("flip")
def _flip(scope: Scope, x: Operand, dims: Sequence[int]) -> Value:
    x = scope.activation(x)
    for dim in dims:
        x = picked(scope, x, dim % len(x.shape), range(x.shape[dim])[::-1])
    return x


@operator("unfold")
def _unfold(node: Node, x: Operand, dimension: int, size: int, step: int) -> Value:
    """Windows along a dimension, whose elements become the last dimension."""
    x = node.activation(x)
    dim = dimension % len(x.shape)
    count = node.shape[dim]
    x = picked(node, x, dim, [first * step + place for first in range(count) for place in range(size)])
    cut = node.viewed(x, (*x.shape[:dim], count, size, *x.shape[dim + 1 :]))
    order = [axis for axis in range(len(cut.shape)) if axis != dim + 1]
    return replace(cut, view=cut.view.permuted([*order, dim + 1]))


@operator("diagonal")
def diagonal(scope: Scope, x: Operand, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Value:
    x = scope.activation(x)
    rank = len(x.shape)
    rows, columns = dim1 % rank, dim2 % rank
    rest = [axis for axis in range(rank) if axis not in (rows, columns)]
    height, width = x.shape[rows], x.shape[columns]
    first, count = (
        (offset, min(height, width - offset)) if offset >= 0 else (-offset * width, min(height + offset, width))
    )
    turned = replace(x, view=x.view.permuted([*rest, rows, columns]))
    flat = scope.viewed(turned, (*(x.shape[axis] for axis in rest), height * width))
    return picked(scope, flat, len(rest), [first + place * (width + 1) for place in range(count)])


@operator("cumsum")
def _cumsum(scope: Scope, x: Operand, dim: int, *, dtype: object = None) -> Value:
    """Each sum is a row of ones, as long as what is summed up, and zeros."""
    x = scope.activation(x)
    return _multiplied_along(scope, x, dim % len(x.shape), kernels.triangle(x.shape[dim]))


def added_up(scope: Scope, x: Value, dim: int, places: Sequence[int], size: int) -> Value:
    """Elements of a dimension added to zeros, in these places of so many."""
    weight = Constant((size, len(places)), (), None, lambda: _ones(places, size))
    return _multiplied_along(scope, x, dim, scope.blob(weight))


def _ones(places: Sequence[int], size: int) -> torch.Tensor:
    """A column with a 1 in each of these places."""
    import torch

    return torch.arange(size)[:, None] == torch.tensor(places)


def picked(scope: Scope, x: Value, dim: int, places: Sequence[int | None]) -> Value:
    """Elements at these places of a dimension, one after the other, 0 for None: rows of a matrix that it is multiplied by."""
    if list(places) == list(range(x.shape[dim])):
        return x
    given = arrange(scope, x, [dim])
    if not given.axis(dim) and all(place == 0 for place in places):  # a single step, repeated
        return given.back(broadcast(scope, given.value, (len(places), *given.value.shape[1:])))
    return _multiplied_along(scope, x, dim, kernels.selected((len(places), x.shape[dim]), places))


def _multiplied_along(scope: Scope, x: Value, dim: int, weight: Blob) -> Value:
    """A dimension multiplied by a matrix."""
    given = arrange(scope, x, [dim])
    x, axis = given.value, given.axis(dim)
    (count, size), behind = weight.shape, prod(x.shape[axis + 1 :])
    if not axis:
        raise UnsupportedError("combines the images of a batch")
    if axis == len(x.shape) - 1 > 1:
        columns = scope.reshaped(x, x.shape, "columns")
        return given.back(scope.layer(InnerProduct(count, has_bias=False, axis=axis), [columns], [weight]))
    shape = (*x.shape[:axis], count, *x.shape[axis + 1 :])
    rest = x.shape[2:] if axis == 1 and len(x.shape) == 4 else (1, behind)
    columns = scope.reshaped(x, (prod(x.shape[:axis]), size, *rest), "columns")
    made = scope.pointwise_convolution(columns, weight)
    return given.back(replace(scope.reshaped(made, shape, "back"), view=View.of(shape)))
