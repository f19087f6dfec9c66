"""The index of a sharded checkpoint, `*.index.json`: JSON that says which tensor lies in which file beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from ..errors import FormatError, judging
from ..payload.pieces import Source
from . import open_source

JSON_LIMIT = 24 << 20
"""Bytes of JSON that are read: 400,000 tensors. Parsing takes some thirty times as much memory at worst, 17 at best."""


def weight_map(index: Source) -> Mapping[str, str]:
    """The files by the names of the tensors in them. FormatError if it is no index, or names files that are not beside it."""
    if index.size > JSON_LIMIT:
        raise FormatError(f"is JSON of {index.size} bytes, too large for an index", file=index.name)
    with judging(index.name):
        files = parse_json(index.read(0, index.size), index.name).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(file, str) for file in files.values()):
        raise FormatError("is JSON, but no index of a sharded checkpoint (no weight_map)", file=index.name)
    for file in files.values():
        if os.path.basename(file) != file or file in (os.curdir, os.pardir):
            raise FormatError(f"names {file!r}, which is not a file beside it", file=index.name)
    return files


def shards(index: Source) -> dict[str, Source]:
    """The files that an index names, as sources."""
    return {file: open_source(index.beside(file)) for file in dict.fromkeys(weight_map(index).values())}


def parse_json(text: bytes, file: str) -> dict[str, Any]:
    """A JSON object without duplicate keys. FormatError otherwise."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key stands twice")
        return found

    try:
        value = json.loads(text.decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"malformed JSON: {error}", file=file) from error
    if not isinstance(value, dict):
        raise FormatError("its JSON is not an object", file=file)
    return value
