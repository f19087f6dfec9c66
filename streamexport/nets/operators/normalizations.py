"""Batch, instance, group and layer normalization.

Caffe's MVN divides by (deviation + epsilon), torch by sqrt(variance + epsilon); so only its centring is used, and the rest
is composed: the mean square by pooling, its power -0.5, and a product by Scale with two bottoms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

from .. import kernels
from ..lowering import Constant, Lowering, Operand, UnsupportedError, Value, operator
from ..views import View
from ..windows import LONG
from .convolutions import channels_last, turned_back

AVERAGE = {"pooling_param": {"pool": "AVE", "global_pooling": True}}
CENTRE = {"mvn_param": {"normalize_variance": False}}
ONE = kernels.literal((1,), [1.0])  # BatchNorm's third blob, by which Caffe divides the first two

SHORT = 256
"""Elements of which MVN, which sums in float32, loses no more of the mean than 1e-6. Of up to LONG it loses 1e-5, which is
much beside a small deviation, and a second MVN finds that; of more, see `_centred`."""


@operator("_native_batch_norm_legit_no_training")
def _batch_norm(
    net: Lowering,
    x: Operand,
    weight: Operand | None,
    bias: Operand | None,
    mean: Operand,
    variance: Operand,
    _: float,
    eps: float,
) -> list[Value | None]:
    return [_stored(net, x, weight, bias, mean, variance, eps), None, None]


@operator("_native_batch_norm_legit", "_native_batch_norm_legit_functional")
def _batch_norm_of_the_batch(
    net: Lowering, x: Operand, weight: Operand | None, bias: Operand | None, *rest: Any
) -> list[Value | None]:
    """Statistics of the batch itself: for a batch of one they are those of each image's channels."""
    *_, training, _momentum, eps = rest
    if net.shape[0] != 1 or not training:
        raise UnsupportedError(
            "normalizes with the statistics of the batch", "call eval() on it, with tracked statistics"
        )
    return [_own(net, x, net.shape[1], weight, bias, eps), *[None] * (len(net.shapes) - 1)]


@operator("instance_norm")
def _instance_norm(
    net: Lowering,
    x: Operand,
    weight: Operand | None,
    bias: Operand | None,
    mean: Operand | None,
    variance: Operand | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    *_: Any,
) -> Value:
    if use_input_stats or mean is None or variance is None:
        return _own(net, x, net.shape[1], weight, bias, eps)
    return _stored(net, x, weight, bias, mean, variance, eps)


@operator("group_norm")
def _group_norm(
    net: Lowering,
    x: Operand,
    groups: int,
    weight: Operand | None = None,
    bias: Operand | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Value:
    return _own(net, x, groups, weight, bias, eps)


@operator("layer_norm")
def _layer_norm(
    net: Lowering,
    x: Operand,
    normalized: Sequence[int],
    weight: Operand | None = None,
    bias: Operand | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Value:
    x = net.activation(x)
    image = channels_last(net, x) if len(normalized) == 1 else None
    if image is not None:
        return turned_back(affine(net, _channel_norm(net, image, eps), weight, bias, 1, "scale"), x.shape)
    axis = len(x.shape) - len(normalized)
    outer, inner = prod(x.shape[1:axis]), prod(normalized)
    if not axis:
        raise UnsupportedError("normalizes the batch")
    made = standardised(net, x, (x.shape[0], outer, inner, 1), eps)
    return affine(net, net.reshaped(made, x.shape, "back"), weight, bias, axis, "scale")


def _stored(
    net: Lowering,
    x: Operand,
    weight: Operand | None,
    bias: Operand | None,
    mean: Operand,
    variance: Operand,
    eps: float,
) -> Value:
    """Normalization of channels by statistics that the checkpoint holds."""
    x = net.activation(x)
    if len(x.shape) not in (2, 4):  # OpenCV takes no others
        batch, channels, *rest = x.shape
        image = net.reshaped(x, (batch, channels, 1, prod(rest)), "image")
    else:
        image = net.reshaped(x, x.shape)
    parameters = {"batch_norm_param": {"use_global_stats": True, "eps": eps}}
    blobs = (net.blob(mean), net.blob(variance), ONE)
    made = net.layer("BatchNorm", [image], image.blob, parameters, blobs)
    return replace(affine(net, made, weight, bias, 1, "scale"), view=View.of(x.shape))


def _own(net: Lowering, x: Operand, groups: int, weight: Operand | None, bias: Operand | None, eps: float) -> Value:
    """Normalization of each group of an image's channels by its own statistics."""
    x = net.activation(x)
    batch, *rest = x.shape
    made = standardised(net, x, (batch, groups, prod(rest) // groups, 1), eps)
    return affine(net, net.reshaped(made, x.shape, "back"), weight, bias, 1, "scale")


def affine(net: Lowering, x: Value, weight: Operand | None, bias: Operand | None, axis: int, part: str = "") -> Value:
    """Times weights, plus biases, each of which covers the axes of a blob from `axis` on, as many as it has.

    The blob is turned into one in which these are the channels: a Scale over others stops OpenCV, where it tries to merge
    it into a convolution.
    """
    given = next((constant for constant in (weight, bias) if isinstance(constant, Constant)), None)
    if given is None:
        return x
    end = axis + len(given.shape)
    before, count, behind = prod(x.blob[:axis]), given.count, prod(x.blob[end:])
    made = x if (axis, end) == (1, 2) else net.reshaped(x, (before, count, 1, behind), "rows")
    scale = kernels.filled((count,), 1) if weight is None else net.blob(weight, (count,))
    blobs = (scale,) if bias is None else (scale, net.blob(bias, (count,)))
    parameters = {"scale_param": {"bias_term": True} if bias is not None else {}}
    made = net.layer("Scale", [made], made.blob, parameters, blobs, part)
    return replace(net.reshaped(made, x.blob, "back"), view=x.view)


def standardised(net: Lowering, x: Value, shape: tuple[int, int, int, int], eps: float) -> Value:
    """(x - mean) / sqrt(variance + eps) of each channel of `x` as an image of this shape."""
    image = net.reshaped(x, shape, "image")
    centred = net.layer("MVN", [image], shape, CENTRE, part="centred")
    if prod(shape[2:]) > LONG:
        centred = _centred(net, centred)
    elif prod(shape[2:]) > SHORT:
        centred = net.layer("MVN", [centred], shape, CENTRE, part="exact")
    square = net.power(centred, power=2, part="square")
    variance = net.layer("Pooling", [square], (*shape[:2], 1, 1), AVERAGE, part="variance")
    inverse = net.reshaped(net.power(variance, power=-0.5, shift=eps, part="deviation"), shape[:2], "factor")
    return net.layer("Scale", [centred, inverse], shape, {"scale_param": {"axis": 0}})


def _centred(net: Lowering, x: Value) -> Value:
    """What is left of the mean after MVN, which sums in float32, is subtracted, too: an image of ones times it."""
    mean = net.layer("Pooling", [x], (*x.blob[:2], 1, 1), AVERAGE, part="rest")
    factor = net.reshaped(mean, x.blob[:2], "rest_factor")
    ones = net.power(x, scale=0, shift=1, part="ones")
    rest = net.layer("Scale", [ones, factor], x.blob, {"scale_param": {"axis": 0}}, part="rest_spread")
    return net.eltwise("SUM", x, rest, (1.0, -1.0), "exact")


def _channel_norm(net: Lowering, image: Value, eps: float) -> Value:
    """The same over the channels of each pixel; sums over channels are 1x1 convolutions."""
    channels = image.blob[1]
    mean, spread = kernels.filled((1, channels), 1 / channels), kernels.filled((channels, 1), 1)
    means = net.mixed(net.mixed(image, mean, part="mean"), spread, part="mean_spread")
    centred = net.eltwise("SUM", image, means, (1.0, -1.0), "centred")
    square = net.power(centred, power=2, part="square")
    inverse = net.power(net.mixed(square, mean, part="variance"), power=-0.5, shift=eps, part="deviation")
    return net.eltwise("PROD", centred, net.mixed(inverse, spread, part="deviation_spread"))
