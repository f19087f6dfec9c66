"""Poolings that only one axis of rounds, in the dialect of all readers: OpenCV, Caffe and our own engine against torch."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

import streamexport
from streamexport import Options
from streamexport.caffe.prototxt import read_prototxt
from streamexport.running.engines import open_engine
from tests.shared import caffe_judge

WINDOWS = [((2, 2), (2, 1), (0, 1)), ((2, 2), (1, 2), (1, 0)), ((3, 2), (2, 1), (1, 1)), ((4, 2), (3, 1), (1, 1))]
WINDOWS += [((4, 2), (3, 1), (2, 1)), ((5, 4), (2, 3), (2, 2))]  # no pooling without padding has their tops' size
FEW_PIXELS = [
    (((2, 2), (2, 2), (0, 0)), (3, 2)),
    (((1, 9), (1, 9), (0, 0)), (16, 9)),
    (((3, 3), (2, 2), (1, 1)), (1, 8)),
    (((3, 2), (3, 3), (0, 1)), (4, 2)),
]
"""Windows that there is room for once along an axis."""

CASES = [
    *product(WINDOWS, ["MaxPool2d", "AvgPool2d"], [(16, 30), (15, 9)]),
    *((window, kind, size) for window, size in FEW_PIXELS for kind in ("MaxPool2d", "AvgPool2d")),
]


def build(kind: str, window: list[list[int]]) -> nn.Module:
    """For --net."""
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), getattr(nn, kind)(*map(tuple, window)))


def converted(directory, window, kind, size):
    torch.manual_seed(0)
    module, image = build(kind, window).eval(), torch.randn(1, 1, *size)
    directory.mkdir(exist_ok=True)
    torch.save(module.state_dict(), directory / "c.pth")
    arguments = json.dumps({"kind": kind, "window": window})
    options = Options(net=f"{__file__}:build", net_args=arguments, input_shape=(1, 1, *size))
    (output,) = streamexport.convert([directory / "c.pth"], directory / "net.caffemodel", options).net.outputs
    np.savez(directory / "inputs.npz", data=image.numpy())
    with torch.no_grad():
        return image.numpy(), output, module(image).numpy()


@pytest.mark.parametrize(("window", "kind", "size"), CASES)
def test_stream_and_opencv_round_one_axis_down_and_leave_the_other(tmp_path, window, kind, size):
    image, output, expected = converted(tmp_path, window, kind, size)
    for engine in ("stream", "opencv"):
        with open_engine(engine, tmp_path / "net.prototxt", [tmp_path / "net.caffemodel"], [output]) as compute:
            np.testing.assert_allclose(compute(image)[output], expected, atol=1e-5)


@pytest.mark.parametrize(("rows", "written"), [(16, ["Pooling"]), (15, ["Pooling", "Pooling", "Crop"])])
def test_where_nothing_is_rounded_it_is_one_layer(tmp_path, rows, written):
    converted(tmp_path, ((2, 2), (2, 1), (0, 1)), "MaxPool2d", (rows, 30))
    layers = read_prototxt(tmp_path / "net.prototxt").layers
    assert [layer.type for layer in layers] == ["Input", "Convolution", *written]
    assert ("round nothing at this size" in (tmp_path / "net.prototxt").read_text()) == (rows == 16)


@pytest.mark.caffe
def test_caffe_rounds_one_axis_down_and_leaves_the_other(tmp_path):
    made = [converted(tmp_path / str(number), *case) for number, case in enumerate(CASES)]
    tops = caffe_judge.judge(*(tmp_path / str(number) for number in range(len(CASES))))
    for (_, output, expected), found in zip(made, tops, strict=True):
        np.testing.assert_allclose(found[output], expected, atol=1e-5)
