"""Official checkpoints in torch's cache: torch finds them there, and what is not what its name says does not appear."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import streamexport
from streamexport.cli import main
from streamexport.conversion.fetch import cached
from streamexport.errors import NetError, OutputError, SourceError
from streamexport.families import official
from streamexport.transfer import fetching
from tests.shared.web import Server, after, another_etag, changed, first, serving, status

STATE = {"w": torch.arange(700_000.0)}


@pytest.fixture
def data(tmp_path: Path) -> bytes:
    torch.save(STATE, tmp_path / "made.pth")
    return (tmp_path / "made.pth").read_bytes()


@pytest.fixture
def published(data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that has the official checkpoint of resnet18, with an empty cache before it."""
    with serving(data) as server:
        publish(monkeypatch, server, hashlib.sha256(data).hexdigest()[:8])
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
        yield server


def publish(monkeypatch: pytest.MonkeyPatch, server: Server, digest: str) -> None:
    name = f"resnet18-{digest}.pth"
    server.files = {name: next(iter(server.files.values()))}
    monkeypatch.setattr(official, "BASE", server.at(""))
    monkeypatch.setitem(official.FILES, "resnet18", name)


def left(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "torch").rglob("*") if not path.is_dir()]


def test_torch_finds_what_was_fetched_and_fetches_nothing(published, data):
    seen: list[int] = []
    path = streamexport.fetch("resnet18", progress=seen.append, planned=lambda size: seen.append(-size))
    assert Path(path).read_bytes() == data
    assert seen[0] == -len(data)
    assert sum(seen) == 0
    count = len(published.requests)
    loaded = torch.hub.load_state_dict_from_url(official.url("resnet18"), check_hash=True)
    assert torch.equal(loaded["w"], STATE["w"])
    assert len(published.requests) == count


def test_what_torch_fetched_is_taken_as_it_is_and_hashed_if_that_is_asked_for(published, tmp_path):
    torch.hub.load_state_dict_from_url(official.url("resnet18"), progress=False)
    count = len(published.requests)
    path = streamexport.fetch("resnet18")
    assert streamexport.fetch("resnet18", check_hash=True) == path
    Path(path).write_bytes(b"other")
    assert streamexport.fetch("resnet18") == path
    with pytest.raises(
        SourceError, match=rf"{path}: its SHA-256 begins with d9298a10, not [0-9a-f]{{8}}; fetch it again"
    ):
        streamexport.fetch("resnet18", check_hash=True)
    assert len(published.requests) == count


@pytest.mark.parametrize(
    "variables",
    [
        {"TORCH_HOME": "/a/b"},
        {"XDG_CACHE_HOME": "/c"},
        {"TORCH_HOME": "~/d", "XDG_CACHE_HOME": "/c"},
        {"XDG_CACHE_HOME": "~/e"},
        {},
    ],
)
def test_the_cache_is_torch_s(monkeypatch, variables):
    for name in ("TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cached("https://host/models/net-01234567.pth") == os.path.join(
        torch.hub.get_dir(), "checkpoints", "net-01234567.pth"
    )


def test_another_file_than_the_name_says_does_not_appear(published, data, tmp_path, monkeypatch):
    publish(monkeypatch, published, "01234567")
    found = hashlib.sha256(data).hexdigest()[:8]
    with pytest.raises(SourceError, match=f"resnet18-01234567.pth: its SHA-256 begins with {found}, not 01234567"):
        streamexport.fetch("resnet18")
    assert left(tmp_path) == []


@pytest.mark.parametrize("fault", [status(404), first(1, status(403)), changed(ranges=False)])
def test_what_cannot_be_had_leaves_nothing(published, tmp_path, fault):
    published.faults = (fault,)
    with pytest.raises(SourceError, match="resnet18-"):
        streamexport.fetch("resnet18")
    assert left(tmp_path) == []


def test_a_file_that_changes_while_it_is_fetched_leaves_nothing(published, tmp_path, small_ranges):
    published.faults = (after(2, another_etag),)
    with pytest.raises(SourceError, match="changed while it was read"):
        streamexport.fetch("resnet18")
    assert left(tmp_path) == []


@pytest.fixture
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("RANGE", 1 << 18), ("LONGEST", 1 << 18), ("IN_FLIGHT", 1 << 19)):
        monkeypatch.setattr(fetching, name, size)


def test_what_was_cut_off_is_gone_on_with_and_hashed_as_a_whole(published, data, tmp_path, small_ranges):
    published.faults = (after(6, status(403)),)
    with pytest.raises(SourceError, match="403 Forbidden"):
        streamexport.fetch("resnet18")
    (partial,) = left(tmp_path)
    assert partial.name.endswith(".streamexport-partial")
    published.faults = ()
    count = len(published.requests)
    assert Path(streamexport.fetch("resnet18")).read_bytes() == data
    assert len(published.requests) - count < 1 + len(data) / (1 << 18) - 2
    assert [path.name for path in left(tmp_path)] == [official.FILES["resnet18"]]


def test_what_was_cut_off_and_is_another_file_is_not_kept(published, tmp_path, small_ranges, monkeypatch):
    publish(monkeypatch, published, "01234567")
    published.faults = (after(6, status(403)),)
    with pytest.raises(SourceError, match="403 Forbidden"):
        streamexport.fetch("resnet18")
    published.faults = ()
    with pytest.raises(SourceError, match="its SHA-256 begins with [0-9a-f]{8}, not 01234567"):
        streamexport.fetch("resnet18")
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (
            lambda home: home.write_text("a file"),
            "resnet18-[0-9a-f]{8}.pth: cannot be written: Not a directory; set TORCH_HOME",
        ),
        (
            lambda home: Path(home, "hub", "checkpoints", official.FILES["resnet18"]).mkdir(parents=True),
            "resnet18-[0-9a-f]{8}.pth: is a directory, where torch keeps a checkpoint; move it away",
        ),
    ],
)
def test_a_cache_that_cannot_take_it_is_named(published, tmp_path, prepare: Callable[[Path], object], said):
    prepare(tmp_path / "torch")
    with pytest.raises(OutputError, match=said):
        streamexport.fetch("resnet18")


def test_a_full_disk_is_noticed_before_anything_is_fetched(published, tmp_path, monkeypatch):
    free = os.statvfs(tmp_path)
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result((*free[:4], 3, *free[5:])))
    with pytest.raises(OutputError, match=r"needs \d+ bytes, \d+ are free"):
        streamexport.fetch("resnet18")
    assert len(published.requests) == 1
    assert left(tmp_path) == []


def test_a_net_without_one_is_refused_before_anybody_is_asked():
    for net in ("auto", "resnet19", "a.py:Net"):
        with pytest.raises(NetError):
            streamexport.fetch(net)


def test_the_command_prints_the_path_and_what_it_did(published, tmp_path, capsys):
    assert main(["fetch", "resnet18"]) == 0
    printed, said = capsys.readouterr()
    (path,) = left(tmp_path)
    assert printed == f"{path}\n"
    assert said.splitlines()[0] == f"streamexport: fetching {official.url('resnet18')}, {path.stat().st_size} bytes"
    assert main(["fetch", "resnet18", "--check-hash"]) == 0
    assert capsys.readouterr() == (printed, "")
    path.write_bytes(b"")
    assert main(["fetch", "resnet18", "--check-hash"]) == 1
    assert "its SHA-256 begins with e3b0c442, not" in capsys.readouterr().err
