"""What the files of a model are called. Nothing here touches a file but `older_parts`, which looks for some.

A name that comes out of a file (a net's own) is never a path: it is one clean component, or refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from ..caffe import formats
from ..errors import OutputError

LONGEST = 200
"""Bytes of a name that comes out of a file: file systems take 255, and suffixes and part numbers are still to come."""


PART = re.compile(r"-[0-9]{5}-of-[0-9]{5}$")
"""What stands behind a model's name in those of its parts."""


def component(name: str) -> str:
    """`name`, if it can be a file's in a directory: printable, no path, neither hidden nor taken for an option.

    Raises OutputError for all others.
    """
    is_text = name.isprintable() and name.strip() == name  # printable excludes NUL, what is no UTF-8, and bidi controls
    if not name or not is_text or "/" in name or name[0] in ".-" or len(name.encode()) > LONGEST:
        what = f"a file in it would be called after the net, whose name {name!r} is no file's"
        raise OutputError(what, advice="name the file: `output=DIR/NAME.caffemodel`")
    return name


def stem(path: str) -> str:
    """A model's path without the suffix of its format."""
    known = (path.removesuffix(suffix) for suffix in formats.SUFFIXES if path.endswith(suffix))
    return next(known, os.path.splitext(path)[0])


def description(model: str) -> str:
    """The prototxt that is written beside a model, or beside the part of one."""
    return PART.sub("", stem(model)) + ".prototxt"


def part_names(path: str, count: int) -> Iterator[str]:
    """`x.caffemodel` for one part, else `x-00001-of-00003.caffemodel` and so on."""
    if count == 1:
        yield path
        return
    base = stem(path)
    for index in range(1, count + 1):
        yield f"{base}-{index:05}-of-{count:05}{path.removeprefix(base)}"


def older_parts(path: str, count: int) -> Iterator[str]:
    """Files called like parts of the model at `path` that `count` parts would not replace."""
    base = stem(path)
    directory, name = os.path.split(base)
    suffix = path.removeprefix(base)
    pattern = re.compile(re.escape(name) + r"-[0-9]{5}-of-([0-9]{5})" + re.escape(suffix))
    written = set(part_names(path, count))
    for found in sorted(os.listdir(directory or ".")) if os.path.isdir(directory or ".") else ():
        if pattern.fullmatch(found) and os.path.join(directory, found) not in written:
            yield os.path.join(directory, found)
