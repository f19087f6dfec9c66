"""A layout as a file: what others read of it, each in its own way, is what it holds."""

from __future__ import annotations

import io
import itertools
import os
import random
import shutil
import threading
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

import streamexport
from streamexport import Extent, Layout, Literal, open_layout
from streamexport.caffe import caffe_pb2
from streamexport.errors import SourceChangedError
from streamexport.sources import open_source

SIZE, HALF = 11_000_003, 9_000_001


@pytest.fixture(scope="module")
def content() -> bytes:
    return np.random.default_rng(0).bytes(SIZE)


@pytest.fixture
def path(tmp_path, content) -> Path:
    path = tmp_path / "source"
    path.write_bytes(content[HALF:] + content[:HALF])
    return path


@pytest.fixture
def layout(path, content) -> Layout:
    """The content, of literals and extents: the second half lies first in their source."""
    source = open_source(path)
    pairs = itertools.pairwise([0, 3, 70_000, 70_001, HALF, SIZE - 1, SIZE])
    return Layout.of(
        Literal(content[a:b]) if b - a < 5 else Extent(source, (a + SIZE - HALF) % SIZE, b - a) for a, b in pairs
    )


def test_it_is_read_like_a_file(layout, content):
    with open_layout(layout) as file:
        assert (file.readable(), file.seekable(), file.writable()) == (True, True, False)
        assert file.seek(0, os.SEEK_END) == SIZE
        assert file.read(1) == b""
        assert file.seek(SIZE + 7) == file.tell() == SIZE + 7
        assert file.read() == b""
        assert file.seek(-5, os.SEEK_END) == SIZE - 5
        assert file.read(100) == content[-5:]
        assert file.seek(2) == 2
        assert file.seek(3, os.SEEK_CUR) == 5
        assert file.read() == content[5:]
        with pytest.raises(ValueError, match="nothing 1 bytes before the beginning"):
            file.seek(-1)
        with pytest.raises(io.UnsupportedOperation):
            file.write(b"x")
        with pytest.raises(io.UnsupportedOperation):
            file.truncate()
    with pytest.raises(ValueError, match="closed"):
        file.read()


def test_an_empty_layout_is_an_empty_file():
    with open_layout(Layout(())) as file:
        assert (file.read(), file.seek(0, os.SEEK_END)) == (b"", 0)


def test_any_order_of_reading(layout, content):
    rng = random.Random(0)
    with open_layout(layout) as file:
        for _ in range(300):
            start, length = rng.randrange(SIZE), rng.choice([0, 1, 1000, 300_000])
            file.seek(start)
            assert file.read(length) == content[start : start + length]
        into = np.zeros(1000, "<u4")  # a buffer of other items than bytes
        file.seek(69_990)
        assert file.readinto(into) == 4000
        assert into.tobytes() == content[69_990:73_990]


def test_shutil_copies_it(layout, content, tmp_path):
    with open_layout(layout) as file, (tmp_path / "copy").open("wb") as copy:
        shutil.copyfileobj(file, copy)
    assert (tmp_path / "copy").read_bytes() == content


def test_zipfile_reads_an_archive_in_it(tmp_path):
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("name", "value" * 1000)
    with open_layout(Layout.of([Literal(held.getvalue())])) as file, zipfile.ZipFile(file) as archive:
        assert archive.read("name") == b"value" * 1000


def test_h5py_reads_a_model_that_was_never_written(tmp_path):
    net = caffe_pb2.NetParameter(name="tiny")
    values = np.random.default_rng(0).standard_normal((100, 1000)).astype("<f4")
    net.layer.add(name="ip", type="InnerProduct").blobs.add(shape={"dim": values.shape}, data=values.ravel())
    (tmp_path / "m.caffemodel").write_bytes(net.SerializeToString())
    ((_, layout),) = streamexport.plan([tmp_path / "m.caffemodel"], tmp_path / "m.caffemodel.h5").parts
    with open_layout(layout) as file, h5py.File(file) as model:
        assert (model["data/ip/0"][:] == values).all()
    assert not (tmp_path / "m.caffemodel.h5").exists()


def test_threads_that_open_it_each_read_each_the_whole(layout, content):
    found: list[bool] = []

    def read(start: int) -> None:
        with open_layout(layout) as file:
            file.seek(start)
            behind = file.read()
            file.seek(0)
            found.append(file.read(start) + behind == content)

    threads = [threading.Thread(target=read, args=(SIZE // 9 * index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 8


def test_boto3_uploads_it(layout, content, s3):
    with open_layout(layout) as file:
        s3.upload_fileobj(file, "models", "key")
    assert s3.get_object(Bucket="models", Key="key")["Body"].read() == content


def test_a_source_that_changed_gives_no_whole_file(layout, path):
    with open_layout(layout) as file:
        assert len(file.read(100_000)) == 100_000
        os.utime(path, (1, 1))
        with pytest.raises(SourceChangedError):
            shutil.copyfileobj(file, io.BytesIO())
        path.write_bytes(b"shorter")
        file.seek(0)
        with pytest.raises(SourceChangedError):
            file.read()
