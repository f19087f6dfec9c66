"""Names that files are given in directories: temporary ones, and those that they replace, which can be put back.

A directory's lock is held by who makes or removes temporary names in it; `files` says when.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

from ..errors import Error, OutputError, reason

PATIENCE = 60.0
"""Seconds to wait for a directory's lock. Runs of ours hold it for the time of some renames."""

CANNOT_LINK = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""What link answers where a file cannot have another name."""

PART = re.compile(r"-[0-9]{5}-of-[0-9]{5}(?=\.)")


@contextmanager
def speaking_of(path: str) -> Iterator[None]:
    """Turns what the system says into an OutputError that names the file; a closed pipe stays one."""
    try:
        yield
    except (Error, BrokenPipeError):
        raise
    except OSError as error:
        advice = "free some space, or write elsewhere" if error.errno == errno.ENOSPC else None
        raise OutputError(f"cannot be written: {reason(error)}", file=path, advice=advice) from error


class Directory:
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
class Directories:
    """Those of one run, each once: a lock is held by a descriptor, and a second one would wait for the first."""

    opened: dict[tuple[int, int], Directory] = field(default_factory=dict)

    def of(self, path: str) -> Directory:
        """That of a file."""
        directory = os.path.dirname(path)
        found = os.stat(directory)
        key = (found.st_dev, found.st_ino)
        if key not in self.opened:
            self.opened[key] = Directory(directory)
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
            with speaking_of(directory.path):
                os.fsync(directory.descriptor)

    def close(self) -> None:
        for directory in self.opened.values():
            os.close(directory.descriptor)


class Name:
    """A name that goes away, and a temporary one that what it held is kept under meanwhile."""

    def __init__(self, path: str, directory: Directory) -> None:
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


class Staged(Name):
    """A regular file in the making: nameless, or under a name that says that it is temporary, as `by_name` asks for."""

    LEFT = r"|partial(-[0-9]{5}-of-[0-9]{5})?"
    """What else than temporary names goes away: a run that could have gone on with it was not asked to."""

    done = 0
    remark: str | None = None

    def __init__(self, path: str, directory: Directory, by_name: bool = False) -> None:
        super().__init__(path, directory)
        self.temporary: str | None = None
        self.by_name = by_name
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

    def wrote(self, count: int) -> None:
        """Is told of every so many more bytes that are there."""

    def discard(self) -> None:
        """Is told that they are of no use."""

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
        if not self.by_name and hasattr(os, "O_TMPFILE") and os.path.isdir("/proc/self/fd"):
            with suppress(OSError):  # not every file system has nameless files
                return os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o666, dir_fd=directory)
        name = self.temporary_name()
        descriptor = os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o666, dir_fd=directory)
        self.temporary = name
        return descriptor

    def _remove_stale(self) -> None:
        """Removes what a killed run left under this output's temporary names. Living runs hold a lock on theirs."""
        temporary = re.compile(re.escape(self.prefix) + f"([0-9a-f]{{8}}{self.LEFT})")
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


def _refuse_sticky(path: str, directory: Directory) -> None:
    """OutputError for another user's file where only its owner may replace it: the kept link could not be removed."""
    found, user = os.fstat(directory.descriptor), os.geteuid()
    if user == 0 or not found.st_mode & stat.S_ISVTX or found.st_uid == user:
        return
    with suppress(FileNotFoundError):
        if os.lstat(path).st_uid != user:
            raise OutputError("is another user's, who alone may replace it", file=path, advice="write to another name")
