"""torch's zip archive: what `torch.save` has written since 1.6.

    NAME/data.pkl     the object, its storages as persistent ids
    NAME/byteorder    "little" or "big"; absent in older files, which are little-endian
    NAME/data/KEY     the elements of storage KEY; stored, never compressed

A zip file is read from its end: the end record (22 bytes and a comment), for large archives preceded by a zip64 locator
and a zip64 end record, points to the central directory, which lists the members. A member's data begins behind its
*local* header of 30 bytes, a name and an extra field, whose lengths the local header gives: torch pads the local extra
field so that data is aligned, the central one not. Archives of TorchScript hold `constants.pkl`, and code; they are
refused. Learnt from PKWARE's APPNOTE 6.3 (4.3 and 4.5) and `torch/serialization.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import FormatError, TruncatedError
from ..extents import Extent, Source
from .cursor import Cursor
from .state_dict import read_object

_LOCAL, _CENTRAL, _END, _END64, _LOCATOR64 = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_FULL32 = 0xFFFFFFFF  # "look into the zip64 record"


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    method: int
    flags: int
    stored_size: int
    size: int
    header: int


def recognises(head: bytes) -> bool:
    return head.startswith(_LOCAL)


def read(source: Source) -> tuple[Any, dict[str, Extent]]:
    """The pickled object, and where each of its storages lies."""
    members: dict[str, _Member] = {}
    for member in _central_directory(source):
        if member.name in members:
            raise FormatError(f"holds two members called {member.name}", file=source.name, offset=member.header)
        members[member.name] = member
    pickles = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if any(name.endswith("/constants.pkl") for name in members):
        raise FormatError(
            "is a TorchScript archive: it holds code, not only weights",
            file=source.name,
            advice="save its state dict: torch.save(torch.jit.load(file).state_dict(), ...)",
        )
    if len(pickles) != 1:
        raise FormatError("is a zip file, but not one that torch.save wrote (no data.pkl)", file=source.name)
    folder = pickles[0].removesuffix("data.pkl")
    if folder + "byteorder" in members:
        extent = _data(source, members[folder + "byteorder"])
        order = source.read(extent.offset, min(extent.length, 16))
        if order != b"little":
            raise FormatError(
                f"was written with byte order {order.decode('latin-1')!r}",
                file=source.name,
                offset=extent.offset,
                advice="save it again on a little-endian machine",
            )
    pickled = _data(source, members[pickles[0]])
    root, storages = read_object(Cursor(source, pickled.offset, pickled.end))
    extents = {}
    for key, storage in storages.items():
        extents[key] = extent = _data(source, _member(source, members, f"{folder}data/{key}"))
        if extent.length != storage.numel * storage.dtype.itemsize:
            raise FormatError(
                f"storage {key} has {extent.length} bytes, not {storage.numel * storage.dtype.itemsize}",
                file=source.name,
                offset=extent.offset,
            )
    return root, extents


def _member(source: Source, members: dict[str, _Member], name: str) -> _Member:
    if name not in members:
        raise FormatError(f"has no member {name}, which a tensor needs", file=source.name)
    return members[name]


def _central_directory(source: Source) -> Iterator[_Member]:
    offset, size, count = _end_record(source)
    if offset + size > source.size:
        raise TruncatedError("its central directory lies outside the file", file=source.name, offset=offset)
    cursor = Cursor(source, offset, offset + size)
    for _ in range(count):
        at = cursor.offset
        header = cursor.read(46)
        if header[:4] != _CENTRAL:
            raise FormatError("malformed central directory", file=source.name, offset=at)
        flags, method = struct.unpack_from("<HH", header, 8)
        stored_size, full_size, name_length, extra_length, comment_length = struct.unpack_from("<IIHHH", header, 20)
        (local,) = struct.unpack_from("<I", header, 42)
        name = cursor.read(name_length).decode("utf-8", "replace")
        full_size, stored_size, local = _zip64(cursor.read(extra_length), full_size, stored_size, local)
        cursor.read(comment_length)
        yield _Member(name, method, flags, stored_size, full_size, local)


def _end_record(source: Source) -> tuple[int, int, int]:
    """Offset, bytes and entries of the central directory."""
    start = max(0, source.size - 22 - 0xFFFF)
    tail = source.read(start, source.size - start)
    at = tail.rfind(_END)
    if at < 0 or at + 22 > len(tail):
        raise TruncatedError(
            "is a zip file without its end record",
            file=source.name,
            offset=source.size,
            advice="fetch it again: it is cut short",
        )
    count, size, offset = struct.unpack_from("<HII", tail, at + 10)
    locator = tail[at - 20 : at] if at >= 20 else b""
    if locator[:4] == _LOCATOR64:
        (end64,) = struct.unpack_from("<Q", locator, 8)
        record = Cursor(source, end64).read(56)
        if record[:4] != _END64:
            raise FormatError("malformed zip64 end record", file=source.name, offset=end64)
        count, size, offset = struct.unpack_from("<QQQ", record, 32)
    return offset, size, count


def _zip64(extra: bytes, *values: int) -> list[int]:
    """`values` (size, stored size, header offset), those that are all ones replaced from the zip64 extra field (id 1)."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            wide = iter(struct.unpack_from(f"<{min(length, len(extra) - at - 4) // 8}Q", extra, at + 4))
            return [next(wide, value) if value == _FULL32 else value for value in values]
        at += 4 + length
    return list(values)


def _data(source: Source, member: _Member) -> Extent:
    """Where the data of a stored member lies."""
    where: dict[str, Any] = {"file": source.name, "tensor": member.name, "offset": member.header}
    header = Cursor(source, member.header).read(30)
    if header[:4] != _LOCAL:
        raise FormatError("no local header where the central directory says", **where)
    if member.method or member.stored_size != member.size or member.flags & 1:
        raise FormatError(
            "is compressed or encrypted", advice="save it again with torch.save, which only stores", **where
        )
    name_length, extra_length = struct.unpack_from("<HH", header, 26)
    start = member.header + 30 + name_length + extra_length
    if start + member.size > source.size:
        raise TruncatedError(f"needs {member.size} bytes from byte {start}, beyond the end of the file", **where)
    return Extent(source, start, member.size)
