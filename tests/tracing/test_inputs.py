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
from streamexport.conversion.record import decode
from streamexport.errors import NetError
from streamexport.running.engines import open_engine
from tests.conftest import assert_refused, run_cli
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


def converted(directory: Path, module: type[nn.Module], *options: object) -> str:
    """By the command line; what it says."""
    torch.manual_seed(0)
    torch.save(module().state_dict(), directory / "c.pth")
    net = ("--net", f"{__file__}:{module.__name__}", "-o", directory / "net.caffemodel")
    done = run_cli("convert", directory / "c.pth", *net, *options)
    assert done.returncode == 0, done.stderr
    return done.stderr


SHAPED = ("--input-shape", "image=2,3,9,8", "--input-shape", "vector=2,5")


@pytest.mark.parametrize("shapes", [SHAPED, ("--input-shape", "2,3,9,8", "--input-shape", "2,5")])
def test_the_command_line_takes_shapes_by_name_and_in_order(tmp_path, shapes):
    said = converted(tmp_path, Conditioned, *shapes, "--forward-args", '{"residual": true}')
    assert "traced with the inputs image of [2, 3, 9, 8], vector of [2, 5]" in said
    model = tmp_path / "net.caffemodel"
    recorded = decode(streamexport.open_model(model).record)
    expected = {"image": (2, 3, 9, 8), "vector": (2, 5)} if "image=2,3,9,8" in shapes else ((2, 3, 9, 8), (2, 5))
    assert (recorded.input_shape, recorded.forward_args) == (expected, '{"residual": true}')
    done = run_cli("verify", tmp_path / "c.pth", model, "--net", f"{__file__}:Conditioned", "--forward")
    assert done.returncode == 0, done.stderr
    assert " layers as torch computes them, fc within" in done.stderr
    flops = ("inspect", tmp_path / "net.prototxt", "--flops", "--json")
    single, double = (
        json.loads(run_cli(*flops, *given).stdout)["multiply_adds"]
        for given in (("--input-shape", "image=1,3,9,8", "--input-shape", "vector=1,5"), shapes)
    )
    assert double == 2 * single > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("image=1,3,9,8", "takes image, vector, gain, residual: missing a required argument: 'vector'"),
        ("img=1,3,9,8 vector=1,5", "takes image, vector, gain, residual: got an unexpected keyword argument 'img'"),
        ("image=1,3,9,8 vector=1,5 x=1", "got an unexpected keyword argument 'x'"),
        ("1 2 3 4 5", "takes image, vector, gain, residual: too many positional arguments"),
        (
            "image=1,3,9,8 1,5",
            "--input-shape says the names of some inputs, and of others none; the module takes image",
        ),
        (
            "1,3,9,8 vector=1,5",
            "--input-shape says the names of some inputs, and of others none; the module takes image",
        ),
        ("image=1,3,9,8 image=1,5", "--input-shape gives image two shapes; the module takes image, vector, gain"),
        ("image=1,3,9,8 vector=0,5", "takes no input of [0, 5]"),
        ('image=1,3,9,8 vector=1,5 {"vector":1}', "'vector' is given as an input and in --forward-args"),
        ('image=1,3,9,8 vector=1,5 {"volume":1}', "got an unexpected keyword argument 'volume'"),
        ("image=1,3,9,8 vector=1,5 [1]", "--forward-args is no JSON object"),
        ("image=1,3,9,8 vector=1,4", "cannot be traced with the inputs image of [1, 3, 9, 8], vector of [1, 4]"),
    ],
)
def test_inputs_that_a_module_does_not_take_are_refused(tmp_path, words, message):
    torch.save(Conditioned().state_dict(), tmp_path / "c.pth")
    flags = [("--forward-args" if word[0] in "{[" else "--input-shape", word) for word in words.split()]
    given = ("--net", f"{__file__}:Conditioned", "-o", tmp_path / "m.caffemodel", *(w for flag in flags for w in flag))
    assert message in assert_refused("convert", tmp_path / "c.pth", *given)


@pytest.mark.parametrize("shape", ["x", "x=", "=1,3", "x=1,,2"])
def test_what_is_no_shape_is_wrong_usage(tmp_path, shape):
    done = run_cli("convert", "c.pth", "-o", tmp_path / "m.caffemodel", "--input-shape", shape)
    assert done.returncode == 2
    assert "is no shape like 1,3,224,224 or x=1,3,224,224" in done.stderr


@pytest.mark.parametrize("options", [(), ("--fold-input-scale", "--input-order", "bgr")])
def test_pixels_are_those_of_the_only_image(tmp_path, options):
    said = converted(tmp_path, Conditioned, *SHAPED, "--mean", "0.5,0.4,0.3", "--std", "0.25,0.5,0.125", *options)
    order = "BGR, pixels 0..255, minus mean [76.5, 102.0, 127.5]" if options else "RGB, pixels 0..1, minus mean [0.5"
    assert f"input image: {order}" in said
    net = ("--net", f"{__file__}:Conditioned", "--forward", "--engine", "opencv")
    done = run_cli("verify", tmp_path / "c.pth", tmp_path / "net.caffemodel", *net)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("difference", r"2 of its inputs are images \(one, other\): what is expected of pixels can be said of one"),
        ("vectors", "no input is an image"),
    ],
)
def test_pixels_are_said_of_one_input(tmp_path, case, message):
    cases = {**CASES, "vectors": Case("Vectors", {"one": (1, 3), "other": (1, 3)}, {})}
    with pytest.raises(NetError, match=message):
        Converted(tmp_path, cases[case], mean=(0.5, 0.5, 0.5))


class Vectors(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        return self.fc(one) + other.sum()


class Unused(Vectors):
    """Of what is given only the size is asked for."""

    def forward(self, like: Tensor, x: Tensor) -> Tensor:
        return self.fc(x) * like.shape[1]


def test_an_input_that_nothing_is_computed_from_is_left_out(tmp_path):
    made = Converted(tmp_path, Case("Unused", {"like": (1, 7), "x": (2, 3)}, {}))
    assert made.plan.net.inputs == ("x",)
    assert "nothing is computed from like, which the net therefore is without" in made.plan.notes
    (found,) = streamexport.forward(made.prototxt, [made.model], {"x": made.inputs["x"]}).values()
    np.testing.assert_allclose(found, made.expected[0], rtol=1e-5)
    assert parity([made.checkpoint], [made.model], options=made.options, engine="opencv").departed is None


def test_a_net_that_ends_early_has_the_inputs_that_it_needs(tmp_path):
    said = converted(tmp_path, Tracker, "--input-shape", "1,3,31,31", "--input-shape", "1,3,47,47", "--end", "kernel")
    assert "nothing is computed from x" in said
    assert read_prototxt(tmp_path / "net.prototxt").inputs == ("z",)


class Embedded(Vectors):
    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        return self.fc(F.embedding(other, self.fc.weight))


class Hidden(Vectors):
    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        return torch.where(other, self.fc(one), one[:, :2])


class Halved(Vectors):
    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        return self.fc(one * other.half().float())


class Rounded(Vectors):
    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        return self.fc(one * other.long())


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("Embedded", "it takes integers as an input, which choose among others; blobs are float32"),
        ("Hidden", "it takes booleans as an input; blobs are float32: give a mask as 0 and 1"),
        ("Halved", "changes the type of an activation to torch.float16"),
        ("Rounded", "rounds an activation, to torch.int64"),
    ],
)
def test_inputs_that_are_no_float32_are_refused(tmp_path, module, message):
    torch.save(Vectors().state_dict(), tmp_path / "c.pth")
    options = Options(f"{__file__}:{module}", input_shape={"one": (1, 3), "other": (1, 3)})
    with pytest.raises(NetError, match=message):
        streamexport.plan([tmp_path / "c.pth"], tmp_path / "m.caffemodel", options)


class Anything(Vectors):
    def forward(self, *vectors: Tensor) -> Tensor:
        return self.fc(vectors[0]) - self.fc(vectors[1])


def test_what_has_no_name_of_its_own_is_numbered(tmp_path):
    torch.save(Anything().state_dict(), tmp_path / "c.pth")
    options = Options(f"{__file__}:Anything", input_shape=((1, 3), (1, 3)))
    made = streamexport.plan([tmp_path / "c.pth"], tmp_path / "m.caffemodel", options)
    assert made.net.inputs == ("vectors_0", "vectors_1")


def test_the_only_input_is_data_whatever_the_module_calls_it(tmp_path):
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "c.pth")
    plans = [
        streamexport.plan(
            [tmp_path / "c.pth"], tmp_path / "m.caffemodel", Options(f"{__file__}:linear", input_shape=shape)
        )
        for shape in ((1, 3), ((1, 3),), {"input": (1, 3)})
    ]
    assert {made.net.inputs for made in plans} == {("data",)}


def linear() -> nn.Module:
    return nn.Linear(3, 2)


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [
        (None, None),
        ([1, 3, 8, 8], (1, 3, 8, 8)),
        ([[1, 3], [1, 5]], ((1, 3), (1, 5))),
        ({"x": [1, 3], "y": [5]}, {"x": (1, 3), "y": (5,)}),
    ],
)
def test_a_record_says_the_shapes_of_one_input_or_of_several(recorded, expected):
    found = decode(json.dumps({"options": {"net": "auto", "input_shape": recorded}}).encode())
    assert found == Options(input_shape=expected)


@pytest.mark.parametrize(
    "odd",
    [
        {"input_shape": {"x": ["a"]}},
        {"input_shape": {"x": 5}},
        {"input_shape": [[1], 5]},
        {"input_shape": [[True]]},
        {"input_shape": [[[1]]]},
        {"input_shape": "1,3"},
        {"forward_args": {"gain": 1}},
    ],
)
def test_a_record_of_other_shapes_is_none(odd):
    assert decode(json.dumps({"options": {"net": "auto", **odd}}).encode()) is None
