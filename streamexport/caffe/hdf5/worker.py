"""What an HDF5 model says of itself, for another process: a table, one JSON object a line, on standard output.

    python worker.py MODEL

The HDF5 library crashes, loops or takes gigabytes on damaged files. So it is given only here, in a process that may take
little memory and time, and after the model may not open anything: what the library would follow out of the file
(external links, virtual datasets, external storage, plugins) it cannot. No payload is read. The rows are facts, judged by
who asked (`reading`):

    {"streamexport": …, "streamexport_sources": …}           attributes of the root; "outside", "problem": of /data
    {"layer": NAME, "type": …, "position": …}                a member of /data and its attributes, in the order of names
    {"blob": NAME, "shape": […], "type": …, "storage": …}    a member of the last layer
    {"error": …}                                             the library gave up
    {"end": true}

A layer or a blob that is no group or dataset has, in place of the rest, `outside`, the file and the path that an external
link leads to, or `problem`.

This file imports nothing of ours: it starts in the time that h5py takes to import.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import resource
import struct
import sys
from collections.abc import Iterator
from typing import Any

Row = dict[str, Any]

MEMORY = 256 << 20
"""Bytes that the library may take."""
SECONDS = 30
"""Of processor time that it may take. A thousand blobs take a tenth of one."""
MOST_BLOBS = 100_000
MOST_CHUNKS = 1 << 20
"""In all. Hard links make any number of blobs from one, and shapes any number of chunks."""
CACHE = 2 << 20
TEXT = 1 << 20
"""Bytes of an attribute."""


def confine() -> None:
    """Little memory and time from here on, and no file is written."""
    now = 0
    if os.path.exists("/proc/self/statm"):
        with open("/proc/self/statm") as statm:  # noqa: PTH123
            now = int(statm.read().split()[0]) * resource.getpagesize()
    if now:
        _lower(resource.RLIMIT_AS, now + MEMORY)
    _lower(resource.RLIMIT_CPU, SECONDS)
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, 0)


def _lower(limit: int, most: int) -> None:
    """Sets a limit, unless a lower one holds already."""
    soft, hard = resource.getrlimit(limit)
    resource.setrlimit(limit, (most if soft == resource.RLIM_INFINITY else min(most, soft), hard))


def table(path: str) -> Iterator[Row]:
    """The rows of a model."""
    from h5py import h5f, h5g

    file = h5f.open(os.fsencode(path), h5f.ACC_RDONLY)
    _lower(resource.RLIMIT_NOFILE, 0)
    cache = (
        file.get_mdc_config()
    )  # of metadata, which takes ten times as much memory as it counts: every one is needed once
    cache.set_initial_size, cache.initial_size, cache.min_size, cache.max_size = True, CACHE, CACHE, CACHE
    file.set_mdc_config(cache)
    root = h5g.open(file, b"/")
    data, row = _member(root, b"data", "group") if root.links.exists(b"data") else (None, {"problem": "is missing"})
    yield {**_attributes(root, b"streamexport", b"streamexport_sources"), **row}
    if data is None:
        return
    blobs, chunks = itertools.count(1), [MOST_CHUNKS]
    for name in _names(data):
        group, row = _member(data, name, "group")
        if group is None:
            yield {"layer": _text(name), **row}
            continue
        yield {"layer": _text(name), **_attributes(group, b"type", b"position")}
        for member in _names(group):
            if next(blobs) > MOST_BLOBS:
                yield {"error": f"has more than {MOST_BLOBS} blobs"}
                return
            dataset, row = _member(group, member, "dataset")
            yield {"blob": _text(member), **row, **(_dataset(dataset, chunks) if dataset is not None else {})}


def _names(group: Any) -> list[bytes]:
    found: list[bytes] = []
    group.links.iterate(found.append)
    return found


def _member(group: Any, name: bytes, kind: str) -> tuple[Any, Row]:
    """A group or dataset; None, and what is the matter, if it is something else or cannot be had."""
    from h5py import h5d, h5g, h5l, h5o

    if group.links.get_info(name).type == h5l.TYPE_EXTERNAL:
        return None, {"outside": [_text(part) for part in group.links.get_val(name)]}
    try:
        found = h5o.open(group, name)
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        return None, {"problem": f"is a link to nowhere ({error})"}
    if not isinstance(found, h5g.GroupID if kind == "group" else h5d.DatasetID):
        return None, {"problem": "is something else"}
    return found, {}


def _attributes(holder: Any, *names: bytes) -> Row:
    return {name.decode(): _attribute(holder, name) for name in names}


def _attribute(holder: Any, name: bytes) -> Any:
    """A text or a whole number; None where there is none; a list for what is neither."""
    import numpy as np
    from h5py import h5a, h5s, h5t, string_dtype

    if not h5a.exists(holder, name):
        return None
    attribute = h5a.open(holder, name)
    kind = attribute.get_type()
    if attribute.get_space().get_simple_extent_type() != h5s.SCALAR or kind.get_size() > TEXT:
        return []
    if kind.get_class() == h5t.INTEGER and kind.get_size() <= 8:
        number = np.empty((), "<i8" if kind.get_sign() else "<u8")
        attribute.read(number)
        return int(number)
    if kind.get_class() != h5t.STRING:
        return []
    text = np.empty((), string_dtype() if kind.is_variable_str() else f"S{kind.get_size()}")
    attribute.read(text)
    value: bytes = text.item() or b""
    return _text(value) if len(value) <= TEXT else []


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else bytes(value).decode("utf-8", "surrogateescape")


def _dataset(dataset: Any, chunks: list[int]) -> Row:
    from h5py import h5s

    space = dataset.get_space()
    shape = None if space.get_simple_extent_type() == h5s.NULL else space.get_simple_extent_dims()
    return {"shape": shape, "type": _type(dataset), "storage": _storage(dataset, shape, chunks)}


def _type(dataset: Any) -> Any:
    """Of a floating-point number size, order, and the places of its fields; of anything else a name."""
    from h5py import h5t

    try:
        kind = dataset.get_type()
        if kind.get_class() == h5t.FLOAT and kind.get_order() in (h5t.ORDER_LE, h5t.ORDER_BE):
            order = "<" if kind.get_order() == h5t.ORDER_LE else ">"
            normal = kind.get_norm() == h5t.NORM_IMPLIED and not kind.get_offset()
            return [kind.get_size(), order, [*kind.get_fields()], kind.get_ebias(), normal]
        return str(kind.dtype)
    except (TypeError, ValueError, RuntimeError, KeyError):
        return "that numpy lacks"


def _storage(dataset: Any, shape: tuple[int, ...] | None, chunks: list[int]) -> Any:
    import numpy as np
    from h5py import h5d, h5s

    creation = dataset.get_create_plist()
    layout = creation.get_layout()
    if layout == h5d.VIRTUAL:
        return {"virtual": [creation.get_virtual_filename(i) for i in range(min(creation.get_virtual_count(), 1))]}
    if count := creation.get_external_count():
        parts = (creation.get_external(number) for number in range(count))
        return {"external": [[_text(name), offset, size] for name, offset, size in itertools.islice(parts, 1000)]}
    if layout == h5d.CONTIGUOUS:
        offset = dataset.get_offset()
        if offset is None:
            return {"offset": None, "fill": _fill(creation)}
        return {"offset": offset, "size": dataset.get_storage_size()}
    if layout == h5d.COMPACT:
        kind = dataset.get_type()
        raw = np.empty(shape or (), f"V{kind.get_size()}")
        dataset.read(h5s.ALL, h5s.ALL, raw, kind)
        return {"compact": base64.b64encode(raw.tobytes()).decode()}
    filters = [creation.get_filter(number)[0] for number in range(creation.get_nfilters())]
    place = _chunks(dataset, shape or (), creation.get_chunk(), chunks)
    return {"chunk": creation.get_chunk(), "filters": filters, "table": place, "fill": _fill(creation)}


def _fill(creation: Any) -> float:
    """What elements are that nobody wrote."""
    import numpy as np
    from h5py import h5d

    value = np.zeros((), "<f8")
    if creation.fill_value_defined() != h5d.FILL_VALUE_UNDEFINED:
        creation.get_fill_value(value)
    return float(value)


def _chunks(dataset: Any, shape: tuple[int, ...], chunk: tuple[int, ...], left: list[int]) -> str | None:
    """Offset, size and mask of skipped filters (three 64-bit numbers) of all chunks, row-major; None for too many."""
    grid = [-(-size // step) for size, step in zip(shape, chunk, strict=True)]
    count = 1
    for size in grid:
        count *= size
    left[0] -= count
    if left[0] < 0:
        return None
    found = bytearray()
    for index in itertools.product(*map(range, grid)):
        info = dataset.get_chunk_info_by_coord(tuple(i * step for i, step in zip(index, chunk, strict=True)))
        found += struct.pack("<QQQ", info.byte_offset or 0, info.size if info.byte_offset else 0, info.filter_mask)
    return base64.b64encode(found).decode()


def main(path: str, out: Any) -> None:
    try:
        import h5py  # noqa: F401 # so that it opens no file of its own afterwards
    except ImportError as error:
        out.write(json.dumps({"missing": error.name}) + "\n")
        return
    confine()
    try:
        for row in table(path):
            out.write(json.dumps(row) + "\n")
        out.write('{"end": true}\n')
    except MemoryError:
        out.write('{"error": "takes more memory than a model needs"}\n')
    except Exception as error:  # whatever h5py makes of what the library says
        out.write(json.dumps({"error": f"{error or type(error).__name__}"[:1000]}) + "\n")


if __name__ == "__main__":
    sys.path.pop(0)  # this folder, whose modules must not stand in for others
    main(sys.argv[1], sys.stdout)
    sys.stdout.flush()
    os._exit(0)
