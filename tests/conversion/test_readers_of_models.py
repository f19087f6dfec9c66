"""Who is said to run a model, and every engine that is there asked whether it computes what torch computes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from streamexport.caffe.caffemodel.writing import CAFFE_LIMIT
from streamexport.caffe.formats import CAFFEMODEL, HDF5, Format
from streamexport.conversion.consumers import CAFFES, OPENCVS, READERS, SSD, Written, runs_in
from tests.conftest import run_cli

TYPES = frozenset({"Convolution", "ReLU"})


def written(dialect: str = "portable", form: Format = CAFFEMODEL, **others: object) -> Written:
    return Written(**{"dialect": dialect, "form": form, "is_half": False, "sizes": [100], "types": TYPES, **others})


@pytest.mark.parametrize(
    ("what", "first", "others"),
    [
        (written(), "runs in Caffe, its forks, OpenCV 4", ()),
        (written("bvlc"), "runs in BVLC's Caffe", ()),
        (written("opencv"), f"runs in {SSD}, OpenCV 4", ()),
        (written(form=HDF5), "runs in Caffe, its forks", ()),
        (written(sizes=[100, 90]), "runs in Caffe, its forks", ("OpenCV 4 takes one file, not 2 parts",)),
        (written(is_half=True), "runs in OpenCV 4, NVIDIA's Caffe", ("float16 caffemodel: stock Caffe aborts",)),
        (written(form=HDF5, is_half=True), "runs in Caffe, its forks", ()),
        (written(sizes=[CAFFE_LIMIT + 1]), f"{CAFFE_LIMIT + 1} bytes in one file: stock Caffe and OpenCV stop", ()),
        (written(types=TYPES | {"Reduction"}), "runs in Caffe, its forks", ("OpenCV 4 lacks Reduction",)),
        (written("ssd", types=TYPES | {"Clip"}), f"{SSD} lacks Clip", ("OpenCV 4 lacks Clip",)),
        (written("bvlc", types=TYPES | {"Clip"}), "runs in BVLC's Caffe", ()),
    ],
)
def test_who_runs_a_model_and_who_does_not(what, first, others):
    said = list(runs_in(what))
    assert said[0].startswith(first)
    assert all(any(line.startswith(other) for line in said[1:]) for other in others)
    if "OpenCV" not in "".join((first, *others)):
        assert "OpenCV" not in "".join(said)


NOT_ALONE = {"Input", "GRU"}
"""OpenCV crashes on a GRU without weights; `test_kinds` gives it some."""


@pytest.mark.parametrize("kind", sorted(set.union(*(set(reader.types) for reader in READERS)) - NOT_ALONE))
def test_opencv_has_the_layers_that_it_is_said_to_have(kind):
    """It knows more kinds than it takes from a prototxt, but none that it is said to take is unknown."""
    text = 'input: "data" input_shape { dim: 1 dim: 3 dim: 4 dim: 5 }'
    text += f'layer {{ name: "x" type: "{kind.split()[0]}" bottom: "data" top: "x" }}'
    said = ""
    try:
        net = cv2.dnn.readNetFromCaffe(np.frombuffer(text.encode(), np.uint8))
        net.setInput(np.zeros((1, 3, 4, 5), "f4"))
        net.forward()
    except cv2.error as error:
        said = str(error)
    if "an't create layer" in said:
        assert kind not in OPENCVS
    assert kind in OPENCVS or kind in CAFFES | {"Clip"}


# Every engine


class Tiny(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.conv(x))


@pytest.fixture
def tiny(tmp_path):
    """Converts it, with what is given, and returns what verifies the files in every engine."""
    torch.save(Tiny().state_dict(), tmp_path / "c.pth")
    net = ("--net", f"{__file__}:Tiny", "--input-shape", "1,3,5,6")

    def convert(name: str, *options: object):
        done = run_cli("convert", tmp_path / "c.pth", "-o", tmp_path / name, *net, *options)
        assert done.returncode == 0, done.stderr
        return ("verify", tmp_path / "c.pth", tmp_path / name, "--net", net[1], "--forward", "--engine", "all")

    return convert


def test_every_engine_is_asked_and_those_that_cannot_are_named(tiny, tmp_path):
    done = run_cli(*tiny("m.caffemodel.h5"), "--caffe-python", tmp_path / "none")
    assert done.returncode == 0, done.stderr
    assert "; stream, " in done.stderr
    assert "opencv was not asked: " in done.stderr
    assert "is HDF5, which OpenCV does not read" in done.stderr
    assert "caffe was not asked: " in done.stderr


@pytest.mark.caffe
def test_every_engine_that_is_there_agrees(tiny):
    done = run_cli(*tiny("m.caffemodel"))
    assert done.returncode == 0, done.stderr
    assert [engine for engine in ("stream", "caffe", "opencv") if f"; {engine}, " in done.stderr] == [
        "stream",
        "caffe",
        "opencv",
    ]


def test_an_engine_that_departs_is_named_and_the_others_are_asked_all_the_same(tiny, tmp_path):
    command = tiny("m.caffemodel")
    text = tmp_path / "m.prototxt"
    text.write_text(text.read_text().replace("ReLU", "TanH"))
    done = run_cli(*command, "--caffe-python", tmp_path / "none")
    assert done.returncode == 1
    *_, absent, last = done.stderr.splitlines()
    assert "caffe was not asked" in absent
    assert "stream: " in last
    assert "opencv: " in last
    assert last.count("layer act, act in torch: departs from torch by") == 2
