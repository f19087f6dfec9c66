"""What Caffe and OpenCV hand over is what torch returns; and what becomes of a softmax that is left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves

import streamexport
from streamexport import Options
from streamexport.checking.parity import parity
from streamexport.tracing import modules
from tests.conftest import run_cli
from tests.shared import caffe_judge
from tests.tracing.test_traced import write_module

SHAPE = (1, 3, 6, 8)
IMAGE = np.random.default_rng(0).standard_normal(SHAPE).astype("f4")

SHARED = {
    "taken by the next": "y = self.conv(x)\nreturn y, y.relu()",
    "changed in place by the next": "y = self.conv(x)\nreturn y.relu_(), y.sigmoid_().tanh()",
    "twice": "y = self.conv(x)\nreturn y, y, y.relu()",
    "twice, and nobody else's": "y = self.conv(x)\nreturn y.relu(), y.relu(), y.sigmoid()",
    "and a view of it": "y = self.conv(x).relu()\nreturn y, y.flatten(1)",
    "in a tree": "y = self.conv(x)\nreturn {'a': y, 'b': [y.sigmoid(), y.mean((2, 3))]}",
    "cropped": "y = nn.functional.max_pool2d(self.conv(x), 3, 2, 1)\nreturn y, y.relu()",
    "one of several tops": "y, z = self.conv(x).chunk(2, 1)\nreturn y, z.relu()",
    "several tops": "return self.conv(x).chunk(2, 1)",
    "behind a factor": "y = self.conv(x) * 2\nreturn y + 1, y, y - 1",
}

OPTIONS = {
    "portable": {},
    "in place": {"in_place": True},
    "classic, in place": {"names": "classic", "in_place": True},
    "opencv, folded": {"dialect": "opencv", "fold_batchnorm": True},
}


class Returned:
    """A module of one convolution and what follows, converted, with what torch returns."""

    def __init__(self, directory: Path, body: str, **options: object) -> None:
        directory.mkdir(exist_ok=True)
        torch.manual_seed(0)
        self.checkpoint, self.model = directory / "c.pth", directory / "net.caffemodel"
        self.options = Options(write_module(directory, body), input_shape=SHAPE, **options)
        file = directory / "model.py"
        file.write_text(file.read_text().replace("\n\n    def f", "\n        self.prob = nn.Softmax(1)\n\n    def f"))
        self.module = modules.on_cpu(modules.find(self.options.net, None))
        torch.nn.init.normal_(self.module.conv.weight)
        torch.nn.init.normal_(self.module.conv.bias)
        torch.save(self.module.state_dict(), self.checkpoint)
        self.plan = streamexport.convert([self.checkpoint], self.model, self.options)
        self.net, self.directory = self.plan.net, directory
        np.savez(directory / "inputs.npz", data=IMAGE)
        with torch.no_grad():
            self.expected = [leaf.numpy() for leaf in tree_leaves(self.module.eval()(torch.from_numpy(IMAGE)))]
            self.conv = self.module.conv(torch.from_numpy(IMAGE))

    def assert_same(self, made: dict[str, np.ndarray], expected: list[np.ndarray]) -> None:
        for output, values in zip(self.net.outputs, expected, strict=True):
            np.testing.assert_allclose(made[output].reshape(values.shape), values, atol=1e-5)

    def stream(self) -> dict[str, np.ndarray]:
        return streamexport.forward(self.directory / "net.prototxt", [self.model], IMAGE, self.net.outputs)


@pytest.fixture(scope="module")
def returned(tmp_path_factory) -> dict[str, Returned]:
    directory = tmp_path_factory.mktemp("returned")
    return {
        f"{name}, {how}": Returned(directory / f"{name}{how}".replace("'", ""), body, **options)
        for how, options in OPTIONS.items()
        for name, body in SHARED.items()
        if how == "portable" or name in ("taken by the next", "cropped", "one of several tops")
    }


def test_each_output_is_a_top_that_nobody_takes(returned):
    for case in returned.values():
        outputs = case.net.outputs
        assert len(set(outputs)) == len(outputs) == len(case.expected)
        assert not case.net.consumers.keys() & set(outputs)
        assert f"# outputs, in torch's order: {', '.join(outputs)}\n" in (case.directory / "net.prototxt").read_text()
        case.assert_same(case.stream(), case.expected)


def test_opencv_hands_over_all_outputs(returned):
    import cv2

    for case in returned.values():
        net = cv2.dnn.readNetFromCaffe(str(case.directory / "net.prototxt"), str(case.model))
        net.setInput(IMAGE)
        names = net.getUnconnectedOutLayersNames()
        # Layers are called by their names, but convolutions, in OpenCV 4.14, by their tops.
        made = {top: top for layer in case.net.layers for top in layer.tops}
        tops = made | {layer.name: layer.tops[0] for layer in case.net.layers}
        assert {tops[name] for name in names} == set(case.net.outputs)
        case.assert_same(
            {tops[name]: values for name, values in zip(names, net.forward(names), strict=True)}, case.expected
        )


@pytest.mark.caffe
def test_caffe_hands_over_all_outputs(returned):
    for case, tops in zip(
        returned.values(), caffe_judge.judge(*(case.directory for case in returned.values())), strict=True
    ):
        assert set((case.directory / "outputs.txt").read_text().split("\n")) == set(case.net.outputs)
        case.assert_same(tops, case.expected)


def test_an_output_that_nobody_takes_stays_as_it_is(tmp_path):
    assert Returned(tmp_path, "y = self.conv(x)\nreturn y.relu(), y.sigmoid()").net.outputs == ("relu", "sigmoid")


def flat(z: torch.Tensor) -> torch.Tensor:
    return z.flatten(1)


SOFTMAX = {  # body, what the outputs are without softmax, by what the convolution makes
    "the only output": ("return self.conv(x).softmax(1)", [lambda z: z], False),
    "in front of others": ("y = self.conv(x)\nreturn y.softmax(1), y.relu()", [lambda z: z, torch.relu], True),
    "of one head": (
        "y = self.conv(x)\nreturn y.relu(), y.softmax(3), y.tanh()",
        [torch.relu, lambda z: z, torch.tanh],
        True,
    ),
    "of two heads": (
        "y = self.conv(x)\nreturn y.softmax(1), (2 * y).softmax(2)",
        [lambda z: z, lambda z: 2 * z],
        False,
    ),
    "flattened": ("return self.conv(x).softmax(1).flatten(1)", [flat], False),
    "turned": ("return self.conv(x).softmax(1).permute(0, 2, 3, 1)", [lambda z: z.permute(0, 2, 3, 1)], False),
    "turned and flattened": (
        "return self.conv(x).softmax(1).permute(0, 3, 1, 2).flatten(2)",
        [lambda z: z.permute(0, 3, 1, 2).flatten(2)],
        False,
    ),
    "beside what others take": (
        "y = self.conv(x)\nz = y.relu()\nreturn z, z.sigmoid(), y.softmax(1)",
        [torch.relu, lambda z: z.relu().sigmoid(), lambda z: z],
        True,
    ),
    "taken by others, too": (
        "y = self.conv(x).softmax(1)\nreturn y, y.mean((2, 3))",
        [lambda z: z, lambda z: z.softmax(1).mean((2, 3))],
        True,
    ),
    "flattened for others, too": (
        "y = self.conv(x).softmax(1).flatten(1)\nreturn y, y * 2",
        [flat, lambda z: 2 * flat(z.softmax(1))],
        True,
    ),
    "twice": ("y = self.conv(x).softmax(1)\nreturn y, y", [lambda z: z, lambda z: z], False),
    "nowhere": ("return self.conv(x).softmax(1) * 2", [lambda z: z.softmax(1) * 2], True),
}


@pytest.mark.parametrize("name", SOFTMAX)
def test_every_output_that_is_a_softmax_loses_it(tmp_path, name):
    body, functions, is_said = SOFTMAX[name]
    case = Returned(tmp_path, body, softmax=False, dialect="opencv")
    case.assert_same(case.stream(), [function(case.conv).numpy() for function in functions])
    said = "no softmax, and therefore left as they are: "
    left = [name for note in case.plan.notes if note.startswith(said) for name in note.removeprefix(said).split(", ")]
    assert bool(left) == is_said
    assert set(left) <= set(case.net.outputs)
    compared = parity([case.checkpoint], [case.model], options=case.options)
    assert [difference.torch for difference in compared.differences].count("output") == len(case.expected)
    assert compared.departed is None


def test_verify_compares_an_output_whose_softmax_was_left_out(tmp_path):
    case = Returned(tmp_path, "return (self.conv(x) * 3).softmax(1).flatten(1)", softmax=False)
    prototxt = tmp_path / "net.prototxt"
    prototxt.write_text(prototxt.read_text().replace("scale: 3", "scale: 2"))
    departed = parity([case.checkpoint], [case.model], options=case.options).departed
    assert departed.torch == "output"


def test_a_built_in_net_without_softmax_says_so(tmp_path, checkpoint):
    done = run_cli("convert", checkpoint("resnet18"), "-o", tmp_path / "m.caffemodel", "--no-softmax")
    assert "left as they are" not in done.stderr
    backbone = torch.load(checkpoint("resnet18"))
    torch.save({name: value for name, value in backbone.items() if not name.startswith("fc.")}, tmp_path / "b.pth")
    done = run_cli("convert", tmp_path / "b.pth", "-o", tmp_path / "b.caffemodel", "--no-softmax")
    assert "no softmax, and therefore left as they are: flatten" in done.stderr


@pytest.mark.parametrize("end", ["prob", "layer4"])
def test_an_end_loses_its_softmax_too(tmp_path, checkpoint, end):
    options = ("--end", end, "--no-softmax")
    done = run_cli("convert", checkpoint("resnet18"), "-o", tmp_path / "m.caffemodel", *options)
    assert done.returncode == 0, done.stderr
    assert ("left as they are: layer4.1.relu2" in done.stderr) == (end == "layer4")
    assert "Softmax" not in (tmp_path / "m.prototxt").read_text()


def test_verify_compares_an_end_whose_softmax_was_left_out(tmp_path):
    body = "y = self.prob(self.conv(x) * 3)\nreturn y.relu()"
    case = Returned(tmp_path, body, softmax=False, end=("prob",))
    assert case.net.layers[-1].type == "Power"
    compared = [
        difference.torch for difference in parity([case.checkpoint], [case.model], options=case.options).differences
    ]
    assert compared == ["conv", "prob"]
