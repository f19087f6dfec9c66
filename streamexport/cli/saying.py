"""What commands tell people. It is loaded by all of them, and needs no more than they do."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from ..conversion.flags import as_flags
from ..errors import one_line


def shown(message: str) -> str:
    """A message of the library's as a line for people, who type flags."""
    return as_flags(one_line(message))


def say(message: str) -> None:
    """A line on standard error, for people. Where that cannot be written to, the work counts all the same."""
    with suppress(OSError):
        print(f"streamexport: {shown(message)}", file=sys.stderr)
    flush()


def flush() -> None:
    """Writes what is buffered for standard error, or forgets it: Python would try once more at its end, and fail then."""
    try:
        sys.stderr.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
