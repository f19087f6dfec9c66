"""How far elements are from those in front of them, and vectors from each other."""

from __future__ import annotations

from ..node import Scope
from ..operands import Operand, UnsupportedError, Value
from .arithmetic import add
from .reductions import norm
from .registry import operator
from .shapes import activations, sliced


@operator("diff")
def _diff(
    scope: Scope, x: Operand, n: int = 1, dim: int = -1, prepend: Operand | None = None, append: Operand | None = None
) -> Value:
    if prepend is not None or append is not None:
        raise UnsupportedError("puts something in front of what it subtracts, or behind", "join it by torch.cat")
    x = scope.activation(x)
    axis = dim % len(x.shape)
    for _ in range(n):
        size = x.shape[axis]
        behind, before = sliced(scope, x, axis, 1, size, 1), sliced(scope, x, axis, 0, size - 1, 1)
        x = add(scope, behind, before, -1)
    return x


@operator("cdist")
def _cdist(scope: Scope, x1: Operand, x2: Operand, p: float = 2, compute_mode: int | None = None) -> Value:
    """Each vector of the first less each of the second: torch multiplies matrices where these are many, and is less exact."""
    first, second = activations(scope, (x1, x2))
    rows = scope.viewed(first, (*first.shape[:-1], 1, first.shape[-1]))
    columns = scope.viewed(second, (*second.shape[:-2], 1, *second.shape[-2:]))
    return norm(scope, add(scope, rows, columns, -1), p, -1)
