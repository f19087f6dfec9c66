"""safetensors: 8 bytes of header length (little-endian), a JSON header, then the data.

The header maps each tensor's name to `{"dtype": "F32", "shape": [...], "data_offsets": [begin, end]}`, offsets counted
from the end of the header; `__metadata__` holds strings. Tensors are row-major and little-endian. Learnt from the
format's own description.
"""

from __future__ import annotations

import struct
from typing import Any

from ..errors import FormatError, TruncatedError
from ..payload.pieces import Extent, Source
from ..payload.tensors import DTYPES, Tensor, contiguous_strides
from ..sources.cursor import Cursor
from ..sources.index import JSON_LIMIT, parse_json

_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}


def read(source: Source) -> dict[str, Tensor]:
    (length,) = struct.unpack("<Q", source.read(0, 8))
    if 8 + length > source.size:
        raise TruncatedError(f"its header needs {length} bytes", file=source.name, offset=8, advice="fetch it again")
    if length > JSON_LIMIT:
        advice = "save it in several files, with an index.json"
        raise FormatError(f"has a header of {length} bytes, too many", file=source.name, offset=0, advice=advice)
    header = parse_json(Cursor(source, 8).read(length), source.name)
    header.pop("__metadata__", None)
    data = Extent(source, 8 + length, source.size - 8 - length)
    return {name: _tensor(name, header.pop(name), data) for name in list(header)}


def _tensor(name: str, entry: Any, data: Extent) -> Tensor:
    where: dict[str, Any] = {"file": data.source.name, "tensor": name}
    try:
        code, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        if type(code) is not str or type(shape) is not list or len(shape) > 64:
            raise ValueError
        if not all(type(n) is int and 0 <= n < 1 << 63 for n in (*shape, begin, end)):
            raise ValueError
    except (TypeError, KeyError, ValueError) as error:
        raise FormatError("malformed header entry", **where) from error
    if code not in _DTYPES:
        raise FormatError(f"has dtype {code!r}, which is not supported", advice="save it as float32", **where)
    if not begin <= end <= data.length:
        raise TruncatedError(f"lies at {begin} to {end} of {data.length} bytes of data", offset=data.offset, **where)
    dtype = DTYPES[_DTYPES[code]]
    tensor = Tensor.in_storage(name, dtype, shape, contiguous_strides(shape), data.part(begin, end))
    if tensor.nbytes != end - begin:
        raise FormatError(
            f"has {end - begin} bytes, its shape needs {tensor.nbytes}", offset=data.offset + begin, **where
        )
    return tensor
