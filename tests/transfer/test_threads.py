"""Threads that are left behind when they wait, and are waited for when others rely on them."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError

import pytest

from streamexport.transfer import threads
from streamexport.transfer.threads import Threads


def test_results_and_errors_belong_to_who_submitted():
    with Threads(3) as pool:
        asked = [pool.submit(divmod, 10, number) for number in (3, 0, 5)]
        assert asked[0].result() == (3, 1)
        with pytest.raises(ZeroDivisionError):
            asked[1].result()
        assert asked[2].result() == (2, 0)
    assert pool.gone.is_set()


def test_what_waits_is_left_behind_and_what_has_not_begun_does_not_begin(monkeypatch):
    monkeypatch.setattr(threads, "PATIENCE", 0.05)
    never, begun = threading.Event(), []
    with Threads(1) as pool:
        pool.submit(never.wait)
        pool.submit(begun.append, 1)
    never.set()
    for thread in pool._threads:
        thread.join()
    assert begun == []


def test_nobody_leaves_while_somebody_stays(monkeypatch):
    monkeypatch.setattr(threads, "PATIENCE", 0)
    inside, done = threading.Event(), []

    def task() -> None:
        with pool.staying():
            inside.set()
            pool.gone.wait()  # so that the block is being left already
            done.append(1)

    with Threads(1) as pool:
        pool.submit(task)
        inside.wait()
    assert done == [1]
    with pytest.raises(CancelledError), pool.staying():
        done.append(2)
    assert done == [1]
