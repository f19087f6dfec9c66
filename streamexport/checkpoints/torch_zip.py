"""torch's zip archive: what `torch.save` has written since 1.6, and TorchScript before that.

    NAME/data.pkl       the object, its storages as persistent ids
    NAME/byteorder      "little" or "big"; absent in older files, which are little-endian
    NAME/data/KEY       the elements of storage KEY; stored, never compressed
    NAME/constants.pkl  of TorchScript: tensors without names, which its code uses, and NAME/constants/KEY
    NAME/code/          of TorchScript: source code, which is not looked at

Learnt from `torch/serialization.py` and from archives.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import FormatError
from ..payload.pieces import Extent, Source
from ..sources.cursor import Cursor
from . import archive
from .archive import Member
from .torch_objects import read_object

_ADVICE = "save it again with torch.save, which only stores"


def read(source: Source) -> tuple[Any, dict[str, Extent]]:
    """The pickled object, and where each of its storages lies."""
    members = archive.members(source)
    pickles = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise FormatError(
            "is a zip file, but not one that torch.save wrote (no data.pkl)",
            file=source.name,
            advice="unpack it, if a checkpoint lies in it",
        )
    folder = pickles[0].removesuffix("data.pkl")
    _check_byteorder(source, members.get(folder + "byteorder"))
    pickled = archive.data(source, members[pickles[0]], _ADVICE)
    root, storages = read_object(Cursor(source, pickled.offset, pickled.end))
    if not storages and f"{folder}constants/0" in members:
        raise FormatError(
            "is frozen TorchScript, whose weights are constants without names",
            file=source.name,
            advice="save the module before torch.jit.freeze",
        )
    extents = {}
    for key, storage in storages.items():
        member = _member(source, members, f"{folder}data/{key}")
        extents[key] = extent = archive.located(source, member, _ADVICE)
        if extent.length != storage.nbytes:
            raise FormatError(
                f"storage {key} has {extent.length} bytes, not {storage.nbytes}",
                file=source.name,
                offset=extent.offset,
            )
    return root, extents


def _check_byteorder(source: Source, member: Member | None) -> None:
    extent = archive.data(source, member, _ADVICE) if member else None
    order = source.read(extent.offset, min(extent.length, 16)) if extent else b"little"
    if extent and order != b"little":
        raise FormatError(
            f"was written with byte order {order.decode('latin-1')!r}",
            file=source.name,
            offset=extent.offset,
            advice="save it again on a little-endian machine",
        )


def _member(source: Source, members: Mapping[str, Member], name: str) -> Member:
    if name not in members:
        raise FormatError(f"has no member {name}, which a tensor needs", file=source.name)
    return members[name]
