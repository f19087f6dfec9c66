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
from mmap import mmap
from typing import TYPE_CHECKING, ClassVar, TypeVar

from ..errors import SourceChangedError, SourceError
from ..payload.pieces import Source
from . import stores
from .decoded import Held

if TYPE_CHECKING:
    from obstore import GetOptions

_T = TypeVar("_T")

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
        data, found = unknown._asked(0, BLOCK, threading.Event())
        found._state.blocks[0] = Held(found.name, len(data), data)
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

    def fetch(
        self, offset: int, length: int, gone: threading.Event | None = None, buffer: bytearray | mmap | None = None
    ) -> memoryview:
        """Bytes of it, by one request, or several where that fails, until nobody wants them any more: they are `gone`.

        They lie in `buffer` then, if there is room for them.

        SourceError if they cannot be had, SourceChangedError if the object is not what it was.
        """
        start, stop = self._state.around(offset, offset + length)
        data, found = self._asked(start, stop - start, gone or threading.Event(), buffer)
        if found != self:
            raise SourceChangedError("changed while it was read", file=self.name, offset=offset)
        self._state.confirm(start, data)
        return data[offset - start :][:length]

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

    def _asked(
        self, offset: int, length: int, gone: threading.Event, buffer: bytearray | mmap | None = None
    ) -> tuple[memoryview, RemoteFile]:
        """A range, and what is found to be the object; asked for until it comes, or is not worth asking for."""
        from obstore.exceptions import BaseError

        wait = FIRST_WAIT
        for left in reversed(range(RETRIES + 1)):
            try:
                return _aside(partial(self._ask, offset, length, gone, buffer), gone)
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

    def _ask(
        self, offset: int, length: int, gone: threading.Event, buffer: bytearray | mmap | None
    ) -> tuple[memoryview, RemoteFile]:
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
        due = min(length, found.size - offset)
        has_room = buffer is not None and len(buffer) >= due
        data, at = memoryview(buffer if buffer is not None and has_room else bytearray(due))[:due], 0
        for part in answer.stream(min_chunk_size=_CHUNK):
            if at + len(part) <= due:
                data[at : at + len(part)] = part
            at += len(part)
            if gone.is_set():
                raise self._unwanted()
        if at != due:
            raise GenericError(f"{at} bytes came where {due} were due")
        return data.toreadonly(), found


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

    def confirm(self, offset: int, data: memoryview) -> None:
        """Has compared what is to be compared of some bytes, and will not be again."""
        with self.lock:
            first = bisect_left(self.expected, offset, key=_start)
            last = bisect_left(self.expected, offset + len(data), key=_start)
            whole = [item for item in self.expected[first:last] if item.stop <= offset + len(data)]
            self.expected[first:last] = [item for item in self.expected[first:last] if item not in whole]
        for item in whole:
            item.check(bytes(data[item.start - offset : item.stop - offset]))

    def tried_again(self) -> None:
        with self.lock:
            self.retries += 1
