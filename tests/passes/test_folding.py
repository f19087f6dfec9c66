"""Folded weights against torch in float64, and the folded nets in OpenCV."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

import streamexport
from streamexport.caffe import caffe_pb2
from tests.conftest import assert_refused, run_cli
from tests.conversion.test_consumers import opencv_logits
from tests.payload.test_extents import rendered
from tests.shared.reference import reference

IMAGE = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype("f4")
MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def convert(*arguments: object) -> str:
    done = run_cli("convert", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_folded_weights_are_torch_s_in_float64_rounded_once(tmp_path, checkpoint):
    path = checkpoint("resnet18")
    convert(path, "-o", tmp_path / "m.caffemodel", "--fold-batchnorm")
    model = caffe_pb2.NetParameter.FromString((tmp_path / "m.caffemodel").read_bytes())
    assert {layer.type for layer in model.layer}.isdisjoint({"BatchNorm", "Scale"})
    state = {name: tensor.double() for name, tensor in torch.load(path).items()}
    for name, norm in (
        ("conv1", "bn1"),
        ("layer2.0.downsample.0", "layer2.0.downsample.1"),
        ("layer4.1.conv2", "layer4.1.bn2"),
    ):
        layer = next(layer for layer in model.layer if layer.name == name)
        s = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + 1e-5).sqrt()
        weight = (state[f"{name}.weight"] * s[:, None, None, None]).float().reshape(-1).numpy()
        bias = (state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * s).float().numpy()
        np.testing.assert_allclose(np.array(layer.blobs[0].data, "f4"), weight, rtol=1.2e-7)
        np.testing.assert_allclose(np.array(layer.blobs[1].data, "f4"), bias, rtol=1e-6, atol=1e-8)
    assert run_cli("verify", path, tmp_path / "m.caffemodel").returncode == 0


def test_any_range_of_folded_weights_is_the_same(checkpoint):
    plan = streamexport.plan([checkpoint("resnet18")], "m.caffemodel", streamexport.Options(fold_batchnorm=True))
    blob = next(layer for layer in plan.net.layers if layer.name == "layer1.0.conv1").blobs[0]
    whole, numbers = rendered(blob.values), np.random.default_rng(0)
    for _ in range(100):
        start, stop = sorted(numbers.integers(0, len(whole) + 1, 2).tolist())
        assert rendered(blob.values, start, stop) == whole[start:stop]


@pytest.mark.parametrize("net", ["resnet18", "resnext50_32x4d"])
@pytest.mark.parametrize("names", ["torch", "classic"])
def test_opencv_computes_the_same_with_folded_weights(tmp_path, checkpoint, net, names):
    path = checkpoint(net)
    convert(path, "-o", tmp_path / "m.caffemodel", "--fold-batchnorm", "--names", names)
    expected = reference(torch.load(path), torch.from_numpy(IMAGE)).numpy()
    top = "fc" if names == "torch" else "fc1"
    found = opencv_logits(tmp_path / "m.prototxt", tmp_path / "m.caffemodel", IMAGE, top)
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("fold", [(), ("--fold-batchnorm",)])
@pytest.mark.parametrize(("order", "scale"), [("bgr", False), ("rgb", True), ("bgr", True)])
def test_a_net_for_raw_pixels_says_what_is_left_to_do_and_computes_the_same(tmp_path, checkpoint, fold, order, scale):
    path = checkpoint("resnet18")
    options = [*fold, "--input-order", order, *(["--fold-input-scale"] if scale else [])]
    convert(path, "-o", tmp_path / "m.caffemodel", *options)
    pixels = np.random.default_rng(1).integers(0, 256, (1, 3, 224, 224)).astype("f8")
    shape = (1, 3, 1, 1)
    image = ((pixels / 255 - MEAN.reshape(shape)) / DEVIATION.reshape(shape)).astype("f4")
    expected = reference(torch.load(path), torch.from_numpy(image)).numpy()
    fed = pixels - 255 * MEAN.reshape(shape) if scale else image
    fed = (fed[:, ::-1] if order == "bgr" else fed).astype("f4")
    found = opencv_logits(tmp_path / "m.prototxt", tmp_path / "m.caffemodel", np.ascontiguousarray(fed), "fc")
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    said = re.search(r"^# input: (.*)$", (tmp_path / "m.prototxt").read_text(), re.M)[1]
    assert said.startswith(f"{order.upper()}, pixels 0..{255 if scale else 1}, minus mean")
    assert ("divided by" in said) != scale
    mean = [float(value) for value in re.search(r"mean \[(.*?)\]", said)[1].split(",")]
    np.testing.assert_allclose(mean, (MEAN * (255 if scale else 1))[:: -1 if order == "bgr" else 1])
    assert run_cli("verify", path, tmp_path / "m.caffemodel").returncode == 0


def test_a_net_that_takes_no_rgb_image_is_refused(tmp_path, checkpoint):
    state = torch.load(checkpoint("resnet18"))
    state["conv1.weight"] = torch.zeros(64, 4, 7, 7)
    torch.save(state, tmp_path / "c.pth")
    line = assert_refused("convert", tmp_path / "c.pth", "-o", tmp_path / "m.caffemodel", "--input-order", "bgr")
    assert "is not known to take RGB images" in line
