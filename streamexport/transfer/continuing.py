"""Uploads to S3 that are kept when a run is cut off, and gone on with by the next.

The store has the list of parts that arrived. A part is not sent again if the MD5 of what it has to be is the one that the
store says, whoever sent it: nothing has to be noted, and nothing can be mistaken. Where a store says something else of parts,
as S3 does of those that it encrypts by keys of KMS, all are sent.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager

from ..payload.pieces import Layout
from ..sources.stores import Place
from . import moving, s3
from .movers import ON_THEIR_WAY, PART, Here, part_size
from .moving import Progress
from .threads import Threads


class Continuing(Here):
    """This process, which goes on with what an earlier one has sent."""

    def __init__(self) -> None:
        self.remarks: list[str] = []

    @contextmanager
    def upload(self, layout: Layout, place: Place, force: bool, progress: Progress) -> Iterator[Callable[[], object]]:
        if layout.size <= PART or not place.name.startswith("s3://"):
            with super().upload(layout, place, force, progress) as complete:
                yield complete
            return
        found = s3.unfinished(place)
        upload, there = found or (s3.begin(place), {})
        sent, kept = list[s3.Sent](), 0
        with Threads(ON_THEIR_WAY) as threads:
            on_their_way: deque[Future[s3.Sent]] = deque()
            for part, data in _parts(layout, upload):
                if _is_there(there.get(part.number), data):
                    sent.append(there[part.number])
                    kept += len(data)
                else:
                    on_their_way.append(threads.submit(s3.send, part, data))
                if len(on_their_way) == ON_THEIR_WAY:
                    sent.append(on_their_way.popleft().result())
                progress(len(data))
            sent += (future.result() for future in on_their_way)
        if found:
            self.remarks.append(f"{place.name}: went on where it had been cut off, with {kept} bytes that were there")
        yield lambda: s3.complete(upload, sent, force)


def _parts(layout: Layout, upload: s3.Upload) -> Iterator[tuple[s3.Part, bytearray]]:
    """A layout's parts, each with its bytes."""
    size = part_size(layout.size)
    starts = range(0, layout.size, size)
    parts = [s3.Part(upload, n, start, min(start + size, layout.size)) for n, start in enumerate(starts, 1)]
    part, data = parts[0], bytearray(parts[0].stop)
    for begin, end in moving.spans(layout, 0, layout.size):
        while begin < end:
            stop = min(end, part.stop)
            layout.render(begin, stop, memoryview(data)[begin - part.start : stop - part.start])
            begin = stop
            if stop == part.stop:
                yield part, data
                if stop < layout.size:
                    part = parts[part.number]
                    data = bytearray(part.stop - part.start)


def _is_there(part: s3.Sent | None, data: bytearray) -> bool:
    """Whether the store has a part, by what it says of it: S3 says the MD5 of its bytes."""
    if part is None or part.size != len(data):
        return False
    return part.etag.strip('"') == hashlib.md5(data, usedforsecurity=False).hexdigest()
