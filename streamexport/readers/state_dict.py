"""What torch pickles: tensors as views of numbered storages, in dicts that may be nested.

A tensor is `_rebuild_tensor_v2(storage, offset, size, stride, ...)`, counted in elements; files of torch 0.3 and before
say `_rebuild_tensor`, without the rest. A storage is the persistent id
`('storage', StorageType, key, location, numel[, view_metadata])`; where its bytes lie is the format's own matter. Files of
that age may have `view_metadata = (key, offset, numel)`: a storage that is a part of the one called `key` above it.
Names and arguments were learnt from `torch/_utils.py` and `torch/serialization.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import FormatError, TensorError
from ..extents import Extent
from ..tensors import DTYPES, DType, Tensor
from .cursor import Cursor
from .unpickle import Global, Unpickler


@dataclass(frozen=True, slots=True)
class Storage:
    """A storage as the pickle speaks of it: `numel` elements under a key, of which a view begins at `first`."""

    key: str
    dtype: DType
    numel: int
    first: int = 0


@dataclass(frozen=True, slots=True)
class View:
    """A tensor as the pickle speaks of it: elements counted from the beginning of its storage."""

    storage: Storage
    first: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_object(cursor: Cursor) -> tuple[Any, dict[str, Storage]]:
    """The pickled object at the cursor, its tensors as `View`s, and the storages that it mentions, by key."""
    storages: dict[str, Storage] = {}

    def persistent_load(pid: Any) -> Storage:
        if type(pid) is tuple and pid and pid[0] == "module":
            raise FormatError(
                "holds a whole pickled module, not a state dict", advice="save model.state_dict() with torch instead"
            )
        if type(pid) is not tuple or len(pid) not in (5, 6) or pid[0] != "storage":
            raise FormatError("a persistent id that does not name a storage")
        _, kind, key, _, numel, *rest = pid
        dtype = _STORAGE_TYPES.get(kind.name) if type(kind) is Global else None
        if dtype is None or type(key) is not str or type(numel) is not int or not 0 <= numel < 1 << 63:
            raise FormatError("a persistent id with a malformed storage")
        storage = storages.setdefault(key, Storage(key, dtype, numel))
        if (storage.dtype, storage.numel) != (dtype, numel):
            raise FormatError(f"storage {key} is described in two ways")
        if rest and rest[0] is not None:
            _, first, _ = rest[0]
            return Storage(key, dtype, numel, first)
        return storage

    return Unpickler(cursor, _GLOBALS, persistent_load).load(), storages


@dataclass(frozen=True, slots=True)
class Candidate:
    """What may be the state dict: a dict that holds tensors.

    Attributes
    ----------
    path : the keys that lead to it, () for the whole. Joined only where it is shown: a file of some hundred kilobytes can
        make that gigabytes
    views : its tensors by name
    """

    path: tuple[str, ...]
    views: Mapping[str, View]

    @property
    def key(self) -> str:
        """Its path as --key takes it."""
        return ".".join(self.path)

    def is_called(self, key: str) -> bool:
        length = sum(map(len, self.path)) + len(self.path) - 1
        return (length == len(key) or not self.path) and self.key == key


def candidates(root: Any) -> list[Candidate]:
    """Every dict inside what was pickled that holds tensors, the outer ones first.

    One that is reached again is not entered again.
    """
    found: list[Candidate] = []
    queue: deque[tuple[tuple[str, ...], dict[Any, Any]]] = deque([((), root)] if type(root) is dict else [])
    views: dict[int, dict[str, View]] = {}
    while queue:
        path, value = queue.popleft()
        is_new = id(value) not in views
        if is_new:
            views[id(value)] = {name: item for name, item in value.items() if type(item) is View}
        if views[id(value)]:
            found.append(Candidate(path, views[id(value)]))
        if is_new and len(path) <= DEEPEST:
            queue += (((*path, name), item) for name, item in value.items() if type(item) is dict)
    return found


def place(name: str, view: View, extents: Mapping[str, Extent]) -> Tensor:
    """The tensor that a view describes, its storage being one of `extents`."""
    storage = view.storage
    if type(view.first) is not int or type(storage.first) is not int or storage.first < 0:
        raise TensorError("a storage offset is not a natural number", tensor=name)
    first = storage.first + view.first
    return Tensor.in_storage(name, storage.dtype, view.shape, view.strides, extents[storage.key], first)


DEEPEST = 4  # dots in the path of a state dict
_STORAGE_TYPES = {
    f"torch {kind}Storage": DTYPES[name]
    for kind, name in {
        "Double": "float64",
        "Float": "float32",
        "Half": "float16",
        "BFloat16": "bfloat16",
        "Long": "int64",
        "Int": "int32",
        "Short": "int16",
        "Char": "int8",
        "Byte": "uint8",
        "Bool": "bool",
        "ComplexFloat": "complex64",
        "ComplexDouble": "complex128",
    }.items()
}


def _view(storage: Any, first: Any, size: Any, stride: Any, *rest: Any) -> View:
    if type(storage) is not Storage or type(size) is not tuple or type(stride) is not tuple:
        raise FormatError("a tensor with a malformed description")
    if len(rest) > 2 and rest[2]:
        raise FormatError("a tensor that is lazily conjugated or negated", advice="resolve_conj() and resolve_neg() it")
    return View(storage, first, size, stride)


def _first(data: Any, *_: Any) -> Any:
    return data


def _dict(pairs: Any = ()) -> dict[Any, Any]:
    return {key: value for key, value in pairs if type(key) is str}


def _call(function: Any, _cls: Any, arguments: Any, _state: Any) -> Any:
    if type(function) is not Global or function.make not in (_view, _first):
        raise FormatError("a tensor rebuilt by something else than a function of torch's")
    return function.make(*arguments)


_GLOBALS: dict[str, Global] = {
    name: Global(name, make)
    for name, make in (
        *((name, None) for name in _STORAGE_TYPES),
        *((f"torch {name}", None) for name in (*DTYPES, "Tensor", "strided")),
        ("torch.nn.parameter Parameter", None),
        ("torch._utils _rebuild_tensor", _view),
        ("torch._utils _rebuild_tensor_v2", _view),
        ("torch._utils _rebuild_parameter", _first),
        ("torch._utils _rebuild_parameter_with_state", _first),
        ("torch._tensor _rebuild_from_type_v2", _call),
        ("torch Size", lambda sizes=(): tuple(sizes)),
        ("torch device", lambda *_: None),
        ("collections OrderedDict", _dict),
        ("collections defaultdict", lambda *_: {}),
        ("__builtin__ dict", None),
        ("builtins dict", None),
        ("__builtin__ set", list),
        ("builtins set", list),
        ("_codecs encode", lambda text, _="latin1": text.encode("latin-1")),
    )
}
