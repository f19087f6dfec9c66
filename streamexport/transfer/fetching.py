"""Payload that is far away, fetched before it is written: many ranges at once, in one of two orders.

    scatter    the source from end to end in equal ranges, each put where it belongs in the output: the fewest requests, and
               its SHA-256 comes with it. For regular files, of bytes that lie in one remote object as they are
    ordered    as the output goes: for pipes, stores and all that is computed. What the next bytes of the output read is
               asked for while the ones before are written

Either has so many bytes in flight, and no more.
"""

from __future__ import annotations

import ctypes
import hashlib
import tempfile
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack
from functools import cache
from io import RawIOBase
from itertools import accumulate, pairwise
from mmap import mmap
from typing import NamedTuple, TypeVar

from ..payload.pieces import Extent, Layout, Literal, Source
from ..sources.decoded import Held, Kept
from ..sources.remote import RemoteFile
from .threads import Threads

RANGE = 8 << 20
"""Bytes of a request, and up to an eighth more where a rest would be short."""
LONGEST = RANGE + RANGE // 8
IN_FLIGHT = 32 << 20
"""Bytes that are asked for, or held until they are written."""
GAP = 64 << 10
"""Bytes between two reads that are cheaper to fetch than to ask twice."""
AHEAD, SMALL = 64 << 20, 1 << 20
"""Bytes of the output among whose reads neighbours are looked for, of what is smaller than that: biases lie side by side in
the source, and far from each other in the output."""

SPARE = 2
"""Buffers that are kept for the next ranges."""

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # malloc.h

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

    def targets(begin: int, end: int) -> Iterator[tuple[int, int, int]]:
        """What is wanted of bytes [begin, end) of the source: from where to where, and its place in the output."""
        for offset, length, target in wanted[bisect_left(offsets, begin - longest) : bisect_left(offsets, end)]:
            first, last = max(offset, begin), min(offset + length, end)
            if first < last:
                yield first, last, target + first - offset

    def place(at: int, part: memoryview) -> None:
        with fetchers.staying():
            for first, last, target in targets(at, at + len(part)):
                write(target, part[first - at : last - at])

    def put(block: Extent) -> tuple[int, memoryview]:
        """Fetches some bytes of the source and writes what is wanted of them; how many those are, and all, to be hashed."""
        data = _NOTHING
        if digest is not None:
            data = fetchers.fetch(block, place)
        else:  # while the processor's cache has them: what is written later takes it twice the time
            source.pass_by(block.offset, block.length, place, fetchers.gone)
        return count(block), data

    def count(block: Extent) -> int:
        return sum(last - first for first, last, _ in targets(block.offset, block.end))

    needed = [Extent(source, 0, source.size)] if hashed else [Extent(source, at, length) for at, length, _ in wanted]
    blocks = _ranges(needed)
    left = blocks[bisect_right([*accumulate(map(count, blocks))], done) if done else 0 :]
    with _Fetchers() as fetchers:
        for size, data in _in_turn(fetchers.submit(put, block) for block in left):
            written(size)
            if digest is not None:
                digest.update(data)  # while others are fetched
            fetchers.reuse(data)
    return digest.hexdigest() if digest is not None else None


def spans(layout: Layout, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Cuts bytes [start, stop) of a layout into ranges. Until the next one is asked for, what one reads is at hand."""
    asked: deque[tuple[_Window, list[_Asked], list[_Asked]]] = deque()
    in_flight = 0
    with _Fetchers() as fetchers, ExitStack() as shared:
        for window in _planned(layout, start, stop):
            while asked and in_flight + window.size > IN_FLIGHT:
                in_flight -= asked[0][0].size
                yield from fetchers.at_hand(*asked.popleft(), shared)
            small = [fetchers.ask(extent) for extent in window.small]
            if window.size > IN_FLIGHT:
                yield from fetchers.spilled(window, small, shared)
            else:
                asked.append((window, small, [fetchers.ask(extent) for extent in window.large]))
                in_flight += window.size
        while asked:
            yield from fetchers.at_hand(*asked.popleft(), shared)


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
_NOTHING = memoryview(b"")


@cache
def _return_freed_memory() -> None:
    """Has glibc give back what is freed: by itself it keeps some for each thread, here as much again as is in flight.

    mallopt(3): what is large is mapped by itself, all else comes from two places for all threads.
    """
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 20)
        libc.mallopt(_M_ARENA_MAX, 2)


class _Fetchers(Threads):
    """Threads that fetch. When the block is left, nobody asks for anything once more."""

    def __init__(self) -> None:
        _return_freed_memory()
        super().__init__(2 * IN_FLIGHT // RANGE)
        self._buffers: list[mmap] = []
        """Of LONGEST bytes, to be filled again: memory that the system maps anew has to be cleared by it first."""

    def __enter__(self) -> _Fetchers:
        super().__enter__()
        return self

    def fetch(self, extent: Extent, also: Callable[[int, memoryview], object] = lambda *_: None) -> memoryview:
        """Bytes as a whole; who wants them `also` is given each part as it comes, perhaps more than once."""
        # Mapped, since memory that is allocated, and freed by another thread, stays: three times what is in flight.
        is_reused = RANGE - RANGE // 4 < extent.length <= LONGEST  # what is shorter would hold more than is counted
        try:
            buffer = self._buffers.pop() if is_reused else mmap(-1, extent.length)
        except IndexError:
            buffer = mmap(-1, LONGEST)
        data = memoryview(buffer)[: extent.length]

        def take(at: int, part: memoryview) -> None:
            also(at, part)
            data[at - extent.offset :][: len(part)] = part

        _remote(extent).pass_by(extent.offset, extent.length, take, self.gone)
        return data.toreadonly()

    def reuse(self, data: memoryview) -> None:
        """Takes back what was fetched; nobody may look at it any more."""
        if isinstance(data.obj, mmap) and len(data.obj) == LONGEST and len(self._buffers) < SPARE:
            self._buffers.append(data.obj)

    def ask(self, extent: Extent) -> _Asked:
        return extent, self.submit(self.fetch, extent)

    def at_hand(
        self, window: _Window, small: list[_Asked], large: list[_Asked], shared: ExitStack
    ) -> Iterator[tuple[int, int]]:
        """The range of a window, for whose time what it reads is held."""
        if small:
            shared.close()  # the windows that needed what came before are done
            for one in small:
                shared.enter_context(_held(one))
        with ExitStack() as stack:
            for one in large:
                stack.enter_context(_held(one))
            yield window.begin, window.end
        for _, task in large:
            self.reuse(task.result())

    def spilled(self, window: _Window, small: list[_Asked], shared: ExitStack) -> Iterator[tuple[int, int]]:
        """The same where that is too much: a nameless file keeps it."""
        at = 0
        with tempfile.TemporaryFile(buffering=0) as file, ExitStack() as stack:
            tasks = (self.submit(self.fetch, extent) for extent in window.large)
            for extent, data in zip(window.large, _in_turn(tasks), strict=True):
                _write_all(file, data)
                self.reuse(data)
                kept = Kept(extent.source.name, extent.length, file.fileno(), at)
                stack.enter_context(_remote(extent).held(extent.offset, kept))
                at += extent.length
            yield from self.at_hand(window, small, [], shared)


def _held(one: _Asked) -> AbstractContextManager[None]:
    extent, task = one
    return _remote(extent).held(extent.offset, Held(extent.source.name, extent.length, task.result()))


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


class _Window(NamedTuple):
    """Bytes [begin, end) of an output, and what has to be fetched for them.

    `small` is of this one and of those behind it, until another one has some.
    """

    begin: int
    end: int
    large: list[Extent]
    small: list[Extent]

    @property
    def size(self) -> int:
        """Bytes to be fetched."""
        return sum(extent.length for extent in (*self.large, *self.small))


def _planned(layout: Layout, start: int, stop: int) -> Iterator[_Window]:
    """Bytes [start, stop) as windows: about AHEAD of them at a time, or as many as have RANGE bytes of small reads."""
    together: list[tuple[int, int, list[Extent]]] = []
    small: list[Extent] = []
    for begin, end in _windows(layout, start, stop):
        wanted = _ranges(layout.reads(begin, end))
        together.append((begin, end, [extent for extent in wanted if extent.length >= SMALL]))
        small += (extent for extent in wanted if extent.length < SMALL)
        if end == stop or end - together[0][0] >= AHEAD or sum(extent.length for extent in small) >= RANGE:
            small = _ranges(small)
            for first, last, large in together:
                yield _Window(first, last, large, small)
                small = []
            together = []


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
