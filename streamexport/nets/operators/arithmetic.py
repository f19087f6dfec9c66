"""Sums, products and powers: of two activations, of an activation and a number, or a constant.

torch repeats the smaller of two tensors along the larger one's dimensions. Caffe multiplies so by Scale, from the first
dimension of a blob on or from a later one; what else there is to repeat is repeated by `shapes.spread`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..lowering import Constant, Lowering, Operand, UnsupportedError, Value, operator
from .convolutions import channels_last, turned_back
from .normalizations import affine
from .shapes import spread

if TYPE_CHECKING:
    import torch


@operator("add")
def _add(net: Lowering, x: Operand, y: Operand, alpha: float = 1) -> Value:
    x, y = _numbers(x, y)
    if isinstance(x, Value) and isinstance(y, Value):
        return _combined(net, "SUM", x, y, (1.0, float(alpha)) if alpha != 1 else ())
    if not isinstance(x, Value):
        x, y, alpha = net.power(y, scale=alpha, part="in") if alpha != 1 else net.activation(y), x, 1
    if isinstance(y, Constant):
        return _affine(net, x, _computed(y, lambda values: values * alpha) if alpha != 1 else y, is_weight=False)
    return net.power(x, shift=alpha * _number(y))


@operator("sub")
def _sub(net: Lowering, x: Operand, y: Operand, alpha: float = 1) -> Value:
    return _add(net, x, y, -alpha)


@operator("rsub")
def _rsub(net: Lowering, x: Operand, y: Operand, alpha: float = 1) -> Value:
    return _add(net, y, x, -alpha)


@operator("mul")
def _mul(net: Lowering, x: Operand, y: Operand) -> Value:
    x, y = _numbers(x, y)
    if not isinstance(x, Value):
        x, y = y, x
    x = net.activation(x)
    if isinstance(y, Value):
        return _multiplied(net, x, net.activation(y))
    if isinstance(y, Constant):
        return _affine(net, x, y, is_weight=True)
    return net.power(x, scale=_number(y))


@operator("div", "true_divide")
def _div(net: Lowering, x: Operand, y: Operand, rounding_mode: str | None = None) -> Value:
    if rounding_mode is not None:
        raise UnsupportedError(f"rounds quotients ({rounding_mode})")
    x, y = _numbers(x, y)
    if isinstance(y, Value):
        inverse = net.power(y, power=-1, part="inverse")
        return _mul(net, x, inverse) if x != 1 else inverse
    if isinstance(y, Constant):
        return _mul(net, x, _computed(y, lambda values: 1 / values))
    if not _number(y):
        raise UnsupportedError("divides by zero")
    return _mul(net, x, 1 / _number(y))


@operator("reciprocal")
def _reciprocal(net: Lowering, x: Operand) -> Value:
    return net.power(x, power=-1)


@operator("neg")
def _neg(net: Lowering, x: Operand) -> Value:
    return net.power(x, scale=-1)


@operator("abs")
def _abs(net: Lowering, x: Operand) -> Value:
    return net.pointwise("AbsVal", x)


@operator("pow")
def _pow(net: Lowering, x: Operand, y: Operand) -> Value:
    x, y = _numbers(x, y)
    if not isinstance(x, Value) or isinstance(y, (Value, Constant)):
        raise UnsupportedError("has an exponent that is a tensor", "Caffe raises to powers that are numbers")
    return net.power(x, power=_number(y))


@operator("square")
def _square(net: Lowering, x: Operand) -> Value:
    return net.power(x, power=2)


@operator("sqrt")
def _sqrt(net: Lowering, x: Operand) -> Value:
    return net.power(x, power=0.5)


@operator("rsqrt")
def _rsqrt(net: Lowering, x: Operand) -> Value:
    return net.power(x, power=-0.5)


@operator("exp")
def _exp(net: Lowering, x: Operand) -> Value:
    return net.pointwise("Exp", x)


@operator("log")
def _log(net: Lowering, x: Operand) -> Value:
    return net.pointwise("Log", x)


@operator("maximum", "max.other")
def _maximum(net: Lowering, x: Operand, y: Operand) -> Value:
    return _combined(net, "MAX", net.activation(x), net.activation(y))


@operator("minimum", "min.other")
def _minimum(net: Lowering, x: Operand, y: Operand) -> Value:
    """-max(-x, -y)"""
    x, y = (net.power(operand, scale=-1, part="in") for operand in (x, y))
    return net.power(_combined(net, "MAX", x, y, part="max"), scale=-1)


def _numbers(*operands: Operand) -> tuple[Operand, ...]:
    """Operands, single constants as numbers."""
    return tuple(x.number() if isinstance(x, Constant) and x.count == 1 else x for x in operands)


def _number(x: Operand) -> float:
    assert not isinstance(x, (Value, Constant))
    return float(x)


def _computed(constant: Constant, function: Callable[[torch.Tensor], Any]) -> Constant:
    return Constant(constant.shape, constant.origin, None, lambda: function(constant.value()))


def _combined(
    net: Lowering, method: str, x: Value, y: Value, coefficients: tuple[float, ...] = (), part: str = ""
) -> Value:
    """Two values element by element, either repeated where the other one is larger."""
    x, y = net.activation(x), net.activation(y)
    x, y = (v if v.shape == net.shape else spread(net, v, net.shape) for v in (x, y))
    return net.eltwise(method, x, y, coefficients, part)


def _multiplied(net: Lowering, x: Value, y: Value) -> Value:
    """Two values, the smaller one repeated: a Scale where it covers the first dimensions of the larger."""
    if x.shape == y.shape:
        return net.eltwise("PROD", x, y)
    if x.shape != net.shape:
        x, y = y, x
    own = (1,) * (len(x.shape) - len(y.shape)) + y.shape
    covered = max((axis for axis, size in enumerate(own) if size != 1), default=0) + 1
    if x.shape == net.shape and own[:covered] == x.shape[:covered]:
        factor = net.reshaped(y, own[:covered], "factor")
        whole = net.reshaped(x, x.shape)
        return net.layer("Scale", [whole, factor], x.shape, {"scale_param": {"axis": 0}})
    return _combined(net, "PROD", x, y)


def _affine(net: Lowering, x: Value, constant: Constant, is_weight: bool) -> Value:
    """Times a constant, or plus one, that covers dimensions which follow each other: a Scale."""
    x = net.activation(x)
    if x.shape != net.shape:
        x = spread(net, x, net.shape)
    own = (1,) * (len(x.shape) - len(constant.shape)) + constant.shape
    axes = [axis for axis, size in enumerate(own) if size != 1]
    first, last = axes[0], axes[-1]
    covered = x.shape[first : last + 1]
    if own[first : last + 1] != covered:
        small, shape = constant, own[first : last + 1]
        constant = Constant(covered, small.origin, None, lambda: small.value().reshape(shape).expand(covered))
    else:
        constant = replace(constant, shape=covered)
    weight, bias = (constant, None) if is_weight else (None, constant)
    image = channels_last(net, x) if len(constant.shape) == 1 and first == len(x.shape) - 1 else None
    if image is not None:
        return turned_back(affine(net, image, weight, bias, 1), x.shape)
    return affine(net, net.reshaped(x, x.shape), weight, bias, first)
