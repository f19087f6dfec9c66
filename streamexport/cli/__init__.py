"""The command line: one module per command, each with `register` and `run`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import Error, reason
from . import convert, evaluate, inspect, nets, verify

DONE, FAILED, INTERRUPTED, PIPE_CLOSED = 0, 1, 130, 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit status; 2, for wrong usage, argparse returns by itself."""
    parser = argparse.ArgumentParser(
        prog="streamexport",
        description="Streams trained PyTorch weights into Caffe models, in constant memory, at the speed of a file copy.",
    )
    parser.add_argument("--version", action="version", version=f"streamexport {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in (convert, inspect, verify, evaluate, nets):
        module.register(commands)
    options = parser.parse_args(arguments)
    try:
        status = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is buffered has nowhere to go
        return PIPE_CLOSED
    except KeyboardInterrupt:
        return _say("interrupted; outputs are what they were", INTERRUPTED)
    except Error as error:
        return _say(str(error), FAILED)
    except OSError as error:
        return _say(f"{error.filename or 'standard output'}: {reason(error)}", FAILED)
    return int(status)


def _say(message: str, status: int) -> int:
    print(f"streamexport: {message}", file=sys.stderr)
    return status
