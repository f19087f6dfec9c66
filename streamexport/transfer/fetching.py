"""Payload that is far away, fetched before it is written: many ranges at once, in one of two orders.

    scatter    the source from end to end in equal ranges, each put where it belongs in the output: the fewest requests, and
               its SHA-256 comes with it. For regular files, of bytes that lie in one remote object as they are
    ordered    as the output goes: for pipes, stores and all that is computed. What the next bytes of the output read is
               asked for while the ones before are written

Either has so many bytes in flight, and no more.
"""

from __future__ import annotations

import hashlib
import tempfile
import threading
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from io import RawIOBase
from itertools import accumulate, pairwise
from typing import ParamSpec, TypeVar, cast

from ..payload.pieces import Extent, Layout, Literal, Source
from ..sources.decoded import Held, Kept
from ..sources.remote import RemoteFile

RANGE = 8 << 20
"""Bytes of a request, and up to an eighth more where a rest would be short."""
LONGEST = RANGE + RANGE // 8
IN_FLIGHT = 32 << 20
"""Bytes that are asked for, or held until they are written."""
GAP = 64 << 10
"""Bytes between two reads that are cheaper to fetch than to ask twice."""

Write = Callable[[int, memoryview], object]
"""Puts bytes at an offset of the output; any thread may."""


def is_scattered(layout: Layout) -> bool:
    """Whether a layout is made of bytes that lie in one remote object as they are, and of such as we hold."""
    computed = any(not isinstance(piece, Literal | Extent) for piece in layout.pieces)
    return not computed and len(layout.sources) == 1 and isinstance(layout.sources[0], RemoteFile)


def scatter(layout: Layout, write: Write, written: Callable[[int], object], hashed: bool, done: int = 0) -> str | None:
    """Fetches the payload of a layout, see `is_scattered`, and puts it in place; the SHA-256 of its source if `hashed`.

    `written` is told of every so many bytes, by this thread; as many as it was told of before are `done`.
    """
    (source,) = layout.sources
    assert isinstance(source, RemoteFile)
    wanted = sorted(
        (piece.offset, piece.length, start)
        for piece, start in zip(layout.pieces, layout.starts, strict=False)
        if isinstance(piece, Extent)
    )
    offsets = [offset for offset, _, _ in wanted]
    longest = max(length for _, length, _ in wanted)
    digest = hashlib.sha256() if hashed else None

    def targets(block: Extent) -> Iterator[tuple[int, int, int]]:
        """What is wanted of some bytes: from where to where in them, and its place in the output."""
        for offset, length, target in wanted[
            bisect_left(offsets, block.offset - longest) : bisect_left(offsets, block.end)
        ]:
            begin, end = max(offset, block.offset), min(offset + length, block.end)
            if begin < end:
                yield begin - block.offset, end - block.offset, target + begin - offset

    def put(block: Extent) -> tuple[int, memoryview]:
        """Fetches some bytes of the source and writes what is wanted of them; how many bytes that was."""
        data, count = fetchers.fetch(block), 0
        for begin, end, target in targets(block):
            write(target, data[begin:end])
            count += end - begin
        return count, data

    needed = [Extent(source, 0, source.size)] if hashed else [Extent(source, at, length) for at, length, _ in wanted]
    blocks = _ranges(needed)
    counts = accumulate(sum(end - begin for begin, end, _ in targets(block)) for block in blocks)
    left = blocks[bisect_right([*counts], done) if done else 0 :]
    with _Fetchers() as fetchers:
        for count, data in _in_turn(fetchers.submit(put, block) for block in left):
            written(count)
            if digest is not None:
                digest.update(data)  # while others are fetched
            fetchers.reuse(data)
    return digest.hexdigest() if digest is not None else None


def spans(layout: Layout, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Cuts bytes [start, stop) of a layout into ranges. Until the next one is asked for, what one reads is at hand."""
    asked: deque[tuple[int, int, list[_Asked]]] = deque()
    in_flight = 0
    with _Fetchers() as fetchers:
        for begin, end in _windows(layout, start, stop):
            wanted = _ranges(layout.reads(begin, end))
            size = sum(extent.length for extent in wanted)
            while asked and in_flight + size > IN_FLIGHT:
                in_flight -= sum(extent.length for extent, _ in asked[0][2])
                yield from fetchers.at_hand(*asked.popleft())
            tasks = ((extent, fetchers.submit(fetchers.fetch, extent)) for extent in wanted)
            if size > IN_FLIGHT:
                yield from fetchers.spilled(begin, end, tasks)
            else:
                asked.append((begin, end, list(tasks)))
                in_flight += size
        while asked:
            yield from fetchers.at_hand(*asked.popleft())


def sha256(source: Source) -> str:
    """That of a whole source, which is read for it."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(1 << 20))
    for begin, end in spans(Layout((Extent(source, 0, source.size),)), 0, source.size):
        for at in range(begin, end, len(buffer)):
            part = buffer[: min(len(buffer), end - at)]
            source.read_into(at, part)
            digest.update(part)
    return digest.hexdigest()


_Asked = tuple[Extent, "Future[memoryview]"]
_T = TypeVar("_T")
_P = ParamSpec("_P")


class _Fetchers:
    """Threads that fetch. When the block is left, nobody asks for anything once more."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(2 * IN_FLIGHT // RANGE)
        self._gone = threading.Event()
        self._buffers: list[bytearray] = []
        """To be filled again: memory that the system maps anew has to be cleared by it first."""

    def __enter__(self) -> _Fetchers:
        return self

    def __exit__(self, *_: object) -> None:
        self._gone.set()
        self._pool.shutdown(cancel_futures=True)

    def submit(self, task: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        return self._pool.submit(task, *args, **kwargs)

    def fetch(self, extent: Extent) -> memoryview:
        buffer = None
        if extent.length > RANGE - RANGE // 4:  # else more would be held than is counted
            with suppress(IndexError):
                buffer = self._buffers.pop()
            buffer = buffer or bytearray(LONGEST)
        return _remote(extent).fetch(extent.offset, extent.length, self._gone, buffer)

    def reuse(self, data: memoryview) -> None:
        """Takes back what was fetched; nobody may look at it any more."""
        if len(buffer := cast(bytearray, data.obj)) == LONGEST:
            self._buffers.append(buffer)

    def at_hand(self, begin: int, end: int, wanted: Sequence[_Asked]) -> Iterator[tuple[int, int]]:
        """The range [begin, end), for whose time what it reads is held."""
        with ExitStack() as stack:
            for extent, task in wanted:
                data = Held(extent.source.name, extent.length, task.result())
                stack.enter_context(_remote(extent).held(extent.offset, data))
            yield begin, end
        for _, task in wanted:
            self.reuse(task.result())

    def spilled(self, begin: int, end: int, wanted: Iterator[_Asked]) -> Iterator[tuple[int, int]]:
        """The same where that is too much to be held: a nameless file keeps it."""
        begun: deque[Extent] = deque()

        def tasks() -> Iterator[Future[memoryview]]:
            for extent, task in wanted:
                begun.append(extent)
                yield task

        at = 0
        with tempfile.TemporaryFile(buffering=0) as file, ExitStack() as stack:
            for data in _in_turn(tasks()):
                extent = begun.popleft()
                _write_all(file, data)
                self.reuse(data)
                kept = Kept(extent.source.name, extent.length, file.fileno(), at)
                stack.enter_context(_remote(extent).held(extent.offset, kept))
                at += extent.length
            yield begin, end


def _write_all(file: RawIOBase, data: memoryview) -> None:
    while data:
        data = data[file.write(data) :]


def _in_turn(tasks: Iterable[Future[_T]]) -> Iterator[_T]:
    """The results of tasks, of which each is a RANGE, in their order; no more are begun than may be in flight."""
    begun: deque[Future[_T]] = deque()
    for task in tasks:
        begun.append(task)
        if len(begun) * RANGE >= IN_FLIGHT:
            yield begun.popleft().result()
    while begun:
        yield begun.popleft().result()


def _remote(extent: Extent) -> RemoteFile:
    assert isinstance(extent.source, RemoteFile)
    return extent.source


def _windows(layout: Layout, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Cuts bytes [start, stop) into ranges of about RANGE bytes, at the ends of pieces where that is possible.

    A piece whose ranges each read from all over it stays whole.
    """
    begin = at = start
    for piece, first, last in layout.parts(start, stop):
        end = at + last - first
        if end - begin > LONGEST and begin < at:
            yield begin, at
            begin = at
        if end - begin > LONGEST:
            read = sum(extent.length for extent in _ranges(piece.reads(first, first + RANGE)))
            yield from _cut(begin, end) if read <= IN_FLIGHT else [(begin, end)]
            begin = end
        at = end
    if begin < stop:
        yield begin, stop


def _ranges(reads: Iterable[Extent]) -> list[Extent]:
    """What is to be fetched for some reads: what lies near each other as one, what is long in equal ranges."""
    far = sorted((read for read in reads if isinstance(read.source, RemoteFile)), key=_place)
    joined: list[Extent] = []
    for read in far:
        last = joined[-1] if joined else None
        if last is not None and last.source == read.source and read.offset <= last.end + GAP:
            joined[-1] = Extent(last.source, last.offset, max(last.end, read.end) - last.offset)
        else:
            joined.append(read)
    return [Extent(one.source, at, end - at) for one in joined for at, end in _cut(one.offset, one.end)]


def _place(extent: Extent) -> tuple[str, int]:
    return extent.source.name, extent.offset


def _cut(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """A range as equal ones, none longer than LONGEST."""
    count = max(1, round((stop - start) / RANGE))
    return pairwise(start + (stop - start) * index // count for index in range(count + 1))
