"""Sums, products and powers: of two activations, of an activation and a number, or a constant.

torch repeats the smaller of two tensors along the larger one's dimensions. Caffe multiplies so by Scale, from the first
dimension of a blob on or from a later one; what else there is to repeat is repeated by `shapes.broadcast`.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import zip_longest
from math import log, prod

from ...net import kernels
from ...net.operations import AbsVal, Exp, Log, Scale
from ..arranged import arrange, arrange_alike
from ..node import Node, Scope
from ..operands import Constant, Operand, UnsupportedError, Value
from ..views import Shape
from .registry import operator
from .shapes import activations, broadcast


@operator("add.Tensor", "add.Scalar")
def _add(node: Node, x: Operand, other: Operand, alpha: float = 1) -> Value:
    if node.dtype == "bool":  # of truth values the sum is whether one of them is true
        return maximum(node, x, other)
    return add(node, x, other, alpha)


def add(scope: Scope, x: Operand, other: Operand, alpha: float = 1) -> Value:
    x, other = numbers(x, other)
    if isinstance(x, Value) and isinstance(other, Value):
        return combined(scope, "SUM", x, other, (1.0, float(alpha)) if alpha != 1 else ())
    if not isinstance(x, Value):
        x, other, alpha = scope.power(other, scale=alpha, part="in") if alpha != 1 else scope.activation(other), x, 1
    if isinstance(other, Constant):
        scaled = other.mapped(other.shape, lambda values: values * alpha) if alpha != 1 else other
        return _with_constant(scope, x, scaled, is_weight=False)
    return scope.power(x, shift=alpha * _number(other))


@operator("sub.Tensor", "sub.Scalar")
def _sub(scope: Scope, x: Operand, other: Operand, alpha: float = 1) -> Value:
    return add(scope, x, other, -alpha)


@operator("rsub.Tensor", "rsub.Scalar")
def _rsub(scope: Scope, x: Operand, other: Operand, alpha: float = 1) -> Value:
    return add(scope, other, x, -alpha)


@operator("mul.Tensor", "mul.Scalar")
def multiplied(scope: Scope, x: Operand, other: Operand) -> Value:
    x, other = numbers(x, other)
    if not isinstance(x, Value):
        x, other = other, x
    x = scope.activation(x)
    if isinstance(other, Value):
        return _product(scope, x, scope.activation(other))
    if isinstance(other, Constant):
        return _with_constant(scope, x, other, is_weight=True)
    return scope.power(x, scale=_number(other))


@operator("div.Tensor", "div.Scalar", "div.Tensor_mode", "div.Scalar_mode", "true_divide.Tensor", "true_divide.Scalar")
def _div(scope: Scope, x: Operand, other: Operand, rounding_mode: str | None = None) -> Value:
    if rounding_mode is not None:
        raise UnsupportedError(f"rounds quotients ({rounding_mode})")
    x, other = numbers(x, other)
    if isinstance(other, Value):
        inverse = scope.power(other, power=-1, part="inverse")
        return multiplied(scope, x, inverse) if x != 1 else inverse
    if isinstance(other, Constant):
        return multiplied(scope, x, other.mapped(other.shape, lambda values: 1 / values))
    if not _number(other):
        raise UnsupportedError("divides by zero")
    return multiplied(scope, x, 1 / _number(other))


@operator("addcmul")
def _addcmul(scope: Scope, x: Operand, tensor1: Operand, tensor2: Operand, *, value: float = 1) -> Value:
    return add(scope, x, multiplied(scope, tensor1, tensor2), value)


@operator("reciprocal")
def _reciprocal(scope: Scope, x: Operand) -> Value:
    return scope.power(x, power=-1)


@operator("neg")
def _neg(scope: Scope, x: Operand) -> Value:
    return scope.power(x, scale=-1)


@operator("abs")
def _abs(scope: Scope, x: Operand) -> Value:
    return scope.pointwise(AbsVal(), x)


@operator("pow.Tensor_Scalar", "pow.Tensor_Tensor", "pow.Scalar")
def _pow(scope: Scope, x: Operand, exponent: Operand) -> Value:
    x, exponent = numbers(x, exponent)
    if isinstance(exponent, Value) and not isinstance(x, (Value, Constant)) and x > 0:
        return scope.pointwise(Exp(float(x)), exponent) if x != 1 else scope.power(exponent, scale=0, shift=1)
    if not isinstance(x, Value) or isinstance(exponent, (Value, Constant)):
        raise UnsupportedError("has an exponent that is a tensor", "Caffe raises to powers that are numbers")
    return scope.power(x, power=_number(exponent))


@operator("square")
def _square(scope: Scope, x: Operand) -> Value:
    return scope.power(x, power=2)


@operator("sqrt")
def _sqrt(scope: Scope, x: Operand) -> Value:
    return scope.power(x, power=0.5)


@operator("rsqrt")
def _rsqrt(scope: Scope, x: Operand) -> Value:
    return scope.power(x, power=-0.5)


@operator("exp")
def _exp(scope: Scope, x: Operand) -> Value:
    return scope.pointwise(Exp(), x)


@operator("log")
def _log(scope: Scope, x: Operand) -> Value:
    return scope.pointwise(Log(), x)


@operator("exp2")
def _exp2(scope: Scope, x: Operand) -> Value:
    return scope.pointwise(Exp(2.0), x)


@operator("log1p")
def _log1p(scope: Scope, x: Operand) -> Value:
    return scope.pointwise(Log(), scope.power(x, shift=1, part="shifted"))


@operator("log2")
def _log2(scope: Scope, x: Operand) -> Value:
    """OpenCV has another idea of a Log's base than Caffe has."""
    return scope.power(scope.pointwise(Log(), x, "log"), scale=1 / log(2))


@operator("log10")
def _log10(scope: Scope, x: Operand) -> Value:
    return scope.power(scope.pointwise(Log(), x, "log"), scale=1 / log(10))


@operator("hypot")
def _hypot(scope: Scope, x: Operand, other: Operand) -> Value:
    squares = [scope.power(value, power=2, part="square") for value in activations(scope, (x, other))]
    return scope.power(combined(scope, "SUM", squares[0], squares[1], (), "sum"), power=0.5)


@operator("maximum", "max.other", "fmax")
def maximum(scope: Scope, x: Operand, other: Operand) -> Value:
    first, second = activations(scope, (x, other))
    return combined(scope, "MAX", first, second)


@operator("minimum", "min.other", "fmin")
def minimum(scope: Scope, x: Operand, other: Operand) -> Value:
    """-max(-x, -y)"""
    first, second = (scope.power(operand, scale=-1, part="in") for operand in activations(scope, (x, other)))
    return scope.power(combined(scope, "MAX", first, second, part="max"), scale=-1)


def numbers(*operands: Operand) -> tuple[Operand, ...]:
    """Operands, single constants as numbers, unless they have more dimensions than the others, who get them, too."""
    rank = max(len(x.shape) for x in operands if isinstance(x, Value))
    return tuple(
        x.number() if isinstance(x, Constant) and x.count == 1 and len(x.shape) <= rank else x for x in operands
    )


def _number(x: Operand) -> float:
    assert not isinstance(x, (Value, Constant))
    return float(x)


def common(*shapes: Shape) -> Shape:
    """What torch broadcasts tensors of these shapes to; it has found that it can."""
    sizes = zip_longest(*(reversed(shape) for shape in shapes), fillvalue=1)
    return tuple(next((size for size in others if size != 1), 1) for others in sizes)[::-1]


def combined(
    scope: Scope, method: str, x: Operand, y: Operand, coefficients: tuple[float, ...] = (), part: str = ""
) -> Value:
    """Two values element by element, either repeated where the other one is larger."""
    x, y = scope.activation(x), scope.activation(y)
    if (x.view, x.blob) == (y.view, y.blob):
        return scope.eltwise(method, x, y, coefficients, part)
    first, second = arrange_alike(scope, (x, y))
    shape = common(first.value.shape, second.value.shape)
    x, y = (broadcast(scope, given.value, shape) for given in (first, second))
    return first.back(scope.eltwise(method, x, y, coefficients, part))


def _product(scope: Scope, x: Value, y: Value) -> Value:
    """Two values, the smaller one repeated: a Scale where it covers the first dimensions of the larger."""
    if x.shape == y.shape:
        return combined(scope, "PROD", x, y)
    shape = common(x.shape, y.shape)
    if x.shape != shape:
        x, y = y, x
    whole, factor = arrange_alike(scope, (x, y))
    own = factor.value.shape
    covered = max((axis for axis, size in enumerate(own) if size != 1), default=0) + 1
    if x.shape == shape and own[:covered] == whole.value.shape[:covered]:
        bottom = scope.reshaped(factor.value, own[:covered], "factor")
        return whole.back(scope.layer(Scale(0), [scope.reshaped(whole.value, whole.value.shape), bottom]))
    return combined(scope, "PROD", x, y)


def _with_constant(scope: Scope, x: Value, constant: Constant, is_weight: bool) -> Value:
    """Times a constant, or plus one, that covers dimensions which follow each other: a Scale."""
    x = broadcast(scope, scope.activation(x), common(x.shape, constant.shape))
    if constant.count == 1:
        number = constant.number()
        return scope.power(x, scale=number) if is_weight else scope.power(x, shift=number)
    own = (1,) * (len(x.shape) - len(constant.shape)) + constant.shape
    given = arrange(scope, x, [axis for axis, size in enumerate(own) if size != 1])
    constant = given.turned(replace(constant, shape=own))
    own, x = constant.shape, given.value
    axes = [axis for axis, size in enumerate(own) if size != 1]
    first, last = axes[0], axes[-1]
    covered = x.shape[first : last + 1]
    if own[first : last + 1] != covered:
        shape = own[first : last + 1]
        constant = constant.mapped(covered, lambda values: values.reshape(shape).expand(covered))
    else:
        constant = replace(constant, shape=covered)
    weight, bias = (constant, None) if is_weight else (None, constant)
    if given.is_turned and first == last:
        return given.of_image(affine(scope, given.image(scope, first), weight, bias, 1), first)
    return given.back(affine(scope, scope.reshaped(x, x.shape), weight, bias, first))


def affine(scope: Scope, x: Value, weight: Operand | None, bias: Operand | None, axis: int, part: str = "") -> Value:
    """Times weights, plus biases, each of which covers the axes of a blob from `axis` on, as many as it has.

    The blob is turned into one in which these are the channels: a Scale over others stops OpenCV, where it tries to merge
    it into a convolution.
    """
    given = next((constant for constant in (weight, bias) if isinstance(constant, Constant)), None)
    if given is None:
        return x
    end = axis + len(given.shape)
    before, count, behind = prod(x.blob[:axis]), given.count, prod(x.blob[end:])
    made = x if (axis, end) == (1, 2) else scope.reshaped(x, (before, count, 1, behind), "rows")
    scale = kernels.filled((count,), 1) if weight is None else scope.blob(weight, (count,))
    blobs = (scale,) if bias is None else (scale, scope.blob(bias, (count,)))
    made = scope.layer(Scale(has_bias=bias is not None), [made], blobs, part)
    return replace(scope.reshaped(made, x.blob, "back"), view=x.view)
