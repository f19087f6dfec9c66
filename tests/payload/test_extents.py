"""Pieces and layouts: sizes known first, any range on its own, nothing outside a file."""

from __future__ import annotations

import os
import pickle
import random
from pathlib import Path

import pytest

from streamexport.errors import SourceChangedError, SourceError
from streamexport.payload.pieces import Extent, Layout, Literal
from streamexport.sources.local import LocalFile


def rendered(piece, start=0, stop=None) -> bytes:
    data = bytearray((piece.size if stop is None else stop) - start)
    piece.render(start, start + len(data), memoryview(data))
    return bytes(data)


@pytest.fixture
def source(tmp_path: Path) -> LocalFile:
    path = tmp_path / "data"
    path.write_bytes(bytes(range(256)) * 4)
    return LocalFile.at(path)


def test_a_layout_renders_any_range_of_what_its_pieces_make(source):
    data = bytes(range(256)) * 4
    layout = Layout.of([Literal(b"ab"), Extent(source, 10, 100), Literal(b""), Literal(b"c"), Extent(source, 1000, 24)])
    whole = b"ab" + data[10:110] + b"c" + data[1000:1024]
    assert layout.size == len(whole)
    numbers = random.Random(0)
    for _ in range(500):
        start = numbers.randint(0, len(whole))
        stop = numbers.randint(start, len(whole))
        assert rendered(layout, start, stop) == whole[start:stop]


def test_neighbours_are_joined_and_layouts_inside_layouts_flattened(source):
    inner = Layout.of([Literal(b"b"), Extent(source, 0, 4)])
    layout = Layout.of([Literal(b"a"), inner, Extent(source, 4, 4), Extent(source, 0, 0), Extent(source, 9, 1)])
    assert layout.pieces == (Literal(b"ab"), Extent(source, 0, 8), Extent(source, 9, 1))


@pytest.mark.parametrize(("offset", "length"), [(-1, 2), (0, 1025), (1024, 1), (2000, 0), (5, -1)])
def test_an_extent_outside_its_source_cannot_be_made(source, offset, length):
    with pytest.raises(ValueError, match="outside"):
        Extent(source, offset, length)


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (0, 11), (5, 4)])
def test_a_part_outside_its_extent_cannot_be_made(source, start, stop):
    with pytest.raises(ValueError, match="outside"):
        Extent(source, 0, 10).part(start, stop)


def test_a_local_file_hands_bytes_to_be_confirmed_over_at_once(source):
    seen: list[bytes] = []
    source.confirm(254, 4, seen.append)
    assert seen == [b"\xfe\xff\x00\x01"]


def test_a_source_compares_and_pickles_by_path_size_and_time(source):
    source.read(0, 1)
    copy = pickle.loads(pickle.dumps(source))
    assert copy == source
    assert hash(copy) == hash(source)
    assert copy.read(255, 2) == b"\xff\x00"
    os.utime(source.name, ns=(0, 1))
    assert LocalFile.at(source.name) != source


def test_a_source_that_changed_is_noticed_when_opened_and_when_checked(source):
    opened, late = LocalFile.at(source.name), LocalFile.at(source.name)
    opened.read(0, 1)
    opened.check()
    os.utime(source.name, ns=(0, 1))
    with pytest.raises(SourceChangedError, match="changed while it was read"):
        opened.check()
    with pytest.raises(SourceChangedError, match="changed while it was read"):
        late.read(0, 1)


def test_a_source_that_shrinks_is_noticed_when_read(source):
    source.read(0, 1)
    os.truncate(source.name, 100)
    with pytest.raises(SourceChangedError, match="ends before its own size.*byte 100"):
        source.read(90, 20)


def test_what_is_no_regular_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, message in ((tmp_path, "directory"), (tmp_path / "pipe", "regular"), (tmp_path / "none", "No such file")):
        with pytest.raises(SourceError, match=message):
            LocalFile.at(path)
