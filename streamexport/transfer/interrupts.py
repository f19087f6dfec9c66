"""Signals that end a run, and when they may."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class LateInterrupt(KeyboardInterrupt):
    """The run was told to end when its outputs were in place already."""


@contextmanager
def held_back() -> Iterator[None]:
    """Signals that end a run wait for the end of the block, and take their effect then.

    Those that are ignored stay so. Only the main thread hears signals; in others nothing has to be done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[int] = []
    handlers = {}
    try:
        for number in ENDING:
            handler = signal.getsignal(number)
            if handler not in (signal.SIG_IGN, None):  # None: not Python's, which cannot put it back
                handlers[number] = handler
                signal.signal(number, lambda number, _: heard.append(number))
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for late in heard:
            signal.raise_signal(late)
