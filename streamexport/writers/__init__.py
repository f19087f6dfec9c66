"""Nets as layouts of files, one module per format."""

from __future__ import annotations

from ..errors import OutputError
from ..extents import Layout
from ..nets.graph import Net
from . import caffemodel, shards

FORMATS = ("caffemodel", "hdf5", "linked")


def format_of(path: str) -> str:
    """The format that a file's suffix stands for: HDF5 for `.h5`, else a binary caffemodel."""
    return "hdf5" if path.endswith(".h5") else "caffemodel"


def layouts(net: Net, form: str, record: bytes = b"", *, limit: int | None = None, align: int = 0) -> list[Layout]:
    """The file of a net, or the parts of at most `limit` bytes that it is cut into.

    Parameters
    ----------
    form : caffemodel, hdf5 or linked
    record : how it was made, kept in every file
    align : see `caffemodel.layout`; other formats cannot be aligned
    """
    if form not in FORMATS:
        raise OutputError(f"there is no format {form!r}", advice=f"choose from {', '.join(FORMATS)}")
    parts = [net]
    if form == "caffemodel":
        if limit is not None:
            parts = shards.split(net, limit, caffemodel.file_overhead(net, record), caffemodel.layer_size)
        return [caffemodel.layout(part, record, align) for part in parts]
    from . import hdf5

    if limit is not None:
        parts = shards.split(net, limit, hdf5.FILE_OVERHEAD + 2 * len(record), hdf5.layer_size)
    return [hdf5.layout(part, record, form == "linked") for part in parts]
