"""What torch pickles: tensors as views of numbered storages.

A tensor is `_rebuild_tensor_v2(storage, offset, size, stride, ...)`, counted in elements; files of torch 0.3 and before
say `_rebuild_tensor`, without the rest. A storage is the persistent id
`('storage', StorageType, key, location, numel[, view_metadata])`; where its bytes lie is the format's own matter. Files of
that age may have `view_metadata = (key, offset, numel)`: a storage that is a part of the one called `key` above it; and
for the class of a module the id `('module', class, file, source code)`.

Parameters, and tensors of subclasses that keep their elements as others do, are the tensor that they wrap. Tensors of
other kinds (quantised, sparse, ...) stay records; `refusal` says what they are. Names and arguments were learnt from
`torch/_utils.py`, `torch/_tensor.py` and `torch/serialization.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any

from ..errors import FormatError
from ..payload.tensors import DTYPES
from ..sources.cursor import Cursor
from . import numpy_arrays
from .records import Global, Record
from .storages import Nowhere, Opaque, Storage, Unreadable, View
from .unpickle import Unpickler


def read_object(cursor: Cursor) -> tuple[Any, dict[str, Storage | Opaque]]:
    """The pickled object at the cursor, its tensors as `View`s, and the storages that it mentions, by key."""
    storages: dict[str, Storage | Opaque] = {}

    def persistent_load(pid: Any) -> Any:
        if type(pid) is tuple and len(pid) == 4 and pid[0] == "module":
            return pid[1]
        if type(pid) is not tuple or len(pid) not in (5, 6) or pid[0] != "storage":
            raise FormatError("a persistent id that does not name a storage")
        _, kind, key, _, numel, *rest = pid
        make = _STORAGES.get(kind.name) if type(kind) is Global else None
        if make is None or type(key) is not str or type(numel) is not int or not 0 <= numel < 1 << 63:
            raise FormatError("a persistent id with a malformed storage")
        made = make(key=key, numel=numel)
        storage = storages.setdefault(key, made)
        if storage != made:
            raise FormatError(f"storage {key} is described in two ways")
        if rest and rest[0] is not None and type(made) is Storage:
            _, first, _ = rest[0]
            return replace(made, first=first)
        return storage

    return Unpickler(cursor, _GLOBALS, persistent_load).load(), storages


def read_alone(cursor: Cursor) -> Any:
    """The pickled object at the cursor, which has no storages. FormatError if it mentions some."""
    at = cursor.offset
    root, storages = read_object(cursor)
    if storages:
        raise FormatError(
            "is the pickle of a torch file, without the elements of its tensors",
            file=cursor.source.name,
            offset=at,
            advice="name the whole file that torch.save wrote",
        )
    return root


def tensor(value: Any) -> View | None:
    """The tensor or array that a pickled value is; None for all else."""
    if type(value) is View:
        return value
    if type(value) is Record and value.callee.name == "torch._utils _rebuild_device_tensor_from_numpy":
        return numpy_arrays.array(value.arguments[0]) if value.arguments else None
    return numpy_arrays.array(value)


def is_tensor(value: Any) -> bool:
    """Whether a value is a tensor, be it one that cannot be read."""
    return tensor(value) is not None or (type(value) is Record and value.callee.name in _REFUSED)


def stand_in(name: str, record: Record, file: str) -> Unreadable:
    """What takes the place of a tensor that cannot be read: of its shape, as far as the record says one."""
    what, advice = described(record)
    shape = next(filter(_is_shape, record.arguments), ())
    return Unreadable.of(shape, Nowhere(file, prod(shape), name, what, advice, record.offset))


def is_packed(value: Any) -> bool:
    """Whether a value is an object of C++, in which quantised layers keep their weights."""
    return type(value) is Record and value.callee.name == _PACKED


def described(record: Record) -> tuple[str, str]:
    """What a record is that cannot be read as a tensor, as a clause, and what to do about it."""
    kind = record.callee.name
    if kind in _REFUSED:
        return _REFUSED[kind](*record.arguments[:7])
    if numpy_arrays.is_array(record):
        return "is an array whose elements no blob can hold", "save it as float32"
    return f"is a {record.callee.dotted}, no plain data, and nothing was executed", "save tensors in its place"


def _is_shape(value: Any) -> bool:
    is_tuple = type(value) is tuple and len(value) <= 64
    return is_tuple and all(type(size) is int and 0 <= size < 1 << 63 for size in value)


def _named(value: Any) -> str:
    """The last part of a name, as in torch.qint8."""
    return value.qualified if type(value) is Global else "unknown"


_PACKED = "torch ScriptObject"
_REFUSED: dict[str, Callable[..., tuple[str, str]]] = {
    "torch._utils _rebuild_qtensor": lambda storage=None, *_: (
        f"is quantised ({storage.kind if type(storage) is Opaque else 'unknown'})",
        "dequantize() it before saving the checkpoint",
    ),
    "torch._utils _rebuild_tensor_v3": lambda *arguments: (
        f"holds {_named(arguments[-1] if arguments else None)}",
        "convert it to float32 before saving the checkpoint",
    ),
    "torch._utils _rebuild_wrapper_subclass": lambda kind=None, *_: (
        f"is a {_named(kind)}, which keeps its elements in a way of its own",
        "save an ordinary tensor of its elements",
    ),
    "torch._utils _rebuild_tensor_v2": lambda storage=None, *_: (
        ("is lazily conjugated or negated", "resolve_conj() and resolve_neg() it before saving the checkpoint")
        if type(storage) is Storage
        else ("was pickled without torch.save", "save it with torch.save")
    ),
    "torch._tensor _rebuild_from_type_v2": lambda _=None, kind=None, *__: (
        f"is a {_named(kind)}, which is rebuilt in a way of its own",
        "save an ordinary tensor of its elements",
    ),
    "torch._utils _rebuild_meta_tensor_no_storage": lambda *_: (
        "lies on the meta device: it has no elements",
        "save the module with its weights",
    ),
    **dict.fromkeys(
        ("torch._utils _rebuild_sparse_tensor", "torch._utils _rebuild_sparse_csr_tensor"),
        lambda *_: ("is sparse", "save its to_dense()"),
    ),
    _PACKED: lambda *_: ("holds the weights of a quantised layer", "save the module as it was before"),
    "torch._utils _rebuild_nested_tensor": lambda *_: ("is a nested tensor", "save the tensors that it is made of"),
}
_STORAGES: dict[str, Callable[..., Storage | Opaque]] = {
    f"torch {kind}Storage": partial(Storage, dtype=DTYPES[name])
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
_STORAGES |= {
    name: partial(Opaque, kind=kind, itemsize=itemsize)
    for name, kind, itemsize in (
        ("torch.storage UntypedStorage", "untyped", 1),
        ("torch QInt8Storage", "qint8", 1),
        ("torch QUInt8Storage", "quint8", 1),
        ("torch QInt32Storage", "qint32", 4),
        ("torch QUInt4x2Storage", "quint4x2", 1),
        ("torch QUInt2x4Storage", "quint2x4", 1),
    )
}


def _view(storage: Any, first: Any, size: Any, stride: Any, *rest: Any) -> View | Record:
    if type(storage) not in (Storage, Record) or type(size) is not tuple or type(stride) is not tuple:
        raise FormatError("a tensor with a malformed description")
    if type(storage) is Record or (len(rest) > 2 and rest[2]):
        return Record(Global("torch._utils", "_rebuild_tensor_v2"), (storage, size))
    return View(storage, first, size, stride)


def _first(data: Any = None, *_: Any) -> Any:
    return data


def _dict(pairs: Any = ()) -> dict[Any, Any]:
    return {key: value for key, value in pairs if type(key) is str}


def _of_type(function: Any, kind: Any, arguments: Any, _state: Any) -> Any:
    """A tensor with attributes, or of a subclass: as `function` makes it."""
    if type(function) is Global and function.make in (_view, _first):
        return function.make(*arguments)
    return Record(Global("torch._tensor", "_rebuild_from_type_v2"), (function, kind))


def _object(kind: Any, _base: Any = None, content: Any = None) -> Record:
    """`copyreg._reconstructor`, by which protocols 0 and 1 make any object; `content` is what a dict or list holds."""
    if type(kind) is not Global:
        raise FormatError("an object of what is no class")
    entries = content if type(content) is dict else None
    return Record(kind, (), entries=entries, items=content if type(content) is list else None)


def _new(kind: Any, *arguments: Any) -> Record:
    return Record(_object(kind).callee, arguments)


_GLOBALS: dict[str, Global] = {
    f"{module} {qualified}": Global(module, qualified, make)
    for module, qualified, make in (
        ("torch._utils", "_rebuild_tensor", _view),
        ("torch._utils", "_rebuild_tensor_v2", _view),
        ("torch._utils", "_rebuild_parameter", _first),
        ("torch._utils", "_rebuild_parameter_with_state", _first),
        ("torch._utils", "_rebuild_device_tensor_from_cpu_tensor", _first),
        ("torch._tensor", "_rebuild_from_type", _of_type),
        ("torch._tensor", "_rebuild_from_type_v2", _of_type),
        ("torch.nn.parameter", "Parameter", _first),  # before torch 0.4
        ("torch.autograd.variable", "Variable", _first),
        ("torch.jit._pickle", "restore_type_tag", _first),
        ("torch", "Size", lambda sizes=(): tuple(sizes)),
        ("torch", "device", lambda *_: None),
        ("collections", "OrderedDict", _dict),
        ("collections", "defaultdict", lambda *_: {}),
        ("__builtin__", "set", list),
        ("builtins", "set", list),
        ("copy_reg", "_reconstructor", _object),
        ("copyreg", "_reconstructor", _object),
        ("copy_reg", "__newobj__", _new),
        ("copyreg", "__newobj__", _new),
    )
}
