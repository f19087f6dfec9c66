"""Elements of one tensor or of another, as a mask says: 1 times what is chosen, and 0 times the rest, if that is finite."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite

from ...net.operations import Log
from ..node import Node, Scope
from ..operands import Constant, Operand, UnsupportedError, Value
from .arithmetic import add, common, multiplied
from .comparisons import larger, negated
from .registry import operator
from .shapes import broadcast


@operator("where.self", "where.ScalarOther", "where.ScalarSelf", "where.Scalar")
def _where(node: Node, condition: Operand, x: Operand, other: Operand) -> Value:
    return broadcast(node, chosen(node, condition, x, other), node.shape)


@operator("masked_fill.Scalar", "masked_fill.Tensor")
def _masked_fill(node: Node, x: Operand, mask: Operand, value: Operand) -> Value:
    return broadcast(node, chosen(node, mask, value, x), node.shape)


@operator("threshold")
def _threshold(scope: Scope, x: Operand, threshold: float, value: float) -> Value:
    return chosen(scope, larger(scope, x, threshold, "above"), x, value)


def chosen(scope: Scope, mask: Operand, x: Operand, y: Operand) -> Value:
    """x where the mask is 1, else y. One of the three depends on the input."""
    x, y = plain(x), plain(y)
    if isinstance(mask, Constant):
        shown = mask.mapped(mask.shape, lambda values: values.bool())
        hidden = shown.mapped(mask.shape, lambda values: ~values)
        parts = [_shown(scope, shown, x), _shown(scope, hidden, y)]
    else:
        mask = scope.activation(mask)
        others = negated(scope, mask, "others")
        if isinstance(x, (int, float)) and isinstance(y, (int, float)) and isfinite(x + y):
            return scope.eltwise("SUM", mask, others, (x, y))
        parts = [_times(scope, mask, others, x), _times(scope, others, mask, y)]
    made = [part for part in parts if part is not None]
    return add(scope, made[0], made[1]) if len(made) == 2 else scope.activation(made[0])


def _times(scope: Scope, mask: Value, others: Value, x: Operand) -> Value | None:
    """x where the mask is 1, else 0; None for 0. Infinity is the logarithm of what is not chosen."""
    if isinstance(x, (Value, Constant)):
        return multiplied(scope, mask, x)
    if isfinite(x):
        return scope.power(mask, scale=x, part="chosen") if x else None
    infinite = scope.pointwise(Log(), others, "infinite")
    return scope.power(infinite, scale=-1, part="chosen") if x > 0 else infinite


def _shown(scope: Scope, mask: Constant, x: Operand) -> Operand | None:
    """x where the mask, a constant, is true, else 0; None for 0."""
    if isinstance(x, Value):
        return multiplied(scope, x, mask.mapped(mask.shape, lambda values: values.float()))
    if isinstance(x, Constant):
        held, shape = x, common(mask.shape, x.shape)
        shown = mask.mapped(shape, lambda values: values.float() * held.value())
        return replace(shown, origin=(*mask.origin, *x.origin))
    return mask.mapped(mask.shape, lambda values: values.float().masked_fill(values, x)) if x else None


def plain(x: Operand) -> Operand:
    """A constant that is the same number everywhere as that number; UnsupportedError if it is infinite somewhere only."""
    if not isinstance(x, Constant) or x.origin:
        return x
    values = x.value()
    if bool((values == values.reshape(-1)[0]).all()):
        return float(values.reshape(-1)[0])
    if not bool(values.isfinite().all()):
        raise UnsupportedError("chooses from a constant that is infinite in places")
    return x
