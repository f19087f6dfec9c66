"""The command line: one module per command, each with `register` and `run`."""

from __future__ import annotations

from ..starting import ending_quietly

with ending_quietly():
    import argparse
    import io
    import os
    import signal
    import sys
    import threading
    from collections.abc import Iterator, Sequence
    from contextlib import contextmanager, suppress
    from importlib import import_module

    from .._version import __version__
    from ..errors import DEBUG, Error, FaultError, missing, reason
    from ..transfer.interrupts import LateInterrupt
    from .saying import flush, say

FAILED, PIPE_CLOSED, KILLED_BY = 1, 141, 128

COMMANDS = {
    "convert": ("convert", "a checkpoint to a Caffe model and its prototxt; or a model to another format"),
    "convert-many": ("convert_many", "a list of conversions, one after the other"),
    "inspect": ("inspect", "tensors of a checkpoint, layers of a model, arithmetic of a net"),
    "verify": ("verify", "every blob of a model against its checkpoint, bit for bit; --forward: what it computes, too"),
    "eval": ("evaluate", "what a Caffe net sees in images, and how often it is right"),
    "fetch": ("fetch", "the official checkpoint of a built-in net, into torch's cache"),
    "nets": ("nets", "the nets that are built in"),
}
"""By name: the module, loaded when the command is given, and what `--help` says of it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit status; 2, for wrong usage, argparse returns by itself."""
    _open_standard_streams()
    # Before torch is imported: its threads spin where they wait for each other, and took ten times as long where other
    # programs wanted the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    options = argparse.Namespace()
    try:
        with _ending_signals_raised():
            words = sys.argv[1:] if arguments is None else list(arguments)
            options = _parser(words[:1]).parse_args(words)
            status = options.run(options)
            sys.stdout.flush()
    except BrokenPipeError:
        _forget_output()
        return PIPE_CLOSED
    except KeyboardInterrupt as interrupt:
        is_done = isinstance(interrupt, LateInterrupt) or "is_done" in options
        number = interrupt.args[0] if interrupt.args else signal.SIGINT
        say(f"interrupted; outputs are {'complete' if is_done else 'what they were'}")
        return KILLED_BY + int(number)
    except Error as error:
        return _failed(str(error))
    except ImportError as error:
        return _failed(str(missing(error) or FaultError.of(error)))
    except MemoryError:
        return _failed("there is not enough memory for this")
    except OSError as error:
        if error.filename is None:
            _forget_output()
        return _failed(f"{error.filename or 'standard output'}: {reason(error)}")
    except Exception as error:  # nobody expected it
        return _failed(str(FaultError.of(error)))
    finally:
        flush()  # argparse, too, has said something there before it raises SystemExit
    return int(status)


def _parser(given: Sequence[str]) -> argparse.ArgumentParser:
    """What understands the command line that begins with `given`."""
    parser = argparse.ArgumentParser(
        prog="streamexport",
        description="Streams trained PyTorch weights into Caffe models, in constant memory, at the speed of a file copy.",
    )
    parser.add_argument("--version", action="version", version=f"streamexport {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (module, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary)
        if name in given:
            import_module(f".{module}", __name__).register(command)
    return parser


@contextmanager
def _ending_signals_raised() -> Iterator[None]:
    """SIGTERM and SIGHUP end a run like SIGINT: by an exception, so that it can clear up. Those ignored stay so."""

    def end(number: int, _: object) -> None:
        raise KeyboardInterrupt(number)

    defaults = []
    try:
        if threading.current_thread() is threading.main_thread():
            defaults = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is signal.SIG_DFL]
        for number in defaults:
            signal.signal(number, end)
        yield
    finally:
        for number in defaults:
            signal.signal(number, signal.SIG_DFL)


def _open_standard_streams() -> None:
    """Descriptors 0 to 2 that the caller closed become /dev/null, or the files that we open would take their place."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)  # takes the lowest free number; writing to it fails, as it should
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names may hold what the locale cannot write


def _forget_output() -> None:
    """What is buffered has nowhere to go, and Python would try once more at its end."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _failed(message: str) -> int:
    if os.environ.get(DEBUG):
        import traceback

        traceback.print_exc()
    say(message)
    return FAILED
