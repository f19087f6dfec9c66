"""Images and lists that are too much: they are refused before they are made, by one line."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

import pytest
from PIL import Image

import streamexport
from streamexport.errors import FormatError, NetError, SourceError
from streamexport.evaluation.evaluate import class_names
from streamexport.evaluation.images import MOST_PIXELS, Transform, open_images, read_image
from tests.conftest import ROOT, assert_refused, run_cli

ATTACKS = ROOT / "tests" / "shared" / "attacks"
SHAPE = (3, 224, 224)
HALF_A_GIGABYTE = 500 << 10


def peak() -> int:
    """Most KiB that this process has had resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.parametrize("crop", ["center", "square", "none"])
@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1), (1, 1)])
def test_thin_images_are_refused_or_small(tmp_path, crop, size):
    Image.new("L", size).save(tmp_path / "thin.png")
    before = peak()
    if crop == "center" and size != (1, 1):
        with pytest.raises(FormatError, match=r"too many when it is resized to \d+x\d+"):
            read_image(str(tmp_path / "thin.png"), Transform(crop), SHAPE)
    else:
        assert read_image(str(tmp_path / "thin.png"), Transform(crop), SHAPE).shape == SHAPE
    assert peak() - before < HALF_A_GIGABYTE


def test_what_pillow_makes_on_the_way_counts_too(tmp_path):
    Image.new("L", (10, 600_000)).save(tmp_path / "thin.png")
    with pytest.raises(FormatError, match="too many when it is resized to 256x256"):
        read_image(str(tmp_path / "thin.png"), Transform("none", 256), SHAPE)


def test_the_log_s_thin_image_is_left_out():
    what = "thin.png: has 1x60000 pixels, and too many when it is resized to 256x15360000"
    done = run_cli("eval", "--proto", ATTACKS / "in224.prototxt", "--model", ATTACKS / "m.caffemodel", "--image",
                   ATTACKS / "thin.png", "--quiet", "--engine", "opencv")  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    with pytest.raises(FormatError) as refused:
        read_image(str(ATTACKS / "thin.png"), Transform(), SHAPE)
    assert what in str(refused.value)


def bomb(path: Path, width: int, height: int) -> str:
    """A PNG of a few hundred bytes that says it is large."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    return str(path)


@pytest.mark.parametrize("width", [12_000, 20_000, 2_000_000_000])
def test_images_of_hundreds_of_megapixels_are_refused_unseen(tmp_path, width, recwarn):
    before = peak()
    with pytest.raises(FormatError, match="pixels, 134217728 are the most|cannot be read as an image") as refused:
        read_image(bomb(tmp_path / "bomb.png", width, 12_000), Transform(), SHAPE)
    assert "\n" not in str(refused.value)
    assert peak() - before < HALF_A_GIGABYTE
    assert not recwarn.list


def test_a_large_image_is_read_without_a_warning(tmp_path, recwarn):
    Image.new("1", (9_500, 9_500)).save(tmp_path / "large.png")  # above what Pillow warns of
    assert read_image(str(tmp_path / "large.png"), Transform(), SHAPE).shape == SHAPE
    assert not recwarn.list


def test_a_fifo_is_no_image_no_list_and_names_nothing(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(FormatError, match="is not a regular file"):
        read_image(str(tmp_path / "fifo"), Transform(), SHAPE)
    with pytest.raises(SourceError, match="is not a regular file"):
        open_images(tmp_path / "fifo")
    with pytest.raises(SourceError, match="is not a regular file"):
        class_names(3, tmp_path / "fifo")


def test_postscript_is_no_image_whatever_it_is_called(tmp_path):
    """Pillow would have Ghostscript run it."""
    (tmp_path / "cat.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    with pytest.raises(FormatError, match="is no image of a kind"):
        read_image(str(tmp_path / "cat.jpg"), Transform(), SHAPE)


@pytest.mark.parametrize("size", ["99999999999999999999", "20000"])
def test_what_images_are_resized_to_has_a_bound(size):
    with pytest.raises(NetError, match=f"images of {size}x{size} are too large"):
        Transform(resize=int(size)).check(SHAPE)
    line = assert_refused("eval", "--proto", ATTACKS / "in224.prototxt", "--model", ATTACKS / "m.caffemodel", "--image",
                          ATTACKS / "ok.png", "--resize", size)  # fmt: skip
    assert "are too large" in line


@pytest.mark.parametrize("name", ["big_input.prototxt", "big_input3.prototxt"])
@pytest.mark.parametrize("engine", ["stream", "opencv"])
def test_so_have_the_inputs_of_nets(name, engine):
    line = assert_refused("eval", "--proto", ATTACKS / name, "--model", ATTACKS / "m.caffemodel", "--image",
                          ATTACKS / "ok.png", "--engine", engine)  # fmt: skip
    assert "an image of more than 268435456 numbers" in line


def test_long_lines_take_no_longer_than_they_are(tmp_path):
    path = tmp_path / "list.txt"
    for line in ("a" + " " * 500_000 + "b", " " * 500_000, "a " * 250_000 + "x", "a" + "\t \v" * 170_000):
        path.write_text(line + "\n" + "ok.png 1\n")
        start = time.process_time()
        with pytest.raises((FormatError, SourceError)):
            open_images(path)
        assert time.process_time() - start < 10  # it took minutes


@pytest.mark.parametrize(
    ("line", "image", "label"),
    [("a b.png  7", "a b.png", 7), ("\ta.png\t-1 \t", "a.png", -1), ("a.png 0012", "a.png", 12)],
)
def test_lines_are_a_path_and_a_label(tmp_path, line, image, label):
    Image.new("L", (8, 8)).save(tmp_path / image)
    (tmp_path / "list.txt").write_text(line)
    found = open_images(tmp_path / "list.txt")
    assert (found.paths, found.labels) == ((str(tmp_path / image),), (label,))


@pytest.mark.parametrize(
    "line", ["a.png", "7", "a.png ٧", "a.png\u30007", "a.png 1.5", "a.png 7x", "a.png --7", "a.png +7"]
)
def test_other_lines_are_named(tmp_path, line):
    (tmp_path / "list.txt").write_text(line, encoding="utf-8")
    with pytest.raises(FormatError, match="line 1 is not `path label`"):
        open_images(tmp_path / "list.txt")


def test_a_label_of_thousands_of_digits_is_none():
    line = assert_refused("eval", "--proto", ATTACKS / "in224.prototxt", "--model", ATTACKS / "m.caffemodel", "--images",
                          ATTACKS / "list_digits.txt", "--engine", "opencv")  # fmt: skip
    assert "line 1 is not `path label`" in line
    with pytest.raises(FormatError, match="line 1 is not `path label`"):
        streamexport.open_images(ATTACKS / "list_digits.txt")


def test_a_list_has_a_bound_and_is_text(tmp_path):
    with (tmp_path / "list.txt").open("wb") as file:
        file.truncate(65 << 20)
    for read in (open_images, lambda path: class_names(3, path)):
        with pytest.raises(FormatError, match="too many for a list"):
            read(tmp_path / "list.txt")
    (tmp_path / "list.txt").write_bytes(b"a.png \xff")
    with pytest.raises(FormatError, match=r"is not text .at byte 6."):
        open_images(tmp_path / "list.txt")
    assert MOST_PIXELS == 134217728
