"""The recipes of docs/design.md, followed: each adds something from outside, and the whole house knows it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch

import streamexport
from streamexport import Layer, Net, Options
from streamexport.caffe import codec, formats
from streamexport.caffe.prototxt import prototxt, read_prototxt
from streamexport.families.resnet import RESNETS, ResNet
from streamexport.net import operations
from streamexport.net.operations import Input, Operation
from streamexport.running import compute, engines
from streamexport.running.forward import forward
from streamexport.tracing.operators.registry import OPERATORS, operator
from tests.conftest import ROOT


@dataclass(frozen=True, slots=True)
class Swish(Operation):
    """x / (1 + e^(-beta x)). BVLC master has it, and nobody here knows it."""

    beta: float = 1.0
    is_pointwise: ClassVar[bool] = True


def test_a_kind_of_layer(tmp_path, monkeypatch):
    assert "Swish" not in operations.KINDS
    monkeypatch.setitem(operations.KINDS, "Swish", Swish)
    fields = codec._Pair(lambda operation: {}, lambda message: Swish())
    monkeypatch.setitem(codec._CODECS, Swish, fields)
    computed = compute._one(lambda operation, task: task.bottom * (operation.beta * task.bottom).sigmoid())
    monkeypatch.setitem(compute._OPERATIONS, Swish, computed)
    layers = (Layer("data", Input(((2, 3),)), (), ("data",)), Layer("s", Swish(), ("data",), ("s",)))
    (tmp_path / "net.prototxt").write_text(prototxt(Net("net", layers)))
    assert read_prototxt(tmp_path / "net.prototxt", strict=True).layers == layers
    x = np.array([[-1, 0, 2], [3, -4, 5]], "f4")
    np.testing.assert_allclose(forward(tmp_path / "net.prototxt", [], x)["s"], x / (1 + np.exp(-x)), rtol=1e-6)
    assert [cost.shapes for cost in streamexport.costs(tmp_path / "net.prototxt")] == [((2, 3),), ((2, 3),)]


class Grown(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).expm1()


def build() -> torch.nn.Module:
    """For --net."""
    torch.manual_seed(0)
    return Grown()


def test_an_operator(tmp_path, monkeypatch):
    torch.save(build().state_dict(), tmp_path / "c.pth")
    options = Options(net=f"{__file__}:build", input_shape=(1, 3, 4, 5))
    with pytest.raises(streamexport.Error, match="expm1"):
        streamexport.convert([tmp_path / "c.pth"], tmp_path / "net.caffemodel", options)
    monkeypatch.setitem(OPERATORS, "expm1", None)  # and taken out again

    @operator("expm1", override=True)
    def expm1(scope, x):
        return scope.power(scope.pointwise(operations.Exp(), x, "exp"), shift=-1)

    streamexport.convert([tmp_path / "c.pth"], tmp_path / "net.caffemodel", options)
    x = torch.randn(1, 3, 4, 5)
    (found,) = forward(tmp_path / "net.prototxt", [tmp_path / "net.caffemodel"], x.numpy()).values()
    np.testing.assert_allclose(found, build()(x).detach().numpy(), atol=1e-6)


def test_a_built_in_net(tmp_path, monkeypatch):
    tiny = ResNet("resnet_tiny", False, (1, 1, 1, 1))
    monkeypatch.setitem(RESNETS, tiny.name, tiny)
    made = {name: torch.ones(shape) for name, _, shape in tiny.specs()}
    torch.save(made, tmp_path / "c.pth")
    plan = streamexport.convert([tmp_path / "c.pth"], tmp_path / "net.caffemodel")
    assert plan.net.name == "resnet_tiny"
    assert streamexport.verify([tmp_path / "c.pth"], [tmp_path / "net.caffemodel"]).problems == ()


def test_a_format(tmp_path, monkeypatch, checkpoint):
    own = replace(formats.CAFFEMODEL, name="own", suffixes=(".own",))
    monkeypatch.setattr(formats, "FORMATS", (*formats.FORMATS, own))
    plan = streamexport.convert([checkpoint("resnet18")], tmp_path / "net.own")
    assert (plan.format, (tmp_path / "net.prototxt").is_file()) == ("own", True)
    assert streamexport.verify([checkpoint("resnet18")], [tmp_path / "net.own"]).problems == ()


def test_an_engine(tmp_path, monkeypatch):
    @contextmanager
    def zeros(task: engines._Task, caffe_python: str | None) -> Iterator[engines.Compute]:
        yield lambda batch: {blob: np.zeros_like(batch) for blob in task.blobs}

    monkeypatch.setitem(engines.ENGINES, "zeros", zeros)
    layers = (Layer("data", Input(((2, 3),)), (), ("data",)), Layer("r", operations.ReLU(), ("data",), ("r",)))
    (tmp_path / "net.prototxt").write_text(prototxt(Net("net", layers)))
    with engines.open_engine("zeros", tmp_path / "net.prototxt", [], ["r"]) as asked:
        np.testing.assert_array_equal(asked(np.ones((2, 3), "f4"))["r"], 0)


def test_every_recipe_is_followed():
    recipes = (ROOT / "docs" / "design.md").read_text().split("## Recipes")[1]
    titles = [line for line in recipes.splitlines() if line.startswith("**")]
    followed = [name for name in globals() if name.startswith(("test_a_", "test_an_"))]
    assert len(titles) == len(followed) == 5
