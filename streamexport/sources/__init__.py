"""Who holds the bytes: `open_source` makes a source of a name; nobody else has to know what kinds there are.

Nobody is opened who is not read from, and nothing is read here that somebody else has not named.
"""

from __future__ import annotations

import os

from ..payload.pieces import Source
from . import stores
from .local import LocalFile

Path = str | os.PathLike[str]
"""What names a file; a source does, too."""


def open_source(path: Path) -> Source:
    """The source of that name as it is now, or `path` itself where it is a source: what was opened is not opened again.

    SourceError if there is none that can be read at offsets.
    """
    if isinstance(path, Source):
        return path
    if stores.is_url(path):
        from .remote import RemoteFile  # takes what the extra `remote` installs

        return RemoteFile.at(os.fspath(path))
    return LocalFile.at(path)
