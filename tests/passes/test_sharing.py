"""Weights that several layers have are stored once, where Caffe reads them; written out for OpenCV. All beside torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from google.protobuf import text_format
from torch import Tensor, nn

import streamexport
from streamexport import Options, Plan
from streamexport.caffe import caffe_pb2
from streamexport.caffe.models import open_model
from streamexport.errors import AbsentError
from streamexport.running.engines import open_engine
from streamexport.running.forward import forward
from tests.shared import caffe_judge

SHAPE = (1, 3, 12, 14)


class Heads(nn.Module):
    """One head on two levels, as detectors have it: two convolutions, with an uneven padding, and a PReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, 2)
        self.head = nn.Sequential(nn.Conv2d(4, 6, 2, padding="same"), nn.PReLU(6), nn.Conv2d(6, 5, 1, bias=False))
        self.alone = nn.Conv2d(4, 5, 1)
        self.alone.weight.data.zero_()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.stem(x).relu()
        y = self.down(x).relu()
        return self.head(x), self.head(y), self.alone(y)


def build() -> nn.Module:
    """For --net."""
    torch.manual_seed(7)
    return Heads()


def converted(directory: Path, output: str = "net.caffemodel", **options: object) -> Plan:
    torch.save(build().state_dict(), directory / "c.pth")
    asked = Options(net=f"{__file__}:build", input_shape=SHAPE, **options)
    return streamexport.convert([directory / "c.pth"], directory / output, asked)


def image() -> np.ndarray:
    return np.random.default_rng(3).standard_normal(SHAPE).astype(np.float32)


def expected() -> list[np.ndarray]:
    with torch.no_grad():
        return [made.numpy() for made in build().eval()(torch.from_numpy(image()))]


def assert_computed(plan: Plan, found: dict[str, np.ndarray], tolerance: float = 1e-5) -> None:
    for name, values in zip(plan.net.outputs, expected(), strict=True):
        np.testing.assert_allclose(found[name], values, atol=tolerance)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("output", ["net.caffemodel", "net.caffemodel.h5"])
def test_shared_weights_are_stored_once_and_found(tmp_path, output, dtype):
    plan = converted(tmp_path, output, dialect="bvlc", dtype=dtype)
    stored = {layer.name for layer in open_model(tmp_path / output).layers if layer.blobs}
    assert stored == {"stem", "down", "head.01", "head.11", "head.21", "alone"}
    text = text_format.Parse((tmp_path / "net.prototxt").read_text(), caffe_pb2.NetParameter())
    shared = {layer.name: [param.name for param in layer.param] for layer in text.layer if layer.param}
    names = {"head.0": ["head.01.0", "head.01.1"], "head.1": ["head.11.0"], "head.2": ["head.21.0"]}
    assert shared == {f"{name}{call}": params for name, params in names.items() for call in (1, 2)}
    found = forward(tmp_path / "net.prototxt", [tmp_path / output], image())
    assert_computed(plan, found, 1e-5 if dtype == "float32" else 5e-3)
    assert streamexport.verify([tmp_path / "c.pth"], [tmp_path / output], plan_options(dtype)).problems == ()


def plan_options(dtype: str) -> Options:
    return Options(net=f"{__file__}:build", input_shape=SHAPE, dialect="bvlc", dtype=dtype)


def test_a_shared_weight_counts_once(tmp_path):
    converted(tmp_path, dialect="bvlc")
    counted = sum(cost.parameters for cost in streamexport.costs(tmp_path / "net.prototxt"))
    assert counted == sum(weight.numel() for weight in build().parameters()) + 6 * 4 * 5  # 2x2 kernels laid out in 3x3


@pytest.mark.parametrize("dialect", ["portable", "opencv"])
def test_where_opencv_reads_they_are_written_out_and_that_is_said(tmp_path, dialect):
    plan = converted(tmp_path, dialect=dialect)
    assert any("weights of 3 layers" in note and "OpenCV does not know shared ones" in note for note in plan.notes)
    with open_engine("opencv", tmp_path / "net.prototxt", [tmp_path / "net.caffemodel"], plan.net.outputs) as compute:
        assert_computed(plan, compute(image()))


@pytest.mark.parametrize("dialect", ["bvlc", "ssd"])
def test_opencv_is_not_asked_for_what_it_does_not_know(tmp_path, dialect):
    plan = converted(tmp_path, dialect=dialect)
    assert any("OpenCV 4 lacks shared weights" in note for note in plan.notes) == (dialect == "ssd")
    assert not any("runs in" in note and "OpenCV" in note for note in plan.notes)
    with (
        pytest.raises(AbsentError, match=r"share weights, which OpenCV does not know; `dialect=portable`"),
        open_engine("opencv", tmp_path / "net.prototxt", [tmp_path / "net.caffemodel"], []),
    ):
        pass


@pytest.mark.caffe
@pytest.mark.parametrize("dialect", ["bvlc", "ssd"])
@pytest.mark.parametrize("output", ["net.caffemodel", "net.caffemodel.h5"])
def test_caffe_shares_them(tmp_path, output, dialect):
    caffe_judge.require()
    plan = converted(tmp_path, output, dialect=dialect)
    with open_engine("caffe", tmp_path / "net.prototxt", [tmp_path / output], plan.net.outputs) as compute:
        assert_computed(plan, compute(image()))


def test_a_model_without_the_owner_is_refused_by_name(tmp_path):
    converted(tmp_path, dialect="bvlc")
    net = caffe_pb2.NetParameter.FromString((tmp_path / "net.caffemodel").read_bytes())
    kept = [layer for layer in net.layer if layer.name != "head.21"]
    net.ClearField("streamexport_record")
    del net.layer[:]
    net.layer.extend(kept)
    (tmp_path / "other.caffemodel").write_bytes(net.SerializeToString())
    with pytest.raises(streamexport.Error, match="layer head.21: has parameters, and no model file holds them"):
        forward(tmp_path / "net.prototxt", [tmp_path / "other.caffemodel"], image())
