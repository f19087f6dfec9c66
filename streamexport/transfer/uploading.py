"""Objects in stores: one is there as a whole or not at all, and several are as far as stores allow it.

    1 look       whether a key is taken, before anything is sent and again before an object is completed
    2 send       one after the other (see `movers`); sources are checked once more before an object is completed
    3 compare    the size that the store says
    4 delete     after an error, those that are there by now

What stores do not allow: an older object that was replaced does not come back; where a large object is completed, its key may
have been taken since the last look (small ones are refused by the store itself); and a process that is killed leaves an upload
that nobody completes, for which stores have rules (S3: AbortIncompleteMultipartUpload).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from ..errors import OutputError
from ..payload.pieces import Layout, Source
from ..sources import stores
from ..sources.stores import Place, speaking_of
from .interrupts import LateInterrupt, held_back
from .movers import Mover
from .moving import Progress

Objects = Sequence[tuple[Place, Layout]]
"""Objects to be: where, and their content."""


def refuse_taken(objects: Objects, sources: Iterable[Source], force: bool) -> None:
    """OutputError for an object that is there, unless `force`, and for one that is a source or another output.

    Nobody has been asked before: what does not answer at once, or wants credentials, is told at once.
    """
    names = [place.name for place, _ in objects]
    for place, _ in objects:
        if any(source.name == place.name for source in sources):
            raise OutputError("is its own input", file=place.name, advice="write to another name")
        if names.count(place.name) > 1:
            raise OutputError("is the name of two outputs", file=place.name, advice="give each its own")
        found = size_of(stores.at(place.name))
        if found is not None and not force:
            raise _taken(place)


@contextmanager
def uploaded(
    objects: Objects, sources: Iterable[Source], force: bool, mover: Mover, progress: Progress
) -> Iterator[None]:
    """The objects are there for the block, and stay if it ends well; the last one comes last.

    Raises
    ------
    OutputError : one cannot be written, or its key was taken; or an error in the block; what came of this run is deleted
    SourceChangedError : a source is not what it was; the same
    """
    there: list[Place] = []
    try:
        for place, layout in objects:
            with mover.upload(layout, place, force, progress) as complete:
                for source in sources:
                    source.check()
                if not force and size_of(place) is not None:
                    raise _taken(place)
                with held_back():
                    complete()
                    there.append(place)
            if (found := size_of(place)) != layout.size:
                raise OutputError(f"{layout.size} bytes were sent, the store has {found}", file=place.name)
        yield
    except LateInterrupt:
        raise
    except BaseException as error:
        with held_back():
            left = [place.name for place in there if not _deleted(place)]
        if left:
            what = f"{error}; what this run wrote could not be deleted again: {', '.join(left)}"
            raise OutputError(what, advice="delete it") from error
        raise


def size_of(place: Place) -> int | None:
    """Bytes of the object that is there; None if there is none. OutputError if the store does not say."""
    import obstore

    with speaking_of(place.name, OutputError):
        try:
            return obstore.head(place.store, place.key)["size"]
        except FileNotFoundError:
            return None


def _taken(place: Place) -> OutputError:
    return OutputError("is there already", file=place.name, advice="write to another name, or say `force=`")


def _deleted(place: Place) -> bool:
    import obstore

    try:
        with speaking_of(place.name, OutputError):
            obstore.delete(place.store, place.key)
    except OutputError:
        return False
    return True
