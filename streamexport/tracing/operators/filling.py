"""Constants of an activation's shape, and activations of which a mask that is constant takes parts away."""

from __future__ import annotations

from typing import Any

from ..node import Node, Scope
from ..operands import Constant, Operand, UnsupportedError, Value
from .arithmetic import add, multiplied
from .registry import operator


@operator("zeros_like", "new_zeros")
def _zeros(node: Node, x: Operand, *_: Any, **__: Any) -> Constant:
    return _filled(node, 0)


@operator("ones_like", "new_ones")
def _ones(node: Node, x: Operand, *_: Any, **__: Any) -> Constant:
    return _filled(node, 1)


@operator("full_like")
def _full_like(node: Node, x: Operand, fill_value: float, **_: Any) -> Constant:
    return _filled(node, fill_value)


@operator("new_full")
def _new_full(node: Node, x: Operand, size: Any, fill_value: float, **_: Any) -> Constant:
    return _filled(node, fill_value)


def _filled(node: Node, value: float) -> Constant:
    import torch

    shape = node.shape
    return Constant(shape, (), None, lambda: torch.full(shape, float(value)))


@operator("masked_fill.Scalar")
def _masked_fill(scope: Scope, x: Operand, mask: Operand, value: float) -> Value:
    """x times 0 where the mask is, plus the value there: exact where x is finite."""
    if not isinstance(mask, Constant):
        raise UnsupportedError("has a mask that depends on the input", "Caffe has no booleans")
    kept = mask.mapped(mask.shape, lambda hides: (~hides).float())
    filled = mask.mapped(mask.shape, lambda hides: hides.float().masked_fill(hides, value))
    made = multiplied(scope, x, kept)
    return add(scope, made, filled) if value else made
