"""What `convert` does beyond what the library does: a checkpoint that nobody names is the official one of the net."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamexport.cli import main
from streamexport.families import official
from tests.conftest import assert_refused
from tests.conversion.test_fetch import left, publish
from tests.shared.web import Server, serving


@pytest.fixture
def published(checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of a checkpoint of resnet18, which takes the place of the official one, and no cache yet."""
    data = checkpoint("resnet18").read_bytes()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    with serving(data) as server:
        publish(monkeypatch, server, hashlib.sha256(data).hexdigest()[:8])
        yield server


@pytest.fixture
def made(checkpoint, tmp_path: Path) -> bytes:
    """The model that the same checkpoint makes where it is named, called as it is called there."""
    copy = tmp_path / "named" / official.FILES["resnet18"]
    copy.parent.mkdir()
    copy.write_bytes(checkpoint("resnet18").read_bytes())
    assert main(["convert", str(copy), "--net", "resnet18", "--save-root", str(copy.parent), "--quiet"]) == 0
    return (copy.parent / "resnet18.caffemodel").read_bytes()


def test_without_a_checkpoint_the_official_one_is_fetched_once_and_converted(published, made, tmp_path):
    for folder in ("a", "b"):
        assert main(["convert", "--net", "resnet18", "--save-root", str(tmp_path / folder), "--quiet"]) == 0
        assert (tmp_path / folder / "resnet18.caffemodel").read_bytes() == made
        assert (tmp_path / folder / "resnet18.prototxt").exists()
    assert [path.name for path in left(tmp_path)] == [official.FILES["resnet18"]]
    assert len(published.requests) < 10


def test_a_dry_run_fetches_headers_only(published, tmp_path, capsys):
    assert main(["convert", "--net", "resnet18", "--save-root", str(tmp_path / "a"), "--dry-run"]) == 0
    assert "a/resnet18.caffemodel: " in capsys.readouterr().out
    assert len(published.requests) <= 3
    assert left(tmp_path) == []
    assert not (tmp_path / "a").exists()


def test_without_a_checkpoint_and_a_net_that_has_one_nothing_is_guessed(tmp_path):
    line = assert_refused("convert", "-o", tmp_path / "m.caffemodel")
    assert "no checkpoint is given; name the file that torch.save wrote, or a net" in line
    assert line.endswith("--net resnet50")
    line = assert_refused("convert", "-o", tmp_path / "m.caffemodel", "--net", "net.py:Net")
    assert "net.py:Net builds a module, of which nobody published a checkpoint" in line
