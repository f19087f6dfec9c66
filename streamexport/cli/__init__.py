"""The command line: one module per command, each with `register` and `run`."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import Error, one_line, reason
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
    _open_standard_streams()
    # Before torch is imported: its threads spin where they wait for each other, and took ten times as long where other
    # programs wanted the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
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
        return _say(one_line(f"{error.filename or 'standard output'}: {reason(error)}"), FAILED)
    return int(status)


def _open_standard_streams() -> None:
    """Descriptors 0 to 2 that the caller closed become /dev/null, or the files that we open would take their place."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)  # takes the lowest free number; writing to it fails, as it should
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: PTH123, SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names may hold what the locale cannot write


def _say(message: str, status: int) -> int:
    print(f"streamexport: {message}", file=sys.stderr)
    return status
