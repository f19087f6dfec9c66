"""What a worker is asked to do: functions of a layout and a range of it. Bytes stay where they are made.

The layout travels once to each worker, as the result of a task. A range that is done twice, because its worker seemed to be
lost, is the same bytes at the same place.
"""

from __future__ import annotations

import os

from .._version import __version__
from ..errors import ClusterError
from ..payload.pieces import Layout
from ..transfer import moving, s3
from ..transfer.staging import speaking_of


def itself(layout: Layout) -> Layout:
    """A layout as a task: whoever lost it can be given it once more."""
    return layout


def write(layout: Layout, version: str, path: str, start: int, stop: int) -> int:
    """Writes bytes [start, stop) to a file that is there, and syncs them; how many they are."""
    refuse_other(version)
    with speaking_of(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            moving.write_range(layout, start, stop, descriptor, lambda _: None)
            os.fsync(descriptor)  # another machine cannot do that for this one
        finally:
            os.close(descriptor)
    return stop - start


def upload(layout: Layout, version: str, part: s3.Part) -> s3.Sent:
    """Sends a part of an object; it is held in memory meanwhile, since it is read twice: signed, and sent."""
    refuse_other(version)
    data = bytearray(part.stop - part.start)
    for begin, end in moving.spans(layout, part.start, part.stop):
        layout.render(begin, end, memoryview(data)[begin - part.start : end - part.start])
    return s3.send(part, data)


def refuse_other(version: str) -> None:
    """ClusterError unless this is the version that who asks has."""
    if version != __version__:
        raise ClusterError(f"a worker has streamexport {__version__}, this is {version}", advice=SAME)


SAME = "install the same version everywhere"
