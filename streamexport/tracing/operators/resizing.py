"""Images of another size: by a matrix for rows and one for columns, and pixels that become channels and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from ...net import kernels
from ...net.graph import Blob
from ...net.operations import InnerProduct
from ...net.windows import Axis, Window
from ..node import Node, Scope
from ..operands import Operand, Value
from ..views import View
from .interpolation import Matrix, antialiased, cubic, keys, linear, nearest, picking, tent
from .registry import operator
from .shapes import enlarged


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
    places = [nearest(n, m, s) for n, m, s in zip(given, wanted, (scales_h, scales_w), strict=True)]
    down, right = (m // n for n, m in zip(given, wanted, strict=True))
    if places == [[at // by for at in range(n * by)] for n, by in zip(given, (down, right), strict=True)]:
        return enlarged(node, image, down, right)
    lists = zip(places, given, wanted, strict=True)
    return resized(node, image, *(None if n == m else picking(picked) for picked, n, m in lists))


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
    return resized(node, image, *(linear(n, m, align_corners, s) for n, m, s in lists))


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
    made = resized(node, image, None, linear(length, node.shape[2], align_corners, factor))
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
    through, rows, columns = (linear(n, m, align_corners, s) for n, m, s in lists)
    made = resized(node, node.reshaped(x, (batch, channels, given[0], given[1] * given[2])), through, None)
    made = resized(node, node.reshaped(made, (batch, channels * depth, *given[1:])), rows, columns)
    return node.viewed(made, (batch, channels, depth, *wanted))


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
    places = [nearest(n, m, s, 0.5) for n, m, s in lists]
    sizes = zip(places, image.blob[2:], strict=True)
    return resized(node, image, *(None if picked == [*range(n)] else picking(picked) for picked, n in sizes))


def _by_factors(upsample: Callable[..., Value]) -> Callable[..., Value]:
    """An operator that is given its factors together."""

    def by(node: Node, x: Operand, output_size: Sequence[int] | None, scale_factors: Sequence[float] | None) -> Value:
        return upsample(node, x, output_size, *(scale_factors or ()))

    return by


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
        made = scope.pointwise_convolution(turned, kernels.banded(rows, height), part="vertical")
        x = scope.reshaped(made, (batch, channels, tall, width), "back")
    if columns is not None:
        horizontal = InnerProduct(len(columns), has_bias=False, axis=3)
        x = scope.layer(horizontal, [x], [kernels.banded(columns, width)])
    return x


operator("upsample_nearest2d.vec")(_by_factors(_upsample_nearest))
operator("_upsample_nearest_exact2d.vec")(_by_factors(_upsample_nearest_exact))
operator("upsample_bilinear2d.vec")(_smooth(linear))
operator("upsample_bicubic2d.vec")(_smooth(cubic))
operator("_upsample_bilinear2d_aa.vec")(_smooth(antialiased(1, tent)))
operator("_upsample_bicubic2d_aa.vec")(_smooth(antialiased(2, partial(keys, a=-0.5))))
