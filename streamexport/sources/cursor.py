"""Sequential reading of headers from a source, through one small window, with the offset always known."""

from __future__ import annotations

from ..errors import TruncatedError
from ..payload.pieces import Extent, Source

WINDOW = 1 << 14
"""Bytes fetched at a time: payload is jumped over, so more would mostly be read in vain."""


class Cursor:
    """A position in bytes [start, stop) of a source. TruncatedError where a read would pass `stop`."""

    def __init__(self, source: Source, start: int = 0, stop: int | None = None) -> None:
        self.source = source
        self.stop = source.size if stop is None else stop
        self._window = b""
        self._window_start = self._next = start

    @property
    def offset(self) -> int:
        """Where the next read begins."""
        return self._next

    def seek(self, offset: int) -> None:
        self._next = offset

    def read(self, length: int) -> bytes:
        begin = self._next - self._window_start
        end = begin + length
        if not (begin >= 0 and end <= len(self._window)):
            self._fetch(length)
            begin, end = 0, length
        self._next += length
        return self._window[begin:end]

    def skip(self, length: int) -> Extent:
        """Jumps over bytes; where they are."""
        start, left = self._next, self.stop - self._next
        if not 0 <= length <= left:
            raise self._truncated(length, left)
        self._next += length
        return Extent(self.source, start, length)

    def byte(self) -> int:
        return self.read(1)[0]

    def peek(self, length: int) -> bytes:
        """Up to `length` bytes without moving on; fewer at the end."""
        length = min(length, self.stop - self._next)
        data = self.read(length)
        self._next -= length
        return data

    def line(self, limit: int = 1024) -> bytes:
        """Bytes up to and without the next newline, which is passed."""
        head = self.peek(limit)
        length = head.find(b"\n")
        if length < 0:
            raise TruncatedError(f"no end of line within {limit} bytes", file=self.source.name, offset=self._next)
        self._next += length + 1
        return head[:length]

    def _fetch(self, length: int) -> None:
        left = self.stop - self._next
        if length > left or left < 0:
            raise self._truncated(length, left)
        self._window = self.source.read(self._next, max(length, min(WINDOW, left)))
        self._window_start = self._next

    def _truncated(self, length: int, left: int) -> TruncatedError:
        return TruncatedError(
            f"ends where {length} more bytes are due, {max(left, 0)} are left",
            file=self.source.name,
            offset=self._next,
            advice="fetch it again: it is cut short or damaged",
        )
