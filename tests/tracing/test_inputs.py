"""Modules of several inputs: each is an input of the net, called like the argument, and the numbers are torch's."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import streamexport
from streamexport import Options
from streamexport.caffe.prototxt import read_prototxt
from streamexport.checking.parity import parity
from streamexport.running.engines import open_engine
from tests.shared import caffe_judge

ENGINES = ("stream", "opencv", pytest.param("caffe", marks=pytest.mark.caffe))


def backbone(width: int) -> nn.Sequential:
    """As AlexNet begins, without padding, as trackers have it."""
    return nn.Sequential(
        nn.Conv2d(3, width, 5, 2),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(width, 2 * width, 3, groups=2),
        nn.ReLU(),
    )


class Tracker(nn.Module):
    """Siamese: what is looked for and where, by one backbone, as SiamRPN has it. The exemplar becomes one factor for each
    channel of what is searched, and of two heads."""

    def __init__(self, width: int = 4, anchors: int = 2) -> None:
        super().__init__()
        self.backbone, self.pool = backbone(width), nn.AdaptiveAvgPool2d(1)
        self.kernel, self.search = nn.Conv2d(2 * width, 6, 1), nn.Conv2d(2 * width, 6, 3)
        self.classes, self.boxes = nn.Conv2d(6, 2 * anchors, 1), nn.Conv2d(6, 4 * anchors, 1)

    def forward(self, z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        found = self.search(self.backbone(x)) * self.kernel(self.pool(self.backbone(z)))
        return self.classes(found), self.boxes(found)


class Difference(nn.Module):
    """Siamese: how far two images are from each other, as for signatures and faces."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.fc, self.score = backbone(4), nn.Linear(8, 5), nn.Linear(5, 1)

    def embedded(self, image: Tensor) -> Tensor:
        return self.fc(self.backbone(image).mean((2, 3)))

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        return torch.sigmoid(self.score((self.embedded(one) - self.embedded(other)).abs()))


class Conditioned(nn.Module):
    """An image and a vector of measurements, which scale and shift its channels (FiLM) and are joined to its features."""

    def __init__(self, channels: int = 6, measured: int = 5) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, channels, 3), nn.Conv2d(channels, channels, 3)
        self.film, self.fc = nn.Linear(measured, 2 * channels), nn.Linear(channels + measured, 4)

    def forward(self, image: Tensor, vector: Tensor, gain: float = 1.0, residual: bool = False) -> Tensor:
        scale, shift = self.film(vector)[:, :, None, None].chunk(2, 1)
        x = F.relu(self.first(image))
        y = F.relu(x * (1 + gain * scale) + shift)
        y = self.second(y + x if residual else y)
        return self.fc(torch.cat([y.mean((2, 3)), vector], 1))


class Masked(nn.Module):
    """A mask of 0 and 1, as one channel: what it hides is a number instead."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        return self.conv(image) * mask + (1 - mask) * -2


class Ranks(nn.Module):
    """Inputs of 1 to 4 dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.conv, self.fc = nn.Linear(4, 5), nn.Conv1d(3, 3, 3), nn.Linear(3, 3)

    def forward(self, one: Tensor, two: Tensor, three: Tensor, four: Tensor) -> tuple[Tensor, ...]:
        return one * 2, self.fc(two), self.conv(three), four.mean((2, 3)) + self.fc(two)


@dataclass(frozen=True)
class Case:
    module: str
    shapes: dict[str, tuple[int, ...]]
    arguments: dict[str, object]


CASES = {
    "tracker": Case("Tracker", {"z": (1, 3, 31, 31), "x": (1, 3, 47, 47)}, {}),
    "difference": Case("Difference", {"one": (2, 3, 33, 29), "other": (2, 3, 33, 29)}, {}),
    "image and vector": Case("Conditioned", {"image": (2, 3, 9, 8), "vector": (2, 5)}, {}),
    "other arguments": Case("Conditioned", {"image": (2, 3, 9, 8), "vector": (2, 5)}, {"gain": 0.5, "residual": True}),
    "mask": Case("Masked", {"image": (2, 3, 6, 7), "mask": (2, 1, 6, 7)}, {}),
    "ranks": Case("Ranks", {"one": (6,), "two": (2, 3), "three": (2, 3, 4), "four": (2, 3, 4, 5)}, {}),
}


class Converted:
    """A module of the table, as a net in a directory, and what torch computes."""

    def __init__(self, directory: Path, case: Case, **options: object) -> None:
        directory.mkdir(exist_ok=True)
        torch.manual_seed(0)
        module = globals()[case.module]().eval()
        self.checkpoint, self.model = directory / "c.pth", directory / "net.caffemodel"
        torch.save(module.state_dict(), self.checkpoint)
        self.prototxt = self.model.with_suffix(".prototxt")
        numbers = np.random.default_rng(1)
        self.inputs = {name: numbers.standard_normal(shape).astype("f4") for name, shape in case.shapes.items()}
        if "mask" in self.inputs:
            self.inputs["mask"] = (self.inputs["mask"] > 0).astype("f4")
        with torch.no_grad():
            made = module(**{name: torch.from_numpy(array) for name, array in self.inputs.items()}, **case.arguments)
        self.expected = [leaf.numpy() for leaf in (made if isinstance(made, tuple) else (made,))]
        given = json.dumps(case.arguments) if case.arguments else None
        backwards = dict(reversed(case.shapes.items()))
        self.options = Options(f"{__file__}:{case.module}", input_shape=backwards, forward_args=given, **options)
        self.plan = streamexport.convert([self.checkpoint], self.model, self.options)

    def assert_is_torchs(self, made: dict[str, np.ndarray]) -> None:
        assert len(self.plan.net.outputs) == len(self.expected)
        for name, expected in zip(self.plan.net.outputs, self.expected, strict=True):
            assert made[name].size == expected.size
            found = made[name].reshape(expected.shape)
            assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("name", CASES)
def test_every_engine_computes_what_torch_computes(tmp_path, name):
    made = Converted(tmp_path, CASES[name])
    net = read_prototxt(made.prototxt)
    assert dict(zip(net.inputs, net.input_shapes, strict=True)) == CASES[name].shapes
    assert net.inputs == tuple(CASES[name].shapes)  # in the order of the arguments
    for engine in ("stream", "opencv"):
        with open_engine(engine, made.prototxt, [made.model], net.ends) as compute:
            made.assert_is_torchs(dict(compute(made.inputs)))
            found = parity([made.checkpoint], [made.model], options=made.options, engine=engine)
            assert found.departed is None
            assert [part.torch for part in found.differences].count("output") == len(made.expected)


@pytest.mark.caffe
def test_caffe_computes_what_torch_computes(tmp_path):
    every = [Converted(tmp_path / str(number), case) for number, case in enumerate(CASES.values())]
    for made in every:
        np.savez(made.prototxt.parent / "inputs.npz", **made.inputs)
    for made, found in zip(every, caffe_judge.judge(*(made.prototxt.parent for made in every)), strict=True):
        made.assert_is_torchs(found)
        with open_engine("caffe", made.prototxt, [made.model], made.plan.net.outputs) as compute:
            made.assert_is_torchs(dict(compute(made.inputs)))
