"""What moves elements about without computing with them: views, broadcasting, slices, concatenation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from math import prod
from typing import Any

from ...net import kernels
from ...net.operations import AbsVal, Concat, InnerProduct, Pooling, Slice, Threshold
from ...net.windows import Axis, Window
from ..arranged import arrange, arrange_alike
from ..node import Node, Scope
from ..operands import Constant, Operand, UnsupportedError, Value
from ..views import Shape, View
from .registry import operator


@operator("_to_copy", "to.dtype", "to.device", "to.dtype_layout", "to.other", "type_as")
def _converted(node: Node, x: Operand, *_: Any, **__: Any) -> Operand:
    return converted(node, x, node.taken[0])


def converted(node: Node, x: Operand, dtype: str) -> Operand:
    """What is of one type as one of the result's type. Truth values and whole numbers are floats here in any case."""
    if isinstance(x, Constant):
        import torch

        wanted = getattr(torch, node.dtype)
        return x if dtype == node.dtype else x.mapped(x.shape, lambda values: values.to(wanted))
    if dtype == "float32" and node.dtype.startswith("int"):
        raise UnsupportedError(f"rounds an activation, to torch.{node.dtype}")
    if node.dtype == "bool" != dtype:
        return node.pointwise(Threshold(), node.pointwise(AbsVal(), x, "size"))
    return x


@operator(
    "clone",
    "alias",
    "contiguous",
    "detach",
    "lift_fresh_copy",
    "lift_fresh",
)
def _identity(scope: Scope, x: Operand, *_: Any, **__: Any) -> Operand:
    return x


@operator("dropout", "feature_dropout")
def _dropout(scope: Scope, x: Operand, p: float, train: bool) -> Operand:
    if train and p:
        raise UnsupportedError("drops values at random", "give it training=self.training")
    return x


@operator("native_dropout")
def _native_dropout(scope: Scope, x: Operand, p: float, train: bool | None) -> list[Operand | None]:
    return [_dropout(scope, x, p, train is not False), None]


@operator(
    "view",
    "_unsafe_view",
    "reshape",
    "flatten.using_ints",
    "unflatten.int",
    "squeeze",
    "squeeze.dim",
    "squeeze.dims",
    "unsqueeze",
    "view_copy",
)
def _view(node: Node, x: Operand, *_: Any, **__: Any) -> Value:
    return node.viewed(x, node.shape)


@operator("permute")
def _permute(scope: Scope, x: Operand, dims: Sequence[int]) -> Value:
    x = scope.activation(x)
    order = [dim % len(dims) for dim in dims]
    return replace(x, view=x.view.permuted(order), label=scope.label)


@operator("transpose.int")
def _transpose(scope: Scope, x: Operand, dim0: int, dim1: int) -> Value:
    x = scope.activation(x)
    rank = len(x.shape)
    order = list(range(rank))
    order[dim0 % rank], order[dim1 % rank] = order[dim1 % rank], order[dim0 % rank]
    return _permute(scope, x, order)


@operator("t")
def _t(scope: Scope, x: Operand) -> Value:
    x = scope.activation(x)
    return _transpose(scope, x, 0, 1) if len(x.shape) == 2 else x


@operator("expand")
def _expand(node: Node, x: Operand, *_: Any, **__: Any) -> Value:
    return broadcast(node, node.activation(x), node.shape)


def broadcast(scope: Scope, x: Value, shape: Shape, part: str = "spread") -> Value:
    """A value repeated along the dimensions in which it has a size of 1 and `shape` more."""
    if x.shape == shape:
        return x
    own = (1,) * (len(shape) - len(x.shape)) + x.shape
    x = replace(x, view=x.view.squeezed(own))
    if own == shape:
        return x
    if own[0] != shape[0] and len(shape) < 4 and scope.builder.batch == 1:  # a batch that torch does not have here
        led = replace(x, view=x.view.squeezed((1, *own)))
        return replace(broadcast(scope, led, (1, *shape), part), view=View.of(shape))
    if not 2 <= len(shape) <= 4 or own[0] != shape[0]:
        return _repeated(scope, x, shape, part)
    few, many = _as_image(own), _as_image(shape)
    x = scope.reshaped(x, few)
    if few[2:] != many[2:]:
        x = enlarged(scope, x, many[2] // few[2], many[3] // few[3], part)
    if few[1] != many[1]:
        x = scope.pointwise_convolution(x, kernels.filled((many[1], 1), 1), part=part)
    return replace(x, view=View.of(shape))


def _repeated(scope: Scope, x: Value, shape: Shape, part: str) -> Value:
    """The same for any number of dimensions, the first among them: one after the other as the only channel of images."""
    own = x.shape
    for dim, (size, wanted) in enumerate(zip(x.shape, shape, strict=True)):
        if size != wanted:
            image = scope.reshaped(x, (prod(own[:dim]), 1, 1, prod(own[dim:])), "columns")
            made = scope.pointwise_convolution(image, kernels.filled((wanted, 1), 1), part=part)
            own = (*own[:dim], wanted, *own[dim + 1 :])
            x = replace(made, view=View.of(own))
    return x


def enlarged(scope: Scope, x: Value, down: int, right: int, part: str = "") -> Value:
    """An image of whose pixels each is repeated, `down` by `right` times."""
    channels = x.blob[1]
    window = Window((Axis(down, down), Axis(right, right)))
    return scope.deconvolution(x, kernels.filled((channels, 1, down, right), 1), None, window, channels, part)


def _as_image(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Sequences are one pixel high, vectors one pixel."""
    return {2: (*shape, 1, 1), 3: (*shape[:2], 1, *shape[2:]), 4: shape}[len(shape)]


@operator("cat", "concat")
def cat(scope: Scope, tensors: Sequence[Operand], dim: int = 0) -> Value:
    something = [x for x in tensors if not isinstance(x, Constant) or x.count]  # torch joins what is empty to anything
    given = arrange_alike(scope, activations(scope, something))
    values = [scope.reshaped(each.value, each.value.shape) for each in given]
    return given[0].back(_concatenated(scope, values, given[0].axis(dim)))


def activations(scope: Scope, operands: Sequence[Operand]) -> list[Value]:
    """Operands, constants among them as activations that look like the first one that is."""
    first = scope.activation(next(x for x in operands if isinstance(x, Value)))
    return [_filled(scope, x, first) if isinstance(x, Constant) else scope.activation(x) for x in operands]


def _filled(scope: Scope, constant: Constant, like: Value) -> Value:
    """A constant as an activation, beside one of the net's. No layer that both Caffe and OpenCV have makes one of nothing:
    it is weights times 1, and 1 is the largest of the other's elements to the power of 0, which it is of NaN, too."""
    (given,) = arrange_alike(scope, [scope.viewed(like, (1,) * (len(constant.shape) - len(like.shape)) + like.shape)])
    rank, batch = len(given.value.shape), scope.builder.batch
    constant = given.turned(replace(constant, shape=(1,) * (rank - len(constant.shape)) + constant.shape))
    image = _of_one_image(constant, batch) if given.value.shape[:1] == (batch,) != (1,) else None
    if image is None:
        batch = 1
    else:
        constant = image
    seed = scope.reshaped(given.value, (batch, 1, 1, prod(given.value.blob) // batch), "seed")
    ones = scope.power(scope.layer(Pooling("MAX"), [seed], part="largest"), power=0, part="ones")
    weights = scope.blob(constant, (constant.count, 1))
    made = scope.layer(InnerProduct(constant.count, False), [ones], [weights], "constant")
    shape = (batch, *constant.shape[1:]) if batch > 1 else constant.shape
    return given.back(scope.reshaped(made, shape, "filled"))


def _of_one_image(constant: Constant, batch: int) -> Constant | None:
    """What every image of a batch has of a constant; None if that is not the same."""
    first, *rest = constant.shape
    if first == 1:
        return constant
    rows = constant.value().reshape(first, -1)
    if first != batch or bool((rows != rows[:1]).any()):
        return None
    return constant.mapped((1, *rest), lambda _: rows[:1])


@operator("stack")
def _stack(node: Node, tensors: Sequence[Operand], dim: int = 0) -> Value:
    axis = dim % len(node.shape)
    one = (*node.shape[:axis], 1, *node.shape[axis + 1 :])
    return _concatenated(node, [node.reshaped(x, one) for x in activations(node, tensors)], axis)


def _concatenated(scope: Scope, values: Sequence[Value], axis: int) -> Value:
    """Values whose blobs are alike but along one axis, one behind the other along that."""
    if len(values) == 1:
        return values[0]
    return scope.layer(Concat(axis), values)


@operator(
    "split.Tensor",
    "split.sizes",
    "split_with_sizes",
    "chunk",
    "unsafe_split.Tensor",
    "unsafe_chunk",
    "tensor_split.sections",
    "tensor_split.indices",
)
def _split(node: Node, x: Operand, *_: Any, **__: Any) -> list[Value | None]:
    """The sizes of the parts are what torch made of the arguments."""
    x = node.activation(x)
    axis = next((n for n, size in enumerate(x.shape) if any(shape[n] != size for shape in node.shapes)), 0)
    sizes = [shape[axis] for shape in node.shapes]
    if len(sizes) == 1:
        return [x]
    if len(node.used) == len(sizes):
        return [*cut(node, x, axis, sizes)]
    return [
        sliced(node, x, axis, stop - size, stop, 1) if index in node.used else None
        for index, (stop, size) in enumerate(zip(accumulate(sizes), sizes, strict=True))
    ]


def halves(scope: Scope, x: Operand, dim: int) -> list[Value]:
    """Both halves of a dimension."""
    x = scope.activation(x)
    axis = dim % len(x.shape)
    return cut(scope, x, axis, [x.shape[axis] // 2] * 2)


def cut(scope: Scope, x: Value, dim: int, sizes: Sequence[int]) -> list[Value]:
    """All parts of these sizes along a dimension."""
    (given,) = arrange_alike(scope, [x])
    points = tuple(accumulate(sizes))[:-1]
    whole = scope.reshaped(given.value, given.value.shape)
    return [given.back(part) for part in scope.layers(Slice(given.axis(dim), points), [whole], len(sizes))]


@operator("unbind.int")
def _unbind(node: Node, x: Operand, dim: int = 0) -> list[Value | None]:
    x = node.activation(x)
    axis = dim % len(x.shape)
    return [
        _dropped(sliced(node, x, axis, index, index + 1, 1), axis) if index in node.used else None
        for index in range(x.shape[axis])
    ]


@operator("slice.Tensor")
def _slice(
    scope: Scope, x: Operand, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Value:
    x = scope.activation(x)
    axis = dim % len(x.shape)
    first, last, _ = slice(start, end).indices(x.shape[axis])
    return sliced(scope, x, axis, first, last, step)


@operator("select.int")
def _select(scope: Scope, x: Operand, dim: int, index: int) -> Value:
    x = scope.activation(x)
    axis = dim % len(x.shape)
    at = index % x.shape[axis]
    return _dropped(sliced(scope, x, axis, at, at + 1, 1), axis)


def sliced(scope: Scope, x: Value, dim: int, first: int, last: int, step: int) -> Value:
    """Part of one dimension."""
    if len(range(first, last, step)) == x.shape[dim]:
        return x
    given = arrange(scope, x, [dim])
    return given.back(_picked(scope, given.value, given.axis(dim), first, last, step))


def _picked(scope: Scope, x: Value, axis: int, first: int, last: int, step: int) -> Value:
    """Part of one dimension of a contiguous value, by a convolution that picks channels or pixels. (A layer Slice would leave
    tops behind that nobody takes.)"""
    shape = (*x.shape[:axis], -(-(last - first) // step), *x.shape[axis + 1 :])
    if min(shape) < 1:
        raise UnsupportedError("takes nothing at all")
    batch, size, behind = x.shape[0], x.shape[axis], prod(x.shape[axis + 1 :])
    if axis < 2:
        rest = x.shape[2:] if axis and len(x.shape) == 4 else (1, behind)
        image = scope.reshaped(x, (batch if axis else 1, size, *rest))
        made = scope.pointwise_convolution(image, kernels.selected((shape[axis], size), range(first, last, step)))
    else:
        if len(x.shape) == 4:
            image, at = scope.reshaped(x, x.shape), axis - 2
        else:
            image, at = scope.reshaped(x, (batch, prod(x.shape[1:axis]), size, behind)), 0
        reach = size - (last - first) + 1
        axes = [Axis(1), Axis(1)]
        axes[at] = Axis(reach, step)
        channels = image.blob[1]
        room = (reach, 1) if at == 0 else (1, reach)
        kernel = kernels.selected((channels, 1, *room), [first] * channels)
        made = scope.convolution(image, kernel, None, Window((axes[0], axes[1])), channels)
    return replace(made, view=View.of(shape))


def _dropped(x: Value, axis: int) -> Value:
    """Without a dimension of size 1."""
    return replace(x, view=View(x.view.atoms, (*x.view.dims[:axis], *x.view.dims[axis + 1 :])))


@operator("channel_shuffle", "native_channel_shuffle")
def _channel_shuffle(scope: Scope, x: Operand, groups: int) -> Value:
    image = scope.image(x)
    batch, channels, height, width = image.blob
    turned = View.of((batch, groups, channels // groups, height, width)).permuted((0, 2, 1, 3, 4))
    view = turned.reshaped(image.blob)
    assert view is not None  # whole dimensions become one
    return replace(image, view=view, label=scope.label)
