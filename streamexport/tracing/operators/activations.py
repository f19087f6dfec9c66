"""Functions of each element, and softmax. Caffe knows some; others are composed of those that it knows."""

from __future__ import annotations

from dataclasses import replace
from math import inf, pi, prod
from typing import Any

from ...net import kernels
from ...net.operations import BNLL, ELU, Clip, Exp, Gelu, Log, PReLU, ReLU, Sigmoid, Softmax, TanH
from ..arranged import arrange
from ..node import Scope
from ..operands import Constant, Operand, UnsupportedError, Value
from ..views import View
from .arithmetic import maximum, minimum, numbers
from .reductions import whole_columns
from .registry import operator
from .shapes import halves


@operator("relu")
def _relu(scope: Scope, x: Operand) -> Value:
    return scope.pointwise(ReLU(), x)


@operator("leaky_relu")
def _leaky_relu(scope: Scope, x: Operand, negative_slope: float = 0.01) -> Value:
    return scope.pointwise(ReLU(negative_slope), x)


@operator("prelu", "_prelu_kernel")
def _prelu(scope: Scope, x: Operand, weight: Operand) -> Value:
    """A slope for each channel. One for all is repeated: OpenCV does not know Caffe's way of saying so."""
    x = scope.activation(x)
    shape = x.shape + (1,) * (2 - len(x.shape))
    channels = shape[1]
    # Caffe takes no more than four dimensions.
    image = scope.reshaped(x, shape if len(shape) < 5 else (*shape[:2], 1, prod(shape[2:])))
    if isinstance(weight, Constant) and weight.count == 1:
        blob = replace(kernels.filled((channels,), weight.number()), origin=weight.origin)
    else:
        blob = scope.blob(weight, (channels,))
    return replace(scope.layer(PReLU(), [image], [blob]), view=View.of(x.shape))


@operator("elu")
def _elu(scope: Scope, x: Operand, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Value:
    if input_scale != 1:
        raise UnsupportedError(f"scales its input by {input_scale}")
    made = scope.pointwise(ELU(float(alpha)), x, "elu" if scale != 1 else "")
    return scope.power(made, scale=scale) if scale != 1 else made


@operator("selu")
def _selu(scope: Scope, x: Operand) -> Value:
    return _elu(scope, x, 1.6732632423543772848170429916717, 1.0507009873554804934193349852946)


@operator("celu")
def _celu(scope: Scope, x: Operand, alpha: float = 1) -> Value:
    """alpha * ELU(x / alpha)"""
    inside = scope.power(x, scale=1 / alpha, part="in") if alpha != 1 else x
    made = scope.pointwise(ELU(), inside, "elu" if alpha != 1 else "")
    return scope.power(made, scale=alpha) if alpha != 1 else made


@operator("sigmoid")
def _sigmoid(scope: Scope, x: Operand) -> Value:
    return scope.pointwise(Sigmoid(), x)


@operator("tanh")
def _tanh(scope: Scope, x: Operand) -> Value:
    return scope.pointwise(TanH(), x)


@operator("softplus")
def _softplus(scope: Scope, x: Operand, beta: float = 1, threshold: float = 20) -> Value:
    """log(1 + e^(beta x)) / beta; beyond the threshold torch returns x, which differs by less than e^-20."""
    if threshold < 16:
        raise UnsupportedError(f"has a threshold of {threshold}, which shows")
    if beta == 1:
        return scope.pointwise(BNLL(), x)
    made = scope.pointwise(BNLL(), scope.power(x, scale=beta, part="in"), part="bnll")
    return scope.power(made, scale=1 / beta)


@operator("log_sigmoid")
def _log_sigmoid(scope: Scope, x: Operand) -> Value:
    """-log(1 + e^-x)"""
    return scope.power(scope.pointwise(BNLL(), scope.power(x, scale=-1, part="negated"), part="bnll"), scale=-1)


@operator("silu")
def _silu(scope: Scope, x: Operand) -> Value:
    x = scope.activation(x)
    return scope.eltwise("PROD", x, scope.pointwise(Sigmoid(), x, part="sigmoid"))


@operator("glu")
def _glu(scope: Scope, x: Operand, dim: int = -1) -> Value:
    """The first half times the second half's sigmoid."""
    first, second = halves(scope, x, dim)
    return scope.eltwise("PROD", first, scope.pointwise(Sigmoid(), second, part="sigmoid"))


@operator("mish")
def _mish(scope: Scope, x: Operand) -> Value:
    x = scope.activation(x)
    return scope.eltwise("PROD", x, scope.pointwise(TanH(), scope.pointwise(BNLL(), x, part="bnll"), part="tanh"))


@operator("gelu")
def _gelu(scope: Scope, x: Operand, approximate: str = "none") -> Value:
    if approximate != "tanh":
        return scope.pointwise(Gelu(), x)
    x = scope.activation(x)
    # tanh(z) = 2 sigmoid(2 z) - 1, with z = sqrt(2 / pi) (x + 0.044715 x^3)
    outer = 2 * (2 / pi) ** 0.5
    inner = scope.power(scope.power(x, power=2, part="square"), scale=outer * 0.044715, shift=outer, part="c0")
    odd = scope.eltwise("PROD", inner, x, part="odd")
    return scope.eltwise("PROD", x, scope.pointwise(Sigmoid(), odd, part="sigmoid"))


ERF = (0.0663623, -2.4506683, -0.72042177, 5.3028894, 0.54614769, 0.29832564)
"""tanh(x (e + (c + d (a + b x²)²)²) ^ p) is within 1.5e-6 of erf(x), relatively, for these b, a, d, c, e, p: least squares on
[0, 4.6] of relative deviations, weights moved towards the largest."""


@operator("erf")
def _erf(scope: Scope, x: Operand) -> Value:
    x = scope.activation(x)
    b, a, d, c, e, power = ERF
    inner = scope.power(scope.power(x, power=2, part="square"), scale=b, shift=a, part="shifted")
    outer = scope.power(scope.power(inner, power=2, part="fourth"), scale=d, shift=c, part="shifted_again")
    root = scope.power(scope.power(outer, power=2, part="eighth"), power=power, shift=e, part="root")
    return scope.pointwise(TanH(), scope.eltwise("PROD", root, x, part="odd"))


@operator("sinh")
def _sinh(scope: Scope, x: Operand) -> Value:
    """cosh(x) tanh(x), in which less is lost where x is small than in a difference of exponentials."""
    return scope.eltwise("PROD", _cosh(scope, x, "cosh"), scope.pointwise(TanH(), x, part="tanh"))


@operator("cosh")
def _cosh(scope: Scope, x: Operand, part: str = "") -> Value:
    """(e^x + e^-x) / 2"""
    up, down = scope.pointwise(Exp(), x, "up"), scope.pointwise(Exp(scale=-1.0), x, "down")
    return scope.eltwise("SUM", up, down, (0.5, 0.5), part)


@operator("hardtanh")
def _hardtanh(scope: Scope, x: Operand, min_val: float = -1, max_val: float = 1) -> Value:
    return clipped(scope, x, min_val, max_val)


@operator("relu6")
def _relu6(scope: Scope, x: Operand) -> Value:
    return clipped(scope, x, 0, 6)


@operator("clamp", "clamp.Tensor", "clip", "clip.Tensor")
def _clamp(scope: Scope, x: Operand, min: Any = None, max: Any = None) -> Value:  # noqa: A002
    """Where the lower limit is above the upper one, torch returns the upper one."""
    _, low, high = numbers(scope.activation(x), min, max)
    if not isinstance(low, (Value, Constant)) and not isinstance(high, (Value, Constant)):
        return clipped(scope, x, low, high)
    for limit, limited, limits in ((low, maximum, (low, None)), (high, minimum, (None, high))):
        is_tensor = isinstance(limit, (Value, Constant))
        x = limited(scope, x, limit) if is_tensor else clipped(scope, x, *limits)
    return scope.activation(x)


@operator("clamp_min", "clamp_min.Tensor")
def _clamp_min(scope: Scope, x: Operand, min: Any) -> Value:  # noqa: A002
    return _clamp(scope, x, min, None)


@operator("clamp_max", "clamp_max.Tensor")
def _clamp_max(scope: Scope, x: Operand, max: Any) -> Value:  # noqa: A002
    return _clamp(scope, x, None, max)


def clipped(scope: Scope, x: Operand, low: float | None, high: float | None, part: str = "") -> Value:
    """Between limits, of which one may be missing: max(x, l), and min(x, h) = -max(-x, -h).

    A limit is 0 x + l. (l + ReLU(x - l) would round x to the last place of l, which may be far away.)
    """
    low, high = (None if limit is None or abs(limit) == inf else float(limit) for limit in (low, high))
    if low is not None and high is not None:
        return scope.pointwise(Clip(min(low, high), high), x, part)
    if low is not None:
        if not low:
            return scope.pointwise(ReLU(), x, part)
        return scope.eltwise("MAX", scope.activation(x), scope.power(x, scale=0, shift=low, part="low"), part=part)
    if high is not None:
        negated, limit = scope.power(x, scale=-1, part="in"), scope.power(x, scale=0, shift=-high, part="high")
        return scope.power(scope.eltwise("MAX", negated, limit, part="max"), scale=-1, part=part)
    return scope.activation(x)


@operator("hardsigmoid")
def _hardsigmoid(scope: Scope, x: Operand) -> Value:
    return scope.power(clipped(scope, scope.power(x, shift=3, part="in"), 0, 6, "clip"), scale=1 / 6)


@operator("hardswish")
def _hardswish(scope: Scope, x: Operand) -> Value:
    x = scope.activation(x)
    inside = clipped(scope, scope.power(x, shift=3, part="in"), 0, 6, "clip")
    return scope.eltwise("PROD", x, scope.power(inside, scale=1 / 6, part="gate"))


@operator("softmax.int", "_softmax", "special_softmax")
def softmax(scope: Scope, x: Operand, dim: int, *_: Any, **__: Any) -> Value:
    given = arrange(scope, x, [dim])
    whole = scope.reshaped(given.value, given.value.shape)
    return given.back(scope.layer(Softmax(given.axis(dim)), [whole]))


@operator("log_softmax.int", "_log_softmax", "special_log_softmax")
def _log_softmax(scope: Scope, x: Operand, dim: int, *_: Any, **__: Any) -> Value:
    """z - log(sum of e^z) with z = x - max(x): a softmax's logarithm would be lost where it is too small for a float."""
    given = arrange(scope, x, [dim])
    x, axis, shape = given.value, given.axis(dim), given.value.shape
    batch, channels, rest = prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :])
    image = scope.reshaped(x, (batch, 1, channels, rest), "image")
    largest = scope.layer(whole_columns("MAX", channels), [image], part="max")
    columns = scope.reshaped(x, (batch, channels, 1, rest), "columns")
    ones = kernels.filled((channels, 1), 1)
    z = scope.eltwise(
        "SUM", columns, scope.pointwise_convolution(largest, ones, part="max_spread"), (1.0, -1.0), "centred"
    )
    powers = scope.pointwise(Exp(), z, part="exp")
    log = scope.pointwise(
        Log(), scope.pointwise_convolution(powers, kernels.filled((1, channels), 1), part="sum"), part="log"
    )
    made = scope.eltwise("SUM", z, scope.pointwise_convolution(log, ones, part="log_spread"), (1.0, -1.0))
    return given.back(scope.reshaped(made, shape, "back"))
