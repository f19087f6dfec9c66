"""Convolutions, transposed convolutions, and linear layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from ...net.graph import Blob, computed
from ...net.kernels import Embedded
from ...net.operations import InnerProduct
from ...net.windows import Axis, Sizes, Window, each
from ..arranged import arrange
from ..node import Scope
from ..operands import Constant, Operand, UnsupportedError, Value
from ..views import View
from .registry import operator

if TYPE_CHECKING:
    import torch


@operator("conv2d", "conv2d.padding", "conv1d", "conv1d.padding", "conv3d", "conv3d.padding")
def _conv(
    scope: Scope,
    x: Operand,
    weight: Operand,
    bias: Operand | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] | str = (0,),
    dilation: Sequence[int] = (1,),
    groups: int = 1,
) -> Value:
    """One dimension is the width of an image that is one pixel high."""
    rank = _rank(weight)
    image, before = _image(scope, x, rank)
    kernel = _blob(scope, weight, rank)
    steps = (each(stride, rank, 1), each(dilation, rank, 1))
    lows, highs = _padding(padding, kernel.shape[2:], steps[1], rank)
    axes = (
        Axis(size, step, low + pad[0], high + pad[1], reach)
        for size, step, reach, low, high, pad in zip(kernel.shape[2:], *steps, lows, highs, before, strict=True)
    )
    return _of_rank(scope.convolution(image, kernel, _bias(scope, bias), Window(tuple(axes)), groups), x, rank)


@operator("conv_transpose2d.input", "conv_transpose1d", "conv_transpose3d.input")
def _conv_transpose(
    scope: Scope,
    x: Operand,
    weight: Operand,
    bias: Operand | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    output_padding: Sequence[int] = (0,),
    groups: int = 1,
    dilation: Sequence[int] = (1,),
) -> Value:
    """Caffe has no output padding: rows of zeros behind the kernel do the same. Dilated kernels are written with zeros
    between their elements, since OpenCV gets the size of their tops wrong."""
    rank = _rank(weight)
    image, before = _image(scope, x, rank)
    if any(map(any, before)):
        image = scope.activation(x)
    kernel = _blob(scope, weight, rank)
    added, reaches = each(output_padding, rank, 0), each(dilation, rank, 1)
    axes, rooms = [], []
    for size, step, pad, more, reach in zip(
        kernel.shape[2:], each(stride, rank, 1), each(padding, rank, 0), added, reaches, strict=True
    ):
        rooms.append(reach * (size - 1) + 1 + more)
        axes.append(Axis(rooms[-1], step, pad, pad))
    if tuple(rooms) != kernel.shape[2:]:
        values = Embedded(computed(kernel), kernel.shape[2:], tuple(rooms), (0,) * len(rooms), reaches)
        kernel = replace(kernel, shape=(*kernel.shape[:2], *rooms), values=values)
    return _of_rank(scope.deconvolution(image, kernel, _bias(scope, bias), Window(tuple(axes)), groups), x, rank)


@operator("col2im")
def _col2im(
    scope: Scope,
    x: Operand,
    output_size: Sequence[int],
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
) -> Value:
    """Windows added up where they overlap: a transposed convolution of each channel's window, with an identity."""
    x = scope.activation(x)
    window = prod(kernel_size)
    channels = x.shape[-2] // window
    counts, left = [], []
    for size, kernel, reach, pad, step in zip(output_size, kernel_size, dilation, padding, stride, strict=True):
        room = size + 2 * pad - reach * (kernel - 1) - 1
        counts.append(room // step + 1)
        left.append(room % step)
    image = scope.viewed(x, (*x.shape[:-2], channels * window, *counts))
    shape = (channels * window, 1, *kernel_size)
    identity = Constant(shape, (), None, lambda: _identity(channels, window).reshape(shape))
    return _conv_transpose(scope, image, identity, None, stride, padding, left, channels, dilation)


def _identity(channels: int, window: int) -> torch.Tensor:
    import torch

    return torch.eye(window).repeat(channels, 1)


@operator("linear")
def linear(scope: Scope, x: Operand, weight: Operand, bias: Operand | None = None) -> Value:
    """The last dimension times a matrix: where the blob has others behind it, a 1x1 convolution."""
    kernel, held = scope.blob(weight), _bias(scope, bias)
    given = arrange(scope, x, [-1])
    axis, shape = given.axis(-1), given.value.shape
    if axis < len(shape) - 1:
        made = scope.pointwise_convolution(given.image(scope, axis), kernel, held)
        return given.of_image(made, axis)
    vectors = scope.reshaped(given.value, shape, "flatten")
    blobs = (kernel,) if held is None else (kernel, held)
    return given.back(scope.layer(InnerProduct(kernel.shape[0], held is not None, axis), [vectors], blobs))


def _of_rank(image: Value, x: Operand, rank: int) -> Value:
    """An image or a volume as torch has it, a sequence if it slides over one dimension; without a batch, if `x` has none."""
    shape = (*image.blob[:2], *image.blob[-rank:])
    return replace(image, view=View.of(shape[rank + 2 - len(x.shape) :] if isinstance(x, Value) else shape))


def _image(scope: Scope, x: Operand, rank: int) -> tuple[Value, list[tuple[int, int]]]:
    """An operand as an image or a volume, and the zeros that are to be put around it, before and behind, by axis."""
    if not isinstance(x, Value):
        raise UnsupportedError("takes a constant where only activations can be")
    above, below, left, right = x.padding
    bare = replace(x, padding=(0, 0, 0, 0))
    batch, channels, *size = (1,) * (rank + 2 - len(bare.shape)) + bare.shape
    image = scope.reshaped(bare, (batch, channels, *([1] * (2 - rank)), *size))
    if rank == 1 and (above or below):
        raise UnsupportedError("pads channels")
    return image, [*[(0, 0)] * (rank - 2), (above, below), (left, right)]


def _blob(scope: Scope, weight: Operand, rank: int) -> Blob:
    """Weights with two axes or three behind the channels."""
    shape = weight.shape if isinstance(weight, Constant) else ()
    return scope.blob(weight, (*shape[:2], *([1] * (2 - rank)), *shape[2:]))


def _rank(weight: Operand) -> int:
    """How many dimensions a kernel slides over."""
    return len(weight.shape) - 2 if isinstance(weight, Constant) else 0


def _bias(scope: Scope, bias: Operand | None) -> Blob | None:
    return None if bias is None else scope.blob(bias)


def _padding(
    padding: Sequence[int] | str, kernel: Sequence[int], dilation: Sequence[int], rank: int
) -> tuple[Sizes, Sizes]:
    """Zeros before and behind, by axis. "same" puts the odd one behind."""
    if not isinstance(padding, str):
        return (each(padding, rank, 0),) * 2
    total = [d * (k - 1) if padding == "same" else 0 for k, d in zip(kernel, dilation, strict=True)]
    return tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
