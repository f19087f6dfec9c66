"""What happens to an interrupt while the package is still being loaded."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED = 130


@contextmanager
def ending_quietly() -> Iterator[None]:
    """The command ends with its status, and not with where Python just was; whoever imports a library is told as ever."""
    try:
        yield
    except KeyboardInterrupt:
        if not _is_command():
            raise
        raise SystemExit(INTERRUPTED) from None


def _is_command() -> bool:
    """Whether this process is the console script or `python -m streamexport`, which has no file yet when this is asked."""
    name = sys.argv[0].rpartition("/")[2]
    return name == "streamexport" or (name in ("-m", "__main__.py") and "streamexport" in sys.orig_argv)
