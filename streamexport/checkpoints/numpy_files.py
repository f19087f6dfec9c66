"""numpy's files: an array, `.npy`, and a zip archive of such, `.npz`.

    6 bytes    \\x93NUMPY
    2 bytes    version: 1, 2 or 3, and 0
    2 bytes    length of the header (little-endian), in version 1; 4 bytes in 2 and 3
    header     the text of a Python dict, {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }, blanks, a newline
    data       the elements; of an array of objects a pickle

An archive calls the array NAME `NAME.npy`; `numpy.savez` stores, `numpy.savez_compressed` compresses. An array that stands
alone is called like its file. Learnt from the docstring of `numpy/lib/format.py`.
"""

from __future__ import annotations

import re
import struct
from math import prod
from pathlib import PurePath
from typing import Any

from ..errors import FormatError
from ..payload.pieces import Extent, Source
from ..sources.cursor import Cursor
from ..sources.signatures import NUMPY, NUMPY_SUFFIX
from . import archive
from .numpy_arrays import dtype_of, objects, view
from .records import Global, Record
from .storages import View
from .torch_objects import read_alone

LONGEST = 10_000  # numpy's own limit


def read(source: Source) -> tuple[Any, dict[str, Extent]]:
    """The arrays by name, or the object that was saved as one; no storages."""
    if source.read(0, len(NUMPY)) == NUMPY:
        value = _array(Extent(source, 0, source.size))
        is_alone = isinstance(value, View)
        return ({PurePath(source.name).name.removesuffix(NUMPY_SUFFIX): value} if is_alone else value), {}
    arrays = {}
    for name, member in archive.members(source).items():
        data = archive.data(source, member, "save it again with numpy.savez, which only stores")
        arrays[name.removesuffix(NUMPY_SUFFIX)] = _array(data)
    return arrays, {}


def _array(file: Extent) -> Any:
    cursor = Cursor(file.source, file.offset, file.end)
    where: dict[str, Any] = {"file": file.source.name, "offset": file.offset}
    if cursor.read(len(NUMPY)) != NUMPY:
        raise FormatError("is no array of numpy's", **where)
    form = {1: "<H", 2: "<I", 3: "<I"}.get(cursor.read(2)[0], "")
    length = struct.unpack(form, cursor.read(struct.calcsize(form)))[0] if form else LONGEST + 1
    if length > LONGEST:
        raise FormatError("an array of numpy's with a header that numpy would not read", **where)
    descr, is_fortran, shape = _header(cursor.read(length).decode("latin-1"), where)
    if descr == "|O":
        held = objects(read_alone(cursor))
        return held[0] if held and shape == () else held
    dtype, is_swapped = dtype_of(descr[1:], descr[:1])
    if dtype is None:
        return Record(Global("numpy.core.multiarray", "_reconstruct"), (), file.offset)
    data = cursor.skip(prod(shape) * dtype.itemsize)
    return view(dtype, is_swapped, shape, is_fortran, data)


def _header(text: str, where: dict[str, Any]) -> tuple[str, bool, tuple[int, ...]]:
    """dtype, whether its order is Fortran's, and shape."""
    descr = re.search(r"'descr': *'([^']*)'", text)
    order = re.search(r"'fortran_order': *(True|False)", text)
    shape = re.search(r"'shape': *\(([0-9, ]{0,1000})\)", text)
    if order is None or shape is None:
        raise FormatError("an array of numpy's with a malformed header", **where)
    sizes = tuple(int(size) for size in shape[1].split(",") if size.strip())
    return descr[1] if descr else "", order[1] == "True", sizes
