"""Caffe's HDF5 models: a dataset for each blob, `/data/<layer>/<index>`. h5py reads the metadata.

A contiguous little-endian dataset of floating-point numbers lies in the file, or with external storage in another one, as
a plain extent. Chunked, compressed and big-endian ones are read through the library, range by range. Types of layers and
their order are known where streamexport wrote the file (see `writers/hdf5.py`); in others layers stand in the order of
their names.

The library reads what is missing from an external file as zeros, without a word, so links are checked here: a linked model
says in the root attribute `streamexport_sources` what its sources were, and they have to be that still.
"""

from __future__ import annotations

import json
import os
from math import prod
from threading import Lock
from typing import TYPE_CHECKING, Any

from ..errors import FormatError, SourceError
from ..extents import Extent, Layout, Piece, Source
from ..nets.graph import Blob, Layer, Net
from ..sources.local import LocalFile
from ..tensors import FLOAT16, FLOAT32, FLOAT64, Computed, DType, boxes

if TYPE_CHECKING:
    from ..tensors import Array

MAGIC = b"\x89HDF\r\n\x1a\n"


def recognises(head: bytes) -> bool:
    return head.startswith(MAGIC)


def read(source: Source) -> Net:
    import h5py

    try:
        with h5py.File(source.name, "r") as file:
            return _Reader(source, file).net()
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        if isinstance(error, (FormatError, SourceError)):
            raise
        raise FormatError(f"malformed HDF5: {error}", file=source.name) from error


class _Reader:
    def __init__(self, source: Source, file: Any) -> None:
        self.source, self.file, self.library = source, file, _Library(source)

    def net(self) -> Net:
        import h5py

        data = self.file.get("data")
        if not isinstance(data, h5py.Group):
            raise FormatError("is HDF5, but no Caffe model (it has no group /data)", file=self.source.name)
        self.linked = {source.name: source for source in self.sources()}
        groups = [(name, data.get(name)) for name in data]
        for name, group in groups:
            if not isinstance(group, h5py.Group):
                raise FormatError("is not a group of blobs", file=self.source.name, tensor=f"layer {name}")
        groups.sort(key=lambda named: int(named[1].attrs.get("position", 0)))
        layers = tuple(self.layer(name, group) for name, group in groups)
        return Net("", layers, record=self.attribute("streamexport"))

    def attribute(self, name: str) -> bytes:
        """A text attribute of the root, b"" if there is none."""
        value = self.file.attrs.get(name, b"")
        return value.encode() if isinstance(value, str) else bytes(value)

    def sources(self) -> list[LocalFile]:
        """What a linked model's datasets point into, each found to be what it was."""
        try:
            described = json.loads(self.attribute("streamexport_sources") or b"[]")
            recorded = [LocalFile(str(d["path"]), int(d["size"]), int(d["mtime_ns"])) for d in described]
        except (ValueError, KeyError, TypeError) as error:
            raise FormatError("its streamexport_sources are malformed", file=self.source.name) from error
        for source in recorded:
            if LocalFile.at(source.name) != source:
                raise SourceError(
                    "changed since a model was linked to it (size or modification time differ)",
                    file=source.name,
                    advice=f"convert it again: {self.source.name} would now give other numbers",
                )
        return recorded

    def layer(self, name: str, group: Any) -> Layer:
        if sorted(group) != sorted(map(str, range(len(group)))):
            odd = next(key for key in group if key not in set(map(str, range(len(group)))))
            raise FormatError(f"has a member {odd!r} that is no blob", file=self.source.name, tensor=f"layer {name}")
        blobs = tuple(self.blob(group, str(index), f"layer {name}, blob {index}") for index in range(len(group)))
        kind = group.attrs.get("type", "")
        return Layer(name, kind if isinstance(kind, str) else kind.decode(), (), (), blobs=blobs)

    def blob(self, group: Any, index: str, where: str) -> Blob:
        import h5py

        dataset = group.get(index)
        if not isinstance(dataset, h5py.Dataset):
            raise FormatError("is a link to nowhere, or no dataset", file=self.source.name, tensor=where)
        dtype = {("f", 4): FLOAT32, ("f", 2): FLOAT16, ("f", 8): FLOAT64}.get(
            (dataset.dtype.kind, dataset.dtype.itemsize)
        )
        if dtype is None or dataset.shape is None:
            what = f"has dtype {dataset.dtype}, Caffe's blobs are floating point"
            raise FormatError(what, file=self.source.name, tensor=where)
        return Blob(dataset.shape, self.values(dataset, dtype, where), dtype)

    def values(self, dataset: Any, dtype: DType, where: str) -> Piece:
        import h5py

        creation = dataset.id.get_create_plist()
        size = dataset.size * dtype.itemsize
        if not size:
            return Layout(())
        if creation.get_external_count():
            return Layout.of(self.external(creation, size, where))
        offset = dataset.id.get_offset()
        if creation.get_layout() != h5py.h5d.CONTIGUOUS or dataset.dtype.byteorder == ">" or offset is None:
            return Through(self.library, dataset.name, dataset.shape, dtype)
        if offset + size > self.source.size:
            raise FormatError("reaches beyond the end of the file", file=self.source.name, tensor=where, offset=offset)
        return Extent(self.source, offset, size)

    def external(self, creation: Any, size: int, where: str) -> list[Piece]:
        parts: list[Piece] = []
        for number in range(creation.get_external_count()):
            name, offset, length = creation.get_external(number)
            source = self.linked.get(os.fsdecode(name))
            if source is None:
                raise FormatError(
                    f"points into {os.fsdecode(name)}, which the model does not list among its sources",
                    file=self.source.name,
                    tensor=where,
                    advice="only files that streamexport linked are followed",
                )
            if offset + length > source.size:
                raise FormatError(f"points beyond the end of {source.name}", file=self.source.name, tensor=where)
            parts.append(Extent(source, offset, length))
        if sum(part.size for part in parts) != size:
            raise FormatError("points to fewer or more bytes than it has", file=self.source.name, tensor=where)
        return parts


class _Library:
    """A file as the library opens it: when the first range of it is rendered, anew after pickling or copying."""

    opening = Lock()

    def __init__(self, source: Source) -> None:
        self.source = source
        self.opened: Any = None

    def __reduce__(self) -> tuple[type[_Library], tuple[Source]]:
        return _Library, (self.source,)

    def dataset(self, name: str) -> Any:
        import h5py

        with self.opening:
            if self.opened is None:
                opened = h5py.File(self.source.name, "r")
                self.source.check()  # the name could stand for another file by now
                self.opened = opened
        return self.opened[name]


class Through(Computed):
    """A dataset that only the library can read: chunked, compressed or big-endian."""

    def __init__(self, library: _Library, name: str, shape: tuple[int, ...], dtype: DType) -> None:
        self.library, self.name, self.shape, self.dtype, self.count = library, name, shape, dtype, prod(shape)

    @property
    def sources(self) -> tuple[Source, ...]:
        return (self.library.source,)

    def elements(self, first: int, last: int) -> Array:
        import numpy as np

        array = np.empty(last - first, self.dtype.code)
        at = 0
        for corner, shape in boxes(self.shape, first, last):
            region = tuple(slice(start, start + length) for start, length in zip(corner, shape, strict=True))
            try:
                part = self.library.dataset(self.name)[region]
            except SourceError:
                raise
            except OSError as error:
                where = self.library.source.name
                raise SourceError(f"cannot be read: {error}", file=where, tensor=self.name) from error
            array[at : at + part.size] = part.reshape(-1)
            at += part.size
        return array
