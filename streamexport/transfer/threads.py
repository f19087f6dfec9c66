"""Threads that wait for servers, and are left behind if these do not answer: nobody who ends a run wants to wait for them.

Those of `concurrent.futures` are waited for, at the latest when Python ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from functools import partial
from queue import SimpleQueue
from threading import Condition, Event, Thread
from typing import ParamSpec, TypeVar

from .interrupts import held_back

PATIENCE = 1.0
"""Seconds for which threads are waited for at most. Those that are being sent something end at its next bytes."""

_T = TypeVar("_T")
_P = ParamSpec("_P")


class Threads:
    """So many threads, which do tasks in the order in which they are submitted, until the block is left.

    Attributes
    ----------
    gone : set when the block is left, for tasks that look now and then
    """

    def __init__(self, count: int) -> None:
        self.gone = Event()
        self._tasks: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._threads = [Thread(target=self._work, daemon=True) for _ in range(count)]
        self._inside, self._changed = 0, Condition()

    def __enter__(self) -> Threads:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with held_back():
            with self._changed:
                self.gone.set()
                self._changed.wait_for(lambda: not self._inside)
            for _thread in self._threads:
                self._tasks.put(None)
            until = time.monotonic() + PATIENCE
            for thread in self._threads:
                thread.join(max(0.0, until - time.monotonic()))

    def submit(self, task: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        future: Future[_T] = Future()
        self._tasks.put(partial(_do, future, partial(task, *args, **kwargs)))
        return future

    @contextmanager
    def staying(self) -> Iterator[None]:
        """Nobody leaves during this block, which does what others rely on being over then. It is not begun after that."""
        with self._changed:
            if self.gone.is_set():
                raise CancelledError
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            if not self.gone.is_set():
                task()
            del task  # and what it holds


def _do(future: Future[_T], task: Callable[[], _T]) -> None:
    try:
        future.set_result(task())
    except BaseException as error:  # who asks for the result has it
        future.set_exception(error)
