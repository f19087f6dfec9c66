"""Constants of an activation's shape."""

from __future__ import annotations

from typing import Any

from ..node import Node
from ..operands import Constant, Operand
from .registry import operator


@operator("zeros_like", "new_zeros", "zero", "empty_like", "new_empty")
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


@operator("fill.Scalar")
def _fill(node: Node, x: Operand, value: float) -> Constant:
    return _filled(node, value)


def _filled(node: Node, value: float) -> Constant:
    import torch

    shape, dtype = node.shape, getattr(torch, node.dtype)
    return Constant(shape, (), None, lambda: torch.full(shape, value, dtype=dtype))
