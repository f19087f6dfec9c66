"""Files that appear complete and synced, all of them or none, and objects in stores together with them.

    1 write    each into a nameless file (O_TMPFILE; else under a temporary name), synced; sources are checked once more
    2 appear   under a lock of the directories, while signals wait: what is there now is linked to temporary names, the new
               files are renamed into place in their order, what they make obsolete goes away, the directories are synced
    3 forget   the temporary names go

Objects (`uploading`) are sent between 1 and 2, and deleted if 2 fails.

An error in 2 is undone, from the links. Between two renames a crash of the machine or SIGKILL leaves new files beside old
ones, each whole, which `identity` tells apart; the next run to one of the names removes the temporary ones. Who makes or
removes temporary names holds the directory's lock, so a run removes none that belongs to a living one; and of two runs to
the same names one appears after the other, never mixed. Where directories cannot be locked (NFS) there is neither.
"""

from __future__ import annotations

import itertools
import os
import stat
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from types import MappingProxyType

from ..errors import DigestError, OutputError, SourceChangedError
from ..payload.pieces import Layout, Source
from ..sources import stores
from . import moving
from .interrupts import LateInterrupt, held_back
from .movers import HERE, Mover
from .moving import Progress
from .staging import Directories, Name, Staged, speaking_of
from .uploading import refuse_taken, uploaded

STDOUT = 1
STDOUTS = ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


@dataclass(frozen=True)
class File:
    """A file to be, or an object in a store.

    Attributes
    ----------
    path : or URL
    layout : its content
    align : the block size by which it shall be cloned where that is possible, or 0
    """

    path: str
    layout: Layout
    align: int = 0


def publish(
    files: Sequence[File],
    sources: Iterable[Source] = (),
    progress: Progress = lambda _: None,
    obsolete: Callable[[], Iterable[str]] = tuple,
    digests: Mapping[Source, str] | None = None,
    resume: bool = False,
    *,
    force: bool = False,
    mover: Mover = HERE,
) -> tuple[str, ...]:
    """Writes files so that all of them appear, complete and synced, or none; the last one appears last.

    What exists and is no regular file (a pipe, /dev/null, a device) is written in place. A symbolic link is followed. A URL
    names an object in a store; those appear before the files, see `uploading`.

    Parameters
    ----------
    files : in the order in which they shall appear
    sources : what must not be overwritten nor have changed, besides the sources of the layouts
    obsolete : asked, when all is written, for the regular files that go away as these appear
    digests : of sources, how their SHA-256 begins, in hexadecimal digits
    resume : whether what is cut off is kept beside the file, and gone on with by the next run that resumes
    force : whether objects may be replaced; files are replaced in any case
    mover : who moves the bytes

    Returns
    -------
    What became of what an earlier run had begun.

    Raises
    ------
    OutputError : an output cannot be written, or is one of the sources; names hold what they held, or it says which do not
    SourceChangedError : a source is not what it was; nothing has appeared
    SourceError : a source has another digest, or cannot be read; nothing has appeared
    LateInterrupt : a signal came while they appeared; all are there
    """
    sources = dict.fromkeys((*sources, *(source for file in files for source in file.layout.sources)))
    objects = [(stores.to_write(file.path), file.layout) for file in files if stores.is_url(file.path)]
    files = [file for file in files if not stores.is_url(file.path)]
    refuse_taken(objects, sources, force)
    # Links are followed to the name that will be replaced; what is written in place is opened as it is called, since
    # /dev/stdout leads to names that do not exist.
    paths = [os.path.realpath(f.path) if _is_regular(f.path) else f.path for f in files]
    for path in paths:
        moving.refuse_own_input(path, sources)
    regular = [_is_regular(path) for path in paths]
    if twice := [path for path, count in Counter(itertools.compress(paths, regular)).items() if count > 1]:
        raise OutputError("is the name of two outputs", file=twice[0], advice="give each its own")
    files = [replace(file, align=_shared(file, path)) for path, file in zip(paths, files, strict=True)]
    directories = Directories()
    staged: list[Staged] = []
    digests, found = digests or {}, dict[Source, str]()
    if not all(regular):  # what is written there cannot be taken back
        check_digests(digests)
        digests = {}
    try:
        for path, file in itertools.compress(zip(paths, files, strict=True), regular):
            with speaking_of(path):
                staged.append(_staged(path, file, directories, resume, mover))
        _check_space(list(zip(staged, itertools.compress(files, regular), strict=True)))
        written = iter(staged)
        for path, file, is_regular in zip(paths, files, regular, strict=True):
            with speaking_of(path):
                if is_regular:
                    found |= _write(file, next(written), mover, progress, digests.keys() - found)
                else:
                    _write_special(path, file.layout, progress)
        check_digests(digests, found)
        for source in sources:
            source.check()
        with uploaded(objects, sources, force, mover, progress):
            _appear(staged, directories, obsolete)
        return (*(f"{output.path}: {output.remark}" for output in staged if output.remark), *mover.remarks)
    except (SourceChangedError, DigestError):
        for output in staged:
            output.discard()
        raise
    finally:
        with held_back():
            for output in staged:
                output.close()
            directories.close()


def check_digests(digests: Mapping[Source, str], found: Mapping[Source, str] = MappingProxyType({})) -> None:
    """DigestError unless the SHA-256 of each source begins as it shall; those not `found` yet are read for it."""
    for source, prefix in digests.items():
        from .fetching import sha256

        digest = found.get(source) or sha256(source)
        if not digest.startswith(prefix):
            what = f"its SHA-256 begins with {digest[: len(prefix)]}, not {prefix}"
            raise DigestError(what, file=source.name, advice="fetch it again: it is damaged, or another file")


def _staged(path: str, file: File, directories: Directories, resume: bool, mover: Mover) -> Staged:
    # Cloning takes no time, nor does what we hold; and others write in no order that could be noted.
    if not resume or file.align or not file.layout.sources or mover.by_name:
        return Staged(path, directories.of(path), mover.by_name)
    from .resuming import Partial

    return Partial(path, directories.of(path), file.layout)


def _write(
    file: File, staged: Staged, mover: Mover, progress: Progress, hashed: Container[Source]
) -> Mapping[Source, str]:
    def moved(count: int) -> None:
        progress(count)
        staged.wrote(count)

    progress(staged.done)
    return mover.write(file.layout, staged, file.align, moved, hashed)


def _shared(file: File, path: str) -> int:
    """The size of the blocks that a file will share with its sources, 0 where it cannot."""
    can = file.align and moving.shares_blocks(file.layout.sources, os.path.dirname(path), file.align)
    return file.align if can else 0


def is_stdout(path: str) -> bool:
    """Whether a path is a name of the descriptor that standard output is."""
    return os.path.normpath(path) in STDOUTS


def _appear(staged: Sequence[Staged], directories: Directories, obsolete: Callable[[], Iterable[str]]) -> None:
    with directories.locked():
        paths = [os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path)) for path in obsolete()]
        old = [Name(path, directories.of(path)) for path in paths]
        are_there = False
        try:
            with held_back():
                _replace(staged, old, directories)
                are_there = True
        except KeyboardInterrupt as interrupt:
            if are_there:
                raise LateInterrupt(*interrupt.args) from None
            raise


def _replace(staged: Sequence[Staged], obsolete: Sequence[Name], directories: Directories) -> None:
    """Renames all files into place, or puts back what was there."""
    names = [*staged, *obsolete]
    try:
        for name in names:
            with speaking_of(name.path):
                name.prepare()
        for name in names:
            with speaking_of(name.path):
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


def _write_special(path: str, layout: Layout, progress: Progress) -> None:
    if is_stdout(path):
        moving.stream(layout, STDOUT, progress)
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        moving.stream(layout, descriptor, progress)
        with suppress(OSError):  # pipes and /dev/null cannot be synced
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_regular(path: str) -> bool:
    """Whether a regular file is there, or nothing yet. OutputError for a directory, or where none can be."""
    if is_stdout(path):
        return False
    with speaking_of(path):
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


def _check_space(files: Sequence[tuple[Staged, File]]) -> None:
    needed: dict[int, int] = {}
    for staged, file in files:
        if file.align:
            continue  # cloned blocks take none
        found, free = os.fstat(staged.descriptor), os.statvfs(os.path.dirname(staged.path))
        device, held = found.st_dev, found.st_blocks * 512  # of a run that is gone on with
        needed[device] = needed.get(device, 0) + max(0, file.layout.size - held)
        if needed[device] > free.f_bavail * free.f_frsize:
            raise OutputError(
                f"needs {needed[device]} bytes, {free.f_bavail * free.f_frsize} are free",
                file=staged.path,
                advice="free some, or write elsewhere",
            )
