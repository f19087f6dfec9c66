"""Layouts as files that others read: whatever takes a binary file, takes a layout, and nothing is written before."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from ..payload.pieces import BUFFER, Layout

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


def open_layout(layout: Layout) -> io.BufferedReader:
    """A read-only, seekable binary file that holds what a layout does: bytes are rendered as they are read.

    For what takes such a file: `boto3`'s upload_fileobj, `shutil.copyfileobj`, `h5py.File`. It has one position, as any file
    has: threads that read each at their own place open a layout each, which costs a buffer of 128 KiB and nothing else.

    Reading raises SourceError where a source cannot be read, and SourceChangedError instead of handing out the last byte if
    a source is no longer what it was.
    """
    return io.BufferedReader(_Rendered(layout), BUFFER)


class _Rendered(io.RawIOBase):
    def __init__(self, layout: Layout) -> None:
        self.layout, self.position = layout, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.layout.size}[whence]
        if base + offset < 0:
            raise ValueError(f"there is nothing {-base - offset} bytes before the beginning")
        self.position = base + offset
        return self.position

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        start = min(self.position, self.layout.size)
        into = memoryview(buffer).cast("B")[: self.layout.size - start]
        self.layout.render(start, start + len(into), into)
        if into and start + len(into) == self.layout.size:
            for source in self.layout.sources:
                source.check()
        self.position += len(into)
        return len(into)
