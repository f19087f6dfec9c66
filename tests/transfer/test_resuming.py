"""Runs that are cut off, and what the next one makes of what they left."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from streamexport import Extent, File, Layout, Literal, publish
from streamexport.errors import OutputError, SourceError
from streamexport.sources import open_source, remote
from streamexport.transfer import fetching, moving, resuming
from tests.shared.web import after, serving, status

DATA = np.random.default_rng(0).bytes(1_000_003)
STEP = 100_000


@pytest.fixture(autouse=True)
def small_steps(monkeypatch):
    monkeypatch.setattr(fetching, "RANGE", STEP)
    monkeypatch.setattr(fetching, "LONGEST", STEP + STEP // 8)
    monkeypatch.setattr(fetching, "IN_FLIGHT", 2 * STEP)
    monkeypatch.setattr(fetching, "GAP", 10)
    monkeypatch.setattr(moving, "SPAN", STEP)
    monkeypatch.setattr(resuming, "EVERY", STEP)
    monkeypatch.setattr(remote, "BLOCK", 1000)
    monkeypatch.setattr(remote, "RETRIES", 0)


def turned(source) -> tuple[Layout, bytes]:
    """A layout of a source's bytes in another order, between literals; and what it is."""
    cuts = [(700_000, len(DATA)), (10, 300_000), (300_100, 700_000)]
    pieces = [Literal(b"head"), *(Extent(source, start, stop - start) for start, stop in cuts), Literal(b"tail")]
    return Layout.of(pieces), b"head" + b"".join(DATA[start:stop] for start, stop in cuts) + b"tail"


@dataclass
class Breaking:
    """Computed bytes that cannot be had."""

    data: bytes
    sources = ()
    size, reads = Literal.size, Literal.reads

    def render(self, start: int, stop: int, into: memoryview) -> None:
        raise SourceError("gone", file="somewhere")


def whole(directory: Path) -> Layout:
    """All of a local file."""
    (directory / "in").write_bytes(DATA)
    source = open_source(directory / "in")
    return Layout((Extent(source, 0, source.size),))


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_what_was_fetched_before_a_server_gave_up_is_not_fetched_again(tmp_path):
    with serving(DATA) as server:
        layout, expected = turned(open_source(server.url))
        server.faults = (after(6, status(403)),)
        with pytest.raises(SourceError, match="403 Forbidden"):
            publish([File(str(tmp_path / "out"), layout)], resume=True)
        assert names(tmp_path) == [".out.streamexport-partial"]
        server.faults = ()
        before = len(server.requests)
        moved: list[int] = []
        remarks = publish([File(str(tmp_path / "out"), layout)], progress=moved.append, resume=True)
        assert (tmp_path / "out").read_bytes() == expected
        assert remarks == (f"{tmp_path / 'out'}: went on where it had been cut off",)
        assert len(server.requests) - before <= 7  # of 10
        assert sum(moved) == layout.size
        assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("far", [False, True], ids=["local", "remote"])
def test_what_was_written_in_order_is_not_written_again(tmp_path, monkeypatch, far):
    (tmp_path / "in").write_bytes(DATA)
    with serving(DATA) as server:
        source = open_source(server.url if far else tmp_path / "in")
        layout, expected = turned(source)
        layout = Layout((*layout.pieces, Breaking(b"computed")))
        with pytest.raises(SourceError, match="gone"):
            publish([File(str(tmp_path / "out"), layout)], resume=True)
        monkeypatch.setattr(Breaking, "render", Literal.render)
        moved: list[int] = []
        publish([File(str(tmp_path / "out"), layout)], progress=moved.append, resume=True)
        assert (tmp_path / "out").read_bytes() == expected + b"computed"
        assert moved[0] >= 900_000
        assert sum(moved) == layout.size


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("source", "what it is made of has changed"),
        ("layout", "something else was to be made of it"),
        ("version", "another version of streamexport had begun it"),
    ],
)
def test_what_is_to_be_something_else_begins_anew(tmp_path, monkeypatch, change, reason):
    (tmp_path / "in").write_bytes(DATA)
    layout, _ = turned(open_source(tmp_path / "in"))
    with pytest.raises(SourceError, match="gone"):
        publish([File(str(tmp_path / "out"), Layout((*layout.pieces, Breaking(b"x"))))], resume=True)
    if change == "source":
        (tmp_path / "in").write_bytes(DATA)
        os.utime(tmp_path / "in", ns=(0, 0))
    if change == "version":
        monkeypatch.setattr(resuming, "__version__", "0.0")
    layout, expected = turned(open_source(tmp_path / "in"))
    layout = Layout((*layout.pieces, *([Literal(b"x")] if change == "layout" else [])))
    if change == "version":
        monkeypatch.setattr(Breaking, "render", Literal.render)
        layout, expected = Layout((*layout.pieces, Breaking(b"x"))), expected + b"x"
    remarks = publish([File(str(tmp_path / "out"), layout)], resume=True)
    assert remarks == (f"{tmp_path / 'out'}: begun anew, since {reason}",)
    assert (tmp_path / "out").read_bytes() == expected + (b"x" if change == "layout" else b"")


@pytest.mark.parametrize(
    "left", [b"", b"x", b"\n{}", b'\n{"done": 5}', b'\n{"done": "5"}', b"\n[1]", b"\n" + b"[" * 5000]
)
def test_what_lies_there_and_tells_nothing_is_emptied(tmp_path, left):
    (tmp_path / ".out.streamexport-partial").write_bytes(b"0" * 2_000_000 + left)
    publish([File(str(tmp_path / "out"), whole(tmp_path))], resume=True)
    assert (tmp_path / "out").read_bytes() == DATA
    assert names(tmp_path) == ["in", "out"]


def test_a_link_in_its_place_is_not_followed(tmp_path):
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / ".out.streamexport-partial").symlink_to("precious")
    with pytest.raises(OutputError, match="cannot be written"):
        publish([File(str(tmp_path / "out"), whole(tmp_path))], resume=True)
    assert (tmp_path / "precious").read_bytes() == b"precious"


def test_another_digest_leaves_nothing_to_go_on_with(tmp_path):
    with serving(DATA) as server:
        source = open_source(server.url)
        file = File(str(tmp_path / "out"), Layout((Extent(source, 0, source.size),)))
        digest = hashlib.sha256(DATA).hexdigest()
        with pytest.raises(SourceError, match=re.escape(f"its SHA-256 begins with {digest[:8]}, not 01234567")):
            publish([file], digests={source: "01234567"}, resume=True)
        assert not names(tmp_path)
        before = len(server.requests)
        publish([file], digests={source: digest[:8]}, resume=True)
        assert len(server.requests) - before == 10  # what is hashed passes by once
        assert (tmp_path / "out").read_bytes() == DATA


def test_a_copy_that_was_cut_off_is_hashed_where_it_lies(tmp_path):
    with serving(DATA) as server:
        source = open_source(server.url)
        file = File(str(tmp_path / "out"), Layout((Extent(source, 0, source.size),)))
        digest = hashlib.sha256(DATA).hexdigest()
        server.faults = (after(6, status(403)),)
        with pytest.raises(SourceError, match="403"):
            publish([file], digests={source: digest}, resume=True)
        server.faults = ()
        before = len(server.requests)
        publish([file], digests={source: digest}, resume=True)
        assert (tmp_path / "out").read_bytes() == DATA
        assert len(server.requests) - before <= 6  # of 10


def test_a_run_that_does_not_resume_takes_away_what_was_left(tmp_path):
    with serving(DATA) as server:
        layout, _ = turned(open_source(server.url))
        server.faults = (after(6, status(403)),)
        with pytest.raises(SourceError):
            publish([File(str(tmp_path / "out"), layout)], resume=True)
        server.faults = ()
        assert publish([File(str(tmp_path / "out"), layout)]) == ()
    assert names(tmp_path) == ["out"]


KILLED = """
import os, signal, sys
from streamexport import Extent, File, Layout, publish
from streamexport.sources import open_source
from streamexport.transfer import moving, resuming
moving.SPAN = resuming.EVERY = 100_000
moved = 0
def progress(count):
    global moved
    moved += count
    if moved > 500_000:
        os.kill(os.getpid(), signal.SIGKILL)
source = open_source(sys.argv[1])
publish([File(sys.argv[2], Layout((Extent(source, 3, source.size - 3),)))], progress=progress, resume=True)
"""


def test_a_killed_run_is_gone_on_with(tmp_path):
    (tmp_path / "in").write_bytes(DATA)
    killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "in", tmp_path / "out"], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    source = open_source(tmp_path / "in")
    moved: list[int] = []
    publish(
        [File(str(tmp_path / "out"), Layout((Extent(source, 3, source.size - 3),)))], progress=moved.append, resume=True
    )
    assert (tmp_path / "out").read_bytes() == DATA[3:]
    assert 400_000 <= moved[0] <= 600_000


def test_of_two_runs_at_once_the_second_is_told(tmp_path):
    layout = whole(tmp_path)

    def meanwhile(count: int) -> None:
        with pytest.raises(OutputError, match="is being written by another run; wait until that has ended"):
            publish([File(str(tmp_path / "out"), layout)], resume=True)

    publish([File(str(tmp_path / "out"), layout)], progress=meanwhile, resume=True)
    assert (tmp_path / "out").read_bytes() == DATA
    assert names(tmp_path) == ["in", "out"]
