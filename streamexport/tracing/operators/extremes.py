"""The largest and the smallest elements along dimensions."""

from __future__ import annotations

from ..node import Node, Scope
from ..operands import Operand, UnsupportedError, Value
from .reductions import Dims, reduced
from .registry import operator


@operator("amax")
def _amax(scope: Scope, x: Operand, dim: Dims = (), keepdim: bool = False) -> Value:
    return reduced(scope, x, dim, keepdim, "MAX")


@operator("amin")
def _amin(scope: Scope, x: Operand, dim: Dims = (), keepdim: bool = False) -> Value:
    return reduced(scope, x, dim, keepdim, "MIN")


@operator("aminmax")
def _aminmax(scope: Scope, x: Operand, *, dim: int | None = None, keepdim: bool = False) -> list[Value]:
    return [reduced(scope, x, dim, keepdim, method, method.lower()) for method in ("MIN", "MAX")]


@operator("max")
def _max(scope: Scope, x: Operand) -> Value:
    return reduced(scope, x, None, False, "MAX")


@operator("min")
def _min(scope: Scope, x: Operand) -> Value:
    return reduced(scope, x, None, False, "MIN")


@operator("max.dim")
def _max_along(node: Node, x: Operand, dim: int, keepdim: bool = False) -> list[Value | None]:
    return _along(node, x, dim, keepdim, "MAX")


@operator("min.dim")
def _min_along(node: Node, x: Operand, dim: int, keepdim: bool = False) -> list[Value | None]:
    return _along(node, x, dim, keepdim, "MIN")


def _along(node: Node, x: Operand, dim: int, keepdim: bool, method: str) -> list[Value | None]:
    """The values, and where they stand."""
    if 1 in node.used:
        raise UnsupportedError("uses the places of what it picks")
    return [reduced(node, x, dim, keepdim, method), None]
