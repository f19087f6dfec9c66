"""Which of the dicts that were pickled may be the state dict.

Training scripts save it alone, or in dicts of other things, or inside objects: a pickled module is a record whose
`__dict__` holds `_parameters`, `_buffers` and `_modules`, an object of TorchScript one whose attributes are its tensors and
its modules. `candidates` finds all that may be meant.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from .numpy_arrays import objects
from .pickled_modules import Names, attributes, gathered, is_module
from .records import Record
from .storages import View
from .torch_objects import is_tensor, tensor


@dataclass(frozen=True, slots=True)
class Candidate:
    """What may be the state dict: a dict that holds tensors, or a module.

    Attributes
    ----------
    path : the keys that lead to it, () for the whole. Joined only where it is shown: a file of some hundred kilobytes can
        make that gigabytes
    views : its tensors by name
    others : what else is no plain data in it, by name; among them tensors that cannot be read
    module : the class of the module; "" for a dict
    """

    path: tuple[str, ...]
    views: Mapping[str, View]
    others: Mapping[str, Record]
    module: str = ""

    @property
    def key(self) -> str:
        """Its path as `key` takes it."""
        return ".".join(self.path)

    def is_called(self, key: str) -> bool:
        length = sum(map(len, self.path)) + len(self.path) - 1
        return (length == len(key) or not self.path) and self.key == key


def candidates(root: Any, file: str) -> list[Candidate]:
    """Every dict and every module inside what was pickled that holds tensors, the outer ones first.

    A dict is entered, and so are lists and objects, once, wherever it is reached from; a module is a whole. FormatError,
    naming the `file`, if modules hold each other without end.
    """
    found: list[Candidate] = []
    queue: deque[tuple[tuple[str, ...], Any]] = deque([((), root)] if type(root) in _CONTAINERS else [])
    known: dict[int, Candidate | None] = {}
    names = Names(file)
    while queue:
        path, value = queue.popleft()
        is_new = id(value) not in known
        if is_new:
            known[id(value)] = _candidate(path, value, names)
        if (candidate := known[id(value)]) is not None:
            found.append(replace(candidate, path=path))
        if is_new and len(path) <= DEEPEST and not is_module(value):
            queue += (((*path, name), item) for name, item in _items(value) if type(item) in _CONTAINERS)
    return found


DEEPEST = 4  # dots in the path of a state dict
_CONTAINERS = (dict, list, tuple, Record)


def _candidate(path: tuple[str, ...], value: Any, names: Names) -> Candidate | None:
    if is_module(value):
        views, others = gathered(value, names)
        module = value.callee.dotted
    else:
        named = _named(value)
        views = {name: found for name, item in named.items() if (found := tensor(item)) is not None}
        others = {name: item for name, item in named.items() if type(item) is Record and name not in views}
        module = ""
    if not views and not any(map(is_tensor, others.values())):
        return None
    return Candidate(path, views, others, module)


def _named(value: Any) -> Mapping[str, Any]:
    """What a dict holds by key, or an object by attribute."""
    if type(value) is Record:
        return value.entries or attributes(value)
    return value if type(value) is dict else {}


def _items(value: Any) -> Iterable[tuple[str, Any]]:
    """What a container holds; by number, if it has no names for it."""
    if named := _named(value):
        return named.items()
    if type(value) is Record:
        value = value.items or objects(value) or value.arguments
    return zip(map(str, count()), value, strict=False)
