"""All or nothing: what is under a name while, after, and after a failed or killed run; and pipes."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

import streamexport
from streamexport.errors import OutputError, SourceChangedError
from streamexport.payload.pieces import Extent, Layout, Literal
from streamexport.sources.local import LocalFile
from streamexport.transfer import files
from streamexport.transfer import moving as transfer
from streamexport.transfer.files import File, publish
from streamexport.transfer.moving import stream
from streamexport.transfer.staging import Directory, Staged
from tests.conftest import assert_refused, run_cli

SIZE = 20_000_003


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> LocalFile:
    path = tmp_path_factory.mktemp("source") / "data"
    path.write_bytes(np.random.default_rng(0).bytes(SIZE))
    return LocalFile.at(path)


@pytest.fixture(scope="module")
def layout(source) -> Layout:
    """Large and small extents out of order, at offsets that agree with nothing."""
    cuts = [0, 5, 70_000, 9_000_001, 9_000_009, 19_000_000, SIZE]
    pairs = list(itertools.pairwise(cuts))
    return Layout.of(piece for a, b in reversed(pairs) for piece in (Literal(b"head"), Extent(source, a, b - a)))


@pytest.fixture(scope="module")
def content(layout) -> bytes:
    data = bytearray(layout.size)
    layout.render(0, layout.size, memoryview(data))
    return bytes(data)


def left_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture(params=["nameless", "temporary name"])
def staging(request, monkeypatch):
    """With O_TMPFILE, and as on systems without."""
    if request.param == "temporary name":
        monkeypatch.delattr(os, "O_TMPFILE")
    return request.param


def test_a_new_file_has_the_content_and_the_umask_s_mode(tmp_path, layout, content, staging):
    old = os.umask(0o027)
    try:
        publish([File(str(tmp_path / "new"), layout)])
    finally:
        os.umask(old)
    assert (tmp_path / "new").read_bytes() == content
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
    assert left_in(tmp_path) == ["new"]


def test_a_file_that_is_replaced_keeps_its_mode(tmp_path, layout, content, staging):
    path = tmp_path / "model"
    path.write_text("old")
    path.chmod(0o604)
    publish([File(str(path), layout)])
    assert path.read_bytes() == content
    assert stat.S_IMODE(path.stat().st_mode) == 0o604


def test_a_symbolic_link_is_followed(tmp_path, layout, content):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "model")
    publish([File(str(tmp_path / "link"), layout)])
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "model").read_bytes() == content


class Failing:
    """Computed bytes whose rendering fails."""

    size, sources = 1000, ()

    def __init__(self, error):
        self.error = error

    def render(self, start, stop, into):
        raise self.error


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt(), ValueError("bug")])
def test_a_run_that_fails_leaves_everything_as_it_was(tmp_path, layout, error, staging):
    (tmp_path / "b").write_text("old")
    bad = Layout.of([*layout.pieces, Failing(error)])
    with pytest.raises(OutputError if isinstance(error, OSError) else type(error)):
        publish([File(str(tmp_path / "a"), layout), File(str(tmp_path / "b"), bad)])
    assert left_in(tmp_path) == ["b"]
    assert (tmp_path / "b").read_text() == "old"


def test_a_source_that_changes_meanwhile_is_an_error_and_nothing_appears(tmp_path, staging):
    path = tmp_path / "source"
    path.write_bytes(bytes(1000))
    source = LocalFile.at(path)

    class Touching(Failing):
        def render(self, start, stop, into):
            os.utime(path, ns=(0, 1))

    with pytest.raises(SourceChangedError):
        publish([File(str(tmp_path / "out"), Layout.of([Extent(source, 0, 1000), Touching(None)]))])
    assert left_in(tmp_path) == ["source"]


@pytest.mark.parametrize("name", ["itself", "link", "hard link"])
def test_an_output_that_is_its_own_input_is_refused(tmp_path, name):
    path = tmp_path / "itself"
    path.write_bytes(b"precious")
    (tmp_path / "link").symlink_to(path)
    (tmp_path / "hard link").hardlink_to(path)
    layout = Layout.of([Extent(LocalFile.at(path), 0, 8)])
    with pytest.raises(OutputError, match="is its own input"):
        publish([File(str(tmp_path / name), layout)])
    with path.open("r+b") as file, pytest.raises(OutputError, match="is its own input"):
        stream(layout, file.fileno())
    assert path.read_bytes() == b"precious"


def test_impossible_names_are_refused(tmp_path, layout):
    for path, message in ((tmp_path, "is a directory"), (tmp_path / "no" / "x", "its directory does not exist")):
        with pytest.raises(OutputError, match=message):
            publish([File(str(path), layout)])


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 8 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_disk_without_the_space_is_refused_before_anything_is_written(small_disk, layout):
    (small_disk / "model").write_text("old")
    with pytest.raises(OutputError, match=rf"needs {layout.size} bytes, \d+ are free; free some"):
        publish([File(str(small_disk / "model"), layout)])
    assert (small_disk / "model").read_text() == "old"
    assert left_in(small_disk) == ["model"]


def test_a_disk_that_fills_up_meanwhile_leaves_what_was_there(small_disk, layout, monkeypatch, staging):
    (small_disk / "model").write_text("old")
    monkeypatch.setattr(files, "_check_space", lambda _: None)
    monkeypatch.setattr(transfer, "reserve", lambda *_: None)
    with pytest.raises(OutputError, match="No space left on device; free some"):
        publish([File(str(small_disk / "model"), layout)])
    assert (small_disk / "model").read_text() == "old"
    assert left_in(small_disk) == ["model"]


KILLED = """
import os, signal, sys
sys.path[:0] = {path!r}
from streamexport.payload.pieces import Layout, Literal
from streamexport.transfer.files import File, publish
if {named}:
    del os.O_TMPFILE
class Killer:
    size, sources = 10, ()
    def render(self, start, stop, into):
        os.kill(os.getpid(), signal.SIGKILL)
publish([File({out!r}, Layout.of([Literal(b"x" * 1000000), Killer()]))])
"""


@pytest.mark.parametrize("named", [False, True])
def test_kill_9_in_mid_write_leaves_the_old_file_and_the_next_run_cleans_up(tmp_path, layout, content, named):
    out = tmp_path / "model"
    out.write_text("old")
    code = KILLED.format(path=sys.path, named=named, out=str(out))
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    assert out.read_text() == "old"
    assert len(left_in(tmp_path)) == (2 if named else 1)
    publish([File(str(out), layout)])
    assert left_in(tmp_path) == ["model"]
    assert out.read_bytes() == content


def test_temporary_files_of_a_living_run_are_left_alone(tmp_path, layout, monkeypatch):
    monkeypatch.delattr(os, "O_TMPFILE")
    out = str(tmp_path / "model")
    living = Staged(out, Directory(str(tmp_path)))
    publish([File(out, layout)])
    assert living.temporary in left_in(tmp_path)
    living.close()
    assert left_in(tmp_path) == ["model"]


def read_all(descriptor: int, into: list[bytes]) -> None:
    with os.fdopen(descriptor, "rb") as file:
        into.append(file.read())


@pytest.mark.parametrize("splice", [True, False])
@pytest.mark.parametrize("blocking", [True, False])
def test_a_pipe_gets_the_same_bytes(layout, content, splice, blocking, monkeypatch):
    if not splice:
        monkeypatch.delattr(os, "splice")
    reader, writer = os.pipe()
    os.set_blocking(writer, blocking)
    received: list[bytes] = []
    thread = threading.Thread(target=read_all, args=(reader, received))
    thread.start()
    moved: list[int] = []
    stream(layout, writer, moved.append)
    os.close(writer)
    thread.join()
    assert received == [content]
    assert sum(moved) == layout.size


def test_a_pipe_that_nobody_reads_any_more_is_a_broken_pipe(layout):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        with pytest.raises(BrokenPipeError):
            stream(layout, writer)
    finally:
        os.close(writer)


def test_a_fifo_and_dev_null_are_written_in_place(tmp_path, layout, content):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    received: list[bytes] = []
    thread = threading.Thread(target=lambda: received.append(fifo.read_bytes()))
    thread.start()
    publish([File(str(fifo), layout), File("/dev/null", layout)])
    thread.join()
    assert received == [content]
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.fixture
def sharing_disk(tmp_path):
    """An XFS of its own, whose files can share blocks."""
    image, disk = tmp_path / "image", tmp_path / "disk"
    disk.mkdir()
    with image.open("wb") as file:
        file.truncate(400 << 20)
    made = (
        subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", image], capture_output=True) if _has("mkfs.xfs") else None
    )
    if (
        made is None
        or made.returncode
        or subprocess.run(["mount", "-o", "loop", image, disk], capture_output=True).returncode
    ):
        pytest.skip("needs root, mkfs.xfs and a loop device")
    yield disk
    subprocess.run(["umount", disk], check=True)


def _has(program: str) -> bool:
    return any(os.access(Path(directory, program), os.X_OK) for directory in os.get_exec_path())


def taken_by(disk: Path, work: Callable[[], object]) -> int:
    """Bytes of new blocks."""
    before = os.statvfs(disk).f_bfree
    work()
    os.sync()
    return (before - os.statvfs(disk).f_bfree) * os.statvfs(disk).f_frsize


def test_extents_whose_offsets_agree_are_cloned(sharing_disk):
    data = np.random.default_rng(0).bytes(SIZE)
    (sharing_disk / "source").write_bytes(data)
    os.sync()
    source, align = LocalFile.at(sharing_disk / "source"), 4096
    layout = Layout.of([Literal(bytes(align + 5)), Extent(source, 5, SIZE - 10), Literal(b"end")])
    taken = taken_by(sharing_disk, lambda: publish([File(str(sharing_disk / "out"), layout, align)]))
    assert (sharing_disk / "out").read_bytes() == bytes(align + 5) + data[5:-5] + b"end"
    assert taken < SIZE // 10


@pytest.mark.parametrize("align", [0, 4096])
def test_the_same_bytes_are_written_wherever_and_blocks_are_shared_only_where_it_was_asked_for(
    tmp_path, sharing_disk, checkpoint, align
):
    shutil.copy(checkpoint("resnet18"), sharing_disk / "c.pth")
    shutil.copy(checkpoint("resnet18"), tmp_path / "c.pth")
    os.sync()

    def convert(disk: Path) -> None:
        streamexport.convert([disk / "c.pth"], disk / "m.caffemodel", align=align)

    convert(tmp_path)
    taken = taken_by(sharing_disk, lambda: convert(sharing_disk))
    for name in ("m.caffemodel", "m.prototxt"):
        assert (sharing_disk / name).read_bytes() == (tmp_path / name).read_bytes()
    size = (tmp_path / "m.caffemodel").stat().st_size
    assert taken < size // 20 if align else taken >= size
    assert run_cli("verify", sharing_disk / "c.pth", sharing_disk / "m.caffemodel").returncode == 0


def test_a_sharded_set_shares_its_blocks(sharing_disk, checkpoint):
    """The index, which is smaller than a block, holds nothing that could be shared."""
    tensors = {
        name: tensor for name, tensor in torch.load(checkpoint("resnet18")).items() if tensor.is_floating_point()
    }
    safetensors.torch.save_file(tensors, sharing_disk / "s.safetensors")
    index = {"weight_map": dict.fromkeys(tensors, "s.safetensors")}
    (sharing_disk / "s.index.json").write_text(json.dumps(index))
    os.sync()
    inputs, out = [sharing_disk / "s.index.json"], sharing_disk / "m.caffemodel"
    taken = taken_by(sharing_disk, lambda: streamexport.convert(inputs, out, align=4096))
    assert taken < out.stat().st_size // 20


@pytest.mark.parametrize("where", ["m.h5", "m.caffemodel --max-file-size 20MB", "m.caffemodel --format linked"])
def test_what_cannot_be_aligned_is_refused(tmp_path, checkpoint, where):
    line = assert_refused("convert", checkpoint("resnet18"), "--align", 4096, "-o", *where.split(), cwd=tmp_path)
    assert "only a caffemodel in one file can be aligned; leave out --align" in line
    assert left_in(tmp_path) == []


def test_what_cannot_be_cloned_is_copied(tmp_path, layout, content):
    publish([File(str(tmp_path / "out"), layout, align=4096)])
    assert (tmp_path / "out").read_bytes() == content


def test_a_socket_s_worth_of_patience():
    """A slow reader of a full pipe that does not block: nothing is lost, nothing spins into an error."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    layout = Layout.of([Literal(os.urandom(3 << 20))])
    received: list[bytes] = []

    def read_late() -> None:
        time.sleep(0.2)
        read_all(reader, received)

    thread = threading.Thread(target=read_late)
    thread.start()
    stream(layout, writer)
    os.close(writer)
    thread.join()
    assert received == [layout.pieces[0].data]
