"""Who moves a layout's bytes: this process does, unless somebody else is asked to (see `cluster`).

What is moved where, in which order it appears, and what becomes of it after an error, is the business of `files` and
`uploading`, whoever moves.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

from ..errors import OutputError
from ..payload.pieces import Layout, Source
from ..sources.stores import Place, speaking_of
from . import moving
from .moving import Progress
from .staging import Staged

PART = 8 << 20
"""Bytes of a part, the least: S3 takes no less than 5 MiB, but for the last one."""

MOST_PARTS = 10_000
"""That S3 takes; parts of larger objects are larger."""

ON_THEIR_WAY = 3
"""Parts, while another one is rendered: with 8 MiB they bound memory, and one alone would not fill a network."""

RENDERED = 1 << 20
"""Bytes at a time."""


class Mover(ABC):
    """Who moves bytes.

    Attributes
    ----------
    by_name : whether a file in the making needs a name, because others open it
    remarks : what became of what an earlier run had begun
    """

    by_name = False
    remarks: Sequence[str] = ()

    @abstractmethod
    def write(
        self, layout: Layout, file: Staged, align: int, progress: Progress, hashed: Container[Source]
    ) -> Mapping[Source, str]:
        """Writes a layout to a file in the making, and syncs it, but for what is `done`; see `moving.write`."""

    @abstractmethod
    def upload(
        self, layout: Layout, place: Place, force: bool, progress: Progress
    ) -> AbstractContextManager[Callable[[], object]]:
        """Sends a layout to a store, where nobody sees it until what this gives is called; else nothing is left of it.

        Raises
        ------
        OutputError : it cannot be written; or, unless `force`, the store says that the key is taken. Not all of them do
        """


class Here(Mover):
    """This process."""

    def write(
        self, layout: Layout, file: Staged, align: int, progress: Progress, hashed: Container[Source]
    ) -> Mapping[Source, str]:
        return moving.write(layout, file.descriptor, align, progress, hashed, file.done)

    @contextmanager
    def upload(self, layout: Layout, place: Place, force: bool, progress: Progress) -> Iterator[Callable[[], object]]:
        import obstore

        with speaking_of(place.name, OutputError), ExitStack() as aborting:
            if layout.size <= PART:
                data = bytearray(layout.size)
                for begin, end in moving.spans(layout, 0, layout.size):
                    layout.render(begin, end, memoryview(data)[begin:end])
                progress(layout.size)
                yield lambda: obstore.put(place.store, place.key, data, mode="overwrite" if force else "create")
                return
            size = part_size(layout.size)
            writer = obstore.open_writer(place.store, place.key, buffer_size=size, max_concurrency=ON_THEIR_WAY)
            aborting.push(partial(_abort, writer))
            for begin, end in moving.spans(layout, 0, layout.size):
                for start in range(begin, end, RENDERED):
                    part = bytearray(min(RENDERED, end - start))  # a new one: obstore keeps it until it is sent
                    layout.render(start, start + len(part), memoryview(part))
                    writer.write(part)
                    progress(len(part))

            def complete() -> None:
                aborting.pop_all()  # a completion that fails aborts by itself, and one that does not has nothing to abort
                writer.close()

            yield complete


def _abort(writer: Any, *error: Any) -> None:
    """Leaves nothing of an upload, whose own error is the one to be told: not every store can abort."""
    with suppress(Exception):
        writer.__exit__(*error)


HERE = Here()


def part_size(size: int) -> int:
    """Bytes of the parts of an object of `size` bytes, a multiple of 1 MiB."""
    return max(PART, -(-size // MOST_PARTS >> 20) << 20)
