"""Operators that nobody expresses, in words of operators that somebody does, as torch itself decomposes them."""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING, Any

from . import ends
from .exporting import silence

if TYPE_CHECKING:
    from torch._ops import OpOverload
    from torch.export import ExportedProgram

DEPTH = 4
"""How often what came of an operator is decomposed once more."""


def decomposed(program: ExportedProgram, known: Container[str]) -> ExportedProgram:
    """The program without those operators that torch makes of known ones alone; the others stay, so that they are named.

    Parameters
    ----------
    known : what is expressed, by ATen's names, see `operators.registry`
    """
    tried: set[OpOverload] = set()
    while strange := _strange(program, known) - tried:
        target = min(strange, key=str)
        tried.add(target)
        program = _without(target, program, known) or program
    return program


def _without(target: OpOverload, program: ExportedProgram, known: Container[str]) -> ExportedProgram | None:
    """The program without one operator; None if not all that it is made of is known."""
    others = _strange(program, known) - {target}
    rules = _rules()
    for _ in range(DEPTH):
        left = _strange(program, known) - others
        if not left:
            return program
        if not left <= rules.keys():
            return None
        try:
            with silence():
                program = program.run_decompositions({name: rules[name] for name in left})
        except Exception:  # whatever torch says: the operator stays, and is named
            return None
    return None


def _strange(program: ExportedProgram, known: Container[str]) -> set[OpOverload]:
    """Operators that nobody expresses, of those that depend on the input."""
    from torch._ops import OpOverload

    made = ends.Graph(program).made
    return {node.target for node in made if isinstance(node.target, OpOverload) and ends.function(node) not in known}


def _rules() -> dict[Any, Any]:
    """How torch decomposes, by operator: what it does by itself, and what it has besides for compilers."""
    import torch
    from torch._decomp import decomposition_table

    return {**torch.export.default_decompositions(), **decomposition_table}
