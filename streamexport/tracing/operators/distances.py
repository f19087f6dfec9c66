"""How far vectors are from each other, and elements from those in front of them."""

from __future__ import annotations

from ..node import Scope
from ..operands import Operand, UnsupportedError, Value
from .activations import clipped
from .arithmetic import add, multiplied
from .reductions import norm, total
from .registry import operator
from .shapes import activations, sliced


@operator("cosine_similarity")
def _cosine_similarity(scope: Scope, x1: Operand, x2: Operand, dim: int = 1, eps: float = 1e-8) -> Value:
    """Sums of products over the product of both norms, each of which is at least epsilon."""
    first, second = activations(scope, (x1, x2))
    products = total(scope, multiplied(scope, first, second), dim, True, "product")
    norms = [clipped(scope, norm(scope, x, 2, dim, True), eps, None, "norm") for x in (first, second)]
    inverse = scope.power(multiplied(scope, *norms), power=-1, part="inverse")
    made = multiplied(scope, products, inverse)
    axis = dim % len(made.shape)
    return scope.viewed(made, (*made.shape[:axis], *made.shape[axis + 1 :]))


@operator("pairwise_distance")
def _pairwise_distance(
    scope: Scope, x1: Operand, x2: Operand, p: float = 2, eps: float = 1e-6, keepdim: bool = False
) -> Value:
    between = scope.power(add(scope, x1, x2, -1), shift=eps, part="between")
    return norm(scope, between, p, -1, keepdim)


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
