"""Pickled modules as state dicts, without torch and without the classes that they are of.

A `torch.nn.Module` is an object whose `__dict__` holds dicts: `_parameters`, `_buffers` and `_modules`, and in
`_non_persistent_buffers_set` the names of the buffers that no state dict has. A module of torch.fx is a call, whose first
argument is that `__dict__`. In a TorchScript archive the classes are called `__torch__.…`, and tensors and modules are
attributes like any other. Names and order are those of `state_dict()`. Learnt from `torch/nn/modules/module.py` and from
archives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import FormatError
from . import torch_objects
from .records import Record
from .storages import View

DEEPEST = 100
"""Modules inside each other; a module that holds itself has no end."""
LIMIT = 64 << 20
"""Bytes that the names of all tensors of a file take, at about 64 each beside their characters. Modules that are reached by
several paths have several names, and a small file can make that any number."""


class Names:
    """What is left of LIMIT for a file."""

    def __init__(self, file: str) -> None:
        self._file, self._left = file, LIMIT

    def take(self, name: str, depth: int) -> None:
        """FormatError where a name in so many modules is too much."""
        self._left -= len(name) + 64
        if self._left < 0 or depth > DEEPEST:
            advice = "save model.state_dict() with torch"
            raise FormatError("its modules hold each other in too many ways", file=self._file, advice=advice)


def attributes(record: Record) -> Mapping[str, Any]:
    """The `__dict__` of an object. One with slots has a pair for its state, of which either may be None."""
    state = record.arguments[0] if record.state is None and record.arguments else record.state
    holders = state if type(state) is tuple else (state,)
    return next((holder for holder in holders if type(holder) is dict), {})


def is_module(value: Any) -> bool:
    if type(value) is not Record:
        return False
    held = attributes(value)
    return _is_script(value) or ("_modules" in held and "_parameters" in held)


def gathered(module: Record, names: Names) -> tuple[dict[str, View], dict[str, Record]]:
    """Tensors of a module and of those in it by name, and what else stands in the place of one."""
    views: dict[str, View] = {}
    others: dict[str, Record] = {}
    left = [("", module, 0)]
    while left:
        prefix, module, depth = left.pop()
        inner = []
        for name, value in _members(module):
            path = prefix + name
            names.take(path, depth)
            if (found := torch_objects.tensor(value)) is not None:
                views[path] = found
            elif is_module(value):
                inner.append((path + ".", value, depth + 1))
            elif type(value) is Record and (not _is_script(module) or torch_objects.is_tensor(value)):
                others[path] = value
        left += reversed(inner)
    return views, others


def _members(module: Record) -> Iterator[tuple[str, Any]]:
    held = attributes(module)
    if _is_script(module):
        yield from held.items()
        return
    passing = held.get("_non_persistent_buffers_set")
    passing = set(filter(_is_text, passing)) if type(passing) is list else set()
    yield from _entries(held.get("_parameters"))
    yield from ((name, value) for name, value in _entries(held.get("_buffers")) if name not in passing)
    yield from _entries(held.get("_modules"))
    yield from ((name, value) for name, value in held.items() if torch_objects.is_packed(value))


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    held = value.entries if type(value) is Record else value
    return iter(held.items() if type(held) is dict else ())


def _is_text(value: Any) -> bool:
    return type(value) is str


def _is_script(record: Record) -> bool:
    return record.callee.module.partition(".")[0] == "__torch__"
