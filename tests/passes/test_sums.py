"""Sums of many elements: real programs beside torch in float64, and how averages are cut into steps."""

from __future__ import annotations

import json
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

import streamexport
from streamexport import Options, families, passes
from streamexport.caffe.prototxt import prototxt
from streamexport.net.graph import Layer, Net
from streamexport.net.operations import Input, Pooling
from streamexport.net.windows import LONG, Window
from streamexport.passes import dialects, sums
from streamexport.running.engines import open_engine
from tests.conversion.test_consumers import opencv_logits
from tests.payload.test_extents import rendered
from tests.shared import caffe_judge

TOLERANCE = 1e-5  # of the largest number, at any size

LONG_SUMS = {
    "instance norm": F.instance_norm,
    "instance norm, far from zero": lambda x: F.instance_norm(x * 10 + 128),
    "group norm": lambda x: F.group_norm(x, 1),
    "group norm, nearly alike": lambda x: F.group_norm((x + 0.1).clamp(0.1, 0.5) + 1, 1),
    "batch norm of the batch": lambda x: F.batch_norm(x, None, None, training=True),
    "layer norm": lambda x: F.layer_norm(x, x.shape[1:]),
    "layer norm of channels": lambda x: F.layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2]).permute(0, 3, 1, 2),
    "layer norm of pixels": lambda x: F.layer_norm(x, x.shape[2:]),
    "mean": lambda x: x.mean((2, 3)),
    "mean of a level": lambda x: (x * 0.001 + 0.7).mean((2, 3)),
    "mean of a sequence": lambda x: x.flatten(2).mean(2),
    "sum": lambda x: x.sum((1, 2, 3)),
    "norm": lambda x: F.normalize(x.flatten(1)),
    "softmax": lambda x: F.softmax(x.flatten(2), 2),
    "adaptive average": lambda x: F.adaptive_avg_pool2d(x, 1),
    "adaptive average, uneven": lambda x: F.adaptive_avg_pool2d(x, (3, 2)),
    "large windows": lambda x: F.avg_pool2d(x, (x.shape[2] // 2, x.shape[3] // 3)),
    "large windows that overlap": lambda x: F.avg_pool2d(x, (150, 90), (77, 60), (70, 40)),
    "large windows, up": lambda x: F.avg_pool2d(x, (150, 90), (77, 60), ceil_mode=True),
}


class Sums(nn.Module):
    """One of the table, behind a convolution and ReLU."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.conv, self.function = nn.Conv2d(3, 4, 1), LONG_SUMS[name]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self.conv(x).relu())


class Case:
    """A module of the table, converted into a directory, with what torch computes in float64."""

    def __init__(self, directory: Path, name: str, size: tuple[int, int], **options: object) -> None:
        directory.mkdir()
        torch.manual_seed(0)
        module = Sums(name)
        torch.save(module.state_dict(), directory / "c.pth")
        self.image = np.random.default_rng(0).standard_normal((1, 3, *size), np.float32)
        with torch.no_grad():
            self.expected = module.double()(torch.from_numpy(self.image).double()).numpy()
        self.prototxt, self.model = directory / "net.prototxt", directory / "net.caffemodel"
        arguments = json.dumps({"name": name})
        made = Options(f"{__file__}:Sums", arguments, input_shape=self.image.shape, **options)
        plan = streamexport.convert([directory / "c.pth"], self.model, made)
        (self.output,) = plan.net.outputs
        self.layers = plan.net.layers
        np.savez(directory / "inputs.npz", data=self.image)

    def distance(self, found: np.ndarray | None) -> float:
        if found is None:
            return float("inf")
        return float(np.abs(found.reshape(-1) - self.expected.reshape(-1)).max() / np.abs(self.expected).max())

    def opencv(self) -> float:
        return self.distance(opencv_logits(self.prototxt, self.model, self.image, self.output))


CASES = {
    **{f"{name}, primes": (name, (509, 251)) for name in LONG_SUMS},
    **{f"{name}, 512x512": (name, (512, 512)) for name in ("instance norm", "group norm", "mean", "large windows")},
}


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> dict[str, Case]:
    directory = tmp_path_factory.mktemp("sums")
    return {name: Case(directory / str(number), *case) for number, (name, case) in enumerate(CASES.items())}


def test_opencv_is_as_near_to_torch_as_where_images_are_small(cases):
    distances = {name: case.opencv() for name, case in cases.items()}
    assert {name: distance for name, distance in distances.items() if not distance < TOLERANCE} == {}


@pytest.mark.caffe
def test_caffe_is_as_near_to_torch_as_where_images_are_small(cases):
    found = caffe_judge.judge(*(case.prototxt.parent for case in cases.values()))
    answers = zip(cases.items(), found, strict=True)
    distances = {name: case.distance(tops and tops[case.output]) for (name, case), tops in answers}
    assert {name: distance for name, distance in distances.items() if not distance < TOLERANCE} == {}


@pytest.mark.caffe
def test_another_batch_is_summed_as_well(cases, tmp_path):
    names = [f"{name}, primes" for name in ("instance norm", "group norm", "layer norm", "mean", "norm", "softmax")]
    for number, case in enumerate(cases[name] for name in names):
        directory = tmp_path / str(number)
        directory.mkdir()
        for file in (case.prototxt, case.model):
            (directory / file.name).symlink_to(file)
        np.savez(directory / "inputs.npz", data=np.concatenate([case.image[..., ::-1], case.image]))
    for case, tops in zip((cases[name] for name in names), caffe_judge.judge(*sorted(tmp_path.iterdir())), strict=True):
        assert case.distance(tops and tops[case.output][1]) < TOLERANCE


@pytest.mark.parametrize("size", [(16, 16), (64, 64)])
def test_numbers_that_are_nearly_alike_are_normalised_as_well(tmp_path, size):
    assert Case(tmp_path / "net", "group norm, nearly alike", size).opencv() < TOLERANCE


def test_instance_norm_of_a_large_image(tmp_path):
    assert Case(tmp_path / "net", "instance norm", (1080, 1920)).opencv() < TOLERANCE


@pytest.mark.parametrize(("size", "centring"), [((16, 16), "MVN"), ((56, 56), "MVN MVN")])
def test_a_small_image_is_normalised_with_few_layers(tmp_path, size, centring):
    kinds = [layer.type for layer in Case(tmp_path / "net", "instance norm", size).layers]
    assert kinds == f"Input Convolution ReLU Reshape {centring} Eltwise Pooling Power Flatten Scale Reshape".split()


def averaging(size: tuple[int, ...], pooling: Pooling, top: tuple[int, ...]) -> Net:
    """A net of one average, said as operators say it."""
    shape = (1, 2, *size)
    data = Layer("data", Input((shape,)), (), ("data",), shapes=(shape,))
    mean = Layer("mean", pooling, ("data",), ("mean",), shapes=((1, 2, *top),))
    return Net("net", (data, mean), outputs=("mean",))


def windows(net: Net) -> list[int]:
    """Elements of each window but the global ones."""
    pools = (layer.operation for layer in net.layers if isinstance(layer.operation, Pooling))
    return [prod(pool.window.kernel) for pool in pools if pool.window is not None]


def averages(directory: Path, net: Net, image: np.ndarray, engine: str) -> np.ndarray:
    path, model = directory / "net.prototxt", directory / "net.caffemodel"
    path.write_text(prototxt(net))
    model.write_bytes(rendered(streamexport.layout(net)))
    with open_engine(engine, path, [model], ["mean"]) as compute:
        return compute(image)["mean"]


@pytest.mark.parametrize(
    "size", [(64, 65), (1, 4099), (4099, 1), (2, 8191), (127, 131), (313, 100), (67, 1024), (1009, 30), (97, 4097)]
)
@pytest.mark.parametrize("engine", ["opencv", "stream"])
def test_an_average_over_any_size_is_exact_in_steps(tmp_path, size, engine):
    net = sums.shorten(averaging(size, Pooling("AVE"), (1, 1)))
    assert len(net.layers) > 2
    assert max(windows(net)) <= sums.MOST
    image = np.random.default_rng(1).standard_normal((1, 2, *size), np.float32) + 3
    found = averages(tmp_path, net, image, engine)
    np.testing.assert_allclose(found[0, :, 0, 0], image[0].astype("f8").mean((1, 2)), rtol=2e-6)


@pytest.mark.parametrize(
    ("size", "window"),
    [
        ((5003, 3), (5003, 1)),
        ((3, 4098), (1, 4098)),
        ((140, 166), (70, 83)),
        ((202, 514), (101, 257)),
        ((60, 1400), (15, 700)),
    ],
)
def test_averages_over_windows_side_by_side_are_exact_in_steps(tmp_path, size, window):
    rows, columns = (n // k for n, k in zip(size, window, strict=True))
    net = sums.shorten(averaging(size, Pooling("AVE", Window.of(window, window)), (rows, columns)))
    assert max(windows(net)) <= max(sums.MOST, *window)
    image = np.random.default_rng(1).standard_normal((1, 2, *size), np.float32) + 3
    expected = image.astype("f8").reshape(2, rows, window[0], columns, window[1]).mean((2, 4))
    np.testing.assert_allclose(averages(tmp_path, net, image, "opencv")[0], expected, rtol=2e-6)


def test_what_can_be_summed_at_once_is():
    whole = averaging((64, 64), Pooling("AVE"), (1, 1))
    assert prod((64, 64)) == LONG
    assert sums.shorten(whole) == whole


def test_averages_of_unknown_size_and_maxima_stay():
    whole = averaging((640, 640), Pooling("AVE"), (1, 1))
    unknown = Net("net", (replace(whole.layers[0], shapes=()), whole.layers[1]))
    assert sums.shorten(unknown) == unknown
    largest = averaging((640, 640), Pooling("MAX"), (1, 1))
    assert sums.shorten(largest) == largest


@pytest.mark.parametrize("dialect", dialects.DIALECTS)
def test_a_built_in_net_averages_a_large_image_in_steps(checkpoint, dialect):
    weights = streamexport.open_weights(checkpoint("resnet18")).tensors
    small, large = (
        passes.apply(families.bind(weights, "resnet18", (1, 3, *size)), dialect=dialect)
        for size in ((224, 224), (2160, 3840))
    )
    names = [layer.name for layer in large.layers]
    assert [name for name in names if name not in {layer.name for layer in small.layers}] == ["avgpool.step1"]
