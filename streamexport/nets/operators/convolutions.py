"""Convolutions, transposed convolutions, and products with matrices of weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from ..graph import Blob, computed
from ..kernels import Embedded
from ..lowering import Constant, Lowering, Operand, UnsupportedError, Value, operator
from ..views import View
from ..windows import Axis, Window, pair


@operator("conv2d", "conv1d")
def _conv(
    net: Lowering,
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
    image, before = _image(net, x, rank)
    kernel = _blob(net, weight, rank)
    steps = (pair(stride, rank, 1), pair(dilation, rank, 1))
    lows, highs = _padding(padding, kernel.shape[2:], steps[1], rank)
    axes = [
        Axis(size, step, low + pad[0], high + pad[1], reach)
        for size, step, reach, low, high, pad in zip(kernel.shape[2:], *steps, lows, highs, before, strict=True)
    ]
    made = net.convolution(image, kernel, _bias(net, bias), Window((axes[0], axes[1])), groups)
    return replace(made, view=View.of(net.shape))


@operator("conv_transpose2d", "conv_transpose1d")
def _conv_transpose(
    net: Lowering,
    x: Operand,
    weight: Operand,
    bias: Operand | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    output_padding: Sequence[int] = (0,),
    groups: int = 1,
    dilation: Sequence[int] = (1,),
) -> Value:
    """Caffe has no output padding: rows of zeros behind the kernel bring it about. Dilated kernels are laid out, since
    OpenCV gets the size of their tops wrong."""
    rank = _rank(weight)
    image, before = _image(net, x, rank)
    if any(map(any, before)):
        image = net.activation(x)
    kernel = _blob(net, weight, rank)
    added, reaches = pair(output_padding, rank, 0), pair(dilation, rank, 1)
    axes, rooms = [], []
    for size, step, pad, more, reach in zip(
        kernel.shape[2:], pair(stride, rank, 1), pair(padding, rank, 0), added, reaches, strict=True
    ):
        rooms.append(reach * (size - 1) + 1 + more)
        axes.append(Axis(rooms[-1], step, pad, pad))
    if tuple(rooms) != kernel.shape[2:]:
        values = Embedded(computed(kernel), kernel.shape[2:], tuple(rooms), (0, 0), reaches)
        kernel = replace(kernel, shape=(*kernel.shape[:2], *rooms), values=values)
    made = net.deconvolution(image, kernel, _bias(net, bias), Window((axes[0], axes[1])), groups)
    return replace(made, view=View.of(net.shape))


@operator("linear")
def _linear(net: Lowering, x: Operand, weight: Operand, bias: Operand | None = None) -> Value:
    """The last dimension times a matrix: where it is an image's channels, a 1x1 convolution."""
    x = net.activation(x)
    kernel, held = net.blob(weight), _bias(net, bias)
    outputs = kernel.shape[0]
    if (image := channels_last(net, x)) is not None:
        return turned_back(net.mixed(image, kernel, held), x.shape)
    vectors = net.reshaped(x, x.shape, "flatten")
    parameters = {"num_output": outputs, **({"bias_term": False} if held is None else {})}
    if len(x.shape) != 2:
        parameters["axis"] = len(x.shape) - 1
    blobs = (kernel,) if held is None else (kernel, held)
    return net.layer("InnerProduct", [vectors], net.shape, {"inner_product_param": parameters}, blobs)


@operator("addmm")
def _addmm(net: Lowering, bias: Operand, x: Operand, weight: Operand, *, beta: float = 1, alpha: float = 1) -> Value:
    if (beta, alpha) != (1, 1):
        raise UnsupportedError(f"multiplies its summands, by {beta} and {alpha}")
    if not isinstance(bias, Constant) or bias.shape != net.shape[1:]:
        raise UnsupportedError("adds what is no bias", "add it by itself")
    return _linear(net, x, _transposed(weight), bias)


@operator("mm", "matmul")
def _matmul(net: Lowering, x: Operand, weight: Operand) -> Value:
    return _linear(net, x, _transposed(weight))


def channels_last(net: Lowering, x: Value) -> Value | None:
    """The image whose channels are the last dimension of `x`, if it is one whose dimensions were turned; else None."""
    if x.view.is_in_order or len(x.shape) < 3:
        return None
    rank = len(x.shape)
    first = replace(x, view=x.view.permuted((0, rank - 1, *range(1, rank - 1))), label=None)
    if not first.view.is_in_order:
        return None
    batch, channels, *rest = first.shape
    height, width = rest if len(rest) == 2 else (1, prod(rest))
    return net.reshaped(first, (batch, channels, height, width))


def turned_back(image: Value, shape: Sequence[int]) -> Value:
    """An image whose channels are seen as the last dimension, the others being those of `shape`."""
    batch, channels = image.blob[:2]
    order = (0, *range(2, len(shape)), 1)
    return replace(image, view=View.of((batch, channels, *shape[1:-1])).permuted(order))


def _transposed(weight: Operand) -> Constant:
    if not isinstance(weight, Constant) or len(weight.shape) != 2:
        raise UnsupportedError("multiplies matrices that both depend on the input", "Caffe multiplies by weights only")
    rows, columns = weight.shape
    return Constant((columns, rows), weight.origin, None, lambda: weight.value().t())


def _image(net: Lowering, x: Operand, rank: int) -> tuple[Value, list[tuple[int, int]]]:
    """An operand as an image, and the zeros that are to be put around it, before and behind, by axis."""
    if not isinstance(x, Value) or len(x.shape) != rank + 2:
        raise UnsupportedError(f"has no batch: its input is {list(getattr(x, 'shape', ()))}")
    above, below, left, right = x.padding
    bare = replace(x, padding=(0, 0, 0, 0))
    batch, channels, *size = bare.shape
    image = net.reshaped(bare, (batch, channels, *([1] * (2 - rank)), *size))
    if rank == 1 and (above or below):
        raise UnsupportedError("pads channels")
    return image, [(above, below), (left, right)]


def _blob(net: Lowering, weight: Operand, rank: int) -> Blob:
    """Weights with two axes behind the channels."""
    shape = weight.shape if isinstance(weight, Constant) else ()
    return net.blob(weight, (*shape[:2], *([1] * (2 - rank)), *shape[2:]))


def _rank(weight: Operand) -> int:
    """How many dimensions a kernel slides over."""
    return len(weight.shape) - 2 if isinstance(weight, Constant) else 0


def _bias(net: Lowering, bias: Operand | None) -> Blob | None:
    return None if bias is None else net.blob(bias)


def _padding(
    padding: Sequence[int] | str, kernel: Sequence[int], dilation: Sequence[int], rank: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Zeros before and behind, by axis. "same" puts the odd one behind."""
    if not isinstance(padding, str):
        return (pair(padding, rank, 0),) * 2
    total = [d * (k - 1) if padding == "same" else 0 for k, d in zip(kernel, dilation, strict=True)]
    lows, highs = ([t // 2 for t in total], [t - t // 2 for t in total])
    return (lows[0], lows[1]), (highs[0], highs[1])
