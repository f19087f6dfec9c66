"""What Caffe's layers compute, with torch, on the CPU, in float32: the numbers to the shapes that `net.operations` tells.

Large weights are read a buffer at a time, by output channel and by group, and what they make is written where it belongs
in a top that exists already. So a layer takes its bottoms, its tops and one buffer, however large its weights are.

torch is imported at the top: whoever imports this module is about to compute.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ..net import operations as ops
from ..net.graph import Blob
from ..net.operations import Operation, Shape
from ..net.operations.normalizations import covered
from ..net.operations.operation import axis_of
from ..net.windows import Window
from ..payload.tensors import FLOAT32

WEIGHTS = 6 << 20
"""Weights held at a time. Fewer cost time: a matrix product per piece has to be worth its start."""
MADE = 2 << 20
"""Elements of a top made at a time, beside the top: torch's convolution takes three times their memory."""
CAST = 1 << 18
"""Elements of other types that are converted at a time."""
LOWEST = torch.finfo(torch.float32).min  # what Caffe's MAX pooling begins with, and keeps where a window is empty

Values = np.ndarray[Any, np.dtype[np.float32]]


class Buffer:
    """Memory for weights that is used again and again."""

    def __init__(self) -> None:
        self._values = empty((WEIGHTS,))

    def part(self, count: int) -> Tensor:
        """Room for so many weights: more than WEIGHTS only where a single row has more."""
        if count > len(self._values):
            self._values = empty((count,))
        return self._values[:count]


class Parameters:
    """The blobs of one layer, read when asked for, in the shapes that the layer expects."""

    def __init__(self, blobs: Sequence[Blob], shapes: Sequence[Shape], buffer: Buffer) -> None:
        self._blobs, self._shapes, self._buffer = blobs, shapes, buffer

    def __len__(self) -> int:
        return len(self._blobs)

    def shape(self, index: int) -> Shape:
        return self._shapes[index]

    def whole(self, index: int) -> Tensor:
        """A small blob."""
        values: Values = np.empty(self._blobs[index].count, np.float32)
        _read(self._blobs[index], 0, values)
        return torch.from_numpy(values).view(self._shapes[index])

    def rows(self, unit: int, made: int, index: int = 0) -> Iterator[tuple[int, int, Tensor]]:
        """A blob in pieces along its first axis: (first, last, what lies between), each valid until the next.

        A piece is either a number of whole units (of `unit` rows) or a part of one. Of a row `made` elements are made.
        """
        blob, shape = self._blobs[index], self._shapes[index]
        row = prod(shape[1:])
        most = max(1, min(WEIGHTS // row, MADE // made))
        block = max(1, most // unit) * unit
        for start in range(0, shape[0], block):
            stop = min(start + block, shape[0])
            for first in range(start, stop, most):
                last = min(first + most, stop)
                values = self._buffer.part((last - first) * row)
                _read(blob, first * row, values.numpy())
                yield first, last, values.view(last - first, *shape[1:])


@dataclass(frozen=True, slots=True)
class Task:
    """What a layer is to work on, and the shapes of what it is to make; `is_spare` if nothing needs the first bottom
    afterwards."""

    bottoms: Sequence[Tensor]
    tops: Sequence[Shape]
    parameters: Parameters
    is_spare: bool = False

    @property
    def bottom(self) -> Tensor:
        return self.bottoms[0]

    @property
    def top(self) -> Shape:
        return self.tops[0]

    def taken(self) -> Tensor:
        """The first bottom's elements, to be overwritten: memory that is not asked for need not be found and cleared."""
        return self.bottom if self.is_spare else empty(self.bottom.shape).copy_(self.bottom)


def empty(shape: Shape) -> Tensor:
    """Memory for a top, straight from the system and straight back to it.

    malloc keeps some of what is freed, and the next top does not fit between what is still in use: the largest ResNeXt
    took up to 25 MiB more, and each time another amount.
    """
    memory = mmap.mmap(-1, FLOAT32.itemsize * prod(shape), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(memory, dtype=torch.float32).view(shape)


def compute(operation: Operation, task: Task) -> list[Tensor]:
    """The tops of a layer. A top may share memory with a bottom; a spare bottom may be overwritten, no other."""
    return _OPERATIONS[type(operation)](operation, task)


def _read(blob: Blob, first: int, into: Values) -> None:
    """Elements of a blob from `first` on, as float32."""
    size = blob.dtype.itemsize
    if blob.dtype == FLOAT32:
        blob.values.render(first * size, (first + len(into)) * size, into.data.cast("B"))
        return
    for start in range(0, len(into), CAST):
        part = into[start : start + CAST]
        stored: np.ndarray[Any, np.dtype[Any]] = np.empty(len(part), blob.dtype.code)
        at = (first + start) * size
        blob.values.render(at, at + stored.nbytes, stored.data.cast("B"))
        part[:] = stored


def _spread(values: Tensor, axis: int, bottom: Tensor) -> Tensor:
    """`values`, whose first axis is the bottom's axis `axis`, in a shape that spreads over the bottom."""
    return values.reshape(*values.shape, *(1,) * (bottom.ndim - axis - values.ndim))


def _convolution(operation: ops.Convolution, task: Task) -> Tensor:
    top = empty(task.top)
    inputs, outputs = task.bottom.shape[1] // operation.groups, task.top[1] // operation.groups
    for first, last, weight in task.parameters.rows(outputs, len(top) * prod(top.shape[2:])):
        start, stop = first // outputs, -(-last // outputs)  # the groups that these outputs belong to
        bottom = task.bottom[:, start * inputs : stop * inputs]
        _convolve(bottom, weight, operation.window, stop - start, top[:, first:last])
    return _biased(top, task)


def _convolve(bottom: Tensor, weight: Tensor, window: Window, groups: int, into: Tensor) -> None:
    """A piece of a convolution: as a product of matrices where the weights outweigh what is unfolded for it.

    torch's own convolution copies all weights into another order first, which took longer than the arithmetic at 7x7.
    """
    pixels, rows = prod(into.shape[2:]), len(weight) // groups
    is_pointwise = window == Window.of((1, 1))
    if not is_pointwise and pixels > 2 * rows:
        into[:] = F.conv2d(bottom, weight, None, window.stride, window.pad, window.dilation, groups)
        return
    matrices = weight.view(groups, rows, -1)
    for image, result in zip(bottom, into, strict=True):
        columns = image if is_pointwise else F.unfold(image, window.kernel, window.dilation, window.pad, window.stride)
        torch.bmm(matrices, columns.reshape(groups, -1, pixels), out=result.view(groups, rows, pixels))


def _deconvolution(operation: ops.Deconvolution, task: Task) -> Tensor:
    window, top = operation.window, torch.zeros(task.top)
    inputs, outputs = task.bottom.shape[1] // operation.groups, task.top[1] // operation.groups
    for first, last, weight in task.parameters.rows(inputs, 1):
        start, stop = first // inputs, -(-last // inputs)
        arguments = (window.stride, window.pad, 0, stop - start, window.dilation)
        part = F.conv_transpose2d(task.bottom[:, first:last], weight, None, *arguments)
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


def _matmul(operation: ops.MatMul, task: Task) -> Tensor:
    flags = (operation.is_first_transposed, operation.is_second_transposed)
    first, second = (x.mT if flag else x for x, flag in zip(task.bottoms, flags, strict=True))
    return first @ second


def _product(task: Task, index: int, vectors: Tensor) -> Tensor:
    """Vectors times the transpose of a blob."""
    made = empty((len(vectors), task.parameters.shape(index)[0]))
    for first, last, weight in task.parameters.rows(1, len(vectors), index):
        made[:, first:last] = torch.mm(vectors, weight.T)
    return made


def _lstm(operation: ops.LSTM, task: Task) -> list[Tensor]:
    """The state is multiplied by what is read anew at each step: large weights are never held."""
    steps, batch = task.bottom.shape[:2]
    is_caffe_s = len(task.bottoms) > 1
    inputs, bias, states = (0, 1, 2) if is_caffe_s else (1, 2, 0)
    came_in = _product(task, inputs, task.bottom.reshape(steps * batch, -1)).view(steps, batch, -1)
    came_in += task.parameters.whole(bias)
    state = cell = torch.zeros(batch, operation.outputs)
    if not is_caffe_s:
        state, cell = task.parameters.whole(3), task.parameters.whole(4)
    elif operation.exposes_states:
        state, cell = (bottom[0] for bottom in task.bottoms[2:])
    top = empty(task.top)
    for step in reversed(range(steps)) if operation.is_reversed else range(steps):
        goes_on = task.bottoms[1][step, :, None] if is_caffe_s else 1
        gates = came_in[step] + _product(task, states, state * goes_on)
        enters, stays, leaves = (gate.sigmoid() for gate in gates[:, : 3 * operation.outputs].chunk(3, 1))
        cell = stays * (cell * goes_on) + enters * gates[:, 3 * operation.outputs :].tanh()
        top[step] = state = leaves * cell.tanh()
    return [top, state[None], cell[None]][: len(task.tops)]


def _gru(operation: ops.GRU, task: Task) -> Tensor:
    steps, batch = task.bottom.shape[:2]
    came_in = _product(task, 1, task.bottom.reshape(steps * batch, -1)).view(steps, batch, -1)
    bias, state_bias = task.parameters.whole(2).chunk(2)
    came_in += bias
    state, top = task.parameters.whole(3), empty(task.top)
    for step in range(steps):
        update, reset, new = (_product(task, 0, state) + state_bias).chunk(3, 1)
        own_update, own_reset, own_new = came_in[step].chunk(3, 1)
        new = (own_new + (own_reset + reset).sigmoid() * new).tanh()
        top[step] = state = new + (own_update + update).sigmoid() * (state - new)
    return top


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
    ops.Convolution: _one(_convolution),
    ops.Crop: _one(_crop),
    ops.Deconvolution: _one(_deconvolution),
    ops.DummyData: lambda operation, task: [
        torch.full(shape, value) for shape, value in operation.filled(len(task.tops))
    ],
    ops.ELU: _one(lambda operation, task: F.elu_(task.taken(), operation.alpha)),
    ops.Eltwise: _one(_eltwise),
    ops.Exp: _one(_exp),
    ops.GRU: _one(_gru),
    ops.InnerProduct: _one(_inner_product),
    ops.LRN: _one(_lrn),
    ops.LSTM: _lstm,
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
    ops.Tile: _one(_tile),
}
