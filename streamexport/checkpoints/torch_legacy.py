"""torch's legacy stream: all files before torch 1.6, and later ones on request.

    pickle   0x1950a86a20f9469cfc6c, the magic number: the first 14 bytes are `sources.signatures.TORCH_LEGACY`
    pickle   1001, the protocol
    pickle   system information: a dict with `little_endian` and the sizes of C's types
    pickle   the object, its storages as persistent ids
    pickle   the keys of those storages, a list of strings
    then for each key in that order: int64 number of elements, and the elements

Nothing says where a storage begins: that follows from the sizes of all before it. Their numbers of elements stand in
the pickle, too. The order of storages is that of their keys, not that of the tensors. Learnt from
`torch/serialization.py`, `_legacy_save` and `_legacy_load`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import partial
from typing import Any

from ..errors import FormatError, TruncatedError
from ..payload.pieces import Extent, Source
from ..sources.cursor import Cursor
from ..sources.signatures import TORCH_LEGACY
from .storages import Opaque, Storage
from .torch_objects import read_object
from .unpickle import Unpickler

PROTOCOL = 1001


def read(source: Source) -> tuple[Any, dict[str, Extent]]:
    """The pickled object, and where each of its storages lies."""
    cursor = Cursor(source, len(TORCH_LEGACY) + 1)  # behind STOP
    at = cursor.offset
    protocol = Unpickler(cursor, {}).load()
    if type(protocol) is not int or protocol != PROTOCOL:
        raise FormatError(f"its legacy protocol is not {PROTOCOL}", file=source.name, offset=at)
    at = cursor.offset
    system = Unpickler(cursor, {}).load()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise FormatError(
            "was written on a big-endian machine",
            file=source.name,
            offset=at,
            advice="save it again on a little-endian one",
        )
    root, storages = read_object(cursor)
    at = cursor.offset
    keys = Unpickler(cursor, {}).load()
    are_keys = type(keys) is list and all(type(key) is str for key in keys)
    if not are_keys or len(set(keys)) != len(keys) or not set(keys) >= set(storages):
        raise FormatError("the list of storages does not match the tensors", file=source.name, offset=at)
    return root, _locate(source, cursor.offset, keys, storages)


def _locate(source: Source, at: int, keys: list[str], storages: Mapping[str, Storage | Opaque]) -> dict[str, Extent]:
    """Where the storages lie, which follows from the pickle alone; their numbers of elements are confirmed."""
    cursor, extents, confirmed = Cursor(source, at), {}, None
    for key in keys:
        at = cursor.offset
        if key not in storages:
            raise FormatError(f"storage {key!r} belongs to no tensor: its size is unknown", file=source.name, offset=at)
        cursor.skip(8)
        confirmed = partial(_confirm, source.name, at, key, storages[key].numel)
        source.confirm(at, 8, confirmed)
        length, left = storages[key].nbytes, source.size - cursor.offset
        if length > left:
            raise TruncatedError(
                f"storage {key} needs {length} bytes, {left} are left",
                file=source.name,
                offset=cursor.offset,
                advice="fetch it again: it is cut short",
            )
        extents[key] = cursor.skip(length)
    if confirmed and cursor.offset != source.size:  # something follows, as another object may, or a size is wrong
        confirmed(source.read(at, 8))
    return extents


def _confirm(file: str, offset: int, key: str, numel: int, found: bytes) -> None:
    (count,) = struct.unpack("<q", found)
    if count != numel:
        raise FormatError(f"storage {key} has {count} elements, not {numel}", file=file, offset=offset)
