"""Zip archives: where the data of their members lie. Nothing is ever unpacked.

A zip file is read from its end: the end record (22 bytes and a comment), for large archives preceded by a zip64 locator
and a zip64 end record, points to the central directory, which lists the members. A member's data begins behind its
*local* header of 30 bytes, a name and an extra field, whose lengths the local header gives: torch pads the local extra
field so that data is aligned, the central one not. Learnt from PKWARE's APPNOTE 6.3 (4.3 and 4.5).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import FormatError, TruncatedError
from ..payload.pieces import Extent, Source
from ..sources.cursor import Cursor
from ..sources.signatures import ZIP

_CENTRAL, _END, _END64, _LOCATOR64 = b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_FULL32 = 0xFFFFFFFF  # "look into the zip64 record"


@dataclass(frozen=True, slots=True)
class Member:
    name: str
    method: int
    flags: int
    stored_size: int
    size: int
    header: int


def members(source: Source) -> dict[str, Member]:
    """What the central directory lists, by name."""
    found: dict[str, Member] = {}
    for member in _central_directory(source):
        if member.name in found:
            raise FormatError(f"holds two members called {member.name}", file=source.name, offset=member.header)
        found[member.name] = member
    return found


def data(source: Source, member: Member, advice: str) -> Extent:
    """Where the data of a stored member lies."""
    where: dict[str, Any] = {"file": source.name, "tensor": member.name, "offset": member.header}
    header = Cursor(source, member.header).read(30)
    if header[:4] != ZIP:
        raise FormatError("no local header where the central directory says", **where)
    if member.method or member.stored_size != member.size or member.flags & 1:
        raise FormatError("is compressed or encrypted", advice=advice, **where)
    name_length, extra_length = struct.unpack_from("<HH", header, 26)
    start = member.header + 30 + name_length + extra_length
    if start + member.size > source.size:
        raise TruncatedError(f"needs {member.size} bytes from byte {start}, beyond the end of the file", **where)
    return Extent(source, start, member.size)


def _central_directory(source: Source) -> Iterator[Member]:
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
        yield Member(name, method, flags, stored_size, full_size, local)


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
