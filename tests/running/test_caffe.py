"""Caffe itself loads every form that we write, and computes what torch computes. (Its fork has `ceil_mode`, as SSD's has.)"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from streamexport.running.engines import open_engine
from streamexport.running.forward import forward
from tests.conftest import run_cli
from tests.conversion.test_consumers import NSFW, opencv_logits
from tests.shared.reference import reference

pytestmark = pytest.mark.caffe
IMAGE = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype("f4")


def in_caffe(prototxt: Path, models: list[Path], top: str) -> np.ndarray:
    with open_engine("caffe", prototxt, models, [top]) as compute:
        return compute(IMAGE)[top]


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, in parts of the largest logit."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def convert(*arguments: object) -> None:
    done = run_cli("convert", *arguments)
    assert done.returncode == 0, done.stderr


FORMS = {
    "caffemodel": ("m.caffemodel", (), 1e-5),
    "ssd": ("m.caffemodel", ("--dialect", "ssd"), 1e-5),
    "hdf5": ("m.caffemodel.h5", (), 1e-5),
    "linked": ("m.h5", ("--format", "linked"), 1e-5),
    "half hdf5": ("m.h5", ("--dtype", "float16"), 2e-3),
    "parts": ("m.caffemodel", ("--max-file-size", "20MB"), 1e-5),
    "parts of hdf5": ("m.caffemodel.h5", ("--max-file-size", "20MB"), 1e-5),
    "folded": ("m.caffemodel", ("--fold-batchnorm",), 1e-4),
}


@pytest.mark.parametrize("form", FORMS)
def test_caffe_computes_what_torch_computes(tmp_path, checkpoint, form):
    path = checkpoint("resnet18")
    name, options, tolerance = FORMS[form]
    convert(path, "-o", tmp_path / name, *options)
    models = sorted(model for model in tmp_path.iterdir() if model.suffix != ".prototxt")
    assert (len(models) > 1) == form.startswith("parts")
    expected = reference(torch.load(path), torch.from_numpy(IMAGE)).numpy()
    caffe, ours = (
        in_caffe(tmp_path / "m.prototxt", [*models, path], "fc"),
        forward(tmp_path / "m.prototxt", [*models, path], IMAGE, ["fc"])["fc"],
    )
    assert relative(caffe, expected) <= tolerance
    assert relative(ours, expected) <= tolerance
    assert relative(ours, caffe) <= 1e-5


@pytest.mark.parametrize("dialect", ["portable", "ssd"])
def test_a_bottleneck_net_with_groups_and_classic_names(tmp_path, checkpoint, dialect):
    path = checkpoint("resnext50_32x4d")
    convert(path, "-o", tmp_path / "m.h5", "--names", "classic", "--dialect", dialect)
    expected = reference(torch.load(path), torch.from_numpy(IMAGE)).numpy()
    assert relative(in_caffe(tmp_path / "m.prototxt", [tmp_path / "m.h5"], "fc_blob1"), expected) <= 1e-5


def test_bvlc_s_dialect_is_judged_by_our_own_engine(tmp_path, checkpoint):
    path = checkpoint("resnet18")
    convert(path, "-o", tmp_path / "m.caffemodel", "--dialect", "bvlc")
    expected = reference(torch.load(path), torch.from_numpy(IMAGE)).numpy()
    found = forward(tmp_path / "m.prototxt", [tmp_path / "m.caffemodel"], IMAGE, ["fc"])["fc"]
    assert relative(found, expected) <= 1e-5


def test_a_real_net_gives_the_same_in_every_format_and_engine(real, tmp_path):
    original, prototxt = real(*NSFW), real(NSFW[0], "deploy.prototxt")
    convert(original, "-o", tmp_path / "m.h5")
    convert(tmp_path / "m.h5", "-o", tmp_path / "back.caffemodel")
    expected = in_caffe(prototxt, [original], "prob")
    for model in (tmp_path / "m.h5", tmp_path / "back.caffemodel"):
        np.testing.assert_array_equal(in_caffe(prototxt, [model], "prob"), expected)
        np.testing.assert_allclose(forward(prototxt, [model], IMAGE, ["prob"])["prob"], expected, atol=1e-5)
    found = opencv_logits(prototxt, tmp_path / "back.caffemodel", IMAGE, "prob")
    np.testing.assert_allclose(found, expected, atol=1e-5)
