"""Layouts to file descriptors, by the fastest way that the two ends allow.

    regular file    large extents by copy_file_range, the rest through one reused buffer, into preallocated space; the
                    disk is told to begin as soon as there is something to write. Nothing but the buffer is resident
    the same, XFS   large extents whose offsets agree with those in the source modulo the block size are cloned
    or btrfs        (FICLONERANGE): no byte of them moves. Neither preallocated nor checked for space
    pipe            large extents are spliced from the page cache, the rest is written
    anything else   a buffer, and write

What lies far away is fetched before, see `fetching`, and goes through a buffer.

Names and what becomes of them are the business of `files`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import stat
import struct
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import suppress

from ..errors import OutputError
from ..payload.pieces import BUFFER, Extent, Layout, Source
from ..sources.decoded import Kept

Progress = Callable[[int], object]
"""Told how many more bytes have been moved."""

SPAN = 8 << 20
"""Bytes after which the disk is told to begin: it then works while the next are copied, so that fsync
finds little to do. Two threads were no faster. Through the buffer alone, the same took between as long and twice as long,
from run to run."""

MOVE_FROM = 64 << 10
"""Bytes from which on an extent is spliced or cloned; what is shorter is cheaper to copy with its neighbours."""

CANNOT_MOVE = (errno.EINVAL, errno.ENOSYS, errno.EIO, errno.EPERM, errno.EXDEV, errno.EOPNOTSUPP)
"""What splice and copy_file_range answer where the two ends do not allow them."""

FICLONERANGE = 0x4020940D  # linux/fs.h: _IOW(0x94, 13, struct file_clone_range)
F_SETPIPE_SZ = 1031  # linux/fcntl.h; the fcntl module names it on Linux only
PIPE_SIZE = 1 << 20  # what an ordinary user may ask for


def write(
    layout: Layout, descriptor: int, align: int, progress: Progress, hashed: Container[Source] = (), done: int = 0
) -> Mapping[Source, str]:
    """Writes a layout to a new regular file, and syncs it; what lies `align` bytes apart is cloned, 0 for nothing.

    Returns the SHA-256 of those of the sources to be `hashed` that have passed by, whole. Of a file that was not aligned, as
    many bytes as `progress` was told of before are `done`, in whatever order that was.
    """
    ranges = [(done, layout.size)]
    hashes: Mapping[Source, str] = {}
    if align:
        os.ftruncate(descriptor, layout.size)
        ranges = list(_clone_extents(layout, align, descriptor, progress))
    elif layout.size:
        reserve(descriptor, layout.size)
    if layout.is_far:
        ranges, hashes = _fetch(layout, descriptor, progress, hashed, done)
    for start, stop in ranges:
        write_range(layout, start, stop, descriptor, progress)
    os.fsync(descriptor)
    return hashes


def write_range(layout: Layout, start: int, stop: int, descriptor: int, progress: Progress) -> None:
    """Writes bytes [start, stop) of a layout to the same offsets of a regular file; others may write others meanwhile."""
    for begin, end in spans(layout, start, stop):
        _copy(layout, begin, end, descriptor, progress)


def stream(layout: Layout, descriptor: int, progress: Progress = lambda _: None) -> None:
    """Writes a layout to an open descriptor from where it stands: a pipe, a terminal's redirection, a socket.

    BrokenPipeError if nobody reads any more.
    """
    refuse_own_input(descriptor, layout.sources)
    is_pipe = stat.S_ISFIFO(os.fstat(descriptor).st_mode) and hasattr(os, "splice")
    if is_pipe:
        with suppress(OSError):  # beyond the user's limit: the pipe stays as small as it is
            fcntl.fcntl(descriptor, F_SETPIPE_SZ, PIPE_SIZE)
    buffer = memoryview(bytearray(BUFFER))
    for begin, end in spans(layout, 0, layout.size):
        for extent, start, stop in _runs(layout, begin, end) if is_pipe else [(None, begin, end)]:
            at = start + (_splice(extent, descriptor, progress) if extent is not None else 0)
            for _, part in _rendered(layout, at, stop, buffer):
                _write_all(descriptor, part)
                progress(len(part))
    for source in layout.sources:
        source.check()


def shares_blocks(sources: Iterable[Source], directory: str, align: int) -> bool:
    """Whether files in `directory` can share blocks of `align` bytes with all of the sources.

    Tried, with a nameless file, on the first block of each source: file systems do not say.
    """
    flags = getattr(os, "O_TMPFILE", None)
    if flags is None:
        return False
    try:
        target = os.open(directory, flags | os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        for source in sources:
            descriptor = source.fileno()
            if descriptor is None:
                return False
            if source.size >= align:
                _clone(target, 0, descriptor, 0, align)
        return True
    except OSError:
        return False
    finally:
        os.close(target)


def _runs(layout: Layout, start: int, stop: int) -> Iterator[tuple[Extent | None, int, int]]:
    """Cuts bytes [start, stop) into what lies in large extents and what is between them (None): (extent, start, stop)."""
    begin = at = start
    for piece, first, last in layout.parts(start, stop):
        end = at + last - first
        if isinstance(piece, Extent) and end - at >= MOVE_FROM and piece.source.fileno() is not None:
            if begin < at:
                yield None, begin, at
            yield piece.part(first, last), at, end
            begin = end
        at = end
    if begin < stop:
        yield None, begin, stop


def spans(layout: Layout, start: int, stop: int) -> Iterable[tuple[int, int]]:
    """Bytes [start, stop) of a layout, cut so that what each range reads is at hand when it is asked for."""
    if not layout.is_far:
        return [(start, stop)]
    from . import fetching

    return fetching.spans(layout, start, stop)


def _fetch(
    layout: Layout, descriptor: int, progress: Progress, hashed: Container[Source], done: int
) -> tuple[list[tuple[int, int]], Mapping[Source, str]]:
    """Fetches what can be put in place in the order of the source; the ranges of the layout that are left, and hashes."""
    from . import fetching

    if not fetching.is_scattered(layout):
        return [(done, layout.size)], {}
    (source,) = layout.sources
    left = layout.size
    for piece, start in zip(layout.pieces, layout.starts, strict=False):
        if isinstance(piece, Extent):
            left -= piece.length
        else:
            _copy(layout, start, start + piece.size, descriptor, lambda _: None)

    def write(offset: int, data: memoryview) -> None:
        _write_at(descriptor, offset, data)
        _write_back(descriptor, offset, len(data))

    found = fetching.scatter(layout, write, progress, source in hashed and not done, done)
    progress(min(left, layout.size - done))
    if done and source in hashed and layout.pieces == (Extent(source, 0, source.size),):
        found = fetching.sha256(Kept(source.name, source.size, descriptor, 0))  # the same bytes, nearer
    return [], {source: found} if found else {}


def _write_at(descriptor: int, offset: int, data: memoryview) -> None:
    while data:
        count = os.pwrite(descriptor, data, offset)
        offset, data = offset + count, data[count:]


def _write_back(descriptor: int, offset: int, length: int) -> None:
    """Linux takes this as a hint to start writing. What is dirty stays cached, and fsync finds little to do."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, offset, length, os.POSIX_FADV_DONTNEED)


def _copy(layout: Layout, start: int, stop: int, target: int, progress: Progress) -> None:
    """Bytes [start, stop) of a layout to the same offsets of a file, written back as they come."""
    buffer = memoryview(bytearray(BUFFER))
    for begin in range(start, stop, SPAN):
        end = min(begin + SPAN, stop)
        for piece, first, last in layout.parts(end, min(end + SPAN, stop)):
            if isinstance(piece, Extent):
                piece.source.expect(piece.offset + first, last - first)
        for extent, at, last in _runs(layout, begin, end):
            if extent is not None:
                at += _copy_extent(extent, target, at)
            for offset, part in _rendered(layout, at, last, buffer):
                _write_at(target, offset, part)
        _write_back(target, begin, end - begin)
        progress(end - begin)


def _copy_extent(extent: Extent, target: int, offset: int) -> int:
    """Has the kernel copy an extent to an offset of a file; how many bytes it could."""
    descriptor, moved = extent.source.fileno(), 0
    if descriptor is None or not hasattr(os, "copy_file_range"):
        return 0
    while moved < extent.length:
        try:
            count = os.copy_file_range(descriptor, target, extent.length - moved, extent.offset + moved, offset + moved)
        except OSError as error:
            if error.errno in CANNOT_MOVE:
                break  # the file systems cannot: the caller copies the rest
            raise
        if not count:
            break
        moved += count
    return moved


def _rendered(layout: Layout, start: int, stop: int, buffer: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Bytes [start, stop) of a layout, a bufferful at a time, each with its offset."""
    while start < stop:
        part = buffer[: min(len(buffer), stop - start)]
        layout.render(start, start + len(part), part)
        yield start, part
        start += len(part)


def _write_all(descriptor: int, data: memoryview) -> None:
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:
            select.select([], [descriptor], [])


def _splice(extent: Extent, pipe: int, progress: Progress) -> int:
    """Moves an extent into a pipe without copying; how many bytes it could move so."""
    descriptor, moved = extent.source.fileno(), 0
    assert descriptor is not None
    while moved < extent.length:
        try:
            count = os.splice(descriptor, pipe, extent.length - moved, offset_src=extent.offset + moved)
        except BlockingIOError:
            select.select([], [pipe], [])
            continue
        except OSError as error:
            if error.errno in CANNOT_MOVE:
                break  # the file system cannot: the caller copies the rest
            raise
        if not count:
            break
        moved += count
        progress(count)
    return moved


def _clone_extents(layout: Layout, align: int, target: int, progress: Progress) -> Iterator[tuple[int, int]]:
    """Clones what can be cloned; the ranges of the layout that are left to be copied."""
    copied = 0
    for extent, start, stop in _runs(layout, 0, layout.size):
        first, last = -(-start // align) * align, stop // align * align
        if extent is None or (extent.offset - start) % align or first >= last:
            continue
        descriptor = extent.source.fileno()
        assert descriptor is not None
        try:
            _clone(target, first, descriptor, extent.offset + first - start, last - first)
        except OSError:
            continue  # it was tried before the layout was made, but file systems may refuse any range
        if copied < first:
            yield copied, first
        copied = last
        progress(last - first)
    if copied < layout.size:
        yield copied, layout.size


def _clone(target: int, target_offset: int, source: int, source_offset: int, length: int) -> None:
    fcntl.ioctl(target, FICLONERANGE, struct.pack("=qQQQ", source, source_offset, length, target_offset))


def reserve(descriptor: int, size: int) -> None:
    """Reserves the space, so that a full disk shows before the first byte, and extents on disk are few."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                raise


def refuse_own_input(output: str | int, sources: Iterable[Source]) -> None:
    """OutputError if a path or a descriptor leads to one of the sources."""
    try:
        found = os.stat(output)
    except OSError:
        return
    for source in sources:
        descriptor = source.fileno()
        if descriptor is not None and os.path.samestat(found, os.fstat(descriptor)):
            raise OutputError("is its own input", file=source.name, advice="write to another name")
