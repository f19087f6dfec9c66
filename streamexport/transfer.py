"""Layouts to file descriptors, by the fastest way that the two ends allow.

    regular file    large extents by copy_file_range, the rest through one reused buffer, into preallocated space; the
                    disk is told to begin as soon as there is something to write. Nothing but the buffer is resident
    the same, XFS   large extents whose offsets agree with those in the source modulo the block size are cloned
    or btrfs        (FICLONERANGE): no byte of them moves. Neither preallocated nor checked for space
    pipe            large extents are spliced from the page cache, the rest is written
    anything else   a buffer, and write

`publish` is the only way to a name: a regular file is written nameless (O_TMPFILE; else under a temporary name beside
it), synced, and renamed into place when all files of the run are complete. Sources are checked once more before that.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import re
import select
import stat
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from .errors import Error, OutputError, reason
from .extents import BUFFER, Extent, Layout, Source

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


@dataclass(frozen=True)
class File:
    """A file to be: its path, its content, and the modulus at which offsets agree, 0 if nothing is to be cloned."""

    path: str
    layout: Layout
    align: int = 0


def publish(files: Sequence[File], sources: Iterable[Source] = (), progress: Progress = lambda _: None) -> None:
    """Writes files so that all of them appear, complete and synced, or none; the last one appears last.

    What exists and is no regular file (a pipe, /dev/null, a device) is written in place. A symbolic link is followed.

    Parameters
    ----------
    files : in the order in which they shall appear
    sources : what must not be overwritten nor have changed, besides the sources of the layouts

    Raises
    ------
    OutputError : an output cannot be written, or is one of the sources
    SourceChangedError : a source is not what it was; nothing has appeared
    """
    sources = dict.fromkeys((*sources, *(source for file in files for source in file.layout.sources)))
    # Links are followed to the name that will be replaced; what is written in place is opened as it is called, since
    # /dev/stdout leads to names that do not exist.
    paths = [os.path.realpath(f.path) if _is_regular(f.path) else f.path for f in files]
    for path in paths:
        _refuse_own_input(path, sources)
    regular = [_is_regular(path) for path in paths]
    if twice := [path for path, count in Counter(itertools.compress(paths, regular)).items() if count > 1]:
        raise OutputError("is the name of two outputs", file=twice[0], advice="give each its own")
    _check_space([(path, file) for path, file, is_regular in zip(paths, files, regular, strict=True) if is_regular])
    with ExitStack() as stack:
        staged = []
        for path, file, is_regular in zip(paths, files, regular, strict=True):
            with _speaking_of(path):
                if is_regular:
                    staged.append(stack.enter_context(_Staged(path)))
                    staged[-1].write(file, progress)
                else:
                    _write_special(path, file.layout, progress)
        for source in sources:
            source.check()
        for output in staged:
            with _speaking_of(output.path):
                output.link()
        for output in staged:
            with _speaking_of(output.path):
                output.rename()


def stream(layout: Layout, descriptor: int, progress: Progress = lambda _: None) -> None:
    """Writes a layout to an open descriptor from where it stands: a pipe, a terminal's redirection, a socket.

    BrokenPipeError if nobody reads any more.
    """
    _refuse_own_input(f"/proc/self/fd/{descriptor}", layout.sources)
    is_pipe = stat.S_ISFIFO(os.fstat(descriptor).st_mode) and hasattr(os, "splice")
    if is_pipe:
        with suppress(OSError):  # beyond the user's limit: the pipe stays as small as it is
            fcntl.fcntl(descriptor, F_SETPIPE_SZ, PIPE_SIZE)
    buffer = memoryview(bytearray(BUFFER))
    for extent, start, stop in _runs(layout, 0, layout.size) if is_pipe else [(None, 0, layout.size)]:
        at = start + (_splice(extent, descriptor, progress) if extent is not None else 0)
        for _, part in _rendered(layout, at, stop, buffer):
            _write_all(descriptor, part)
            progress(len(part))
    for source in layout.sources:
        source.check()


def clone_alignment(sources: Iterable[Source], directory: str) -> int:
    """The block size at which files in `directory` can share blocks with all of the sources; 0 if they cannot.

    Tried, with a nameless file, on the first block of each source: file systems do not say.
    """
    flags = getattr(os, "O_TMPFILE", None)
    if flags is None:
        return 0
    try:
        target = os.open(directory, flags | os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        block = os.fstatvfs(target).f_bsize
        for source in sources:
            descriptor = source.fileno()
            if descriptor is None or source.size < block:
                return 0
            _clone(target, 0, descriptor, 0, block)
        return block
    except OSError:
        return 0
    finally:
        os.close(target)


class _Staged:
    """A regular file in the making: nameless, or under a name that says that it is temporary."""

    def __init__(self, path: str) -> None:
        self.path = path
        directory, name = os.path.split(path)
        self.directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.prefix = f".{os.fsdecode(os.fsencode(name)[:200])}.streamexport-"
        self.temporary: str | None = None
        self.descriptor = -1
        try:
            self._remove_stale(directory)
            self.descriptor = self._open(directory)
            with suppress(OSError):  # some network file systems have no locks
                fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # says "not stale" to other runs
            with suppress(FileNotFoundError):
                os.fchmod(self.descriptor, stat.S_IMODE(os.stat(path).st_mode))
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> _Staged:
        return self

    def __exit__(self, *_: object) -> None:
        if self.temporary is not None:
            with suppress(OSError):
                os.unlink(self.temporary, dir_fd=self.directory)
        if self.descriptor >= 0:
            os.close(self.descriptor)
        os.close(self.directory)

    def write(self, file: File, progress: Progress) -> None:
        layout, descriptor = file.layout, self.descriptor
        ranges = [(0, layout.size)]
        if file.align:
            os.ftruncate(descriptor, layout.size)
            ranges = list(_clone_extents(layout, file.align, descriptor, progress))
        elif layout.size:
            _preallocate(descriptor, layout.size)
        for start, stop in ranges:
            _copy(layout, start, stop, descriptor, progress)
        os.fsync(descriptor)

    def link(self) -> None:
        """Gives a nameless file a temporary name, since only a name can be renamed over another file's."""
        if self.temporary is None:
            name = self.prefix + os.urandom(4).hex()
            nameless = f"/proc/self/fd/{self.descriptor}"
            # With a directory descriptor Python calls linkat, which can follow this link; without, link, which cannot.
            os.link(nameless, name, src_dir_fd=self.directory, dst_dir_fd=self.directory, follow_symlinks=True)
            self.temporary = name

    def rename(self) -> None:
        assert self.temporary is not None
        os.rename(self.temporary, os.path.basename(self.path), src_dir_fd=self.directory, dst_dir_fd=self.directory)
        self.temporary = None
        os.fsync(self.directory)

    def _open(self, directory: str) -> int:
        if hasattr(os, "O_TMPFILE") and os.path.isdir("/proc/self/fd"):
            with suppress(OSError):  # not every file system has nameless files
                return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o666)
        name = self.prefix + os.urandom(4).hex()
        descriptor = os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o666, dir_fd=self.directory)
        self.temporary = name
        return descriptor

    def _remove_stale(self, directory: str) -> None:
        """Removes what a killed run left under this output's temporary names. Living runs hold a lock on theirs."""
        temporary = re.compile(re.escape(self.prefix) + "[0-9a-f]{8}")
        for name in filter(temporary.fullmatch, os.listdir(directory)):
            with suppress(OSError):
                stale = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.directory)
                try:
                    fcntl.flock(stale, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if stat.S_ISREG(os.fstat(stale).st_mode):
                        os.unlink(name, dir_fd=self.directory)
                finally:
                    os.close(stale)


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
                while part:
                    count = os.pwrite(target, part, offset)
                    offset, part = offset + count, part[count:]
        if hasattr(os, "posix_fadvise"):
            # Linux takes this as a hint to start writing back. What is dirty stays cached, and fsync finds little to do.
            os.posix_fadvise(target, begin, end - begin, os.POSIX_FADV_DONTNEED)
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


def _preallocate(descriptor: int, size: int) -> None:
    """Reserves the space, so that a full disk shows before the first byte, and extents on disk are few."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                raise


def _write_special(path: str, layout: Layout, progress: Progress) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        stream(layout, descriptor, progress)
        with suppress(OSError):  # pipes and /dev/null cannot be synced
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_regular(path: str) -> bool:
    """Whether a regular file is there, or nothing yet. OutputError for a directory, or where none can be."""
    with _speaking_of(path):
        try:
            mode = os.stat(path).st_mode
        except FileNotFoundError:
            if not os.path.isdir(os.path.dirname(os.path.realpath(path))):
                raise OutputError("its directory does not exist", file=path, advice="make it first") from None
            return True
    if stat.S_ISDIR(mode):
        raise OutputError("is a directory", file=path, advice="name a file in it")
    return stat.S_ISREG(mode)


def _refuse_own_input(path: str, sources: Iterable[Source]) -> None:
    try:
        output = os.stat(path)
    except OSError:
        return
    for source in sources:
        descriptor = source.fileno()
        if descriptor is not None and os.path.samestat(output, os.fstat(descriptor)):
            raise OutputError("is its own input", file=source.name, advice="write to another name")


def _check_space(files: Sequence[tuple[str, File]]) -> None:
    needed: dict[int, int] = {}
    for path, file in files:
        if file.align:
            continue  # cloned blocks take none
        directory = os.path.dirname(path)
        with _speaking_of(path):
            device, free = os.stat(directory).st_dev, os.statvfs(directory)
        needed[device] = needed.get(device, 0) + file.layout.size
        if needed[device] > free.f_bavail * free.f_frsize:
            raise OutputError(
                f"needs {needed[device]} bytes, {free.f_bavail * free.f_frsize} are free",
                file=path,
                advice="free some, or write elsewhere",
            )


@contextmanager
def _speaking_of(path: str) -> Iterator[None]:
    """Turns what the system says into an OutputError that names the file; a closed pipe stays one."""
    try:
        yield
    except (Error, BrokenPipeError):
        raise
    except OSError as error:
        advice = "free some space, or write elsewhere" if error.errno == errno.ENOSPC else None
        raise OutputError(f"cannot be written: {reason(error)}", file=path, advice=advice) from error
