"""What is written to a part of a tensor: torch.export makes a new tensor of it."""

from __future__ import annotations

from collections.abc import Sequence

from ...net.operations.operation import along
from ..node import Node, Scope
from ..operands import Constant, Operand, UnsupportedError, Value
from ..views import Shape
from .arithmetic import add
from .choosing import chosen, finite, plain
from .indexing import added_up, picked, places_of
from .padding import padded
from .registry import operator
from .shapes import broadcast, cat, converted, sliced


@operator("copy")
def _copy(node: Node, x: Operand, src: Operand, non_blocking: bool = False) -> Operand:
    return repeated(node, converted(node, src, node.taken[1]), node.shape)


@operator("fill.Tensor")
def _fill(node: Node, x: Operand, value: Operand) -> Operand:
    return repeated(node, converted(node, value, node.taken[1]), node.shape)


def repeated(scope: Scope, x: Operand, shape: Shape) -> Value | Constant:
    """Any operand in the shape of what it is written to, or taken from."""
    if isinstance(x, Constant):
        return x.mapped(shape, lambda values: values.expand(shape))
    return broadcast(scope, scope.activation(x), shape)


@operator("slice_scatter")
def _slice_scatter(
    node: Node,
    x: Operand,
    src: Operand,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Operand:
    axis = dim % len(node.shape)
    return written(node, x, src, node.shape, axis, range(node.shape[axis])[start:end:step])


@operator("select_scatter")
def _select_scatter(node: Node, x: Operand, src: Operand, dim: int, index: int) -> Operand:
    axis, shape = dim % len(node.shape), node.shape
    one = (*shape[:axis], 1, *shape[axis + 1 :])
    return written(node, x, viewed(node, src, one), shape, axis, [index % shape[axis]])


@operator("index_copy")
def _index_copy(node: Node, x: Operand, dim: int, index: Operand, source: Operand) -> Operand:
    axis = dim % len(node.shape)
    return written(node, x, source, node.shape, axis, places_of(index, node.shape[axis]))


@operator("index_fill.int_Scalar")
def _index_fill(node: Node, x: Operand, dim: int, index: Operand, value: float) -> Operand:
    axis = dim % len(node.shape)
    return written(node, x, value, node.shape, axis, places_of(index, node.shape[axis]))


@operator("index_put")
def _index_put(
    node: Node, x: Operand, indices: Sequence[Operand | None], values: Operand, accumulate: bool = False
) -> Operand:
    """To places along one dimension, or where a mask says."""
    said = [(dim, index) for dim, index in enumerate(indices) if index is not None]
    if len(said) != 1:
        raise UnsupportedError("writes where several tensors say")
    ((axis, index),) = said
    if node.taken[1] == "bool" and not accumulate:
        return _put_by_mask(node, x, index, values)
    places = places_of(index, node.shape[axis])
    part = repeated(node, values, along(node.shape, axis, len(places)))
    if accumulate:
        return add(node, x, added_up(node, node.activation(part), axis, places, node.shape[axis]))
    return written(node, x, part, node.shape, axis, places)


def _put_by_mask(node: Node, x: Operand, mask: Operand, value: Operand) -> Value:
    """A number where a mask over the first dimensions says."""
    if not isinstance(value, Constant) or value.count != 1:
        raise UnsupportedError("writes different elements where a mask says", "write it as torch.where")
    assert isinstance(mask, (Value, Constant))
    shape = (*mask.shape, *(1,) * (len(node.shape) - len(mask.shape)))
    mask = viewed(node, mask, shape)
    return chosen(node, mask, value.number(), x)


def viewed(scope: Scope, x: Operand, shape: Shape) -> Value | Constant:
    """The same elements in another shape."""
    return x.mapped(shape, lambda values: values.reshape(shape)) if isinstance(x, Constant) else scope.viewed(x, shape)


def written(scope: Scope, x: Operand, part: Operand, shape: Shape, axis: int, places: Sequence[int]) -> Operand:
    """x, of this shape, with a part in place of what it has in these places of a dimension. One of the two is a value."""
    size = shape[axis]
    if not places:
        return x
    if not isinstance(part, Value):
        return chosen(scope, _there(shape, axis, places), _placed(part, shape, axis, places), x)
    if list(places) == list(range(size)):
        return part
    around = plain(x)
    if isinstance(around, (int, float)):
        return _surrounded(scope, part, around, shape, axis, places)
    first, last = min(places), max(places) + 1
    if list(places) == list(range(first, last)):
        parts = [_cut(scope, x, axis, 0, first), part, _cut(scope, x, axis, last, size)]
        return cat(scope, [each for each in parts if each is not None], axis)
    both = cat(scope, [finite(x) if isinstance(x, Constant) else x, part], axis)
    order = {**{place: place for place in range(size)}, **{place: size + n for n, place in enumerate(places)}}
    return picked(scope, both, axis, [order[place] for place in range(size)])


def _surrounded(scope: Scope, part: Value, around: float, shape: Shape, axis: int, places: Sequence[int]) -> Value:
    """A part in these places of a dimension, and a number in all others."""
    size, first = shape[axis], min(places)
    if len(shape) == 4 and axis >= 2 and list(places) == list(range(first, first + len(places))):
        return padded(scope, part, [0, 0] * (3 - axis) + [first, size - first - len(places)], value=around)
    order = {place: n for n, place in enumerate(places)}
    made = picked(scope, part, axis, [order.get(place) for place in range(size)])
    if not around:
        return made
    import torch

    there = _there(shape, axis, places)
    return add(
        scope,
        made,
        there.mapped(
            there.shape, lambda values: values.new_zeros(values.shape, dtype=torch.float32).masked_fill(~values, around)
        ),
    )


def _cut(scope: Scope, x: Operand, axis: int, first: int, last: int) -> Operand | None:
    """Part of a dimension; None if it is none."""
    if first == last:
        return None
    if isinstance(x, Constant):
        return x.mapped(along(x.shape, axis, last - first), lambda values: values.narrow(axis, first, last - first))
    return sliced(scope, scope.activation(x), axis, first, last, 1)


def _there(shape: Shape, axis: int, places: Sequence[int]) -> Constant:
    """A mask of these places."""
    import torch

    one = (shape[axis], *(1,) * (len(shape) - axis - 1))
    mask = torch.zeros(shape[axis], dtype=torch.bool)
    mask[list(places)] = True
    return Constant(one, (), None, lambda: mask.reshape(one))


def _placed(part: Operand, shape: Shape, axis: int, places: Sequence[int]) -> Operand:
    """A constant as it stands in these places, and 0 elsewhere; a number as it is."""
    import torch

    part = plain(part)
    if not isinstance(part, Constant):
        return part

    return part.mapped(shape, lambda values: values.new_zeros(shape).index_copy(axis, torch.tensor(places), values))
