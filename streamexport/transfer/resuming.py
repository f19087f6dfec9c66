"""Files in the making that are kept when a run is cut off, and tell how far they had come.

A `.NAME.streamexport-partial` holds what its layout says, as far as it was written, and behind that a line of JSON: what
was to be made of what, and how many of its bytes are there. Which those are is known to who writes them in an order of
his own (`moving.write`). They are synced before they are noted.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress

from .._version import __version__
from ..errors import OutputError
from ..payload.pieces import Extent, Layout, Literal, Piece
from .staging import PART, Directory, Staged

EVERY = 256 << 20
"""Bytes after which that is noted."""
LONGEST_NOTE = 1 << 12


class Partial(Staged):
    """A regular file in the making that goes on where an earlier run was cut off, if that was to make the same.

    Attributes
    ----------
    done : bytes that are there
    remark : what became of an earlier run's; None where there was none
    """

    LEFT = ""

    def __init__(self, path: str, directory: Directory, layout: Layout) -> None:
        self.done = self._noted = 0
        self.remark: str | None = None
        self._size, self._made = layout.size, _made(layout)
        self._is_wrong = False
        super().__init__(path, directory)

    def wrote(self, count: int) -> None:
        """Counts so many more bytes, and notes them now and then."""
        self.done += count
        if self.done - self._noted >= EVERY:
            self._note()

    def discard(self) -> None:
        """What is there is not to be gone on with."""
        self._is_wrong = True

    def prepare(self) -> None:
        os.ftruncate(self.descriptor, self._size)  # nothing but the file itself
        os.fsync(self.descriptor)
        super().prepare()

    def close(self) -> None:
        if self.temporary is not None and self.done and not self._is_wrong:
            with suppress(OSError):
                self._note()
            self.temporary = None  # and so it stays
        super().close()

    def _open(self) -> int:
        part = PART.search(self.name)
        name = f"{self.prefix}partial{part[0] if part else ''}"
        flags = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        self.descriptor = os.open(name, flags, 0o666, dir_fd=self.directory.descriptor)
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            advice = "wait until that has ended"
            raise OutputError("is being written by another run", file=self.path, advice=advice) from None
        except OSError:  # some network file systems have no locks
            pass
        self.temporary = name
        self._go_on()
        return self.descriptor

    def _go_on(self) -> None:
        """Finds how far an earlier run had come; what is of no use is emptied."""
        noted = self._read_note()
        strange = [what for what, value in self._made.items() if noted and noted.get(what) != value]
        if strange:
            self.remark = f"begun anew, since {_REASONS[strange[0]]}"
        elif noted and type(done := noted.get("done")) is int and done > 0:
            self.done = self._noted = done
            self.remark = "went on where it had been cut off"
            return
        os.ftruncate(self.descriptor, 0)

    def _read_note(self) -> Mapping[str, object] | None:
        size = os.fstat(self.descriptor).st_size
        tail = os.pread(self.descriptor, LONGEST_NOTE, max(0, size - LONGEST_NOTE))
        try:
            noted = json.loads(tail[tail.rindex(b"\n") :])
        except ValueError:
            return None
        return noted if isinstance(noted, dict) else None

    def _note(self) -> None:
        text = b"\n" + json.dumps({**self._made, "done": self.done}).encode()
        os.fdatasync(self.descriptor)
        os.pwrite(self.descriptor, text, self._size)
        os.ftruncate(self.descriptor, self._size + len(text))
        os.fsync(self.descriptor)
        self._noted = self.done


_REASONS = {
    "version": "another version of streamexport had begun it",
    "sources": "what it is made of has changed",
    "layout": "something else was to be made of it",
}


def _made(layout: Layout) -> dict[str, str]:
    """What tells whether a file is to be the same: who writes, what from, and how."""
    return {
        "version": __version__,
        "sources": _digest(map(repr, layout.sources)),
        "layout": _digest(map(_described, layout.pieces)),
    }


def _described(piece: Piece) -> str:
    """Whatever tells a piece from others; of computed ones the record among the literals says how they are computed."""
    if isinstance(piece, Extent):
        return f"{piece.source.name} {piece.offset} {piece.length}"
    return f"{type(piece).__name__} {piece.size} {piece.data.hex() if isinstance(piece, Literal) else ''}"


def _digest(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(f"{text}\n".encode())
    return digest.hexdigest()
