"""What Caffe's layers compute, with torch, on the CPU, in float32: the numbers to `semantics`' shapes.

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

from ..nets.graph import Blob
from ..tensors import FLOAT32
from . import meaning
from .meaning import Shape

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

    def whole(self, index: int) -> Tensor:
        """A small blob."""
        values: Values = np.empty(self._blobs[index].count, np.float32)
        _read(self._blobs[index], 0, values)
        return torch.from_numpy(values).view(self._shapes[index])

    def rows(self, unit: int, made: int) -> Iterator[tuple[int, int, Tensor]]:
        """The first blob in pieces along its first axis: (first, last, what lies between), each valid until the next.

        A piece is either a number of whole units (of `unit` rows) or a part of one. Of a row `made` elements are made.
        """
        blob, shape = self._blobs[0], self._shapes[0]
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


def compute(operation: meaning.Operation, task: Task) -> list[Tensor]:
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


def _convolution(operation: meaning.Convolution, task: Task) -> Tensor:
    top = empty(task.top)
    inputs, outputs = task.bottom.shape[1] // operation.groups, task.top[1] // operation.groups
    for first, last, weight in task.parameters.rows(outputs, len(top) * prod(top.shape[2:])):
        start, stop = first // outputs, -(-last // outputs)  # the groups that these outputs belong to
        bottom = task.bottom[:, start * inputs : stop * inputs]
        _convolve(bottom, weight, operation.window, stop - start, top[:, first:last])
    return _biased(top, task)


def _convolve(bottom: Tensor, weight: Tensor, window: meaning.Window, groups: int, into: Tensor) -> None:
    """A piece of a convolution: as a product of matrices where the weights outweigh what is unfolded for it.

    torch's own convolution copies all weights into another order first, which took longer than the arithmetic at 7x7.
    """
    pixels, rows = prod(into.shape[2:]), len(weight) // groups
    is_pointwise = window == meaning.Window((1, 1))
    if not is_pointwise and pixels > 2 * rows:
        into[:] = F.conv2d(bottom, weight, None, window.stride, window.pad, window.dilation, groups)
        return
    matrices = weight.view(groups, rows, -1)
    for image, result in zip(bottom, into, strict=True):
        columns = image if is_pointwise else F.unfold(image, window.kernel, window.dilation, window.pad, window.stride)
        torch.bmm(matrices, columns.reshape(groups, -1, pixels), out=result.view(groups, rows, pixels))


def _deconvolution(operation: meaning.Deconvolution, task: Task) -> Tensor:
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


def _inner_product(operation: meaning.InnerProduct, task: Task) -> Tensor:
    top = torch.zeros(prod(task.top[:-1]), task.top[-1])
    vectors = task.bottom.reshape(len(top), -1)
    for first, last, weight in task.parameters.rows(1, len(top)):
        if operation.transposed:
            top.addmm_(vectors[:, first:last], weight)
        else:
            torch.mm(vectors, weight.T, out=top[:, first:last])
    if len(task.parameters) > 1:
        top += task.parameters.whole(1)
    return top.view(task.top)


def _pooling(operation: meaning.Pooling, task: Task) -> Tensor:
    window, bottom = operation.window, task.bottom
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


def _counts(window: meaning.Window, axis: int, bottom: Tensor, top: Shape) -> Tensor:
    """How many rows (axis 0) or columns (1) of the padded bottom each window has; padding counts once behind the bottom."""
    pad = window.pad[axis]
    starts = torch.arange(top[2 + axis]) * window.stride[axis] - pad
    return ((starts + window.kernel[axis]).clamp(max=bottom.shape[2 + axis] + pad) - starts).float()


def _batch_norm(operation: meaning.BatchNorm, task: Task) -> Tensor:
    channels = task.bottom.shape[1] if task.bottom.ndim > 1 else 1
    top = task.taken().reshape(len(task.bottom), channels, -1)
    if operation.is_stored:
        mean, variance, total = (task.parameters.whole(index) for index in range(3))
        share = 1 / total if total else torch.zeros(1)
        mean, variance = mean * share, variance * share
    else:
        variance, mean = torch.var_mean(top, (0, 2), correction=0)
    return top.sub_(mean[:, None]).div_((variance + operation.epsilon).sqrt()[:, None]).view(task.top)


def _affine(operation: meaning.Affine, task: Task) -> Tensor:
    blobs = (task.parameters.whole(index) for index in range(len(task.parameters)))
    operands = (_spread(values, operation.axis, task.bottom) for values in (*task.bottoms[1:], *blobs))
    top = task.taken()
    if operation.scales:
        top *= next(operands)
    if operation.adds:
        top += next(operands)
    return top


def _prelu(operation: meaning.PReLU, task: Task) -> Tensor:
    return F.prelu(task.bottom, task.parameters.whole(0).reshape(-1))


def _eltwise(operation: meaning.Eltwise, task: Task) -> Tensor:
    top, others = task.taken(), task.bottoms[1:]
    if operation.method == "SUM":
        top *= operation.coefficients[0]
        for other, coefficient in zip(others, operation.coefficients[1:], strict=True):
            top.add_(other, alpha=coefficient)
        return top
    for other in others:
        top = top.mul_(other) if operation.method == "PROD" else torch.maximum(top, other, out=top)
    return top


def _crop(operation: meaning.Crop, task: Task) -> Tensor:
    return task.bottom[tuple(slice(at, at + size) for at, size in zip(operation.offsets, task.top, strict=True))]


def _lrn(operation: meaning.LRN, task: Task) -> Tensor:
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
    return task.bottom * mean.mul_(operation.alpha).add_(operation.k).pow_(-operation.beta)


def _mvn(operation: meaning.MVN, task: Task) -> Tensor:
    rows = task.bottom.reshape(prod(task.top[: operation.axis]), -1)
    top = rows - rows.mean(1, keepdim=True)
    if operation.epsilon is not None:
        top /= top.square().mean(1, keepdim=True).sqrt_() + operation.epsilon
    return top.view(task.top)


def _normalize(operation: meaning.Normalize, task: Task) -> Tensor:
    axes = tuple(range(1, task.bottom.ndim)) if operation.across_spatial else (1,)
    norm = (task.bottom.square().sum(axes, keepdim=True) + operation.epsilon).sqrt_()
    return (task.bottom / norm).mul_(_spread(task.parameters.whole(0), 1, task.bottom))


def _reduction(operation: meaning.Reduction, task: Task) -> Tensor:
    rows = task.bottom.reshape(*task.top, -1)
    if operation.method in ("ASUM", "SUMSQ"):
        rows = rows.abs() if operation.method == "ASUM" else rows.square()
    total = rows.mean(-1) if operation.method == "MEAN" else rows.sum(-1)
    return total.mul_(operation.coefficient)


def _tile(operation: meaning.Tile, task: Task) -> Tensor:
    counts = [1] * task.bottom.ndim
    counts[operation.axis] = operation.count
    return task.bottom.repeat(counts)


def _argmax(operation: meaning.ArgMax, task: Task) -> Tensor:
    """Of equal elements the last one comes first: Caffe sorts pairs of value and index."""
    bottom = task.bottom.reshape(len(task.bottom), -1) if operation.axis is None else task.bottom
    axis = 1 if operation.axis is None else operation.axis
    values, places = bottom.flip(axis).sort(dim=axis, descending=True, stable=True)
    values, places = (sorted_.narrow(axis, 0, operation.count) for sorted_ in (values, places))
    places = (bottom.shape[axis] - 1 - places).float()
    if not operation.with_values:
        return places.reshape(task.top)
    return values.reshape(task.top) if operation.axis is not None else torch.stack((places, values), 1).view(task.top)


def _power(x: Tensor, power: float, scale: float, shift: float) -> Tensor:
    return x.fill_(1) if power == 0 else x.mul_(scale).add_(shift).pow_(power)


_FUNCTIONS: Mapping[str, Callable[..., Tensor]] = {
    "AbsVal": torch.abs_,
    "BNLL": lambda x: torch.logaddexp(x, torch.zeros(())),  # log(1 + e ** x)
    "Clip": torch.clamp_,
    "ELU": F.elu_,
    "Exp": lambda x, scale, shift: x.mul_(scale).add_(shift).exp_(),
    "Log": lambda x, scale, shift, factor: x.mul_(scale).add_(shift).log_().mul_(factor),
    "Power": _power,
    "ReLU": lambda x, slope: F.leaky_relu_(x, slope) if slope else x.relu_(),
    "Sigmoid": torch.sigmoid_,
    "TanH": torch.tanh_,
}


def _one(function: Callable[[Any, Task], Tensor]) -> Callable[[Any, Task], list[Tensor]]:
    """For layers with one top."""
    return lambda operation, task: [function(operation, task)]


_OPERATIONS: Mapping[type, Callable[[Any, Task], list[Tensor]]] = {
    meaning.Identity: lambda operation, task: [task.bottom.reshape(shape) for shape in task.tops],
    meaning.Pointwise: _one(lambda operation, task: _FUNCTIONS[operation.function](task.taken(), *operation.constants)),
    meaning.Convolution: _one(_convolution),
    meaning.Deconvolution: _one(_deconvolution),
    meaning.InnerProduct: _one(_inner_product),
    meaning.Pooling: _one(_pooling),
    meaning.BatchNorm: _one(_batch_norm),
    meaning.Affine: _one(_affine),
    meaning.PReLU: _one(_prelu),
    meaning.Softmax: _one(lambda operation, task: task.bottom.softmax(operation.axis)),
    meaning.Eltwise: _one(_eltwise),
    meaning.Concat: _one(lambda operation, task: torch.cat(list(task.bottoms), operation.axis)),
    meaning.Slice: lambda operation, task: list(task.bottom.split_with_sizes(operation.sizes, operation.axis)),
    meaning.Crop: _one(_crop),
    meaning.Permute: _one(lambda operation, task: task.bottom.permute(operation.order)),
    meaning.LRN: _one(_lrn),
    meaning.MVN: _one(_mvn),
    meaning.Normalize: _one(_normalize),
    meaning.Reduction: _one(_reduction),
    meaning.Tile: _one(_tile),
    meaning.ArgMax: _one(_argmax),
}
