"""A pickle and nothing else: dicts of numpy arrays, as detectron2 and Python 2 left them.

An older protocol than 2 is recognised if what is pickled is a dict or an OrderedDict.
"""

from __future__ import annotations

from typing import Any

from ..payload.pieces import Extent, Source
from ..sources.cursor import Cursor
from .torch_objects import read_alone


def read(source: Source) -> tuple[Any, dict[str, Extent]]:
    """The pickled object, and no storages."""
    return read_alone(Cursor(source)), {}
