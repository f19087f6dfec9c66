"""The formats of model files: what they are called, how large they may be, and how a net becomes one.

Whoever has to choose one, name files after one, or say who reads one, asks the objects here; what stands in a file is the
business of the module of its format. A new format is a module of its own and an entry in `FORMATS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from ..errors import OutputError
from ..net.graph import Layer, Net
from ..payload.pieces import Layout
from . import shards
from .caffemodel import writing as caffemodel
from .hdf5 import writing as hdf5


@dataclass(frozen=True)
class Format:
    """A kind of model file.

    Attributes
    ----------
    name : what options call it
    files : what its files are, in the plural
    suffixes : of its files; the first is that of new ones
    layout : the whole file of a net, with the record of how it was made
    overhead, layer_size : bytes of a file without layers, and those that a layer adds, at most
    aligned : the same as `layout`, so that offsets of large blobs agree with those in their sources modulo so many bytes;
        None where payload lies as it comes
    limit : bytes of the largest file that stock Caffe loads; None for any
    warning : what everybody should know who has such a file
    """

    name: str
    files: str
    suffixes: tuple[str, ...]
    layout: Callable[[Net, bytes], Layout]
    overhead: Callable[[Net, bytes], int]
    layer_size: Callable[[Layer], int]
    aligned: Callable[[Net, bytes, int], Layout] | None = None
    limit: int | None = None
    warning: str = ""

    def layouts(self, net: Net, record: bytes = b"", *, limit: int | None = None, align: int = 0) -> list[Layout]:
        """The file of a net, or the parts of at most `limit` bytes that it is cut into.

        Parameters
        ----------
        record : how it was made, kept in every file
        align : see `aligned`; what cannot be aligned is not

        Raises what making the layout raises, and LimitError where a layer does not fit into a part.
        """
        parts = [net]
        if limit is not None:
            parts = shards.split(net, limit, self.overhead(net, record), self.layer_size)
        if align and self.aligned is not None:
            return [self.aligned(part, record, align) for part in parts]
        return [self.layout(part, record) for part in parts]

    def holds(self, size: int) -> bool:
        """Whether stock Caffe loads a file of so many bytes."""
        return self.limit is None or size <= self.limit


CAFFEMODEL = Format(
    "caffemodel",
    "caffemodels",
    (".caffemodel",),
    caffemodel.layout,
    caffemodel.file_overhead,
    caffemodel.layer_size,
    aligned=caffemodel.layout,
    limit=caffemodel.CAFFE_LIMIT,
)
HDF5 = Format("hdf5", "HDF5", (".caffemodel.h5", ".h5"), hdf5.layout, hdf5.file_overhead, hdf5.layer_size)
LINKED = Format(
    "linked",
    "HDF5",
    HDF5.suffixes,
    partial(hdf5.layout, linked=True),
    hdf5.file_overhead,
    hdf5.layer_size,
    warning="linked: the checkpoint has to stay where and as it is; Caffe reads a shortened one as zeros, without a word",
)
FORMATS = (CAFFEMODEL, HDF5, LINKED)
"""Of two with the same suffix the first is meant by it; the other one has to be asked for."""

SUFFIXES = sorted({suffix for form in FORMATS for suffix in form.suffixes}, key=len, reverse=True)
"""The longest first: one may be another's end."""


def named(name: str) -> Format:
    """The format of that name. OutputError if there is none."""
    for form in FORMATS:
        if form.name == name:
            return form
    choices = ", ".join(form.name for form in FORMATS)
    raise OutputError(f"there is no format {name!r}", advice=f"choose from {choices}")


def of_path(path: str) -> Format:
    """The format that a file's suffix stands for, a binary caffemodel where it says nothing."""
    return next((form for form in FORMATS if path.endswith(form.suffixes)), CAFFEMODEL)
