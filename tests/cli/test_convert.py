"""What `convert` does beyond what the library does: a checkpoint that nobody names is the official one of the net."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamexport.cli import main
from streamexport.families import official
from tests.conversion.test_fetch import left, publish
from tests.shared.web import Request, Server, serving


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


REFUSED = (
    "no checkpoint is given; name the file that torch.save wrote, or a net, whose official checkpoint is fetched then"
)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], f"{REFUSED}: --net resnet50"),
        (["--net", "net.py:Net"], "net.py:Net builds a module, of which nobody published a checkpoint"),
        (["--stream"], REFUSED),
        (["--stream", "--net", "resnet19"], "no net called 'resnet19'"),
        (
            ["c.pth", "--stream", "--net", "resnet18"],
            "--stream converts the official checkpoint, and another one is given; leave out either",
        ),
    ],
)
def test_nothing_is_guessed_where_no_checkpoint_is_named_or_two_are(tmp_path, capsys, words, said):
    assert main(["convert", "-o", str(tmp_path / "m.caffemodel"), *words]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert [*tmp_path.iterdir()] == []


# --stream and --check-hash


def test_the_official_one_is_converted_as_it_comes_and_hashed_on_the_way(published, made, tmp_path, capsys):
    assert main(["convert", "--net", "resnet18", "--save-root", str(tmp_path / "a"), "--stream"]) == 0
    assert (tmp_path / "a" / "resnet18.caffemodel").read_bytes() == made
    assert left(tmp_path) == []
    assert "SHA-256" not in capsys.readouterr().err
    fetched = sum(size(request) for request in published.requests)
    assert fetched <= len(next(iter(published.files.values()))) + 3 * (1 << 20)


def size(request: Request) -> int:
    first, last = request.headers["range"].removeprefix("bytes=").split("-")
    return int(last) + 1 - int(first)


def test_a_streamed_file_that_is_another_leaves_nothing(published, tmp_path, capsys, monkeypatch):
    publish(monkeypatch, published, "01234567")
    assert main(["convert", "--net", "resnet18", "--save-root", str(tmp_path / "a"), "--stream"]) == 1
    said = capsys.readouterr().err.splitlines()
    found = hashlib.sha256(next(iter(published.files.values()))).hexdigest()[:8]
    assert len(said) == 1
    assert f"resnet18-01234567.pth: its SHA-256 begins with {found}, not 01234567; fetch it again" in said[0]
    assert [*(tmp_path / "a").iterdir()] == []


ORDERED = [
    ["-o", "{}/m.caffemodel", "--fold-batchnorm"],
    ["-o", "{}/m.caffemodel", "--max-file-size", "20MB"],
    ["-o", "/dev/null"],
    ["-o", "memory:///m.caffemodel", "--force"],
]


@pytest.mark.parametrize("output", ORDERED)
def test_what_is_fetched_in_another_order_is_hashed_if_that_is_asked_for(
    published, tmp_path, capsys, monkeypatch, output
):
    words = ["convert", "--net", "resnet18", "--stream", *(word.format(tmp_path) for word in output)]
    assert main(words) == 0
    assert "its SHA-256 was not looked at, which --check-hash does" in capsys.readouterr().err
    assert main([*words, "--check-hash"]) == 0
    assert "SHA-256" not in capsys.readouterr().err
    publish(monkeypatch, published, "01234567")
    assert main([*words, "--check-hash"]) == 1
    assert "not 01234567" in capsys.readouterr().err


def test_of_a_model_that_is_cut_all_parts_together_fetch_the_checkpoint_twice_at_most(published, tmp_path):
    words = ["-o", str(tmp_path / "m.caffemodel"), "--max-file-size", "10MB", "--check-hash", "--quiet"]
    assert main(["convert", "--net", "resnet18", "--stream", *words]) == 0
    assert len([*tmp_path.glob("m-*-of-*.caffemodel")]) >= 5
    assert sum(map(size, published.requests)) < 2 * len(next(iter(published.files.values()))) + 4 * (1 << 20)


def test_of_another_file_than_its_name_says_nothing_comes_out_of_a_pipe(checkpoint, tmp_path):
    path = tmp_path / "net-01234567.pth"
    path.write_bytes(checkpoint("resnet18").read_bytes())
    command = [sys.executable, "-m", "streamexport", "convert", path, "-o", "-", "--check-hash"]
    done = subprocess.run(command, capture_output=True)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"net-01234567.pth: its SHA-256 begins with " in done.stderr


@pytest.mark.parametrize("where", ["local", "url"])
def test_a_named_checkpoint_is_held_to_its_name_if_that_is_asked_for(checkpoint, tmp_path, capsys, where):
    data = checkpoint("resnet18").read_bytes()
    out = tmp_path / "m.caffemodel"
    for name, said in (
        (f"net-{hashlib.sha256(data).hexdigest()[:12]}.pth", None),
        ("net-0123456789ab.pth", f"its SHA-256 begins with {hashlib.sha256(data).hexdigest()[:12]}, not 0123456789ab"),
        (
            "net-0123456.pth",
            "has a name that says nothing of its SHA-256, as -3e41cc8a.pth would; leave out --check-hash",
        ),
    ):
        (tmp_path / name).write_bytes(data)
        with serving({name: data}) as server:
            given = server.at(name) if where == "url" else str(tmp_path / name)
            assert main(["convert", given, "-o", str(out), "--check-hash", "--quiet"]) == (said is not None)
        error = capsys.readouterr().err
        assert f"{given}: {said}" in error if said else not error
        assert out.exists() == (said is None)
        out.unlink(missing_ok=True)


def test_what_was_fetched_before_is_hashed_if_that_is_asked_for(published, tmp_path, capsys):
    words = ["convert", "--net", "resnet18", "--save-root", str(tmp_path / "a"), "--quiet"]
    assert main([*words, "--check-hash"]) == 0
    left(tmp_path)[0].write_bytes(b"other")
    assert main([*words, "--check-hash"]) == 1
    assert "its SHA-256 begins with d9298a10, not" in capsys.readouterr().err
