"""How far vectors are from each other."""

from __future__ import annotations

from ..node import Scope
from ..operands import Operand, Value
from .arithmetic import add
from .reductions import norm
from .registry import operator
from .shapes import activations


@operator("cdist")
def _cdist(scope: Scope, x1: Operand, x2: Operand, p: float = 2, compute_mode: int | None = None) -> Value:
    """Each vector of the first less each of the second: torch multiplies matrices where these are many, and is less exact."""
    first, second = activations(scope, (x1, x2))
    rows = scope.viewed(first, (*first.shape[:-1], 1, first.shape[-1]))
    columns = scope.viewed(second, (*second.shape[:-2], 1, *second.shape[-2:]))
    return norm(scope, add(scope, rows, columns, -1), p, -1)
