"""Whole conversions from URLs: the same bytes as from a file, or one line and no file, whatever the server does."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from streamexport.cli import main
from streamexport.sources import remote, stores
from streamexport.transfer import fetching
from tests.shared.web import (
    Fault,
    after,
    another_etag,
    changed,
    closed_between,
    cut,
    drip,
    first,
    grown,
    loop,
    no_content_length,
    no_etag,
    no_head,
    no_ranges,
    no_validators,
    of_another_total,
    redirect,
    reset,
    serving,
    shifted,
    silence,
    stall,
    status,
    weak_etag,
    wider,
)

FORMS = {
    "caffemodel": ("m.caffemodel",),
    "HDF5": ("m.h5",),
    "pipe": ("-",),
    "float16": ("m.caffemodel", "--dtype", "float16"),
    "fold": ("m.caffemodel", "--fold-batchnorm"),
    "HDF5, both": ("m.h5", "--fold-batchnorm", "--dtype", "float16"),
    "parts": ("m.caffemodel", "--max-file-size", "20MB"),
    "aligned": ("m.caffemodel", "--align", "4096"),
}
ORDERS = {"scatter": "caffemodel", "ordered": "float16"}
"""A form for each order that payload is fetched in."""


@pytest.fixture(autouse=True)
def small_ranges_and_short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that even a small net takes many requests, and that what goes wrong goes wrong soon."""
    monkeypatch.setattr(fetching, "RANGE", 1 << 20)
    monkeypatch.setattr(fetching, "LONGEST", (1 << 20) + (1 << 17))
    monkeypatch.setattr(fetching, "IN_FLIGHT", 4 << 20)
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.005)
    monkeypatch.setattr(remote, "BUSY_WAIT", 0.01)
    monkeypatch.setattr(remote, "LONGEST_WAIT", 0.02)
    monkeypatch.setattr(stores, "STALLED", timedelta(seconds=0.3))


@pytest.fixture(scope="module")
def data(checkpoint) -> bytes:
    return checkpoint("resnet18").read_bytes()


@pytest.fixture(scope="module")
def local(data, tmp_path_factory) -> Callable[[str], dict[str, bytes]]:
    """What a form is made of the same checkpoint as a file, by the names of the files."""
    made: dict[str, dict[str, bytes]] = {}

    def make(form: str) -> dict[str, bytes]:
        if form not in made:
            folder = tmp_path_factory.mktemp("local")
            (folder / "net.pth").write_bytes(data)
            (folder / "out").mkdir()
            assert converted(folder / "net.pth", folder / "out", form) == 0
            made[form] = files(folder / "out")
        return made[form]

    return make


def converted(name: object, folder: Path, form: str, *options: str) -> int:
    """Runs the command; what it writes to a pipe goes to a file of the folder."""
    output, *others = FORMS[form]
    if output == "-":
        with (folder / "piped").open("wb") as file:
            return _with_output(file.fileno(), ["convert", str(name), "-o", "-", *others, *options])
    return main(["convert", str(name), "-o", str(folder / output), *others, *options])


def _with_output(descriptor: int, words: list[str]) -> int:
    kept = os.dup(1)
    os.dup2(descriptor, 1)
    try:
        return main(words)
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def refused(capsys: pytest.CaptureFixture[str], url: str, folder: Path, form: str) -> str:
    """Runs a conversion that must fail with one line and leave nothing behind; returns that line."""
    capsys.readouterr()
    assert converted(url, folder, form, "--quiet") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("streamexport: ")
    assert files(folder) == {}
    return line


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_as_from_a_file(data, local, tmp_path, form):
    with serving(data) as server:
        assert converted(server.url, tmp_path, form) == 0
    assert files(tmp_path) == local(form)


def every_other(fault: Fault) -> Fault:
    """Of every second request."""
    number = iter(range(1 << 20))
    return lambda answer: fault(answer) if next(number) % 2 else None


def in_turn(*faults: Fault) -> Fault:
    """One after the other, in the first requests but the very first, and each but once."""
    left = [*faults]
    return after(1, lambda answer: left.pop()(answer) if left else None)


def both(*faults: Fault) -> Fault:
    def change(answer) -> None:
        for fault in faults:
            fault(answer)

    return change


EXACT: dict[str, Callable[[], Fault]] = {  # made for each test, since they count
    "resets": lambda: first(9, reset),
    "cut bodies": lambda: first(9, cut),
    "every other body cut": lambda: every_other(cut),
    "statuses that pass": lambda: in_turn(status(503), status(429, retry_after="0"), status(408), status(502)),
    "stalls": lambda: after(3, first(2, stall)),
    "silence": lambda: after(3, first(2, silence)),
    "drips": lambda: drip(4, 0.01),
    "closed connections": lambda: closed_between,
    "a weak ETag": lambda: weak_etag,
    "no ETag, cut bodies": lambda: both(no_etag, every_other(cut)),
    "no validators": lambda: no_validators,
    "no HEAD": lambda: no_head(403),
    "redirects": lambda: redirect("/elsewhere/net.pth"),
}


@pytest.mark.parametrize("form", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("fault", EXACT.values(), ids=EXACT)
def test_what_servers_do_at_times_changes_no_byte(data, local, tmp_path, form, fault):
    with serving(data, fault()) as server:
        assert converted(server.url, tmp_path, form) == 0
    assert files(tmp_path) == local(form)


REFUSED: dict[str, tuple[Callable[[], Fault], str]] = {
    "ranges ignored": (lambda: no_ranges, "does not send ranges, but the whole; fetch the file and name it"),
    "ranges ignored later": (lambda: after(5, no_ranges), "does not send ranges"),
    "another range": (lambda: after(5, shifted), "another range than was asked for"),
    "a wider range": (lambda: after(5, wider), "another range than was asked for"),
    "another total": (lambda: after(5, of_another_total), "changed while it was read"),
    "another ETag": (lambda: after(5, another_etag), "changed while it was read"),
    "grown": (lambda: after(5, grown), "changed while it was read"),
    "another time, no ETag": (lambda: both(no_etag, after(5, changed(modified=LATER))), "changed while it was read"),
    "no Content-Length": (lambda: after(5, no_content_length), "lacks a header"),
    "expired": (lambda: after(5, status(403)), "403 Forbidden (at byte"),
    "401": (lambda: status(401), "401 Unauthorized"),
    "404": (lambda: status(404), "404 Not Found"),
    "gone": (lambda: after(5, status(404)), "404 Not Found (at byte"),
    "a redirect for ever": (lambda: loop, "from one place to the next"),
    "a stall for ever": (lambda: after(5, stall), "does not answer, or stops"),
    "resets for ever": (lambda: after(5, reset), "breaks off"),
    "503 for ever": (lambda: after(5, status(503)), "503 Service Unavailable"),
}
LATER = "Wed, 25 Nov 2026 09:00:00 GMT"


@pytest.mark.parametrize("form", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("fault, said", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_had_is_one_line_and_no_file(data, tmp_path, monkeypatch, capsys, form, fault, said):
    monkeypatch.setattr(remote, "RETRIES", 2)
    with serving(data, fault()) as server:
        line = refused(capsys, server.url, tmp_path, form)
    assert line.startswith(f"streamexport: {server.url}: ")
    assert said in line


def test_a_pipe_ends_early_with_an_error(data, tmp_path, capsys):
    with serving(data, after(20, another_etag)) as server:
        assert converted(server.url, tmp_path, "pipe", "--quiet") == 1
    assert "changed while it was read" in capsys.readouterr().err
