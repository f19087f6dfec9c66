"""Caffe's HDF5 models: a dataset for each blob, `/data/<layer>/<index>`.

Foreign files are never opened with the HDF5 library in this process: a worker that may take little time and memory
(`worker`) says where each dataset's bytes lie, and they are read here. A contiguous little-endian dataset of
floating-point numbers is a plain extent; others are computed. Types of layers and their order are known where
streamexport wrote the file (see `writing.py`); in others layers stand in the order of their names.

Nothing outside the file is followed, with one exception: datasets of a linked model lie in checkpoints, which it lists with
size and modification time in the root attribute `streamexport_sources`. They are read if the caller names the same files,
and these are what they were. (Caffe asks nobody, and reads what is missing from an external file as zeros, without a word.)
"""

from __future__ import annotations

import base64
import json
import os
import signal
import struct
import sys
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, NoReturn

from ...errors import FormatError, SourceError, TruncatedError, absent
from ...net.graph import LARGEST, Blob, Layer, Net
from ...net.operations import Opaque
from ...payload.pieces import Extent, Layout, Literal, Piece, Source
from ...payload.tensors import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, Cast, Computed, DType, Stored
from ...sources.local import LocalFile
from . import POSITION, RECORD, SOURCES, TYPE, worker
from .chunks import LITTLE, PLACE, Chunked, Chunks

if TYPE_CHECKING:
    import subprocess

MOST_LAYERS = 100_000
MOST_COMPACT = 64 << 20
"""Bytes that datasets inside object headers may have in all: they are held."""
WAIT = 120
"""Seconds until a worker is given up that neither ends nor takes its processor time: a disk that hangs."""

Row = dict[str, Any]


def read(source: Source, linkable: Sequence[Source] | None) -> Net:
    """The model in a file.

    Parameters
    ----------
    linkable : the checkpoints that its datasets may lie in; None to list them without: such blobs cannot be rendered
    """
    return _Reader(source, linkable).net()


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Bytes in a file that the caller did not name, and that is not opened therefore."""

    source: Source
    size: int
    model: str

    @property
    def sources(self) -> tuple[Source, ...]:
        return (self.source,)

    def reads(self, start: int, stop: int) -> Sequence[Extent]:
        raise _unnamed(self.model, self.source.name)

    def render(self, start: int, stop: int, into: memoryview) -> None:
        raise _unnamed(self.model, self.source.name)


def _unnamed(model: str, path: str, tensor: str | None = None) -> SourceError:
    what = f"lies in {path}, and only files that are named are read"
    return SourceError(what, file=model, tensor=tensor, advice=f"name both: {model} {path}")


class _Reader:
    def __init__(self, source: Source, linkable: Sequence[Source] | None) -> None:
        self.source, self.compact = source, 0
        self.named = None if linkable is None else {os.path.realpath(named.name): named for named in linkable}

    def net(self) -> Net:
        with closing(worker_rows(self.source)) as rows:
            return self.judged(rows)

    def judged(self, rows: Iterator[Row]) -> Net:
        root = next(rows)
        self.recorded = self.sources(_attribute(root, SOURCES, str, "", self.fail))
        record = _attribute(root, RECORD, str, "", self.fail).encode("utf-8", "surrogateescape")
        if "outside" in root:
            self.fail_outside(root, "the group /data")
        if "problem" in root:
            self.fail("is HDF5, but no Caffe model (it has no group /data)")
        placed: list[tuple[int, Layer]] = []
        row: Row | None = next(rows, None)
        while row is not None:
            head, blobs, row = self.checked(row), list[Row](), next(rows, None)
            while row is not None and "blob" in row:
                blobs.append(row)
                row = next(rows, None)
            position = _attribute(head, POSITION, int, 0, self.fail)
            placed.append((position, self.layer(head, blobs)))
            if len(placed) > MOST_LAYERS:
                self.fail(f"has more than {MOST_LAYERS} layers")
        placed.sort(key=lambda pair: pair[0])
        return Net("", tuple(layer for _, layer in placed), record=record)

    def checked(self, row: Row) -> Row:
        where = f"layer {row['layer']}"
        if "outside" in row:
            self.fail_outside(row, where)
        if "problem" in row:
            self.fail(f"is not a group of blobs: it {row['problem']}", where)
        return row

    def sources(self, text: str) -> list[LocalFile]:
        """What a linked model says that it is linked to, each found to be what it was. None of them is opened."""
        try:
            described = json.loads(text or "[]")
            recorded = [LocalFile(str(d["path"]), int(d["size"]), int(d["mtime_ns"])) for d in described]
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise FormatError("its streamexport_sources are malformed", file=self.source.name) from error
        for source in recorded:
            if (found := LocalFile.at(source.name)).size != source.size or found.mtime_ns != source.mtime_ns:
                raise SourceError(
                    "changed since a model was linked to it (size or modification time differ)",
                    file=source.name,
                    advice=f"convert it again: {self.source.name} would now give other numbers",
                )
        return recorded

    def layer(self, row: Row, blobs: Sequence[Row]) -> Layer:
        name, where = row["layer"], f"layer {row['layer']}"
        by_index = {blob["blob"]: blob for blob in blobs}
        indices = [str(index) for index in range(len(blobs))]
        if odd := sorted(by_index.keys() - set(indices)):
            self.fail(f"has a member {odd[0]!r} that is no blob", where)
        kind = _attribute(row, TYPE, str, "", lambda what: self.fail(what, where))
        made = (self.blob(by_index[index], f"{where}, blob {index}") for index in indices)
        return Layer(name, Opaque(kind), (), (), tuple(made))

    def blob(self, row: Row, where: str) -> Blob:
        if "outside" in row:
            self.fail_outside(row, where)
        if "problem" in row:
            self.fail(f"is a link to nowhere, or no dataset: it {row['problem']}", where)
        found = _stored(row["type"])
        if found is None or row["shape"] is None:
            kind = row["type"] if isinstance(row["type"], str) else f"an odd float of {row['type'][0]} bytes"
            self.fail(f"has dtype {kind}, Caffe's blobs are floating point", where)
        shape, (dtype, order) = tuple(row["shape"]), found
        if prod(shape) > LARGEST:
            self.fail(f"has {prod(shape)} elements, Caffe's blobs hold {LARGEST}", where)
        values = self.values(row["storage"], dtype, order, shape, where) if prod(shape) else Layout(())
        if dtype is not BFLOAT16:
            return Blob(shape, values, dtype)
        elements = values if isinstance(values, Computed) else Stored(values, dtype, where)
        return Blob(shape, Cast(elements, FLOAT32), FLOAT32)

    def values(self, storage: Row, dtype: DType, order: str, shape: tuple[int, ...], where: str) -> Piece:
        """A dataset's elements, little-endian."""
        size = prod(shape) * dtype.itemsize
        if "virtual" in storage:
            what = (
                f"is a virtual dataset, made of others in {storage['virtual'][0] if storage['virtual'] else 'no file'}"
            )
            self.fail(what, where, advice="copy it with h5repack: only what lies in the file itself is read")
        if "external" in storage:
            if order != LITTLE:
                self.fail("is big-endian and lies in another file", where)
            return Layout.of(self.external(storage["external"], size, where))
        if "compact" in storage:
            return self.compacted(base64.b64decode(storage["compact"]), dtype, order, size, where)
        if "chunk" in storage:
            if storage["table"] is None:
                self.fail(f"has too many chunks, more than {worker.MOST_CHUNKS} in the file", where)
            chunks = Chunks(tuple(storage["chunk"]), base64.b64decode(storage["table"]), tuple(storage["filters"]))
        elif storage["offset"] is None:  # nobody wrote it
            chunks = Chunks(shape, PLACE.pack(0, 0, 0))
        else:
            if storage["size"] != size:
                self.fail(f"has {storage['size']} bytes, its shape needs {size}", where)
            offset = storage["offset"]
            if offset + size > self.source.size:
                what = "reaches beyond the end of the file"
                raise TruncatedError(what, file=self.source.name, tensor=where, offset=offset)
            if order == LITTLE:
                return Extent(self.source, offset, size)
            chunks = Chunks(shape, PLACE.pack(offset, size, 0))
        fill = storage.get("fill", 0.0)
        if dtype is BFLOAT16:  # whose elements are the upper bits of float32
            fill = struct.unpack("<I", struct.pack("<f", fill))[0] >> 16
        return Chunked(self.source, where, dtype, order, shape, chunks, fill)

    def compacted(self, data: bytes, dtype: DType, order: str, size: int, where: str) -> Literal:
        import numpy as np

        self.compact += len(data)
        if len(data) != size or self.compact > MOST_COMPACT:
            self.fail(f"has {len(data)} bytes inside its header, its shape needs {size}", where)
        return Literal(data if order == LITTLE else np.frombuffer(data, f"u{dtype.itemsize}").byteswap().tobytes())

    def external(self, places: Sequence[tuple[str, int, int]], size: int, where: str) -> list[Piece]:
        if sum(length for _, _, length in places) != size:
            self.fail("points to fewer or more bytes than it has", where)
        return [self.elsewhere(*place, where) for place in places]

    def elsewhere(self, path: str, offset: int, length: int, where: str) -> Piece:
        """Bytes of a file that the model lists and the caller names."""
        recorded = next((source for source in self.recorded if source.name == path), None)
        if recorded is None:
            what = f"points into {path}, which the model does not list among its sources"
            self.fail(what, where, advice="only files that streamexport linked are followed, where they are named, too")
        if self.named is None:
            return Elsewhere(recorded, length, self.source.name)
        named = self.named.get(os.path.realpath(path))
        if named is None:
            raise _unnamed(self.source.name, path, where)
        if offset + length > named.size or named.size != recorded.size:
            self.fail(f"points beyond the end of {named.name}", where)
        return Extent(named, offset, length)

    def fail_outside(self, row: Row, where: str) -> NoReturn:
        file, path = row["outside"]
        advice = "copy what it links to into it: nothing outside a file is followed"
        self.fail(f"is a link to {path} in another file, {file}", where, advice=advice)

    def fail(self, what: str, tensor: str | None = None, advice: str | None = None) -> NoReturn:
        raise FormatError(what, file=self.source.name, tensor=tensor, advice=advice)


def _attribute(row: Row, name: str, kind: type[Any], default: Any, fail: Any) -> Any:
    value = row.get(name)
    if value is None:
        return default
    return value if type(value) is kind else fail(f"has an attribute {name!r} of another type")


def _stored(facts: Any) -> tuple[DType, str] | None:
    """The dtype and byte order of an HDF5 type, judged by its fields: numpy takes bfloat16 for float32.

    facts : size, order, (places of sign, exponent, its bits, significand, its bits), bias, whether a leading one is implied
    """
    if isinstance(facts, str):
        return None
    size, order, fields, bias, is_normal = facts
    dtype = _FLOATS.get((size, *fields, bias)) if is_normal else None
    return None if dtype is None else (dtype, order)


_FLOATS = {
    (2, 15, 10, 5, 0, 10, 15): FLOAT16,
    (2, 15, 7, 8, 0, 7, 127): BFLOAT16,
    (4, 31, 23, 8, 0, 23, 127): FLOAT32,
    (8, 63, 52, 11, 0, 52, 1023): FLOAT64,
}


def started(model: str) -> subprocess.Popen[bytes]:
    """The worker, whose standard output and error are pipes."""
    import subprocess

    command = [sys.executable, worker.__file__, model]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def worker_rows(source: Source) -> Generator[Row, None, None]:
    """What `worker` says of a file, row by row. FormatError if the library gives up, dies, or takes too much.

    SourceError for what lies behind a URL: the library reads where it likes, and is to have a file alone.
    """
    if source.is_far:
        raise SourceError("HDF5 is not read behind a URL", file=source.name, advice="fetch the file and name it")
    process = started(source.name)
    timer = threading.Timer(WAIT, process.kill)
    timer.start()
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            if not line.endswith(b"\n"):
                break  # it died before it wrote the rest
            row: Row = json.loads(line)
            if "end" in row:
                return
            if "missing" in row:
                raise absent("numpy" if row["missing"] == "numpy" else "h5py")
            if "error" in row:
                raise FormatError(f"malformed HDF5: {row['error']}", file=source.name)
            yield row
        words = process.stderr.read().decode(errors="replace").strip().splitlines()
        raise FormatError(f"malformed HDF5: {_end(process.wait(), words)}", file=source.name)
    finally:
        timer.cancel()
        process.kill()
        process.communicate()


def _end(status: int, words: Sequence[str]) -> str:
    """How a worker ended that did not say."""
    if -status in (signal.SIGXCPU, signal.SIGKILL):
        return f"the HDF5 library takes too long for it (more than {worker.SECONDS} s, or than this process may)"
    if status < 0:
        return f"the HDF5 library crashes on it ({signal.Signals(-status).name})"
    return (words or [f"without a word, status {status}"])[-1]
