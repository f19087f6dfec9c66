"""Local files as sources: read at offsets with preadv, so that neither position nor mapping is shared."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import repeat
from weakref import ref

from ..errors import SourceChangedError, SourceError, reason
from ..payload.pieces import Source

MOST_OPEN = 16
"""Files that a thread keeps open: shards may be more than the 256 or 1,024 descriptors that a process is allowed."""


@dataclass(frozen=True)
class LocalFile(Source):
    """A regular file as it was when `at` looked: path, size in bytes, times of modification and of change in nanoseconds.

    Programs set the time of modification back, as archives do; the time of change nobody can set. None: it is not known.
    Compares by the first three, pickles by all. Each thread opens the file when it first reads, and closes it with the
    object, or when it has read from `MOST_OPEN` others since.
    """

    name: str
    size: int
    mtime_ns: int
    ctime_ns: int | None = field(default=None, compare=False)

    @classmethod
    def at(cls, path: str | os.PathLike[str]) -> LocalFile:
        """The file at `path`. SourceError if it cannot be looked at or is not a regular file."""
        name = os.fspath(path)
        try:
            found = os.stat(name)
        except (OSError, ValueError) as error:
            raise SourceError(f"cannot be opened: {reason(error)}", file=name) from error
        if stat.S_ISDIR(found.st_mode):
            raise SourceError("is a directory", file=name, advice="name a file in it")
        if not stat.S_ISREG(found.st_mode):
            raise SourceError(
                "is not a regular file", file=name, advice="write it to a file first: it is read at offsets"
            )
        return cls(name, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    def __reduce__(self) -> tuple[type[LocalFile], tuple[str, int, int, int | None]]:
        return LocalFile, (self.name, self.size, self.mtime_ns, self.ctime_ns)

    @property
    def _descriptor(self) -> _Descriptor:
        opened, key = _OPENED.files, id(self)
        held = opened.pop(key, None)
        if held is None:
            held = self._open(), ref(self, lambda _: opened.pop(key, None))
        while len(opened) >= MOST_OPEN:
            opened.pop(next(iter([*opened]), key), None)  # the collector of garbage may have emptied it meanwhile
        opened[key] = held  # behind all others
        return held[0]

    def _open(self) -> _Descriptor:
        try:
            descriptor = _Descriptor(os.open(self.name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
        except OSError as error:
            raise SourceError(f"cannot be opened: {reason(error)}", file=self.name) from error
        self._compare(os.fstat(descriptor.number))
        return descriptor

    def fileno(self) -> int:
        return self._descriptor.number

    def read_into(self, offset: int, into: memoryview) -> None:
        descriptor = self._descriptor.number
        while into:
            try:
                count = os.preadv(descriptor, [into], offset)
            except OSError as error:
                raise SourceError(f"cannot be read: {reason(error)}", file=self.name, offset=offset) from error
            if not count:
                raise SourceChangedError("ends before its own size", file=self.name, offset=offset)
            offset += count
            into = into[count:]

    def read_runs(self, offsets: Sequence[int], length: int) -> bytes:
        # Thousands of short reads: looping here took twice as long.
        try:
            data = b"".join(map(os.pread, repeat(self._descriptor.number), repeat(length), offsets))
        except OSError:
            data = b""
        return data if len(data) == length * len(offsets) else super().read_runs(offsets, length)  # which says where

    def expect(self, offset: int, length: int) -> None:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._descriptor.number, offset, length, os.POSIX_FADV_WILLNEED)

    def check(self) -> None:
        try:
            found = os.stat(self.name)
        except OSError as error:
            raise SourceChangedError(f"went away while it was read: {reason(error)}", file=self.name) from error
        self._compare(found)

    def _compare(self, found: os.stat_result) -> None:
        is_same = (found.st_size, found.st_mtime_ns) == (self.size, self.mtime_ns)
        if not is_same or self.ctime_ns not in (None, found.st_ctime_ns):
            raise SourceChangedError(
                "changed while it was read (size or times differ)",
                file=self.name,
                advice="run again when nothing writes to it",
            )


class _Descriptor:
    """An open file descriptor that closes itself."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self, close=os.close) -> None:  # type: ignore[no-untyped-def] # bound early: `os` may be gone at exit
        close(self.number)


class _Opened(threading.local):
    """What a thread has open, by the object that reads, the longest unused first.

    No thread closes what another one reads from.
    """

    def __init__(self) -> None:
        self.files: dict[int, tuple[_Descriptor, ref[LocalFile]]] = {}


_OPENED = _Opened()
