"""Elements of one tensor or of another, as a mask says: 1 times what is chosen, and 0 times the rest, if that is finite.

Logarithms, roots, quotients and exponentials, which may be infinite or no number where they are not chosen, are taken of 1
there.
"""

from __future__ import annotations

from dataclasses import replace
from math import isfinite, isnan

from ...net.operations import Eltwise, Exp, Log, Operation, Power
from ..arranged import arrange_alike
from ..builder import Builder
from ..node import Node, Scope
from ..operands import Constant, Operand, UnsupportedError, Value
from .arithmetic import add, common, multiplied
from .comparisons import larger, negated
from .registry import operator
from .shapes import broadcast

FAR = 8
"""Layers up to which is looked for what may not be finite."""


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
    if isinstance(x, Value):
        return multiplied(scope, mask, _guarded(scope, mask, others, scope.activation(x)))
    if isinstance(x, Constant):
        return multiplied(scope, mask, finite(x))
    if isfinite(x):
        return scope.power(mask, scale=x, part="chosen") if x else None
    if isnan(x):
        raise UnsupportedError("chooses what is no number")
    infinite = scope.pointwise(Log(), others, "infinite")
    return scope.power(infinite, scale=-1, part="chosen") if x > 0 else infinite


def _guarded(scope: Scope, mask: Value, others: Value, x: Value) -> Value:
    """A value that is the same where the mask is 1, and finite elsewhere, as far as it is made by what is known to need it."""
    if not _is_to_be_guarded(scope.builder, x.top, FAR):
        return x
    given, *masks = arrange_alike(scope, [x, mask, others])
    whole = given.value
    if whole.top != x.top:
        return x
    shown, ones = (scope.reshaped(broadcast(scope, each.value, whole.shape), whole.blob) for each in masks)

    def guarded(top: str, left: int) -> str:
        layer = scope.builder.maker(top)
        if layer is None or not _is_to_be_guarded(scope.builder, top, left):
            return top
        made = [Value(guarded(bottom, left - 1), whole.blob, shown.view) for bottom in layer.bottoms]
        if _may_be_infinite(layer.operation):
            made = [scope.eltwise("SUM", scope.eltwise("PROD", shown, made[0], part="shown"), ones, part="guard")]
        return scope.layer(layer.operation, made, part="guarded").top

    return given.back(replace(whole, top=guarded(x.top, FAR)))


def _is_to_be_guarded(builder: Builder, top: str, left: int) -> bool:
    """Whether it is made, element by element, of what may be infinite; as many layers in front of it are looked at."""
    layer = builder.maker(top) if left else None
    if layer is None or layer.blobs or not (layer.operation.is_pointwise or isinstance(layer.operation, Eltwise)):
        return False
    if _may_be_infinite(layer.operation):
        return True
    return any(_is_to_be_guarded(builder, bottom, left - 1) for bottom in layer.bottoms)


def _may_be_infinite(operation: Operation) -> bool:
    """Whether it may make what is no finite number of a finite one."""
    if isinstance(operation, Power):
        return operation.power < 0 or operation.power != int(operation.power)
    return isinstance(operation, (Exp, Log))


def _shown(scope: Scope, mask: Constant, x: Operand) -> Operand | None:
    """x where the mask, a constant, is true, else 0; None for 0."""
    if isinstance(x, Value):
        return multiplied(scope, x, mask.mapped(mask.shape, lambda values: values.float()))
    if isinstance(x, Constant):
        held, shape = x, common(mask.shape, x.shape)
        shown = mask.mapped(shape, lambda values: held.value().float().masked_fill(~values, 0).expand(shape))
        return replace(shown, origin=(*mask.origin, *x.origin))
    return mask.mapped(mask.shape, lambda values: values.float().masked_fill(values, x)) if x else None


def plain(x: Operand) -> Operand:
    """A constant that is the same number everywhere as that number."""
    if not isinstance(x, Constant) or x.origin:
        return x
    values = x.value()
    return float(values.reshape(-1)[0]) if bool((values == values.reshape(-1)[0]).all()) else x


def finite(x: Constant) -> Constant:
    """A constant that is multiplied by 0 where it is not chosen. UnsupportedError if it is infinite somewhere."""
    if not bool(x.value().isfinite().all()):
        raise UnsupportedError("chooses from a constant that is infinite in places")
    return x
