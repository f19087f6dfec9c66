"""Which function expresses which of ATen's operators.

An operator is a function whose arguments are named and ordered as in ATen's schema, decorated with all that it expresses,
an overload after a dot, the default one by the name alone:

    @operator("mul.Tensor", "mul.Scalar")
    def _mul(scope: Scope, x: Operand, other: Operand) -> Value:

What ATen calls `self` or `input` is `x` here. A function that has to know the shapes of its results takes a `Node`.
`tests/tracing/test_operators.py` holds names and arguments against the schemas. What is not registered is refused, and so
are overloads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from ...errors import NetError

Operator = Callable[..., Any]
OPERATORS: dict[str, Operator] = {}
Function = TypeVar("Function", bound=Operator)

ATEN = ("aten.", "aten::")
"""What messages and torch put in front of ATen's names."""

_tables = [OPERATORS]


def operator(*names: str, override: bool = False) -> Callable[[Function], Function]:
    """Registers a function for these operators: ATen's, or `library::name` of torch.library's.

    Parameters
    ----------
    names : each with its overload after a dot, but for the default one
    override : whether it may stand in place of what is registered already. NetError if it does, and may not
    """

    def register(function: Function) -> Function:
        for name in names:
            if name.startswith(ATEN):
                bare = name.removeprefix(ATEN[0]).removeprefix(ATEN[1])
                raise NetError(f"operator {name} is ATen's, which have no name in front", advice=f"call it {bare}")
            if not override and any(name in table for table in _tables):
                raise NetError(f"operator {name} is expressed already", advice="override=True puts this in its place")
            _tables[-1][name] = function
        return function

    return register


@contextmanager
def collected() -> Iterator[dict[str, Operator]]:
    """What is registered meanwhile, by itself: ours stay as they are."""
    _tables.append({})
    try:
        yield _tables[-1]
    finally:
        _tables.pop()


def with_own(own: Mapping[str, Operator]) -> Mapping[str, Operator]:
    """All that is expressed, the user's before ours. NetError if one of theirs is none of torch's: of a library that nobody
    imported, or misspelt."""
    import torch

    for name in own:
        library, _, function = name.rpartition("::")
        function, _, overload = function.partition(".")
        packet = getattr(getattr(torch.ops, library or "aten"), function, None)
        known = [] if packet is None else [str(known) for known in packet.overloads()]
        if (overload or "default") not in known:
            advice = f"its overloads are {', '.join(known)}" if known else "NAME is ATen's, LIBRARY::NAME another one's"
            raise NetError(f"torch has no operator {name}", advice=advice)
    return {**OPERATORS, **own}
