"""Batch, instance, group and layer normalization.

Caffe's MVN divides by (deviation + epsilon), torch by sqrt(variance + epsilon); so only its centring is used, and the rest
is composed: the mean square by pooling, its power -0.5, and a product by Scale with two bottoms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

from ...net import kernels
from ...net.operations import LRN, MVN, BatchNorm, Pooling, Scale
from ...net.windows import LONG
from ..arranged import Arranged, arrange
from ..node import Node, Scope
from ..operands import Operand, UnsupportedError, Value
from ..views import View
from .arithmetic import affine, multiplied
from .reductions import reduced
from .registry import operator

AVERAGE = Pooling("AVE")
CENTRE = MVN(normalizes_variance=False)
EPSILON = 2.0**-23  # of float32
ONE = kernels.literal((1,), [1.0])  # BatchNorm's third blob, by which Caffe divides the first two

SHORT = 256
"""Elements of which MVN, which sums in float32, loses no more of the mean than 1e-6. Of up to LONG it loses 1e-5, which is
much beside a small deviation, and a second MVN finds that; of more, see `_centred`."""


@operator("_native_batch_norm_legit_no_training")
def _batch_norm(
    scope: Scope,
    x: Operand,
    weight: Operand | None,
    bias: Operand | None,
    running_mean: Operand,
    running_var: Operand,
    momentum: float,
    eps: float,
) -> list[Value | None]:
    return [_stored(scope, x, weight, bias, running_mean, running_var, eps), None, None]


@operator("_native_batch_norm_legit.no_stats")
def _batch_norm_without_statistics(
    node: Node,
    x: Operand,
    weight: Operand | None,
    bias: Operand | None,
    training: bool,
    momentum: float,
    eps: float,
) -> list[Value | None]:
    """Statistics of the batch itself: for a batch of one they are those of each image's channels."""
    x = node.activation(x)
    if x.shape[0] != 1 or not training:
        raise UnsupportedError(
            "normalizes with the statistics of the batch", "call eval() on it, with tracked statistics"
        )
    return [_own(node, x, x.shape[1], weight, bias, eps), *[None] * (len(node.shapes) - 1)]


@operator("_native_batch_norm_legit", "_native_batch_norm_legit_functional")
def _batch_norm_of_the_batch(
    node: Node,
    x: Operand,
    weight: Operand | None,
    bias: Operand | None,
    running_mean: Operand,
    running_var: Operand,
    training: bool,
    momentum: float,
    eps: float,
) -> list[Value | None]:
    return _batch_norm_without_statistics(node, x, weight, bias, training, momentum, eps)


@operator("instance_norm")
def _instance_norm(
    scope: Scope,
    x: Operand,
    weight: Operand | None,
    bias: Operand | None,
    running_mean: Operand | None,
    running_var: Operand | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    *_: Any,
) -> Value:
    if use_input_stats or running_mean is None or running_var is None:
        x = scope.activation(x)
        return _own(scope, x, x.shape[1], weight, bias, eps)
    return _stored(scope, x, weight, bias, running_mean, running_var, eps)


@operator("group_norm")
def _group_norm(
    scope: Scope,
    x: Operand,
    num_groups: int,
    weight: Operand | None = None,
    bias: Operand | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Value:
    return _own(scope, x, num_groups, weight, bias, eps)


@operator("layer_norm")
def _layer_norm(
    scope: Scope,
    x: Operand,
    normalized_shape: Sequence[int],
    weight: Operand | None = None,
    bias: Operand | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Value:
    given, axis = _normalized(scope, x, len(normalized_shape))
    shape = given.value.shape
    if axis + len(normalized_shape) < len(shape):
        image = _channel_norm(scope, given.image(scope, axis), eps)
        return given.of_image(affine(scope, image, weight, bias, 1, "scale"), axis)
    if not axis:
        raise UnsupportedError("normalizes the batch")
    made = standardised(scope, given.value, (shape[0], prod(shape[1:axis]), prod(shape[axis:]), 1), eps)
    return given.back(affine(scope, scope.reshaped(made, shape, "back"), weight, bias, axis, "scale"))


def _normalized(scope: Scope, x: Operand, count: int) -> tuple[Arranged, int]:
    """A value whose last `count` dimensions, as torch has them, follow each other from an axis on: one, or to the end."""
    dims = range(-count, 0)
    given = arrange(scope, x, dims)
    axes = [given.axis(dim) for dim in dims]
    size = len(given.value.shape)
    if count == 1 or axes == list(range(size - count, size)):
        return given, axes[0]
    return _normalized(scope, scope.contiguous(x), count)


@operator("rms_norm")
def _rms_norm(
    scope: Scope,
    x: Operand,
    normalized_shape: Sequence[int],
    weight: Operand | None = None,
    eps: float | None = None,
) -> Value:
    """torch's own epsilon is that of the type."""
    eps = EPSILON if eps is None else eps
    given, axis = _normalized(scope, x, len(normalized_shape))
    shape = given.value.shape
    if axis + len(normalized_shape) < len(shape):
        image = _over_root(scope, given.image(scope, axis), [1], eps)
        return given.of_image(affine(scope, image, weight, None, 1, "scale"), axis)
    made = _over_root(scope, given.value, range(axis, len(shape)), eps)
    return given.back(affine(scope, scope.reshaped(made, shape, "back"), weight, None, axis, "scale"))


def _over_root(scope: Scope, x: Value, dims: Sequence[int], eps: float) -> Value:
    """x / sqrt(mean of squares + eps)"""
    square = scope.power(x, power=2, part="square")
    inverse = scope.power(reduced(scope, square, dims, True, "AVE", "mean"), power=-0.5, shift=eps, part="inverse")
    return multiplied(scope, x, inverse)


def _stored(
    scope: Scope,
    x: Operand,
    weight: Operand | None,
    bias: Operand | None,
    mean: Operand,
    variance: Operand,
    eps: float,
) -> Value:
    """Normalization of channels by statistics that the checkpoint holds."""
    x = scope.activation(x)
    if len(x.shape) not in (2, 4):  # OpenCV takes no others
        batch, channels, *rest = x.shape
        image = scope.reshaped(x, (batch, channels, 1, prod(rest)), "image")
    else:
        image = scope.reshaped(x, x.shape)
    blobs = (scope.blob(mean), scope.blob(variance), ONE)
    made = scope.layer(BatchNorm(eps), [image], blobs)
    return replace(affine(scope, made, weight, bias, 1, "scale"), view=View.of(x.shape))


def _own(scope: Scope, x: Operand, groups: int, weight: Operand | None, bias: Operand | None, eps: float) -> Value:
    """Normalization of each group of an image's channels by its own statistics."""
    x = scope.activation(x)
    batch, *rest = x.shape
    made = standardised(scope, x, (batch, groups, prod(rest) // groups, 1), eps)
    return affine(scope, scope.reshaped(made, x.shape, "back"), weight, bias, 1, "scale")


def standardised(scope: Scope, x: Value, shape: tuple[int, int, int, int], eps: float) -> Value:
    """(x - mean) / sqrt(variance + eps) of each channel of `x` as an image of this shape."""
    image = scope.reshaped(x, shape, "image")
    centred = scope.layer(CENTRE, [image], part="centred")
    if prod(shape[2:]) > LONG:
        centred = _centred(scope, centred)
    elif prod(shape[2:]) > SHORT:
        centred = scope.layer(CENTRE, [centred], part="exact")
    square = scope.power(centred, power=2, part="square")
    variance = scope.layer(AVERAGE, [square], part="variance")
    inverse = scope.reshaped(scope.power(variance, power=-0.5, shift=eps, part="deviation"), shape[:2], "factor")
    return scope.layer(Scale(0), [centred, inverse])


def _centred(scope: Scope, x: Value) -> Value:
    """What is left of the mean after MVN, which sums in float32, is subtracted, too: an image of ones times it."""
    mean = scope.layer(AVERAGE, [x], part="rest")
    factor = scope.reshaped(mean, x.blob[:2], "rest_factor")
    ones = scope.power(x, scale=0, shift=1, part="ones")
    rest = scope.layer(Scale(0), [ones, factor], part="rest_spread")
    return scope.eltwise("SUM", x, rest, (1.0, -1.0), "exact")


def _channel_norm(scope: Scope, image: Value, eps: float) -> Value:
    """The same over the channels of each pixel; sums over channels are 1x1 convolutions."""
    channels = image.blob[1]
    mean, repeat = kernels.filled((1, channels), 1 / channels), kernels.filled((channels, 1), 1)
    means = scope.pointwise_convolution(
        scope.pointwise_convolution(image, mean, part="mean"), repeat, part="mean_spread"
    )
    centred = scope.eltwise("SUM", image, means, (1.0, -1.0), "centred")
    square = scope.power(centred, power=2, part="square")
    inverse = scope.power(
        scope.pointwise_convolution(square, mean, part="variance"), power=-0.5, shift=eps, part="deviation"
    )
    return scope.eltwise("PROD", centred, scope.pointwise_convolution(inverse, repeat, part="deviation_spread"))


@operator("streamexport::local_response_norm")
def _local_response_norm(
    scope: Scope, x: Operand, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Value:
    """torch leaves out a channel more behind than in front where the window is even, Caffe has none that is."""
    if not size % 2:
        raise UnsupportedError(f"normalizes over {size} channels", "Caffe takes an odd number of them")
    if k <= 0:
        raise UnsupportedError(f"divides by squares beside {k}, which may be 0")
    # OpenCV takes k for 1: (k + a m) ^ b = k ^ b (1 + a m / k) ^ b.
    made = scope.layer(LRN(size, alpha / k, float(beta)), [scope.image(x)])
    return scope.power(made, scale=k**-beta, part="scaled") if k != 1 else made
