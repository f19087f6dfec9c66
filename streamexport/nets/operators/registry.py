"""Which function expresses which of ATen's operators.

An operator is a function whose arguments are named and ordered as ATen's, decorated with the names that it is known by:

    @operator("relu")
    def _relu(scope: Scope, x: Operand) -> Value:
        return scope.pointwise("ReLU", x)

What ATen calls `self` or `input` is `x` here. A function that has to know the shapes of its results takes a `Node`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

Operator = Callable[..., Any]
OPERATORS: dict[str, Operator] = {}
Function = TypeVar("Function", bound=Operator)


def operator(*names: str) -> Callable[[Function], Function]:
    """Registers a function for ATen operators, by name, or by name and overload."""

    def register(function: Function) -> Function:
        for name in names:
            assert name not in OPERATORS, name
            OPERATORS[name] = function
        return function

    return register
