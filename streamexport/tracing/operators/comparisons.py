"""Comparisons, and what is computed with truth values, which are 1 and 0.

Comparisons are exact where numbers are finite: the difference of two floats has the right sign, however near they are,
unless it is less than the smallest normal float (1.2e-38), or more than the largest.
"""

from __future__ import annotations

from math import isfinite

from ...net.operations import AbsVal, Threshold
from ..node import Node, Scope
from ..operands import Constant, Operand, UnsupportedError, Value
from .arithmetic import add, combined, multiplied, numbers
from .reductions import Dims, reduced
from .registry import operator
from .shapes import activations


@operator("gt.Scalar", "gt.Tensor")
def _gt(scope: Scope, x: Operand, other: Operand) -> Value:
    return larger(scope, x, other)


@operator("lt.Scalar", "lt.Tensor")
def _lt(scope: Scope, x: Operand, other: Operand) -> Value:
    return larger(scope, other, x)


@operator("ge.Scalar", "ge.Tensor")
def _ge(scope: Scope, x: Operand, other: Operand) -> Value:
    return negated(scope, larger(scope, other, x, "below"))


@operator("le.Scalar", "le.Tensor")
def _le(scope: Scope, x: Operand, other: Operand) -> Value:
    return negated(scope, larger(scope, x, other, "above"))


@operator("ne.Scalar", "ne.Tensor")
def _ne(scope: Scope, x: Operand, other: Operand) -> Value:
    return different(scope, x, other)


@operator("eq.Scalar", "eq.Tensor")
def _eq(scope: Scope, x: Operand, other: Operand) -> Value:
    return negated(scope, different(scope, x, other, "different"))


@operator("sign")
def _sign(scope: Scope, x: Operand) -> Value:
    return scope.eltwise("SUM", larger(scope, x, 0, "above"), larger(scope, 0, x, "below"), (1.0, -1.0))


@operator("heaviside")
def _heaviside(scope: Scope, x: Operand, values: Operand) -> Value:
    """1 where x > 0, 0 where it is less, else what is given."""
    zero = negated(scope, different(scope, x, 0, "different"), "zero")
    return add(scope, larger(scope, x, 0, "above"), multiplied(scope, zero, values))


def larger(scope: Scope, x: Operand, y: Operand, part: str = "") -> Value:
    """1 where x > y, else 0."""
    x, y = numbers(x, y)
    if not isinstance(y, (Value, Constant)):
        return scope.pointwise(Threshold(_finite(y)), x, part)
    if not isinstance(x, (Value, Constant)):
        return scope.pointwise(Threshold(-_finite(x)), scope.power(y, scale=-1, part="turned"), part)
    return scope.pointwise(Threshold(), add(scope, x, y, -1), part)


def different(scope: Scope, x: Operand, y: Operand, part: str = "") -> Value:
    """1 where x is not y, else 0."""
    x, y = numbers(x, y)
    if not isinstance(x, (Value, Constant)):
        x, y = y, x
    if isinstance(y, (Value, Constant)) or _finite(y):
        x = add(scope, x, y, -1)
    return scope.pointwise(Threshold(), scope.pointwise(AbsVal(), x, "distance"), part)


@operator("one_hot")
def _one_hot(node: Node, x: Operand, num_classes: int = -1) -> Value:
    return shown(node, node.viewed(x, (*node.shape[:-1], 1)), len(node.shape) - 1, node.shape[-1])


def shown(scope: Scope, x: Value, axis: int, count: int) -> Value:
    """Which of the numbers from 0 on it is, along an axis that had a size of 1: 1 there, 0 elsewhere."""
    import torch

    shape = (count, *(1,) * (len(x.shape) - axis - 1))
    numbers = Constant(shape, (), None, lambda: torch.arange(count).reshape(shape))
    return negated(scope, different(scope, x, numbers, "different"))


def negated(scope: Scope, mask: Operand, part: str = "") -> Value:
    return scope.power(mask, scale=-1, shift=1, part=part)


def _finite(number: float) -> float:
    if not isfinite(number):
        raise UnsupportedError(f"compares with {number}", "Caffe's nets compute with finite numbers")
    return float(number)


# Truth values


def truth(node: Node, x: Operand, place: int = 0) -> Operand:
    """The tensor that an operator takes in this place, as truth values: whether it is not 0."""
    if node.dtype != "bool":
        raise UnsupportedError("works on the bits of whole numbers")
    if isinstance(x, Constant):
        return x.mapped(x.shape, lambda values: values.bool().float())
    return x if node.taken[place] == "bool" else different(node, x, 0, "truth")


@operator("logical_not", "bitwise_not")
def _not(node: Node, x: Operand) -> Value:
    return negated(node, truth(node, x))


@operator("logical_and", "bitwise_and.Tensor", "__and__.Tensor")
def _and(node: Node, x: Operand, other: Operand) -> Value:
    return multiplied(node, truth(node, x), truth(node, other, 1))


@operator("logical_or", "bitwise_or.Tensor", "__or__.Tensor")
def _or(node: Node, x: Operand, other: Operand) -> Value:
    first, second = activations(node, (truth(node, x), truth(node, other, 1)))
    return combined(node, "MAX", first, second)


@operator("logical_xor", "bitwise_xor.Tensor", "__xor__.Tensor")
def _xor(node: Node, x: Operand, other: Operand) -> Value:
    return node.pointwise(AbsVal(), add(node, truth(node, x), truth(node, other, 1), -1))


@operator("any", "any.dim", "any.dims")
def _any(node: Node, x: Operand, dim: Dims = None, keepdim: bool = False) -> Value:
    return reduced(node, truth(node, x), dim, keepdim, "MAX")


@operator("all", "all.dim", "all.dims")
def _all(node: Node, x: Operand, dim: Dims = None, keepdim: bool = False) -> Value:
    return reduced(node, truth(node, x), dim, keepdim, "MIN")
