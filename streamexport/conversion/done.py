"""Whether a conversion was made already: the outputs themselves tell, by their sizes, headers and samples of payload.

The headers hold the record of how a model was made; files of ours are there as a whole or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..errors import SourceError
from ..payload.pieces import Layout, Literal
from ..sources import open_source
from ..transfer.files import File

FIRST = 1 << 20
"""Bytes of an object that is far away which are compared: more of them would be a request each."""

SAMPLES, SAMPLE = 16, 64
"""Pieces of payload, spread over a file, and bytes of each."""


def is_done(files: Iterable[File]) -> bool:
    """Whether all of the files are there that would be written."""
    return all(map(_is_there, files))


def _is_there(file: File) -> bool:
    layout = file.layout
    try:
        found = open_source(file.path)
        if found.size != layout.size:
            return False
        near = FIRST if found.is_far else layout.size
        return all(found.read(start, len(due)) == due for start, due in _telling(layout, near))
    except SourceError:
        return False


def _telling(layout: Layout, stop: int) -> Iterator[tuple[int, bytes]]:
    """What stands in the first `stop` bytes of a layout: headers, and samples of payload, each with its offset."""
    placed = [*zip(layout.pieces, layout.starts, strict=False)]
    payload = [(piece, start) for piece, start in placed if not isinstance(piece, Literal)]
    count = min(len(payload), SAMPLES)
    sampled = [payload[index * len(payload) // count] for index in range(count)]
    headers = [(piece, start) for piece, start in placed if isinstance(piece, Literal)]
    for piece, start, length in [(*one, one[0].size) for one in headers] + [(*one, SAMPLE) for one in sampled]:
        data = bytearray(max(0, min(length, piece.size, stop - start)))
        piece.render(0, len(data), memoryview(data))
        yield start, bytes(data)
