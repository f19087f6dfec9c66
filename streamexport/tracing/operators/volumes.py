"""Convolutions of volumes, made of those of images.

The planes of a volume stand one below the other as one tall image, and a kernel is as many kernels as it is deep: each sees
the planes from another one on, and their sums are the volume's. Where a window reaches from one plane into the next, what it
makes is cut away. As many multiplications are made as by a convolution in three dimensions, but for those rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...net import kernels
from ...net.graph import Blob
from ...net.operations import Concat, Eltwise
from ...net.windows import Axis, Window
from ..node import Node, Scope
from ..operands import Constant, Operand, UnsupportedError, Value
from .registry import operator
from .shapes import sliced


@operator("conv3d", "conv3d.padding")
def _conv3d(
    node: Node,
    x: Operand,
    weight: Operand,
    bias: Operand | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] | str = (0,),
    dilation: Sequence[int] = (1,),
    groups: int = 1,
) -> Value:
    held, offset = _weight(weight), None if bias is None else node.blob(bias)
    depth, down, right = _axes(held.shape[2:], stride, padding, dilation)
    made_depth, high, wide = node.shape[-3:]
    x = node.activation(x)
    batch, channels, planes, height, width = (1,) * (5 - len(x.shape)) + x.shape
    if (down, right) == (Axis(1), Axis(1)):
        image = node.reshaped(x, (batch, channels, planes, height * width))
        kernel = node.blob(held, (*held.shape[:3], 1))
        return node.viewed(node.convolution(image, kernel, offset, Window((depth, Axis(1))), groups), node.shape)
    tall = -(-(height + down.low + down.high) // down.stride) * down.stride
    image = node.reshaped(x, (batch, channels * planes, height, width))
    image = _padded(node, image, Axis(1, low=down.low, high=tall - height - down.low), "rows")
    image = node.reshaped(image, (batch, channels, planes, tall * width), "planes")
    image = _padded(node, image, Axis(1, low=depth.low, high=depth.high), "ends")
    window = Window((replace(down, low=0, high=0), right))
    parts = []
    for tap in range(depth.kernel):
        first = tap * depth.dilation
        seen = sliced(node, image, 2, first, first + (made_depth - 1) * depth.stride + 1, depth.stride)
        column = node.reshaped(seen, (batch, channels, made_depth * tall, width), "column")
        kernel = _slice_of(node, held, tap)
        parts.append(node.convolution(column, kernel, None if tap else offset, window, groups, "plane"))
    made = parts[0] if len(parts) == 1 else node.layer(Eltwise("SUM"), parts, part="sum")
    rows, outputs = tall // down.stride, held.shape[0]
    made = _padded(node, made, Axis(1, high=made_depth * rows - made.blob[2]), "last")
    apart = node.reshaped(made, (batch, outputs * made_depth, rows, wide), "apart")
    return node.viewed(sliced(node, apart, 2, 0, high, 1), node.shape)


@operator("conv_transpose3d.input")
def _conv_transpose3d(
    node: Node,
    x: Operand,
    weight: Operand,
    bias: Operand | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    output_padding: Sequence[int] = (0,),
    groups: int = 1,
    dilation: Sequence[int] = (1,),
) -> Value:
    """Kernels that do not overlap: each plane becomes as many as they are deep."""
    held, offset = _weight(weight), None if bias is None else node.blob(bias)
    kernel = held.shape[2:]
    if any(padding) or any(output_padding) or kernel != tuple(_each(stride)) or set(dilation) != {1}:
        raise UnsupportedError("has kernels of volumes that overlap, or padding", "let the stride be the kernel's size")
    x = node.activation(x)
    batch, channels, planes, height, width = (1,) * (5 - len(x.shape)) + x.shape
    column = node.reshaped(x, (batch, channels, planes * height, width), "column")
    window = Window((Axis(kernel[1], kernel[1]), Axis(kernel[2], kernel[2])))
    parts = []
    for tap in range(kernel[0]):
        made = node.deconvolution(column, _slice_of(node, held, tap), offset, window, groups, "plane")
        pixels = height * kernel[1] * width * kernel[2]
        parts.append(node.reshaped(made, (batch, made.blob[1] * planes, 1, pixels), "apart"))
    return node.viewed(parts[0] if len(parts) == 1 else node.layer(Concat(2), parts, part="joined"), node.shape)


def _weight(weight: Operand) -> Constant:
    if not isinstance(weight, Constant):
        raise UnsupportedError("takes as a weight what depends on the input")
    return weight


def _each(sizes: Sequence[int]) -> Sequence[int]:
    return [*sizes] * 3 if len(sizes) == 1 else sizes


def _axes(
    kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int] | str, dilation: Sequence[int]
) -> list[Axis]:
    """Of depth, height and width. "same" puts the odd zero behind."""
    steps, reaches = _each(stride), _each(dilation)
    if isinstance(padding, str):
        around = [reach * (size - 1) * (padding == "same") for size, reach in zip(kernel, reaches, strict=True)]
        pads = [(total // 2, total - total // 2) for total in around]
    else:
        pads = [(pad, pad) for pad in _each(padding)]
    return [Axis(size, step, *pad, reach) for size, step, pad, reach in zip(kernel, steps, pads, reaches, strict=True)]


def _slice_of(scope: Scope, weight: Constant, tap: int) -> Blob:
    """A kernel's part for one plane, from where it lies."""
    shape, tensor = (*weight.shape[:2], *weight.shape[3:]), weight.tensor
    if weight.shape[2] == 1:
        return scope.blob(weight, shape)
    if tensor is None:
        return scope.blob(weight.mapped(shape, lambda values: values[:, :, tap]))
    strides, first = (*tensor.strides[:2], *tensor.strides[3:]), tap * tensor.strides[2]
    part = tensor.in_storage(tensor.name, tensor.dtype, shape, strides, tensor.extent, first)
    return scope.blob(replace(weight, shape=shape, tensor=part))


def _padded(scope: Scope, image: Value, rows: Axis, part: str) -> Value:
    """An image with zeros above and below."""
    if not rows.low and not rows.high:
        return image
    channels = image.blob[1]
    window = Window((rows, Axis(1)))
    return scope.convolution(image, kernels.filled((channels, 1, 1, 1), 1), None, window, channels, part)
