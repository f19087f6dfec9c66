"""Uploads that are cut off and gone on with, by what the store says of the parts that it has."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from streamexport import Extent, File, Layout, Literal, publish
from streamexport.errors import SourceError
from streamexport.sources import open_source
from streamexport.transfer import s3 as uploads
from streamexport.transfer.continuing import Continuing
from streamexport.transfer.movers import PART
from tests.conftest import ROOT

SIZE = 3 * PART + 500_000
NAME = "s3://models/nets/m.caffemodel"


@pytest.fixture(scope="module")
def content() -> bytes:
    return np.random.default_rng(0).bytes(SIZE)


@pytest.fixture
def layout(tmp_path, content) -> Layout:
    (tmp_path / "source").write_bytes(content)
    source = open_source(tmp_path / "source")
    return Layout.of([Literal(b"head"), Extent(source, 100, SIZE - 100), Extent(source, 0, 100)])


def expected(content: bytes) -> bytes:
    return b"head" + content[100:] + content[:100]


class CutOffError(Exception):
    """A run's end."""


@pytest.fixture
def sent(monkeypatch) -> list[int]:
    """The numbers of the parts that are sent."""
    numbers: list[int] = []
    send = uploads.send

    def counted(part, data):
        numbers.append(part.number)
        return send(part, data)

    monkeypatch.setattr(uploads, "send", counted)
    return numbers


def begun(layout: Layout, parts: int) -> None:
    """Leaves an upload of which so many parts are there."""
    moved = 0

    def stop(count: int) -> None:
        nonlocal moved
        moved += count
        if moved > parts * PART:
            raise CutOffError

    with pytest.raises(CutOffError):
        publish([File(NAME, layout)], progress=stop, mover=Continuing())


def there(s3) -> dict[int, int]:
    """The parts that the store has of the unfinished upload, and their sizes."""
    (upload,) = s3.list_multipart_uploads(Bucket="models")["Uploads"]
    listed = s3.list_parts(Bucket="models", Key=upload["Key"], UploadId=upload["UploadId"])
    return {part["PartNumber"]: part["Size"] for part in listed.get("Parts", [])}


def held(s3) -> bytes:
    assert "Uploads" not in s3.list_multipart_uploads(Bucket="models")
    return s3.get_object(Bucket="models", Key="nets/m.caffemodel")["Body"].read()


def test_parts_that_are_there_are_not_sent_again(s3, layout, content, sent):
    begun(layout, 2)
    before = there(s3)
    assert before
    sent.clear()
    moved: list[int] = []
    (remark,) = publish([File(NAME, layout)], progress=moved.append, mover=Continuing())
    size = sum(before.values())
    assert remark == f"{NAME}: went on where it had been cut off, with {size} bytes that were there"
    assert {*sent} == {1, 2, 3, 4} - {*before}
    assert sum(moved) == layout.size
    assert held(s3) == expected(content)


def test_parts_of_something_else_are_sent_again(s3, tmp_path, layout, content, sent):
    begun(layout, 3)
    before = there(s3)
    changed = bytearray(content)
    changed[PART + 500] ^= 1
    (tmp_path / "other").write_bytes(changed)
    source = open_source(tmp_path / "other")
    sent.clear()
    other = Layout.of([Literal(b"head"), Extent(source, 100, SIZE - 100), Extent(source, 0, 100)])
    publish([File(NAME, other)], mover=Continuing())
    assert {*sent} == ({1, 2, 3, 4} - {*before}) | {2}
    assert held(s3) == expected(bytes(changed))


def test_what_nobody_had_begun_is_sent_whole(s3, layout, content, sent):
    assert publish([File(NAME, layout)], mover=Continuing()) == ()
    assert sorted(sent) == [1, 2, 3, 4]
    assert held(s3) == expected(content)


def test_a_source_that_changed_leaves_no_object(s3, tmp_path, layout):
    begun(layout, 1)
    os.utime(tmp_path / "source", ns=(0, 0))
    with pytest.raises(SourceError, match="changed"):
        publish([File(NAME, layout)], mover=Continuing())
    assert "Contents" not in s3.list_objects_v2(Bucket="models")


KILLED = """
import os, signal, sys
from streamexport import Extent, File, Layout, publish
from streamexport.sources import open_source
from streamexport.transfer import s3
from streamexport.transfer.continuing import Continuing
send = s3.send
def killed(part, data):
    if part.number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return send(part, data)
s3.send = killed
source = open_source(sys.argv[1])
publish([File(sys.argv[2], Layout((Extent(source, 0, source.size),)))], mover=Continuing())
"""


def test_a_killed_run_is_gone_on_with(s3, tmp_path, content, sent):
    (tmp_path / "in").write_bytes(content)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", KILLED, tmp_path / "in", NAME]
    assert subprocess.run(command, check=False, env=environment).returncode == -signal.SIGKILL
    source, before = open_source(tmp_path / "in"), there(s3)
    publish([File(NAME, Layout((Extent(source, 0, source.size),)))], mover=Continuing())
    assert {*sent} == {1, 2, 3, 4} - {*before}
    assert held(s3) == content


def test_a_conversion(s3, checkpoint, tmp_path):
    """The command goes on with an upload of its own."""
    from streamexport.cli import main

    path = str(checkpoint("resnet18"))
    assert main(["convert", path, "-o", str(Path(tmp_path, "m.caffemodel"))]) == 0
    assert main(["convert", path, "-o", NAME, "--resume"]) == 0
    assert held(s3) == Path(tmp_path, "m.caffemodel").read_bytes()
