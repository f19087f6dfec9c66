"""How far elements are from those in front of them."""

from __future__ import annotations

from ..node import Scope
from ..operands import Operand, UnsupportedError, Value
from .arithmetic import add
from .registry import operator
from .shapes import sliced


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
