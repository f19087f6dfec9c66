"""Images of another size or order: padding, resizing, flips, pixels that become channels and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import floor, prod

from ...net import kernels
from ...net.graph import Blob
from ...net.operations import InnerProduct
from ...net.windows import Axis, Window
from ..arranged import arrange
from ..node import Node, Scope
from ..operands import Operand, UnsupportedError, Value
from ..views import View
from .registry import operator
from .shapes import enlarged

Matrix = list[list[float]]


@operator("pad")
def _pad(scope: Scope, x: Operand, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Value:
    if mode == "constant":
        return _padded_with_zeros(scope, x, pad, value or 0)
    if mode not in ("reflect", "replicate"):
        raise UnsupportedError(f"pads in mode {mode}")
    return _padded_with_pixels(scope, x, pad, is_mirrored=mode == "reflect")


def _padded_with_zeros(scope: Scope, x: Operand, pad: Sequence[int], value: float) -> Value:
    """Zeros around an image are left to the convolution that follows."""
    if value:
        raise UnsupportedError(f"pads with {value}", "Caffe pads with zeros")
    if not isinstance(x, Value):
        raise UnsupportedError("takes a constant where only activations can be")
    if min(pad) < 0:  # what it cuts off would be there again after the next padding
        raise UnsupportedError("pads by a negative number", "slice instead")
    if any(pad[4:]):
        return _padded_channels(scope, x, pad)
    left, right, above, below = (*pad[:4], 0, 0)[:4]
    if len(x.shape) not in (3, 4) or (len(x.shape) == 3 and (above or below)):
        raise UnsupportedError(f"pads {list(x.shape)}", "images and sequences are padded, behind their channels")
    known = x.padding
    return replace(x, padding=(known[0] + above, known[1] + below, known[2] + left, known[3] + right))


def _padded_with_pixels(scope: Scope, x: Operand, pad: Sequence[int], is_mirrored: bool) -> Value:
    """Pixels of the image stand around it, each picked by a row of a matrix."""
    image = scope.image(x)
    left, right, above, below = (*pad, 0, 0)[:4]
    matrices = []
    for size, before, after in zip(image.blob[2:], (above, left), (below, right), strict=True):
        places: Sequence[int] = range(-before, size + after)
        if is_mirrored:
            places = [abs(place) if place < size else 2 * (size - 1) - place for place in places]
        picked = [min(max(place, 0), size - 1) for place in places]
        matrices.append(None if picked == list(range(size)) else _picking(picked, size))
    return resized(scope, image, *matrices)


def _padded_channels(scope: Scope, x: Value, pad: Sequence[int]) -> Value:
    """Channels of zeros: rows of a 1x1 convolution that pick nothing."""
    if len(x.shape) != 4 or any(pad[:4]) or any(pad[6:]):
        raise UnsupportedError(f"pads by {list(pad)}", "pad channels by themselves")
    image = scope.image(x)
    channels = image.blob[1]
    columns = [*[None] * pad[4], *range(channels), *[None] * pad[5]]
    return scope.pointwise_convolution(image, kernels.selected((len(columns), channels), columns))


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


@operator("upsample_bilinear2d.vec")
def _upsample_bilinear_by(
    node: Node,
    x: Operand,
    output_size: Sequence[int] | None,
    align_corners: bool,
    scale_factors: Sequence[float] | None,
) -> Value:
    return _upsample_bilinear(node, x, output_size, align_corners, *(scale_factors or ()))


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


@operator("flip")
def _flip(scope: Scope, x: Operand, dims: Sequence[int]) -> Value:
    x = scope.activation(x)
    for dim in dims:
        x = picked(scope, x, dim % len(x.shape), range(x.shape[dim])[::-1])
    return x


def picked(scope: Scope, x: Value, dim: int, places: Sequence[int]) -> Value:
    """Elements at these places of a dimension, one after the other: rows of a matrix that the dimension is multiplied by."""
    if list(places) == list(range(x.shape[dim])):
        return x
    given = arrange(scope, x, [dim])
    x, axis = given.value, given.axis(dim)
    size, behind = x.shape[axis], prod(x.shape[axis + 1 :])
    if not axis:
        raise UnsupportedError("picks from the batch")
    shape = (*x.shape[:axis], len(places), *x.shape[axis + 1 :])
    rest = x.shape[2:] if axis == 1 and len(x.shape) == 4 else (1, behind)
    columns = scope.reshaped(x, (prod(x.shape[:axis]), size, *rest), "columns")
    made = scope.pointwise_convolution(columns, kernels.selected((len(places), size), places))
    return given.back(replace(scope.reshaped(made, shape, "back"), view=View.of(shape)))


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


def _nearest(size: int, wanted: int, factor: float | None) -> list[int]:
    """Which pixel each one is taken from, computed in float32 as torch does."""
    import numpy as np

    step = np.float32(1 / factor) if factor else np.float32(size) / np.float32(wanted)
    picked = [min(floor(np.float32(place) * step), size - 1) for place in range(wanted)]
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
