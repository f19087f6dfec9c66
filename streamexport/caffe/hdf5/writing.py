"""Caffe's HDF5 models, as layouts.

    /data/<layer name>/<blob index>     a dataset of each blob
    attributes of the root              `streamexport`, how the file was made (JSON)
    attributes of a layer's group       `type`, and `position` in the net; Caffe looks at neither

Only layers with blobs have a group. h5py writes the metadata, and nothing else: datasets are contiguous, allocated early
and never filled, so that the library says where each payload belongs (`get_offset`) without writing it. What it does write
goes into a file object that keeps just that, and the payloads take their places between as pieces of the layout. The
format version is the earliest, for Caffes linked to HDF5 1.8.

A linked file goes further: datasets whose bytes lie in another file as they are name that file, an offset and a length
(external storage, HDF5 1.8 specification III.M), and the layout is all metadata. Names are absolute, since the library
would look up relative ones in the reader's working directory.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from typing import Any

from ...errors import NetError
from ...net.graph import Blob, Layer, Net
from ...payload.pieces import Extent, Layout, Literal, Piece
from ...sources.local import LocalFile
from . import POSITION, RECORD, SOURCES, TYPE

LAYER_OVERHEAD, FILE_OVERHEAD = 8 << 10, 64 << 10
"""Bytes of metadata that a layer and a file take at most, with room to spare."""


def layout(net: Net, record: bytes = b"", linked: bool = False) -> Layout:
    """The whole file of a net, of any size.

    Parameters
    ----------
    record : kept as an attribute of the root
    linked : let datasets point into local sources wherever the bytes lie there as they are, and name these sources, with
        size and modification time, in the root attribute `streamexport_sources`

    Raises
    ------
    NetError : a layer's name cannot be a group's, or is another's; or what is to be linked lies in no file
    """
    import h5py

    if linked and any(source.is_far for source in net.sources):
        advice = "write another format, which holds the weights, or fetch the checkpoint and name it"
        raise NetError("a model can be linked to files, not to what lies behind a URL", advice=advice)
    kept = _Kept()
    places: list[tuple[int, Piece]] = []
    with h5py.File(kept, "w", libver="earliest") as file:
        if record:
            file.attrs[RECORD] = record
        if linked:
            file.attrs[SOURCES] = _identities(net)
        data = file.create_group("data")
        for position, layer in enumerate(net.layers):
            if layer.blobs:
                group = data.create_group(_checked(layer, data))
                group.attrs[TYPE] = layer.type
                group.attrs[POSITION] = position
                for index, blob in enumerate(layer.blobs):
                    places += _add(group, str(index), blob, linked)
    return Layout.of(_merged(kept, places))


def layer_size(layer: Layer) -> int:
    """Bytes that a layer adds to a file, at most."""
    return sum(blob.values.size for blob in layer.blobs) + LAYER_OVERHEAD


def file_overhead(net: Net, record: bytes) -> int:
    """Bytes of a file without layers, at most."""
    return FILE_OVERHEAD + 2 * len(record)


def _identities(net: Net) -> bytes:
    local = [source for source in net.sources if isinstance(source, LocalFile)]
    described = [{"path": os.path.abspath(s.name), "size": s.size, "mtime_ns": s.mtime_ns} for s in local]
    return json.dumps(described).encode()


def _add(group: Any, name: str, blob: Blob, linked: bool) -> Iterator[tuple[int, Piece]]:
    """Creates the dataset of a blob; where its payload goes, unless it stays where it is."""
    import h5py
    import numpy as np

    kind = h5py.h5t.py_create(np.dtype(blob.dtype.code))
    space = h5py.h5s.create_simple(blob.shape) if blob.shape else h5py.h5s.create(h5py.h5s.SCALAR)
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_layout(h5py.h5d.CONTIGUOUS)
    creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    creation.set_obj_track_times(False)  # the same input gives the same bytes
    values = blob.values
    if linked and isinstance(values, Extent) and isinstance(values.source, LocalFile) and values.length:
        creation.set_external(os.fsencode(os.path.abspath(values.source.name)), values.offset, values.length)
        h5py.h5d.create(group.id, name.encode(), kind, space, creation)
        return
    creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    dataset = h5py.h5d.create(group.id, name.encode(), kind, space, creation)
    if values.size:
        yield dataset.get_offset(), values


def _checked(layer: Layer, groups: Any) -> str:
    if not layer.name or "/" in layer.name or layer.name == "." or "\0" in layer.name:
        advice = "name layers conv1, batch_norm1, ... with `names=classic`, or write a .caffemodel"
        raise NetError("its name cannot be a group's in an HDF5 file", tensor=f"layer {layer.name!r}", advice=advice)
    if "\0" in layer.type or _is_broken(layer.name + layer.type):
        raise NetError("its name or type is not UTF-8, or holds a NUL", tensor=f"layer {layer.name!r}")
    if layer.name in groups:
        what = "two layers of this name have blobs, and an HDF5 file holds one group of a name"
        raise NetError(what, tensor=f"layer {layer.name!r}", advice="write a caffemodel, which has room for both")
    return layer.name


def _merged(kept: _Kept, places: list[tuple[int, Piece]]) -> Iterator[Piece]:
    """Payloads in the order of their offsets, and the library's own bytes between them."""
    at = 0
    for offset, piece in sorted(places, key=lambda place: place[0]):
        yield kept.literal(at, offset)
        yield piece
        at = offset + piece.size
    yield kept.literal(at, kept.size)


def _is_broken(text: str) -> bool:
    """Whether it stands for bytes that are no UTF-8."""
    return any("\ud800" <= character <= "\udfff" for character in text)


class _Kept(io.RawIOBase):
    """A file of which only the pages are held that somebody wrote to; all others are zeros."""

    PAGE = 4096

    def __init__(self) -> None:
        self.pages: dict[int, bytearray] = {}
        self.position = self.size = 0

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.size}[whence]
        return self.position

    def tell(self) -> int:
        return self.position

    def truncate(self, size: int | None = None) -> int:
        self.size = self.position if size is None else size
        return self.size

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        for page, inside, start, stop in self.cuts(self.position, len(view)):
            held = self.pages.setdefault(page, bytearray(self.PAGE))
            held[inside : inside + stop - start] = view[start:stop]
        self.position += len(view)
        self.size = max(self.size, self.position)
        return len(view)

    def readinto(self, into: Any) -> int:
        view = memoryview(into).cast("B")
        length = max(0, min(len(view), self.size - self.position))
        view[:length] = self.literal(self.position, self.position + length).data
        self.position += length
        return length

    def literal(self, start: int, stop: int) -> Literal:
        """Bytes [start, stop)."""
        parts = []
        for page, inside, first, last in self.cuts(start, stop - start):
            held = self.pages.get(page)
            parts.append(bytes(held[inside : inside + last - first]) if held else bytes(last - first))
        return Literal(b"".join(parts))

    def cuts(self, offset: int, length: int) -> Iterator[tuple[int, int, int, int]]:
        """Cuts a range at page boundaries: page, offset in it, and which part of the range that is."""
        start = 0
        while start < length:
            page, inside = divmod(offset + start, self.PAGE)
            stop = min(length, start + self.PAGE - inside)
            yield page, inside, start, stop
            start = stop
