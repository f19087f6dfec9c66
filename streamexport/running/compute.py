"""What Caffe's layers compute, with torch, on the CPU, in float32: the numbers to the shapes that `net.operations` tells.

Large weights are read a buffer at a time, by output channel and by group, and what they make is written where it belongs
in a top that exists already. So a layer takes its bottoms, its tops and one buffer, however large its weights are.

torch is imported at the top: whoever imports this module is about to compute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ..net import operations as ops
from ..net.operations import Operation, Shape
from ..net.operations.normalizations import covered
from ..net.operations.operation import axis_of
from ..net.windows import ONE_PIXEL, Window
from .recurrences import gru, lstm
from .task import Task, empty

LOWEST = torch.finfo(torch.float32).min  # what Caffe's MAX pooling begins with, and keeps where a window is empty


def compute(operation: Operation, task: Task) -> list[Tensor]:
    """The tops of a layer. A top may share memory with a bottom; a spare bottom may be overwritten, no other."""
    return _OPERATIONS[type(operation)](operation, task)


def _spread(values: Tensor, axis: int, bottom: Tensor) -> Tensor:
    """`values`, whose first axis is the bottom's axis `axis`, in a shape that spreads over the bottom."""
    return values.reshape(*values.shape, *(1,) * (bottom.ndim - axis - values.ndim))


def _convolution(operation: ops.Convolution, task: Task) -> Tensor:
    top = empty(task.top)
    inputs, outputs = task.bottom.shape[1] // operation.groups, task.top[1] // operation.groups
    window = operation.window_over(tuple(task.bottom.shape))
    for first, last, weight in task.parameters.rows(outputs, len(top) * prod(top.shape[2:])):
        start, stop = first // outputs, -(-last // outputs)  # the groups that these outputs belong to
        bottom = task.bottom[:, start * inputs : stop * inputs]
        _convolve(bottom, weight, window, stop - start, top[:, first:last])
    return _biased(top, task)


def _convolve(bottom: Tensor, weight: Tensor, window: Window, groups: int, into: Tensor) -> None:
    """A piece of a convolution: as a product of matrices where the weights outweigh what is unfolded for it.

    torch's own convolution copies all weights into another order first, which took longer than the arithmetic at 7x7.
    """
    pixels, rows = prod(into.shape[2:]), len(weight) // groups
    is_pointwise, axes = window == ONE_PIXEL.over(len(window.axes)), len(window.axes)
    if not is_pointwise and (pixels > 2 * rows or axes != 2):
        convolve: Any = (F.conv1d, F.conv2d, F.conv3d)[axes - 1]
        into[:] = convolve(bottom, weight, None, window.stride, window.pad, window.dilation, groups)
        return
    matrices = weight.view(groups, rows, -1)
    for image, result in zip(bottom, into, strict=True):
        columns = image if is_pointwise else F.unfold(image, window.kernel, window.dilation, window.pad, window.stride)
        torch.bmm(matrices, columns.reshape(groups, -1, pixels), out=result.view(groups, rows, pixels))


def _deconvolution(operation: ops.Deconvolution, task: Task) -> Tensor:
    window, top = operation.window_over(tuple(task.bottom.shape)), torch.zeros(task.top)
    convolve: Any = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[len(window.axes) - 1]
    inputs, outputs = task.bottom.shape[1] // operation.groups, task.top[1] // operation.groups
    for first, last, weight in task.parameters.rows(inputs, 1):
        start, stop = first // inputs, -(-last // inputs)
        arguments = (window.stride, window.pad, 0, stop - start, window.dilation)
        part = convolve(task.bottom[:, first:last], weight, None, *arguments)
        top[:, start * outputs : stop * outputs] += part
    return _biased(top, task)


def _biased(top: Tensor, task: Task) -> Tensor:
    return top.add_(_spread(task.parameters.whole(1), 1, top)) if len(task.parameters) > 1 else top


def _inner_product(operation: ops.InnerProduct, task: Task) -> Tensor:
    top = torch.zeros(prod(task.top[:-1]), task.top[-1])
    vectors = task.bottom.reshape(len(top), -1)
    for first, last, weight in task.parameters.rows(1, len(top)):
        if operation.is_transposed:
            top.addmm_(vectors[:, first:last], weight)
        else:
            torch.mm(vectors, weight.T, out=top[:, first:last])
    if len(task.parameters) > 1:
        top += task.parameters.whole(1)
    return top.view(task.top)


def _embed(operation: ops.Embed, task: Task) -> Tensor:
    wanted = task.bottom.flatten().long()
    if wanted.numel() and not 0 <= int(wanted.min()) <= int(wanted.max()) < operation.inputs:
        raise IndexError(f"rows {int(wanted.min())} to {int(wanted.max())} are asked for, of {operation.inputs}")
    top = torch.empty(len(wanted), operation.outputs)
    for first, last, rows in task.parameters.rows(1, 1):
        here = (first <= wanted) & (wanted < last)
        top[here] = rows[wanted[here] - first]
    if len(task.parameters) > 1:
        top += task.parameters.whole(1)
    return top.view(task.top)


def _matmul(operation: ops.MatMul, task: Task) -> Tensor:
    flags = (operation.is_first_transposed, operation.is_second_transposed)
    first, second = (x.mT if flag else x for x, flag in zip(task.bottoms, flags, strict=True))
    return first @ second


def _pooling(operation: ops.Pooling, task: Task) -> Tensor:
    bottom = task.bottom
    window = operation.window_over(bottom.shape)
    sizes = zip(task.top[2:], window.stride, window.kernel, bottom.shape[2:], window.pad, strict=True)
    vertical, horizontal = (
        (pad, (count - 1) * stride + kernel - size - pad) for count, stride, kernel, size, pad in sizes
    )
    is_max = operation.method == "MAX"
    # Padded, or cut, to what the windows cover: torch would refuse windows that lie in padding only.
    covered = F.pad(bottom, (*horizontal, *vertical), value=LOWEST if is_max else 0.0)
    if is_max:
        return F.max_pool2d(covered, window.kernel, window.stride)
    sums = F.avg_pool2d(covered, window.kernel, window.stride, divisor_override=1)
    return sums.div_(torch.outer(*(_counts(window, axis, bottom, task.top) for axis in (0, 1))))


def _counts(window: Window, axis: int, bottom: Tensor, top: Shape) -> Tensor:
    """How many rows (axis 0) or columns (1) of the padded bottom each window has; padding counts once behind the bottom."""
    pad = window.pad[axis]
    starts = torch.arange(top[2 + axis]) * window.stride[axis] - pad
    return ((starts + window.kernel[axis]).clamp(max=bottom.shape[2 + axis] + pad) - starts).float()


def _batch_norm(operation: ops.BatchNorm, task: Task) -> Tensor:
    channels = task.bottom.shape[1] if task.bottom.ndim > 1 else 1
    top = task.taken().reshape(len(task.bottom), channels, -1)
    if operation.is_stored:
        mean, variance, total = (task.parameters.whole(index) for index in range(3))
        share = 1 / total if total else torch.zeros(1)
        mean, variance = mean * share, variance * share
    else:
        variance, mean = torch.var_mean(top, (0, 2), correction=0)
    return top.sub_(mean[:, None]).div_((variance + operation.epsilon).sqrt()[:, None]).view(task.top)


def _bias(operation: ops.Bias, task: Task) -> Tensor:
    axis, _ = covered([tuple(bottom.shape) for bottom in task.bottoms], operation.axis, operation.num_axes)
    offset = task.bottoms[1] if len(task.bottoms) > 1 else task.parameters.whole(0)
    return task.taken().add_(_spread(offset, axis, task.bottom))


def _scale(operation: ops.Scale, task: Task) -> Tensor:
    axis, _ = covered([tuple(bottom.shape) for bottom in task.bottoms], operation.axis, operation.num_axes)
    blobs = (task.parameters.whole(index) for index in range(len(task.parameters)))
    factor, *offset = (_spread(values, axis, task.bottom) for values in (*task.bottoms[1:], *blobs))
    top = task.taken().mul_(factor)
    return top.add_(offset[0]) if offset else top


def _prelu(operation: ops.PReLU, task: Task) -> Tensor:
    return F.prelu(task.bottom, task.parameters.whole(0).reshape(-1))


def _eltwise(operation: ops.Eltwise, task: Task) -> Tensor:
    top, others = task.taken(), task.bottoms[1:]
    if operation.method == "SUM":
        first, *rest = operation.coefficients or (1.0,) * len(task.bottoms)
        top *= first
        for other, coefficient in zip(others, rest, strict=True):
            top.add_(other, alpha=coefficient)
        return top
    for other in others:
        top = top.mul_(other) if operation.method == "PROD" else torch.maximum(top, other, out=top)
    return top


def _crop(operation: ops.Crop, task: Task) -> Tensor:
    begin = operation.begin(tuple(task.bottom.shape))
    return task.bottom[tuple(slice(at, at + size) for at, size in zip(begin, task.top, strict=True))]


def _lrn(operation: ops.LRN, task: Task) -> Tensor:
    size, half = operation.size, operation.size // 2
    squares = task.bottom.square()
    if operation.within_channel:
        mean = F.avg_pool2d(squares, size, 1, half)
    else:
        channels = task.bottom.shape[1]
        padded = F.pad(squares, (0, 0, 0, 0, half, half))
        mean = padded[:, :channels].clone()
        for shift in range(1, size):
            mean += padded[:, shift : shift + channels]
        mean /= size
    k = 1.0 if operation.within_channel else operation.k  # there Caffe's layer does not look at it
    return task.bottom * mean.mul_(operation.alpha).add_(k).pow_(-operation.beta)


def _mvn(operation: ops.MVN, task: Task) -> Tensor:
    rows = task.bottom.reshape(prod(task.top[: 1 if operation.across_channels else 2]), -1)
    top = rows - rows.mean(1, keepdim=True)
    if operation.normalizes_variance:
        top /= top.square().mean(1, keepdim=True).sqrt_() + operation.epsilon
    return top.view(task.top)


def _normalize(operation: ops.Normalize, task: Task) -> Tensor:
    axes = tuple(range(1, task.bottom.ndim)) if operation.across_spatial else (1,)
    norm = (task.bottom.square().sum(axes, keepdim=True) + operation.epsilon).sqrt_()
    return (task.bottom / norm).mul_(_spread(task.parameters.whole(0), 1, task.bottom))


def _reduction(operation: ops.Reduction, task: Task) -> Tensor:
    rows = task.bottom.reshape(*task.top, -1)
    if operation.method in ("ASUM", "SUMSQ"):
        rows = rows.abs() if operation.method == "ASUM" else rows.square()
    total = rows.mean(-1) if operation.method == "MEAN" else rows.sum(-1)
    return total.mul_(operation.coefficient)


def _tile(operation: ops.Tile, task: Task) -> Tensor:
    counts = [1] * task.bottom.ndim
    counts[axis_of(operation.axis, task.bottom.ndim)] = operation.count
    return task.bottom.repeat(counts)


def _argmax(operation: ops.ArgMax, task: Task) -> Tensor:
    """Of equal elements the last one comes first: Caffe sorts pairs of value and index."""
    bottom = task.bottom.reshape(len(task.bottom), -1) if operation.axis is None else task.bottom
    axis = 1 if operation.axis is None else axis_of(operation.axis, bottom.ndim)
    values, places = bottom.flip(axis).sort(dim=axis, descending=True, stable=True)
    values, places = (sorted_.narrow(axis, 0, operation.count) for sorted_ in (values, places))
    places = (bottom.shape[axis] - 1 - places).float()
    if not operation.with_values:
        return places.reshape(task.top)
    return values.reshape(task.top) if operation.axis is not None else torch.stack((places, values), 1).view(task.top)


def _exp(operation: ops.Exp, task: Task) -> Tensor:
    factor = operation.logarithm
    return task.taken().mul_(operation.scale * factor).add_(operation.shift * factor).exp_()


def _log(operation: ops.Log, task: Task) -> Tensor:
    return task.taken().mul_(operation.scale).add_(operation.shift).log_().mul_(1 / operation.logarithm)


def _power(operation: ops.Power, task: Task) -> Tensor:
    x = task.taken()
    return x.fill_(1) if operation.power == 0 else x.mul_(operation.scale).add_(operation.shift).pow_(operation.power)


def _relu(operation: ops.ReLU, task: Task) -> Tensor:
    return F.leaky_relu_(task.taken(), operation.slope) if operation.slope else task.taken().relu_()


def _one(function: Callable[[Any, Task], Tensor]) -> Callable[[Any, Task], list[Tensor]]:
    """For layers with one top."""
    return lambda operation, task: [function(operation, task)]


def _reshaped(operation: Operation, task: Task) -> list[Tensor]:
    """Every top has the bottom's elements, in a shape of its own."""
    return [task.bottom.reshape(shape) for shape in task.tops]


_OPERATIONS: Mapping[type[Operation], Callable[[Any, Task], list[Tensor]]] = {
    **dict.fromkeys((ops.Dropout, ops.Flatten, ops.Reshape, ops.Silence, ops.Split), _reshaped),
    ops.AbsVal: _one(lambda operation, task: task.taken().abs_()),
    ops.ArgMax: _one(_argmax),
    ops.BNLL: _one(lambda operation, task: torch.logaddexp(task.taken(), torch.zeros(()))),  # log(1 + e ** x)
    ops.BatchNorm: _one(_batch_norm),
    ops.Bias: _one(_bias),
    ops.Clip: _one(lambda operation, task: task.taken().clamp_(operation.low, operation.high)),
    ops.Concat: _one(lambda operation, task: torch.cat(list(task.bottoms), operation.axis)),
    ops.Const: _one(lambda operation, task: task.parameters.whole(0)),
    ops.Convolution: _one(_convolution),
    ops.Crop: _one(_crop),
    ops.Deconvolution: _one(_deconvolution),
    ops.DummyData: lambda operation, task: [
        torch.full(shape, value) for shape, value in operation.filled(len(task.tops))
    ],
    ops.ELU: _one(lambda operation, task: F.elu_(task.taken(), operation.alpha)),
    ops.Eltwise: _one(_eltwise),
    ops.Embed: _one(_embed),
    ops.Exp: _one(_exp),
    ops.GRU: _one(gru),
    ops.Gelu: _one(lambda operation, task: F.gelu(task.bottom)),
    ops.InnerProduct: _one(_inner_product),
    ops.LRN: _one(_lrn),
    ops.LSTM: lstm,
    ops.Log: _one(_log),
    ops.MVN: _one(_mvn),
    ops.MatMul: _one(_matmul),
    ops.Normalize: _one(_normalize),
    ops.PReLU: _one(_prelu),
    ops.Parameter: _one(lambda operation, task: task.parameters.whole(0)),
    ops.Permute: _one(lambda operation, task: task.bottom.permute(operation.whole(task.bottom.ndim))),
    ops.Pooling: _one(_pooling),
    ops.Power: _one(_power),
    ops.ReLU6: _one(lambda operation, task: task.taken().clamp_(0, 6)),
    ops.ReLU: _one(_relu),
    ops.Reduction: _one(_reduction),
    ops.Scale: _one(_scale),
    ops.Sigmoid: _one(lambda operation, task: task.taken().sigmoid_()),
    ops.Slice: lambda operation, task: list(
        task.bottom.split_with_sizes([shape[operation.axis] for shape in task.tops], operation.axis)
    ),
    ops.Softmax: _one(lambda operation, task: task.bottom.softmax(operation.axis)),
    ops.TanH: _one(lambda operation, task: task.taken().tanh_()),
    ops.Threshold: _one(lambda operation, task: task.taken().gt_(operation.threshold)),
    ops.Tile: _one(_tile),
}
