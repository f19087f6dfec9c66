"""Payload from far away, in both orders: the bytes that a local file gives, in few requests, no more at once than allowed."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from streamexport.errors import SourceChangedError, SourceError
from streamexport.payload.pieces import Extent, Layout, Literal, Source
from streamexport.payload.tensors import FLOAT32, Strided, Tensor
from streamexport.sources import open_source, remote
from streamexport.sources.local import LocalFile
from streamexport.sources.remote import RemoteFile
from streamexport.transfer import fetching
from streamexport.transfer.files import File, publish
from streamexport.transfer.moving import stream
from tests.payload.test_pieces import KINDS
from tests.shared.web import after, another_etag, cut, first, reset, serving, status

STEP = 20_000


@pytest.fixture(autouse=True)
def small_steps(monkeypatch):
    monkeypatch.setattr(fetching, "RANGE", STEP)
    monkeypatch.setattr(fetching, "LONGEST", STEP + STEP // 8)
    monkeypatch.setattr(fetching, "IN_FLIGHT", 4 * STEP)
    monkeypatch.setattr(fetching, "GAP", 100)
    monkeypatch.setattr(remote, "BLOCK", 1000)
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.001)


@pytest.fixture
def asked(monkeypatch) -> list[tuple[int, int, bool]]:
    """What is fetched: where, how much, and whether it was asked for only when it was read."""
    found: list[tuple[int, int, bool]] = []
    pass_by = RemoteFile.pass_by

    def passing(self, offset, length, take, gone=None):
        found.append((offset, length, gone is None))
        pass_by(self, offset, length, take, gone)

    monkeypatch.setattr(RemoteFile, "pass_by", passing)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_piece_is_as_it_is_from_local_files(tmp_path, monkeypatch, asked, kind):
    found = LocalFile.at
    with serving({"nothing": b""}) as server:

        def at(path: os.PathLike[str]) -> Source:
            if Path(path).suffix == ".h5":
                return found(path)  # read by a process of its own, from the disk
            server.files[Path(path).name] = Path(path).read_bytes()
            return open_source(server.at(Path(path).name))

        monkeypatch.setattr(server, "files", dict(server.files))
        monkeypatch.setattr(LocalFile, "at", at)
        piece, expected = KINDS[kind][1](tmp_path)
        layout = Layout.of([Literal(b"head"), piece, Literal(b"tail")])
        asked.clear()
        publish([File(str(tmp_path / "out"), layout)])
        assert (tmp_path / "out").read_bytes() == b"head" + expected + b"tail"
        assert not [one for one in asked if one[2]]
        assert sum(length for _, length, _ in asked) <= 3 * sum(source.size for source in layout.sources) + 10_000
        assert all(length <= STEP + STEP // 8 for _, length, _ in asked)
        assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


DATA = np.random.default_rng(0).bytes(1_000_003)


def turned(source) -> tuple[Layout, bytes]:
    """Most of a source's bytes in another order, some of them twice, and much that lies scattered."""
    cuts = [(700_000, len(DATA)), (10, 300_000), *((at, at + 30) for at in range(320_000, 300_000, -40)), (0, 100)]
    pieces = [Literal(b"head"), *(Extent(source, start, stop - start) for start, stop in cuts), Literal(b"tail")]
    return Layout.of(pieces), b"head" + b"".join(DATA[start:stop] for start, stop in cuts) + b"tail"


def test_in_the_order_of_the_source_no_byte_comes_twice_nor_one_that_nobody_wants(tmp_path, asked):
    with serving(DATA) as server:
        layout, expected = turned(open_source(server.url))
        assert fetching.is_scattered(layout)
        moved: list[int] = []
        publish([File(str(tmp_path / "out"), layout)], progress=moved.append)
        assert (tmp_path / "out").read_bytes() == expected
        assert sum(moved) == layout.size
        assert sum(length for _, length, _ in asked) <= 320_000 + 300_003 + 100
        assert len(asked) == len(server.requests) - 1 == 31


def test_a_pipe_gets_them_in_its_own_order(asked):
    with serving(DATA) as server:
        layout, expected = turned(open_source(server.url))
        read, write = os.pipe()
        received = bytearray()

        def drain() -> None:
            with os.fdopen(read, "rb") as file:
                received.extend(file.read())

        reader = threading.Thread(target=drain)
        reader.start()
        stream(layout, write)
        os.close(write)
        reader.join()
        assert received == expected
        assert not [one for one in asked if one[2]]
        assert len(asked) <= 36


@pytest.mark.parametrize("order", ["scatter", "ordered"])
def test_no_more_is_in_flight_than_allowed(tmp_path, monkeypatch, order):
    """What is fetched and not yet written, at any time."""
    with serving(DATA) as server:
        source = open_source(server.url)
        now, most, lock = 0, 0, threading.Lock()
        pass_by = RemoteFile.pass_by

        def passing(self, offset, length, take, gone=None):
            nonlocal now, most
            with lock:
                now += length
                most = max(most, now)
            pass_by(self, offset, length, take, gone)

        monkeypatch.setattr(RemoteFile, "pass_by", passing)

        def moved(count: int) -> None:
            nonlocal now
            with lock:
                now -= count

        pieces = [Extent(source, 0, source.size)]
        if order == "ordered":
            pieces = [Strided(Tensor.in_storage("w", FLOAT32, (250_000,), (1,), pieces[0], 0))]
        publish([File(str(tmp_path / "out"), Layout(tuple(pieces)))], progress=moved)
        assert most <= 5 * (STEP + STEP // 8)


def test_what_a_transposed_tensor_reads_comes_once(tmp_path, asked):
    rows, columns = 500, 400
    values = np.arange(rows * columns, dtype="<f4").reshape(rows, columns)
    with serving(values.tobytes()) as server:
        source = open_source(server.url)
        whole = Extent(source, 0, source.size)
        piece = Strided(Tensor.in_storage("w", FLOAT32, (columns, rows), (1, columns), whole, 0))
        publish([File(str(tmp_path / "out"), Layout((Literal(b"x"), piece, Literal(b"y"))))])
    assert (tmp_path / "out").read_bytes() == b"x" + values.T.tobytes() + b"y"
    assert sum(length for _, length, _ in asked) == source.size


def test_what_is_hashed_is_fetched_whole_and_once(tmp_path, asked):
    import hashlib

    digest = hashlib.sha256(DATA).hexdigest()
    with serving(DATA) as server:
        source = open_source(server.url)
        layout, expected = turned(source)
        publish([File(str(tmp_path / "out"), layout)], digests={source: digest})
        assert (tmp_path / "out").read_bytes() == expected
        assert sum(length for _, length, _ in asked) == len(DATA)


@pytest.mark.parametrize("fault", [(1, cut), (2, reset), (3, status(503))])
@pytest.mark.parametrize("piece", ["scatter", "ordered"])
def test_faults_that_pass_leave_the_same_bytes_and_are_counted(tmp_path, fault, piece):
    with serving(DATA) as server:
        source = open_source(server.url)
        layout, expected = turned(source)
        if piece == "ordered":
            copied = Strided(Tensor.in_storage("w", FLOAT32, (250_000,), (1,), Extent(source, 0, source.size), 0))
            layout, expected = Layout((copied,)), DATA[:1_000_000]
        server.faults = (first(*fault),)
        publish([File(str(tmp_path / "out"), layout)])
        assert (tmp_path / "out").read_bytes() == expected
        assert source.retries >= 1


@pytest.mark.parametrize(
    ("fault", "error"), [(another_etag, SourceChangedError), (status(403), SourceError), (status(404), SourceError)]
)
def test_faults_that_stay_leave_nothing(tmp_path, fault, error):
    with serving(DATA) as server:
        layout, _ = turned(open_source(server.url))
        server.faults = (after(5, fault),)
        with pytest.raises(error, match=f"^{server.url}: "):
            publish([File(str(tmp_path / "out"), layout)])
        assert not [*tmp_path.iterdir()]
        assert len(server.requests) < 20
