"""A pickle and nothing else: dicts of numpy arrays, as detectron2 and Python 2 left them.

One that was written with protocol 2 or later begins with the byte 0x80 and its protocol; an older one with whatever opcode
comes first, and is recognised if that is a dict or an OrderedDict.
"""

from __future__ import annotations

from typing import Any

from ..extents import Extent, Source
from .cursor import Cursor
from .torch_objects import read_alone

_BEGINNINGS = (*(b"\x80%c" % protocol for protocol in range(2, 6)), b"(dp", b"}q\x00", b"}q\x01", b"ccollections\n")


def recognises(head: bytes) -> bool:
    return head.startswith(_BEGINNINGS)


def read(source: Source) -> tuple[Any, dict[str, Extent]]:
    """The pickled object, and no storages."""
    return read_alone(Cursor(source)), {}
