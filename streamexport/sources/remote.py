"""Objects behind URLs as sources: ranges of them, each compared with what was found at first.

Whoever moves payload fetches it before it is rendered, many ranges at once (see `transfer.fetching`), and has it held here
meanwhile. What is read without that, as headers are, comes in blocks, of which the last few are kept.
"""

from __future__ import annotations

import random
import threading
from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, ClassVar, TypeVar

from ..errors import SourceChangedError, SourceError
from ..payload.pieces import Source
from . import stores
from .decoded import Held

if TYPE_CHECKING:
    from obstore import GetOptions

_T = TypeVar("_T")
_Take = Callable[[int, memoryview], object]
"""Is given bytes of an answer, and where in it they begin."""

BLOCK = 1 << 20
"""Bytes of a block of headers."""
KEPT = 2
"""Blocks that are kept."""
_CHUNK = 256 << 10
"""Bytes of an answer that are copied at a time."""
RETRIES = 10
FIRST_WAIT, LONGEST_WAIT = 0.2, 15.0
"""Seconds before the first and the last of them, double each time, and half of it by chance: two minutes at most."""
BUSY_WAIT = 1.0
"""Seconds for which a server that says that it is busy is left alone at least. What it asks for, obstore does not tell."""


@dataclass(frozen=True)
class RemoteFile(Source):
    """An object as it was when `at` asked for it.

    Attributes
    ----------
    name : its URL, without what may be secret in it
    size : in bytes
    etag, modified : what its server says of its content, each None where it says nothing
    url : as it was given
    """

    _state: ClassVar[_State]  # set for each: it is no field, since it neither compares nor travels

    name: str
    size: int
    etag: str | None
    modified: str | None
    url: str = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_state", _State())

    @classmethod
    def at(cls, url: str) -> RemoteFile:
        """The object behind a URL, by one request, which brings its first bytes. SourceError if it cannot be had."""
        place = stores.at(url)
        unknown = cls(place.name, -1, None, None, url)
        data = bytearray()

        def take(at: int, part: memoryview) -> None:
            data[at:] = part  # from there on: an answer that ended early is followed by one from the start

        found = unknown._asked(0, BLOCK, take, threading.Event())
        found._state.blocks[0] = Held(found.name, len(data), memoryview(data).toreadonly())
        found._state.retries = unknown._state.retries
        return found

    def __reduce__(self) -> tuple[Callable[..., RemoteFile], tuple[object, ...]]:
        with self._state.lock:
            expected = tuple((item.start, item.stop - item.start, item.check) for item in self._state.expected)
        return _copied, (self.name, self.size, self.etag, self.modified, self.url, *expected)

    @property
    def retries(self) -> int:
        return self._state.retries

    @property
    def is_far(self) -> bool:
        return True

    def beside(self, file: str) -> str:
        return stores.beside(self.url, file)

    def fileno(self) -> None:
        return None

    def check(self) -> None:
        """Nothing is left to do: every range was compared as it came."""

    def fetch(self, offset: int, length: int) -> memoryview:
        """Bytes of it, see `pass_by`."""
        data = memoryview(bytearray(length))

        def take(at: int, part: memoryview) -> None:
            data[at - offset :][: len(part)] = part

        self.pass_by(offset, length, take)
        return data.toreadonly()

    def pass_by(
        self, offset: int, length: int, take: Callable[[int, memoryview], object], gone: threading.Event | None = None
    ) -> None:
        """Hands on bytes as they come, each part with its offset, until nobody wants them any more: they are `gone`.

        Parts are in order; where a request fails, they come again from the first one on. They are what they are said to be
        only when this returns. No part is kept: who wants one copies it.

        SourceError if they cannot be had, SourceChangedError if the object is not what it was.
        """
        start, stop = self._state.around(offset, offset + length)
        watched = _Watched(self._state.expected_in(start, stop))

        def both(at: int, part: memoryview) -> None:
            watched.see(start + at, part)
            begin, end = max(0, offset - start - at), min(len(part), offset + length - start - at)
            if begin < end:
                take(start + at + begin, part[begin:end])

        self._asked(start, stop - start, both, gone or threading.Event())
        self._state.confirm(watched)

    @contextmanager
    def held(self, offset: int, data: Source) -> Iterator[None]:
        """Reads from `offset` on are served by `data`, which has the same bytes, for the time of the block."""
        state, block = self._state, _Block(offset, data)
        with state.lock:
            insort(state.held, block)
        try:
            yield
        finally:
            with state.lock:
                state.held = [other for other in state.held if other is not block]

    def confirm(self, offset: int, length: int, check: Callable[[bytes], None]) -> None:
        start = offset // BLOCK * BLOCK
        with self._state.lock:
            kept = self._state.blocks.get(start)
            if kept is None or offset + length > start + kept.size:
                insort(self._state.expected, _Expected(offset, offset + length, check))
                return
        check(kept.read(offset - start, length))

    def read_into(self, offset: int, into: memoryview) -> None:
        while into:
            start, data = self._state.holding(offset) or self._block(offset, len(into))
            count = min(len(into), start + data.size - offset)
            data.read_into(offset - start, into[:count])
            offset, into = offset + count, into[count:]

    def _block(self, offset: int, length: int) -> tuple[int, Source]:
        """Some bytes from `offset` on or before it, and where they begin: a block that is kept, or all `length` of them."""
        if length > BLOCK:
            return offset, Held(self.name, length, self.fetch(offset, length))
        blocks, lock, start = self._state.blocks, self._state.lock, offset // BLOCK * BLOCK
        with lock:
            data = blocks.pop(start, None)
        if data is None:
            size = min(BLOCK, self.size - start)
            data = Held(self.name, size, self.fetch(start, size))
        with lock:
            blocks[start] = data  # behind all others
            while len(blocks) > KEPT:
                blocks.popitem(last=False)
        return start, data

    def _asked(self, offset: int, length: int, take: _Take, gone: threading.Event) -> RemoteFile:
        """Hands on a range, and returns what is found to be the object; asks until it comes, or is not worth asking for."""
        from obstore.exceptions import BaseError

        wait = FIRST_WAIT
        for left in reversed(range(RETRIES + 1)):
            try:
                return _aside(partial(self._ask, offset, length, take, gone), gone)
            except (BaseError, FileNotFoundError) as error:  # NotFoundError is no BaseError
                if not left or not stores.is_passing(error) or (self.size < 0 and stores.is_unreachable(error)):
                    what, advice = stores.said(error, self.name)
                    where = offset if self.size >= 0 else None
                    raise SourceError(what, file=self.name, offset=where, advice=advice) from None
                least = BUSY_WAIT if stores.is_busy(error) else 0.0
            self._state.tried_again()
            if gone.wait(min(max(wait * random.uniform(0.5, 1), least), LONGEST_WAIT)):
                break
            wait = min(2 * wait, LONGEST_WAIT)
        raise self._unwanted()

    def _unwanted(self) -> SourceError:
        return SourceError("is not wanted any more", file=self.name)

    def _ask(self, offset: int, length: int, take: _Take, gone: threading.Event) -> RemoteFile:
        from obstore import get
        from obstore.exceptions import GenericError, PreconditionError

        place = stores.at(self.url)
        options: GetOptions = {"range": (offset, offset + length)}
        if self.etag and not self.etag.startswith("W/"):  # weak ones match nothing, by RFC 9110
            options["if_match"] = self.etag
        try:
            answer = get(place.store, place.key, options=options)
        except PreconditionError:
            raise SourceChangedError("changed while it was read", file=self.name, offset=offset) from None
        meta = answer.meta
        modified = meta["last_modified"].isoformat() if meta["last_modified"].timestamp() else None  # 1970: not said
        found = RemoteFile(self.name, meta["size"], meta["e_tag"], modified, self.url)
        if "Content-Encoding" in answer.attributes:
            advice = "fetch the file, unpack it and name it"
            where = offset if self.size >= 0 else None
            raise SourceError("is sent compressed by its server", file=self.name, offset=where, advice=advice)
        if self.size >= 0 and found != self:
            raise SourceChangedError("changed while it was read", file=self.name, offset=offset)
        due, at = min(length, found.size - offset), 0
        for part in answer.stream(min_chunk_size=_CHUNK):
            if at + len(part) <= due:
                take(at, memoryview(part))
            at += len(part)
            if gone.is_set():
                raise self._unwanted()
        if at != due:
            raise GenericError(f"{at} bytes came where {due} were due")
        return found


def _aside(task: Callable[[], _T], gone: threading.Event) -> _T:
    """What a task returns, which another thread does for the main one: while obstore waits, no signal is heard."""
    if threading.current_thread() is not threading.main_thread():
        return task()
    future: Future[_T] = Future()

    def do() -> None:
        try:
            future.set_result(task())
        except BaseException as error:  # who asks for the result has it
            future.set_exception(error)

    threading.Thread(target=do, daemon=True).start()
    try:
        return future.result()
    finally:
        if not future.done():
            gone.set()


def _copied(
    name: str,
    size: int,
    etag: str | None,
    modified: str | None,
    url: str,
    *expected: tuple[int, int, Callable[[bytes], None]],
) -> RemoteFile:
    """The same object in another process, where payload passes by, too, and has to be what was expected."""
    made = RemoteFile(name, size, etag, modified, url)
    for item in expected:
        made.confirm(*item)
    return made


def _start(item: _Expected) -> int:
    return item.start


def _stop(item: _Expected) -> int:
    return item.stop


def _offset(block: _Block) -> int:
    return block.offset


@dataclass(order=True)
class _Block:
    """Bytes from an offset on."""

    offset: int
    data: Source = field(compare=False)

    @property
    def stop(self) -> int:
        return self.offset + self.data.size


@dataclass(order=True)
class _Expected:
    """Bytes [start, stop) that are to be compared when they pass by, and who does that."""

    start: int
    stop: int
    check: Callable[[bytes], None] = field(compare=False)


class _Watched:
    """What is to be compared of bytes that pass by, and lies nowhere in each other: it is kept until all of it is there."""

    def __init__(self, items: list[_Expected]) -> None:
        self.items = items
        self.seen = [bytearray(item.stop - item.start) for item in items]

    def see(self, offset: int, part: memoryview) -> None:
        first = bisect_right(self.items, offset, key=_stop)
        last = bisect_left(self.items, offset + len(part), key=_start)
        for item, data in zip(self.items[first:last], self.seen[first:last], strict=True):
            begin, end = max(item.start, offset), min(item.stop, offset + len(part))
            data[begin - item.start : end - item.start] = part[begin - offset : end - offset]


@dataclass
class _State:
    """What a process knows of an object besides what it is.

    Attributes
    ----------
    blocks : of headers, by offset; the last one that was read is behind all others
    held : payload that was fetched before it is read, by offset
    expected : what is to be compared as it passes by, by offset
    """

    blocks: OrderedDict[int, Source] = field(default_factory=OrderedDict)
    held: list[_Block] = field(default_factory=list)
    expected: list[_Expected] = field(default_factory=list)
    retries: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def holding(self, offset: int) -> tuple[int, Source] | None:
        """What is held of the byte at an offset, and where that begins."""
        with self.lock:
            before = self.held[: bisect_right(self.held, offset, key=_offset)]
        return next(((block.offset, block.data) for block in reversed(before) if offset < block.stop), None)

    def around(self, start: int, stop: int) -> tuple[int, int]:
        """A range, made larger by what is to be compared and reaches over its ends, or ends where it begins."""
        with self.lock:
            first = bisect_left(self.expected, start, key=_start)
            last = bisect_left(self.expected, stop, key=_start)
            before = self.expected[max(first - 1, 0) : first]
            at_end = self.expected[max(last - 1, 0) : last]
        begin = min([start, *(item.start for item in before if item.stop >= start)])
        return begin, max([stop, *(item.stop for item in at_end)])

    def expected_in(self, start: int, stop: int) -> list[_Expected]:
        """What is to be compared of bytes [start, stop), as far as all of it lies in them."""
        with self.lock:
            first, last = (bisect_left(self.expected, at, key=_start) for at in (start, stop))
            return [item for item in self.expected[first:last] if item.stop <= stop]

    def confirm(self, watched: _Watched) -> None:
        """Has compared what was to be compared, and will not be again."""
        if not watched.items:
            return
        with self.lock:
            first = bisect_left(self.expected, watched.items[0].start, key=_start)
            last = bisect_right(self.expected, watched.items[-1].start, key=_start)
            self.expected[first:last] = [item for item in self.expected[first:last] if item not in watched.items]
        for item, data in zip(watched.items, watched.seen, strict=True):
            item.check(bytes(data))

    def tried_again(self) -> None:
        with self.lock:
            self.retries += 1
