"""Which run files come from: the prototxt and the model files of one conversion say the same, those of another something else.

A kill between two renames, or a copy of half a model, leaves files that are each whole and do not belong together. So the
record that a model and its prototxt carry names the net and its weights by digests, and a part says how it was cut:

    net       layers, parameters, shapes of blobs, what is expected of the input: a prototxt and a model must have the same
    weights   the first bytes of some blobs, of those that lie where headers are read anyway: two checkpoints of the same net
              differ. `verify` compares every byte
    limit     the most bytes of a part; whole models have none

They are made of what is converted alone, so that the same input still gives the same bytes.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from typing import Any

from ..errors import NetError
from ..net.graph import Net
from ..payload.pieces import Piece
from ..sources import Path, open_source
from .codec import encode

SAMPLES, SAMPLE = 64, 64
"""Blobs that are looked at, and bytes of each: few enough not to be felt on a disk that seeks."""
NEAR = 1 << 20
"""Bytes at the beginning and at the end of a file that hold its headers: from a store they come in a request each."""

COMMENT = 64 << 10  # bytes of a prototxt in which its record stands
RECORD = b"# record: "


def of(net: Net) -> dict[str, str]:
    """The digests of a net and of its weights."""
    layers = [
        (encode(layer).SerializeToString(deterministic=True), [blob.shape for blob in layer.blobs])
        for layer in net.layers
    ]
    return {"net": _digest(repr((layers, str(net.preprocessing))).encode()), "weights": _digest(_sampled(net))}


def of_part(net: Net, record: bytes, limit: int | None, version: str) -> bytes:
    """A model's record with the limit that it is cut by, or without one."""
    fields = dict(read(record))
    if limit is None and "limit" not in fields:
        return record
    fields.pop("limit", None)
    if limit is not None:
        fields = {"streamexport": version, "weights": _digest(_sampled(net)), **fields, "limit": limit}
    return encoded(fields)


def encoded(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, sort_keys=True).encode()


def read(record: bytes) -> Mapping[str, Any]:
    """The fields of a record; none if it is not one of ours."""
    try:
        fields = json.loads(record.decode())
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) and "streamexport" in fields else {}


def of_prototxt(path: Path) -> Mapping[str, Any]:
    """The fields of the record in a prototxt's opening comment. SourceError if it cannot be read."""
    source = open_source(path)
    for line in source.read(0, min(source.size, COMMENT)).splitlines():
        if line.startswith(RECORD):
            return read(line.removeprefix(RECORD))
        if not line.startswith(b"#"):
            break
    return {}


def check_pair(prototxt: Path, model: Net, name: str) -> None:
    """NetError if a prototxt describes another net than a model, called `name`, was made with; both may be silent."""
    described, made = of_prototxt(prototxt).get("net"), read(model.record).get("net")
    if None not in (described, made) and described != made:
        advice = "give the one that was written with it, or convert again"
        raise NetError(f"describes another net than {name} was made with", file=os.fspath(prototxt), advice=advice)


def is_of_one_run(prototxt: Path, model: Net) -> bool:
    """Whether a prototxt comes from the conversion that a model comes from, as far as they say."""
    described, made = of_prototxt(prototxt), read(model.record)
    return all(described[key] == made[key] for key in ("net", "weights") if key in described and key in made)


def _sampled(net: Net) -> bytes:
    values = [blob.values for layer in net.layers for blob in layer.blobs]
    near = [piece for piece in values if _is_near(piece)] or values[:1]
    count = min(len(near), SAMPLES)
    taken = bytearray()
    for piece in (near[index * len(near) // count] for index in range(count)):
        sample = bytearray(min(piece.size, SAMPLE))
        piece.render(0, len(sample), memoryview(sample))
        taken += sample
    return bytes(taken)


def _is_near(piece: Piece) -> bool:
    """Whether the beginning of a blob follows from the first and the last bytes of files."""
    reads = piece.reads(0, min(piece.size, SAMPLE))
    return all(extent.end <= NEAR or extent.offset >= extent.source.size - NEAR for extent in reads)


def _digest(data: bytes) -> str:
    # Nobody gains by forging one. hashlib would load OpenSSL: 4 MiB, a fifth of what a conversion takes.
    return f"{zlib.crc32(data):08x}{zlib.adler32(data):08x}"
