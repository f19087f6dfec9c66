"""Zip archives: where the data of their members lie. Nothing is ever unpacked.

A zip file is read from its end: the end record (22 bytes and a comment), for large archives preceded by a zip64 locator
and a zip64 end record, points to the central directory, which lists the members. A member's data begins behind its
*local* header of 30 bytes, a name and an extra field, whose lengths the local header gives: torch pads the local extra
field so that data is aligned, the central one not. Behind the data, and in front of the next header, there is nothing, or,
with bit 3 of the flags, a data descriptor: a signature of 4 bytes, the CRC, and both sizes in 4 or in 8 bytes each. Learnt
from PKWARE's APPNOTE 6.3 (4.3 and 4.5); the alignment from `caffe2/serialize/inline_container.cc` and archives.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

from ..errors import FormatError, TruncatedError
from ..payload.pieces import Extent, Source
from ..sources.cursor import Cursor
from ..sources.signatures import ZIP

_CENTRAL, _END, _END64, _LOCATOR64 = b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_LOCAL = 30  # bytes of a local header, its name and extra field aside
_LONGEST_LOCAL = _LOCAL + 2 * 0xFFFF + 1
_FULL32 = 0xFFFFFFFF  # "look into the zip64 record"
_FARTHEST_END = 22 + 0xFFFF  # from the end of the file to the end record: that and its longest comment
_ALIGNMENT = 64  # of the data of storages, unless torch was told otherwise
_HAS_DESCRIPTOR = 1 << 3


@dataclass(frozen=True, slots=True)
class Member:
    """An entry of the central directory. Its local header lies at `header`, the next one, or the directory, at `end`."""

    name: str
    method: int
    flags: int
    stored_size: int
    size: int
    header: int
    end: int = 0


def members(source: Source) -> dict[str, Member]:
    """What the central directory lists, by name."""
    offset, size, count = _end_record(source)
    found: dict[str, Member] = {}
    for member in _central_directory(source, offset, size, count):
        if member.name in found:
            raise FormatError(f"holds two members called {member.name}", file=source.name, offset=member.header)
        found[member.name] = member
    ends = dict(pairwise(sorted({offset, *(member.header for member in found.values())})))
    return {name: replace(member, end=ends.get(member.header, 0)) for name, member in found.items()}


def data(source: Source, member: Member, advice: str) -> Extent:
    """Where the data of a stored member lies, by its local header."""
    start = _start(source.name, member, Cursor(source, member.header).read(_LOCAL))
    _check_stored(source.name, member, advice)
    if start + member.size > source.size:
        what = f"needs {member.size} bytes from byte {start}, beyond the end of the file"
        raise TruncatedError(what, **_where(source.name, member))
    return Extent(source, start, member.size)


def located(source: Source, member: Member, advice: str) -> Extent:
    """Where the data of a storage lies. Far away, its local header is only confirmed, if the place is plain without it."""
    start = _place(member) if source.is_far else None
    if start is None or start + member.size > source.size:
        return data(source, member, advice)
    _check_stored(source.name, member, advice)
    source.confirm(member.header, start - member.header, partial(_confirm, source.name, member, start))
    return Extent(source, start, member.size)


def _place(member: Member) -> int | None:
    """Where data begins that ends in front of the next header, and is aligned as torch does it; None if that is unclear."""
    descriptors = (16, 24) if member.flags & _HAS_DESCRIPTOR else (0,)
    starts = [member.end - descriptor - member.size for descriptor in descriptors]
    possible = range(member.header + _LOCAL, member.header + _LONGEST_LOCAL)
    return next((start for start in starts if start in possible and start % _ALIGNMENT == 0), None)


def _start(file: str, member: Member, header: bytes) -> int:
    if header[:4] != ZIP:
        raise FormatError("no local header where the central directory says", **_where(file, member))
    name_length, extra_length = struct.unpack_from("<HH", header, 26)
    return member.header + _LOCAL + int(name_length) + int(extra_length)


def _confirm(file: str, member: Member, start: int, header: bytes) -> None:
    found = _start(file, member, header)
    if found != start:
        advice = "fetch the file and convert that one: it has gaps, or is damaged"
        raise FormatError(f"begins at byte {found}, not {start}", advice=advice, **_where(file, member))


def _check_stored(file: str, member: Member, advice: str) -> None:
    if member.method or member.stored_size != member.size or member.flags & 1:
        raise FormatError("is compressed or encrypted", advice=advice, **_where(file, member))


def _where(file: str, member: Member) -> dict[str, Any]:
    return {"file": file, "tensor": member.name, "offset": member.header}


def _central_directory(source: Source, offset: int, size: int, count: int) -> Iterator[Member]:
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
    start = max(0, source.size - _FARTHEST_END)
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
