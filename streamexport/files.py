"""Files that appear complete and synced, all of them or none.

    1 write    each into a nameless file (O_TMPFILE; else under a temporary name), synced; sources are checked once more
    2 appear   under a lock of the directories, while signals wait: what is there now is linked to temporary names, the new
               files are renamed into place in their order, what they make obsolete goes away, the directories are synced
    3 forget   the temporary names go

An error in 2 is undone, from the links. Between two renames a crash of the machine or SIGKILL leaves new files beside old
ones, each whole, which `identity` tells apart; the next run to one of the names removes the temporary ones. Who makes or
removes temporary names holds the directory's lock, so a run removes none that belongs to a living one; and of two runs to
the same names one appears after the other, never mixed. Where directories cannot be locked (NFS) there is neither.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import re
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace

from . import transfer
from .errors import Error, OutputError, reason
from .extents import Layout, Source
from .interrupts import LateInterrupt, held_back
from .transfer import Progress

PATIENCE = 60.0
"""Seconds to wait for a directory's lock. Runs of ours hold it for the time of some renames."""

CANNOT_LINK = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""What link answers where a file cannot have another name."""

STDOUT = 1
STDOUTS = ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")
PART = re.compile(r"-[0-9]{5}-of-[0-9]{5}(?=\.)")


@dataclass(frozen=True)
class File:
    """A file to be: its path, its content, and the block size by which it shall be cloned where that is possible, or 0."""

    path: str
    layout: Layout
    align: int = 0


def publish(
    files: Sequence[File],
    sources: Iterable[Source] = (),
    progress: Progress = lambda _: None,
    obsolete: Callable[[], Iterable[str]] = tuple,
) -> None:
    """Writes files so that all of them appear, complete and synced, or none; the last one appears last.

    What exists and is no regular file (a pipe, /dev/null, a device) is written in place. A symbolic link is followed.

    Parameters
    ----------
    files : in the order in which they shall appear
    sources : what must not be overwritten nor have changed, besides the sources of the layouts
    obsolete : asked, when all is written, for the regular files that go away as these appear

    Raises
    ------
    OutputError : an output cannot be written, or is one of the sources; names hold what they held, or it says which do not
    SourceChangedError : a source is not what it was; nothing has appeared
    LateInterrupt : a signal came while they appeared; all are there
    """
    sources = dict.fromkeys((*sources, *(source for file in files for source in file.layout.sources)))
    # Links are followed to the name that will be replaced; what is written in place is opened as it is called, since
    # /dev/stdout leads to names that do not exist.
    paths = [os.path.realpath(f.path) if _is_regular(f.path) else f.path for f in files]
    for path in paths:
        transfer.refuse_own_input(path, sources)
    regular = [_is_regular(path) for path in paths]
    if twice := [path for path, count in Counter(itertools.compress(paths, regular)).items() if count > 1]:
        raise OutputError("is the name of two outputs", file=twice[0], advice="give each its own")
    files = [replace(file, align=_shared(file, path)) for path, file in zip(paths, files, strict=True)]
    _check_space([(path, file) for path, file, is_regular in zip(paths, files, regular, strict=True) if is_regular])
    directories = _Directories()
    staged: list[_Staged] = []
    try:
        for path, file, is_regular in zip(paths, files, regular, strict=True):
            with _speaking_of(path):
                if is_regular:
                    staged.append(_Staged(path, directories.of(path)))
                    transfer.write(file.layout, staged[-1].descriptor, file.align, progress)
                else:
                    _write_special(path, file.layout, progress)
        for source in sources:
            source.check()
        _appear(staged, directories, obsolete)
    finally:
        with held_back():
            for output in staged:
                output.close()
            directories.close()


def _shared(file: File, path: str) -> int:
    """The size of the blocks that a file will share with its sources, 0 where it cannot."""
    can = file.align and transfer.shares_blocks(file.layout.sources, os.path.dirname(path), file.align)
    return file.align if can else 0


def is_stdout(path: str) -> bool:
    """Whether a path is a name of the descriptor that standard output is."""
    return os.path.normpath(path) in STDOUTS


def _appear(staged: Sequence[_Staged], directories: _Directories, obsolete: Callable[[], Iterable[str]]) -> None:
    with directories.locked():
        old = [_Name(path, directories.of(path)) for path in obsolete()]
        are_there = False
        try:
            with held_back():
                _replace(staged, old, directories)
                are_there = True
        except KeyboardInterrupt as interrupt:
            if are_there:
                raise LateInterrupt(*interrupt.args) from None
            raise


def _replace(staged: Sequence[_Staged], obsolete: Sequence[_Name], directories: _Directories) -> None:
    """Renames all files into place, or puts back what was there."""
    names = [*staged, *obsolete]
    try:
        for name in names:
            with _speaking_of(name.path):
                name.prepare()
        for name in names:
            with _speaking_of(name.path):
                name.change()
        directories.sync()
    except BaseException as error:
        if strange := [name.path for name in names if not name.undo()]:
            what = f"{error}; what was there could not be put back in {', '.join(strange)}"
            raise OutputError(what, advice="convert again") from error
        raise
    finally:
        for name in names:
            name.forget()


class _Directory:
    """A directory that outputs appear in, open for as long as the run needs it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    @contextmanager
    def locked(self) -> Iterator[bool]:
        """Whether it could be locked: not every file system does that. OutputError if somebody else keeps it locked."""
        end = time.monotonic() + PATIENCE
        is_locked = False
        while not is_locked:
            try:
                fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                is_locked = True
            except BlockingIOError:
                if time.monotonic() > end:
                    advice = "run again when that has ended"
                    raise OutputError("is locked by another program", file=self.path, advice=advice) from None
                time.sleep(0.01)
            except OSError:
                break
        try:
            yield is_locked
        finally:
            if is_locked:
                fcntl.flock(self.descriptor, fcntl.LOCK_UN)


@dataclass
class _Directories:
    """Those of one run, each once: a lock is held by a descriptor, and a second one would wait for the first."""

    opened: dict[tuple[int, int], _Directory] = field(default_factory=dict)

    def of(self, path: str) -> _Directory:
        """That of a file."""
        directory = os.path.dirname(path)
        found = os.stat(directory)
        key = (found.st_dev, found.st_ino)
        if key not in self.opened:
            self.opened[key] = _Directory(directory)
        return self.opened[key]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """All of them, in an order that all runs share, so that no two wait for each other."""
        with ExitStack() as stack:
            for key in sorted(self.opened):
                stack.enter_context(self.opened[key].locked())
            yield

    def sync(self) -> None:
        for directory in self.opened.values():
            with _speaking_of(directory.path):
                os.fsync(directory.descriptor)

    def close(self) -> None:
        for directory in self.opened.values():
            os.close(directory.descriptor)


class _Name:
    """A name that goes away, and a temporary one that what it held is kept under meanwhile."""

    def __init__(self, path: str, directory: _Directory) -> None:
        self.path, self.directory, self.name = path, directory, os.path.basename(path)
        whole = PART.sub("", self.name)  # parts share their temporary names, so that a run clears those of other counts
        self.prefix = f".{os.fsdecode(os.fsencode(whole)[:200])}.streamexport-"
        self.kept: str | None = None
        self.is_lost = False

    def prepare(self) -> None:
        """Keeps what the name holds. File systems without hard links cannot, and then it cannot be put back."""
        _refuse_sticky(self.path, self.directory)
        name = self.temporary_name()
        try:
            self._link(self.name, name, follow=False)
            self.kept = name
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno not in CANNOT_LINK:
                raise
            self.is_lost = True

    def change(self) -> None:
        os.unlink(self.name, dir_fd=self.directory.descriptor)

    def undo(self) -> bool:
        """Puts back what was there, whether or not it had been changed; False if that is not possible."""
        if self.kept is None:
            return self.withdraw() if not self.is_lost else not self.is_changed()
        try:
            self._rename(self.kept, self.name)  # of two names of one file nothing happens to either
        except OSError:
            return False
        return True

    def withdraw(self) -> bool:
        """Leaves nothing where nothing was; False if that is not possible."""
        return True

    def is_changed(self) -> bool:
        return not os.path.lexists(self.path)

    def forget(self) -> None:
        if self.kept is not None:
            with suppress(OSError):
                os.unlink(self.kept, dir_fd=self.directory.descriptor)
            self.kept = None

    def temporary_name(self) -> str:
        return self.prefix + os.urandom(4).hex()

    def _link(self, old: str, new: str, follow: bool) -> None:
        at = self.directory.descriptor
        # With a directory's descriptor Python calls linkat, which can follow /proc's links; without, link, which cannot.
        os.link(old, new, src_dir_fd=at, dst_dir_fd=at, follow_symlinks=follow)

    def _rename(self, old: str, new: str) -> None:
        os.rename(old, new, src_dir_fd=self.directory.descriptor, dst_dir_fd=self.directory.descriptor)


class _Staged(_Name):
    """A regular file in the making: nameless, or under a name that says that it is temporary."""

    def __init__(self, path: str, directory: _Directory) -> None:
        super().__init__(path, directory)
        self.temporary: str | None = None
        self.descriptor = -1
        try:
            with directory.locked() as is_locked:
                if is_locked:
                    self._remove_stale()
                self.descriptor = self._open()
                with suppress(OSError):  # some network file systems have no locks
                    fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # says "not stale" to other runs
            with suppress(FileNotFoundError):
                os.fchmod(self.descriptor, os.stat(path).st_mode & 0o777)  # of a foreign file no more than that
        except BaseException:
            self.close()
            raise

    def prepare(self) -> None:
        """Gives a nameless file a temporary name as well, since only a name can be renamed over another file's."""
        super().prepare()
        if self.temporary is None:
            name = self.temporary_name()
            self._link(f"/proc/self/fd/{self.descriptor}", name, follow=True)
            self.temporary = name

    def change(self) -> None:
        assert self.temporary is not None
        self._rename(self.temporary, self.name)
        self.temporary = None

    def close(self) -> None:
        if self.temporary is not None:
            with suppress(OSError):
                os.unlink(self.temporary, dir_fd=self.directory.descriptor)
            self.temporary = None
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def withdraw(self) -> bool:
        try:
            if self.is_changed():
                os.unlink(self.name, dir_fd=self.directory.descriptor)
        except OSError:
            return False
        return True

    def is_changed(self) -> bool:
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self.descriptor), os.lstat(self.path))
        return False

    def _open(self) -> int:
        directory = self.directory.descriptor
        if hasattr(os, "O_TMPFILE") and os.path.isdir("/proc/self/fd"):
            with suppress(OSError):  # not every file system has nameless files
                return os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o666, dir_fd=directory)
        name = self.temporary_name()
        descriptor = os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o666, dir_fd=directory)
        self.temporary = name
        return descriptor

    def _remove_stale(self) -> None:
        """Removes what a killed run left under this output's temporary names. Living runs hold a lock on theirs."""
        temporary = re.compile(re.escape(self.prefix) + "[0-9a-f]{8}")
        directory = self.directory.descriptor
        for name in filter(temporary.fullmatch, os.listdir(directory)):
            with suppress(OSError):
                stale = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
                try:
                    fcntl.flock(stale, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if stat.S_ISREG(os.fstat(stale).st_mode):
                        os.unlink(name, dir_fd=directory)
                finally:
                    os.close(stale)


def _refuse_sticky(path: str, directory: _Directory) -> None:
    """OutputError for another user's file where only its owner may replace it: the kept link could not be removed."""
    found, user = os.fstat(directory.descriptor), os.geteuid()
    if user == 0 or not found.st_mode & stat.S_ISVTX or found.st_uid == user:
        return
    with suppress(FileNotFoundError):
        if os.lstat(path).st_uid != user:
            raise OutputError("is another user's, who alone may replace it", file=path, advice="write to another name")


def _write_special(path: str, layout: Layout, progress: Progress) -> None:
    if is_stdout(path):
        transfer.stream(layout, STDOUT, progress)
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        transfer.stream(layout, descriptor, progress)
        with suppress(OSError):  # pipes and /dev/null cannot be synced
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_regular(path: str) -> bool:
    """Whether a regular file is there, or nothing yet. OutputError for a directory, or where none can be."""
    if is_stdout(path):
        return False
    with _speaking_of(path):
        try:
            mode = os.stat(path).st_mode
        except FileNotFoundError:
            if not os.path.isdir(os.path.dirname(os.path.realpath(path))):
                raise OutputError("its directory does not exist", file=path, advice="make it first") from None
            return True
        except ValueError as error:  # NUL
            raise OutputError(f"cannot be written: {error}", file=path) from error
    if stat.S_ISDIR(mode):
        raise OutputError("is a directory", file=path, advice="name a file in it")
    return stat.S_ISREG(mode)


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
