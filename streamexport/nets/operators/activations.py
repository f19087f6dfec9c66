"""Functions of each element, and softmax. Caffe knows some; others are composed of those that it knows."""

from __future__ import annotations

from dataclasses import replace
from math import inf, pi, prod
from typing import Any

from .. import kernels
from ..lowering import Constant, Lowering, Operand, UnsupportedError, Value, operator
from ..views import View
from .poolings import whole_columns

GELU = (1.5956562716449474, 0.07293758234831713, -2.4972339058353864e-4, -6.116200369570841e-5, 2.2381642530726105e-6)
"""x sigmoid(x (c0 + c1 x² + c2 x⁴ + ...)) is within 3.1e-6 of GELU: least squares on [-8, 8], weights moved towards the
largest deviations. The last coefficient is positive, so that beyond it the sigmoid is 0 or 1."""


@operator("relu")
def _relu(net: Lowering, x: Operand) -> Value:
    return net.pointwise("ReLU", x)


@operator("leaky_relu")
def _leaky_relu(net: Lowering, x: Operand, slope: float = 0.01) -> Value:
    return net.pointwise("ReLU", x, {"relu_param": {"negative_slope": slope}})


@operator("prelu", "_prelu_kernel")
def _prelu(net: Lowering, x: Operand, slope: Operand) -> Value:
    """A slope for each channel. One for all is repeated: OpenCV does not know Caffe's way of saying so."""
    x = net.activation(x)
    channels = x.shape[1]
    # Caffe takes no more than four dimensions.
    image = net.reshaped(x, x.shape if len(x.shape) < 5 else (*x.shape[:2], 1, prod(x.shape[2:])))
    if isinstance(slope, Constant) and slope.count == 1:
        blob = replace(kernels.filled((channels,), slope.number()), origin=slope.origin)
    else:
        blob = net.blob(slope, (channels,))
    return replace(net.layer("PReLU", [image], image.blob, blobs=[blob]), view=View.of(x.shape))


@operator("elu")
def _elu(net: Lowering, x: Operand, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Value:
    if input_scale != 1:
        raise UnsupportedError(f"scales its input by {input_scale}")
    made = net.pointwise("ELU", x, {"elu_param": {"alpha": float(alpha)}}, "elu" if scale != 1 else "")
    return net.power(made, scale=scale) if scale != 1 else made


@operator("selu")
def _selu(net: Lowering, x: Operand) -> Value:
    return _elu(net, x, 1.6732632423543772848170429916717, 1.0507009873554804934193349852946)


@operator("celu")
def _celu(net: Lowering, x: Operand, alpha: float = 1) -> Value:
    """alpha * ELU(x / alpha)"""
    inside = net.power(x, scale=1 / alpha, part="in") if alpha != 1 else x
    made = net.pointwise("ELU", inside, {"elu_param": {"alpha": 1.0}}, "elu" if alpha != 1 else "")
    return net.power(made, scale=alpha) if alpha != 1 else made


@operator("sigmoid")
def _sigmoid(net: Lowering, x: Operand) -> Value:
    return net.pointwise("Sigmoid", x)


@operator("tanh")
def _tanh(net: Lowering, x: Operand) -> Value:
    return net.pointwise("TanH", x)


@operator("softplus")
def _softplus(net: Lowering, x: Operand, beta: float = 1, threshold: float = 20) -> Value:
    """log(1 + e^(beta x)) / beta; beyond the threshold torch returns x, which differs by less than e^-20."""
    if threshold < 16:
        raise UnsupportedError(f"has a threshold of {threshold}, which shows")
    if beta == 1:
        return net.pointwise("BNLL", x)
    made = net.pointwise("BNLL", net.power(x, scale=beta, part="in"), part="bnll")
    return net.power(made, scale=1 / beta)


@operator("log_sigmoid")
def _log_sigmoid(net: Lowering, x: Operand) -> Value:
    """-log(1 + e^-x)"""
    return net.power(net.pointwise("BNLL", net.power(x, scale=-1, part="negated"), part="bnll"), scale=-1)


@operator("silu")
def _silu(net: Lowering, x: Operand) -> Value:
    x = net.activation(x)
    return net.eltwise("PROD", x, net.pointwise("Sigmoid", x, part="sigmoid"))


@operator("mish")
def _mish(net: Lowering, x: Operand) -> Value:
    x = net.activation(x)
    return net.eltwise("PROD", x, net.pointwise("TanH", net.pointwise("BNLL", x, part="bnll"), part="tanh"))


@operator("gelu")
def _gelu(net: Lowering, x: Operand, approximate: str = "none") -> Value:
    x = net.activation(x)
    square = net.power(x, power=2, part="square")
    if approximate == "tanh":  # tanh(z) = 2 sigmoid(2 z) - 1, with z = sqrt(2 / pi) (x + 0.044715 x^3)
        outer = 2 * (2 / pi) ** 0.5
        coefficients: tuple[float, ...] = (outer, outer * 0.044715)
    else:
        coefficients = GELU
    *lower, highest = coefficients
    inner = net.power(square, scale=highest, shift=lower[-1], part=f"c{len(lower)}")
    for degree, coefficient in reversed(list(enumerate(lower[:-1]))):
        inner = net.eltwise("PROD", inner, square, part=f"p{degree + 1}")
        inner = net.power(inner, shift=coefficient, part=f"c{degree}")
    odd = net.eltwise("PROD", inner, x, part="odd")
    return net.eltwise("PROD", x, net.pointwise("Sigmoid", odd, part="sigmoid"))


@operator("hardtanh")
def _hardtanh(net: Lowering, x: Operand, low: float = -1, high: float = 1) -> Value:
    return clipped(net, x, low, high)


@operator("relu6")
def _relu6(net: Lowering, x: Operand) -> Value:
    return clipped(net, x, 0, 6)


@operator("clamp", "clip")
def _clamp(net: Lowering, x: Operand, low: Any = None, high: Any = None) -> Value:
    low, high = (limit.number() if isinstance(limit, Constant) and limit.count == 1 else limit for limit in (low, high))
    if isinstance(low, (Value, Constant)) or isinstance(high, (Value, Constant)):
        raise UnsupportedError("has limits that are tensors")
    return clipped(net, x, low, high)


@operator("clamp_min")
def _clamp_min(net: Lowering, x: Operand, low: float) -> Value:
    return clipped(net, x, low, None)


@operator("clamp_max")
def _clamp_max(net: Lowering, x: Operand, high: float) -> Value:
    return clipped(net, x, None, high)


def clipped(net: Lowering, x: Operand, low: float | None, high: float | None, part: str = "") -> Value:
    """Between limits, of which one may be missing: max(x, l), and min(x, h) = -max(-x, -h).

    A limit is 0 x + l. (l + ReLU(x - l) would round x to the last place of l, which may be far away.)
    """
    low, high = (None if limit is None or abs(limit) == inf else float(limit) for limit in (low, high))
    if low is not None and high is not None:
        return net.pointwise("Clip", x, {"clip_param": {"min": min(low, high), "max": high}}, part)
    if low is not None:
        if not low:
            return net.pointwise("ReLU", x, part=part)
        return net.eltwise("MAX", net.activation(x), net.power(x, scale=0, shift=low, part="low"), part=part)
    if high is not None:
        negated, limit = net.power(x, scale=-1, part="in"), net.power(x, scale=0, shift=-high, part="high")
        return net.power(net.eltwise("MAX", negated, limit, part="max"), scale=-1, part=part)
    return net.activation(x)


@operator("hardsigmoid")
def _hardsigmoid(net: Lowering, x: Operand) -> Value:
    return net.power(clipped(net, net.power(x, shift=3, part="in"), 0, 6, "clip"), scale=1 / 6)


@operator("hardswish")
def _hardswish(net: Lowering, x: Operand) -> Value:
    x = net.activation(x)
    inside = clipped(net, net.power(x, shift=3, part="in"), 0, 6, "clip")
    return net.eltwise("PROD", x, net.power(inside, scale=1 / 6, part="gate"))


@operator("softsign")
def _softsign(net: Lowering, x: Operand) -> Value:
    x = net.activation(x)
    weight = net.power(net.pointwise("AbsVal", x, part="abs"), power=-1, shift=1, part="inverse")
    return net.eltwise("PROD", x, weight)


@operator("softmax", "_softmax")
def _softmax(net: Lowering, x: Operand, dim: int, *_: Any, **__: Any) -> Value:
    x = net.activation(x)
    return net.layer("Softmax", [net.reshaped(x, x.shape)], x.shape, {"softmax_param": {"axis": dim % len(x.shape)}})


@operator("log_softmax", "_log_softmax")
def _log_softmax(net: Lowering, x: Operand, dim: int, *_: Any, **__: Any) -> Value:
    """z - log(sum of e^z) with z = x - max(x): a softmax's logarithm would be lost where it is too small for a float."""
    x = net.activation(x)
    axis, shape = dim % len(x.shape), x.shape
    if axis != 1:
        raise UnsupportedError(f"over dimension {axis}", "over channels it can be expressed")
    batch, channels, rest = *shape[:2], prod(shape[2:])
    image = net.reshaped(x, (batch, 1, channels, rest), "image")
    largest = net.layer("Pooling", [image], (batch, 1, 1, rest), whole_columns("MAX", channels), part="max")
    columns = net.reshaped(x, (batch, channels, 1, rest), "columns")
    ones = kernels.filled((channels, 1), 1)
    z = net.eltwise("SUM", columns, net.mixed(largest, ones, part="max_spread"), (1.0, -1.0), "centred")
    powers = net.pointwise("Exp", z, part="exp")
    log = net.pointwise("Log", net.mixed(powers, kernels.filled((1, channels), 1), part="sum"), part="log")
    made = net.eltwise("SUM", z, net.mixed(log, ones, part="log_spread"), (1.0, -1.0))
    return net.reshaped(made, shape, "back")
