"""Images of another size: padding, resizing, pixels that become channels and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import floor
from operator import mod
from typing import TYPE_CHECKING

from ...net import kernels
from ...net.graph import Blob
from ...net.operations import InnerProduct
from ...net.windows import Axis, Window
from ..node import Node, Scope
from ..operands import Constant, Operand, UnsupportedError, Value
from ..views import Shape, View
from .arithmetic import add
from .indexing import picked
from .registry import operator
from .shapes import enlarged, sliced

if TYPE_CHECKING:
    import torch

Matrix = list[list[float]]


@operator("pad")
def padded(scope: Scope, x: Operand, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Value:
    if mode != "constant":
        return _padded_with_pixels(scope, x, pad, _BESIDE[mode])
    if min(pad) < 0:
        x, pad = _cut(scope, scope.activation(x), pad), [max(0, size) for size in pad]
    made = _padded_with_zeros(scope, x, pad)
    return add(scope, made, _around(made.shape, pad, value)) if value else made


def _cut(scope: Scope, x: Value, pad: Sequence[int]) -> Value:
    """What is left where less than nothing stands around it."""
    for dim, (low, high) in enumerate(zip(pad[::2], pad[1::2], strict=True), 1):
        start, stop = max(0, -low), x.shape[-dim] + min(0, high)
        if (start, stop) != (0, x.shape[-dim]):
            x = sliced(scope, x, len(x.shape) - dim, start, stop, 1)
    return x


def _around(shape: Shape, pad: Sequence[int], value: float) -> Constant:
    """A number around zeros, to be added to what has zeros around it."""

    def compute() -> torch.Tensor:
        import torch

        within = [size - low - high for size, low, high in zip(shape[::-1], pad[::2], pad[1::2], strict=False)]
        whole = shape[len(shape) - len(within) :]
        zeros = torch.zeros(within[::-1])
        return torch.nn.functional.pad(zeros, [*pad], value=value).reshape(whole)

    return Constant(shape[len(shape) - len(pad) // 2 :], (), None, compute)


def _padded_with_zeros(scope: Scope, x: Operand, pad: Sequence[int]) -> Value:
    """Zeros around an image or a sequence are left to the convolution that follows; others are picked from nowhere."""
    if not isinstance(x, Value):
        raise UnsupportedError("takes a constant where only activations can be")
    rank = len(x.shape)
    if rank == 4 and any(pad[4:6]) and any(pad[2:4]) and not any(pad[:2]) and not any(pad[6:]):
        return _padded_channels_last(scope, x, pad)
    sides = [*zip(pad[::2], pad[1::2], strict=True), (0, 0), (0, 0)]
    slid = {3: 1, 4: 2}.get(rank, 0)
    for dim, (low, high) in enumerate(sides[slid:], slid + 1):
        if low or high:
            places = [*[None] * low, *range(x.shape[-dim]), *[None] * high]
            x = picked(scope, scope.activation(x), rank - dim, places)
    (left, right), (above, below) = [*sides[:slid], (0, 0), (0, 0)][:2]
    known = x.padding
    return replace(x, padding=(known[0] + above, known[1] + below, known[2] + left, known[3] + right))


def _padded_channels_last(scope: Scope, x: Value, pad: Sequence[int]) -> Value:
    """Images whose channels come last, as torch has them, are padded as images."""
    left, right, above, below = pad[2:6]
    image = replace(x, view=x.view.permuted((0, 3, 1, 2)), label=scope.label, padding=(above, below, left, right))
    made = scope.activation(image)
    return replace(made, view=made.view.permuted((0, 2, 3, 1)))


def _mirrored(place: int, size: int) -> int:
    return abs(place) if place < size else 2 * (size - 1) - place


def _nearest_inside(place: int, size: int) -> int:
    return min(max(place, 0), size - 1)


_BESIDE = {"reflect": _mirrored, "replicate": _nearest_inside, "circular": mod}
"""Which pixel stands at a place outside of the image, by mode."""


def _padded_with_pixels(scope: Scope, x: Operand, pad: Sequence[int], beside: Callable[[int, int], int]) -> Value:
    """Elements of the tensor stand around it."""
    x = scope.activation(x)
    for dim, (before, after) in enumerate(zip(pad[::2], pad[1::2], strict=True), 1):
        size = x.shape[-dim]
        x = picked(scope, x, len(x.shape) - dim, [beside(place, size) for place in range(-before, size + after)])
    return x


@operator("pixel_shuffle")
def _pixel_shuffle(scope: Scope, x: Operand, upscale_factor: int) -> Value:
    """A transposed convolution: each channel puts its pixels at one place of a square."""
    image = scope.image(x)
    channels = image.blob[1]
    kernel = _places(channels, upscale_factor)
    return scope.deconvolution(image, kernel, None, _squares(upscale_factor), channels // upscale_factor**2)


@operator("pixel_unshuffle")
def _pixel_unshuffle(scope: Scope, x: Operand, downscale_factor: int) -> Value:
    image = scope.image(x)
    channels = image.blob[1]
    kernel = _places(channels * downscale_factor**2, downscale_factor)
    return scope.convolution(image, kernel, None, _squares(downscale_factor), channels)


def _squares(factor: int) -> Window:
    """What cuts an image into squares."""
    return Window((Axis(factor, factor),) * 2)


def _places(channels: int, factor: int) -> Blob:
    """Kernels that are squares with a single one, at each place in turn."""
    return kernels.selected((channels, 1, factor, factor), [channel % factor**2 for channel in range(channels)])


@operator("upsample_nearest2d.vec")
def _upsample_nearest_by(
    node: Node, x: Operand, output_size: Sequence[int] | None, scale_factors: Sequence[float] | None
) -> Value:
    return _upsample_nearest(node, x, output_size, *(scale_factors or ()))


@operator("upsample_nearest2d")
def _upsample_nearest(
    node: Node,
    x: Operand,
    output_size: Sequence[int] | None,
    scales_h: float | None = None,
    scales_w: float | None = None,
) -> Value:
    """Where each pixel is repeated as often, a transposed convolution does it; else each is picked by a matrix."""
    image = node.image(x)
    given, wanted = image.blob[2:], node.shape[2:]
    places = [_nearest(n, m, s) for n, m, s in zip(given, wanted, (scales_h, scales_w), strict=True)]
    down, right = (m // n for n, m in zip(given, wanted, strict=True))
    if places == [[at // by for at in range(n * by)] for n, by in zip(given, (down, right), strict=True)]:
        return enlarged(node, image, down, right)
    lists = zip(places, given, wanted, strict=True)
    return resized(node, image, *(None if n == m else _picking(picked, n) for picked, n, m in lists))


@operator("upsample_bilinear2d")
def _upsample_bilinear(
    node: Node,
    x: Operand,
    output_size: Sequence[int] | None,
    align_corners: bool,
    scales_h: float | None = None,
    scales_w: float | None = None,
) -> Value:
    """torch computes with the factors that were asked for, not with the sizes, where there are some."""
    image = node.image(x)
    lists = zip(image.blob[2:], node.shape[2:], (scales_h, scales_w), strict=True)
    return resized(node, image, *(_linear(n, m, align_corners, s) for n, m, s in lists))


@operator("upsample_linear1d.vec")
def _upsample_linear(
    node: Node,
    x: Operand,
    output_size: Sequence[int] | None,
    align_corners: bool,
    scale_factors: Sequence[float] | None,
) -> Value:
    """A sequence is an image one pixel high."""
    x = node.activation(x)
    batch, channels, length = x.shape
    image = node.reshaped(x, (batch, channels, 1, length))
    (factor,) = scale_factors or (None,)
    made = resized(node, image, None, _linear(length, node.shape[2], align_corners, factor))
    return replace(made, view=View.of(node.shape))


@operator("upsample_trilinear3d.vec")
def _upsample_trilinear(
    node: Node,
    x: Operand,
    output_size: Sequence[int] | None,
    align_corners: bool,
    scale_factors: Sequence[float] | None,
) -> Value:
    """Along the depth, then plane by plane."""
    x = node.activation(x)
    batch, channels, *given = x.shape
    depth, *wanted = node.shape[2:]
    lists = zip(given, node.shape[2:], scale_factors or (None, None, None), strict=True)
    through, rows, columns = (_linear(n, m, align_corners, s) for n, m, s in lists)
    made = resized(node, node.reshaped(x, (batch, channels, given[0], given[1] * given[2])), through, None)
    made = resized(node, node.reshaped(made, (batch, channels * depth, *given[1:])), rows, columns)
    return node.viewed(made, (batch, channels, depth, *wanted))


@operator("_upsample_nearest_exact2d.vec")
def _upsample_nearest_exact_by(
    node: Node, x: Operand, output_size: Sequence[int] | None, scale_factors: Sequence[float] | None
) -> Value:
    return _upsample_nearest_exact(node, x, output_size, *(scale_factors or ()))


@operator("_upsample_nearest_exact2d")
def _upsample_nearest_exact(
    node: Node,
    x: Operand,
    output_size: Sequence[int] | None,
    scales_h: float | None = None,
    scales_w: float | None = None,
) -> Value:
    image = node.image(x)
    lists = zip(image.blob[2:], node.shape[2:], (scales_h, scales_w), strict=True)
    places = [_nearest(n, m, s, 0.5) for n, m, s in lists]
    sizes = zip(places, image.blob[2:], strict=True)
    return resized(node, image, *(None if picked == [*range(n)] else _picking(picked, n) for picked, n in sizes))


def _smooth(matrix: Callable[[int, int, bool, float | None], Matrix | None]) -> Callable[..., Value]:
    """An operator that resizes by a matrix for rows and one for columns."""

    def upsample(
        node: Node,
        x: Operand,
        output_size: Sequence[int] | None,
        align_corners: bool,
        scale_factors: Sequence[float] | None,
    ) -> Value:
        image = node.image(x)
        lists = zip(image.blob[2:], node.shape[2:], scale_factors or (None, None), strict=True)
        return resized(node, image, *(matrix(n, m, align_corners, factor) for n, m, factor in lists))

    return upsample


def resized(scope: Scope, x: Value, rows: Matrix | None, columns: Matrix | None) -> Value:
    """An image whose columns are multiplied by one matrix and its rows by another (None: by none).

    The first is a 1x1 convolution with rows for channels, the second an inner product over the last axis.
    """
    batch, channels, height, width = x.blob
    if rows is not None:
        tall = len(rows)
        turned = scope.reshaped(x, (batch * channels, height, 1, width), "rows")
        made = scope.pointwise_convolution(
            turned, kernels.literal((tall, height), [v for row in rows for v in row]), part="vertical"
        )
        x = scope.reshaped(made, (batch, channels, tall, width), "back")
    if columns is not None:
        weight = kernels.literal((len(columns), width), [v for row in columns for v in row])
        x = scope.layer(InnerProduct(len(columns), has_bias=False, axis=3), [x], [weight])
    return x


def _nearest(size: int, wanted: int, factor: float | None, middle: float = 0) -> list[int]:
    """Which pixel each one is taken from, computed in float32 as torch does."""
    import numpy as np

    step = np.float32(1 / factor) if factor else np.float32(size) / np.float32(wanted)
    picked = [min(floor(np.float32(place + middle) * step), size - 1) for place in range(wanted)]
    if middle:
        return picked
    # Of the same or twice the size, small images are repeated whatever the factor, large ones are not.
    if wanted in (size, 2 * size) and picked != [place * size // wanted for place in range(wanted)]:
        raise UnsupportedError(f"resizes {size} by {factor}, which torch does in two ways", "give it the size instead")
    return picked


def _picking(picked: Sequence[int], size: int) -> Matrix:
    return [[float(place == column) for column in range(size)] for place in picked]


def _linear(size: int, wanted: int, align_corners: bool, factor: float | None) -> Matrix | None:
    if size == wanted:
        return None
    if align_corners:
        step = (size - 1) / (wanted - 1) if wanted > 1 else 0.0
        places = [place * step for place in range(wanted)]
    else:
        step = 1 / factor if factor else size / wanted
        places = [max((place + 0.5) * step - 0.5, 0.0) for place in range(wanted)]
    matrix = []
    for place in places:
        row = [0.0] * size
        first = min(floor(place), size - 1)
        share = place - first
        row[first] += 1 - share
        row[min(first + 1, size - 1)] += share
        matrix.append(row)
    return matrix


def _cubic(size: int, wanted: int, align_corners: bool, factor: float | None) -> Matrix:
    """Four neighbours of each place, by Keys' cubic; those outside are the pixel at the edge."""
    step = (size - 1) / max(wanted - 1, 1) if align_corners else 1 / factor if factor else size / wanted
    matrix = []
    for place in range(wanted):
        at = place * step if align_corners else (place + 0.5) * step - 0.5
        row = [0.0] * size
        for neighbour in range(floor(at) - 1, floor(at) + 3):
            row[_nearest_inside(neighbour, size)] += _keys(at - neighbour, -0.75)
        matrix.append(row)
    return matrix


def _keys(distance: float, a: float) -> float:
    """Keys' cubic convolution kernel."""
    x = abs(distance)
    if x <= 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0.0


def _tent(distance: float) -> float:
    return max(0.0, 1 - abs(distance))


def _antialiased(
    reach: int, kernel: Callable[[float], float]
) -> Callable[[int, int, bool, float | None], Matrix | None]:
    """A kernel that reaches so far, as much wider as the image becomes smaller; its weights add up to 1."""

    def matrix(size: int, wanted: int, align_corners: bool, factor: float | None) -> Matrix | None:
        if size == wanted:
            return None
        step = (size - 1) / max(wanted - 1, 1) if align_corners else 1 / factor if factor else size / wanted
        width = max(step, 1.0)
        made = []
        for place in range(wanted):
            middle = step * (place + 0.5)
            first = max(int(middle - reach * width + 0.5), 0)
            last = min(int(middle + reach * width + 0.5), size)
            weights = [kernel((at - middle + 0.5) / width) for at in range(first, last)]
            row = [weight / sum(weights) for weight in weights]
            made.append([*[0.0] * first, *row, *[0.0] * (size - last)])
        return made

    return matrix


operator("upsample_bilinear2d.vec")(_smooth(_linear))
operator("upsample_bicubic2d.vec")(_smooth(_cubic))
operator("_upsample_bilinear2d_aa.vec")(_smooth(_antialiased(1, _tent)))
operator("_upsample_bicubic2d_aa.vec")(_smooth(_antialiased(2, partial(_keys, a=-0.5))))
