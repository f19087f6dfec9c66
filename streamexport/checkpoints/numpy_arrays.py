"""numpy's arrays in pickles, as tensors.

Protocols 0 to 4 say `numpy.core.multiarray._reconstruct(ndarray, (0,), b"b")` and give that the state `(1, shape, dtype,
is_fortran, data)`; protocol 5 says `numpy.core.numeric._frombuffer(data, dtype, shape, order)`. numpy 2 calls its modules
`numpy._core`. A dtype is `numpy.dtype("f4", False, True)` with the state `(3, byte order, ...)`.

The data are bytes, which lie in the file as they are. Python 3 has no bytes in protocols below 3: there they are text, each
byte a character of Latin-1, and that text stands in the file as UTF-8. Learnt from numpy's
`_core/src/multiarray/methods.c` and `descriptor.c`, and from pickles.
"""

from __future__ import annotations

from math import prod
from typing import Any

from ..payload.pieces import Extent
from ..payload.tensors import DTYPES, DType, contiguous_strides
from ..sources.decoded import Held, Latin1, Swapped
from .records import Payload, Record
from .storages import Storage, View

_NAMES = {
    "f8": "float64",
    "f4": "float32",
    "f2": "float16",
    "i8": "int64",
    "i4": "int32",
    "i2": "int16",
    "i1": "int8",
    "u1": "uint8",
    "b1": "bool",
    "c8": "complex64",
    "c16": "complex128",
}
_RECONSTRUCT = ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct")
_FROMBUFFER = ("numpy.core.numeric _frombuffer", "numpy._core.numeric _frombuffer")


def view(dtype: DType, is_swapped: bool, shape: tuple[int, ...], is_fortran: bool, data: Extent | bytes) -> View:
    """An array as a view: in C or Fortran order, its numbers in our byte order or in the other."""
    strides = contiguous_strides(shape[::-1])[::-1] if is_fortran else contiguous_strides(shape)
    if is_swapped:
        held = Extent(Held("", len(data), data), 0, len(data)) if isinstance(data, bytes) else data
        data = Swapped.of(held, dtype.itemsize)
    key = f"array at {data.offset}" if isinstance(data, Extent) else f"array {data[:64]!r}"
    return View(Storage(key, dtype, prod(shape), held=data), 0, shape, strides)


def array(value: Any) -> View | None:
    """The array of numbers that a record stands for; None if it stands for something else."""
    described = _described(value)
    if described is None:
        return None
    data, dtype, shape, is_fortran = described
    element, is_swapped = dtype_of(*dtype) if dtype else (None, False)
    if element is None or type(shape) is not tuple or len(shape) > 64:
        return None
    if not all(type(n) is int and 0 <= n < 1 << 63 for n in shape):
        return None
    held = _held(data, prod(shape) * element.itemsize)
    return None if held is None else view(element, is_swapped, shape, bool(is_fortran), held)


def is_array(record: Record) -> bool:
    """Whether a record stands for an array, of numbers or not."""
    return record.callee.name in (*_RECONSTRUCT, *_FROMBUFFER)


def objects(value: Any) -> list[Any] | None:
    """What an array of objects holds, in order; None if the value is none."""
    described = _described(value)
    return described[0] if described is not None and type(described[0]) is list else None


def dtype_of(code: str, order: str) -> tuple[DType | None, bool]:
    """The dtype that numpy calls by `code` ("f4"), None if blobs cannot be of it; and whether byte `order` is not ours."""
    dtype = DTYPES[_NAMES[code]] if code in _NAMES else None
    is_swapped = order == ">" and code[1:] != "1"
    return (None if is_swapped and code[0] == "c" else dtype), is_swapped


def _described(value: Any) -> tuple[Any, tuple[str, str] | None, Any, Any] | None:
    """Data, dtype (code and byte order), shape and whether the order is Fortran's."""
    if type(value) is not Record:
        return None
    name = value.callee.name
    if name in _RECONSTRUCT and type(value.state) is tuple and len(value.state) in (4, 5):
        shape, dtype, is_fortran, data = value.state[-4:]
        return data, _dtype(dtype), shape, is_fortran
    if name in _FROMBUFFER and len(value.arguments) == 4:
        data, dtype, shape, order = value.arguments
        return data, _dtype(dtype), shape, order == "F"
    return None


def _dtype(value: Any) -> tuple[str, str] | None:
    if type(value) is not Record or value.callee.name != "numpy dtype" or not value.arguments:
        return None
    code, state = value.arguments[0], value.state
    order = state[1] if type(state) is tuple and len(state) > 1 else "="
    return (code, order) if type(code) is str and type(order) is str else None


def _held(data: Any, length: int) -> Extent | bytes | None:
    """The bytes of an array; None if they cannot be its."""
    if type(data) is Record and data.callee.name == "_codecs encode" and data.arguments[1:] == ("latin1",):
        data = data.arguments[0]
    elif type(data) is Record and data.callee.qualified == "bytes" and not data.arguments:
        data = ""  # how Python 3 writes no bytes at all in those protocols
    if type(data) is str:
        held = data.encode("latin-1", "ignore")
        return held if len(held) == length else None
    if type(data) is not Payload:
        return None
    if data.extent.length == length:
        return data.extent  # a text is ASCII then
    if data.is_text and length < data.extent.length <= 2 * length:
        return Latin1.of(data.extent, length)
    return None
