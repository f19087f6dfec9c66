"""Which function expresses which of ATen's operators.

An operator is a function whose arguments are named and ordered as in ATen's schema, decorated with all that it expresses,
an overload after a dot, the default one by the name alone:

    @operator("mul.Tensor", "mul.Scalar")
    def _mul(scope: Scope, x: Operand, other: Operand) -> Value:

What ATen calls `self` or `input` is `x` here. A function that has to know the shapes of its results takes a `Node`.
`tests/test_operators.py` holds names and arguments against the schemas. What is not registered is refused, overloads too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

Operator = Callable[..., Any]
OPERATORS: dict[str, Operator] = {}
Function = TypeVar("Function", bound=Operator)


def operator(*names: str) -> Callable[[Function], Function]:
    """Registers a function for these of ATen's operators."""

    def register(function: Function) -> Function:
        for name in names:
            assert name not in OPERATORS, name
            OPERATORS[name] = function
        return function

    return register
