"""Nets that end early: what is behind is not looked at, what is left computes what torch computes up to there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import streamexport
from streamexport import Options, convert
from streamexport.checking.parity import parity
from streamexport.conversion.record import decode
from streamexport.errors import NetError
from streamexport.passes import products
from streamexport.running.engines import open_engine
from streamexport.tracing.operators.registry import OPERATORS
from tests.conftest import run_cli
from tests.shared import caffe_judge

SHAPE = (1, 3, 8, 12)


class Recurrent(nn.Module):
    """A text recogniser: convolutions, and an LSTM over their columns, with projections, which Caffe has not."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, (8, 1)))
        self.rnn = nn.LSTM(6, 5, proj_size=3)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(self.cnn(x).squeeze(2).permute(2, 0, 1))[0]


class Branches(nn.Module):
    """Two heads on a block whose end, and middle, are read by others, too; `portable` multiplies small ones only."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 4, 3, padding=1), Block()
        self.heads = nn.ModuleList([nn.Conv2d(4, 6, 1), nn.Conv2d(4, 10, 3)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.stem(x).relu()).relu()
        heads = [head(x).flatten(2) for head in self.heads]
        return torch.cat([(each @ each.mT).reshape(x.shape[0], -1, 2) for each in heads], 1)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.conv(x)).relu() * 0.5


class Stateful(nn.Module):
    """Counts what it has seen, in a buffer that only what is behind the convolution reads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.register_buffer("seen", torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        return self.conv(x) * self.seen


class Hopeless(nn.Module):
    """Nothing can be computed, from the first operator on."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.cumprod(1))


CLASSES = {kind.__name__: kind for kind in (Recurrent, Branches, Stateful, Hopeless)}


def build(name: str) -> nn.Module:
    """For --net."""
    return CLASSES[name]()


Made = Callable[..., streamexport.Plan]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """Converts one of the modules above, with random weights, to net.caffemodel."""

    def convert_it(name: str, end: tuple[str, ...] = (), **others: object) -> streamexport.Plan:
        torch.manual_seed(1)
        torch.save(build(name).eval().state_dict(), tmp_path / "c.pth")
        return convert([tmp_path / "c.pth"], tmp_path / "net.caffemodel", options(name, end=end, **others))

    return convert_it


def options(name: str, **others: object) -> Options:
    return Options(
        **{"net": f"{__file__}:build", "net_args": json.dumps({"name": name}), "input_shape": SHAPE, **others}
    )


def torchs(name: str, *paths: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """An image, and what the modules at these paths make of it."""
    torch.manual_seed(1)
    module, image, kept = build(name).eval(), torch.randn(SHAPE), {}
    for path in paths:
        module.get_submodule(path).register_forward_hook(lambda _, __, made, path=path: kept.update({path: made}))
    with torch.no_grad():
        module(image)
    return image.numpy(), [kept[path].numpy() for path in paths]


# What is behind is not looked at


def test_operators_behind_the_end_are_never_asked_for(made, monkeypatch):
    def never(*_: object) -> None:
        raise AssertionError

    for name in ("permute", "squeeze"):
        monkeypatch.setitem(OPERATORS, name, never)
    monkeypatch.setitem(OPERATORS, "lstm.input", never)
    assert made("Recurrent", ("cnn",)).net.outputs == ("cnn.3",)
    assert made("Recurrent", ("cnn.1",)).net.layers[-1].name == "cnn.1.scale"


def test_state_that_changes_behind_the_end_does_not_matter(made):
    with pytest.raises(NetError, match="is what seen is from then on: .*everything up to conv can: `end=conv`"):
        made("Stateful")
    assert made("Stateful", ("conv",)).net.outputs == ("conv",)


def test_what_is_left_is_called_as_in_the_whole_net(made):
    whole = made("Branches", dialect="opencv").net
    names = [layer.name for layer in whole.layers]
    for end in ("relu1", "block", "block.add", "block.mul", "heads.1", "block.norm.scale"):
        layers = made("Branches", (end,)).net.layers
        assert [layer.name for layer in layers] == [name for name in names if name in {layer.name for layer in layers}]
        assert layers[-1].name.startswith(end)


@pytest.mark.parametrize(
    ("end", "message"),
    [("heads.2", "did you mean heads.1 or heads.0"), ("zzz", "no layer 'zzz' to end with; the last")],
)
def test_an_end_that_is_nowhere_is_refused(made, end, message):
    with pytest.raises(NetError, match=message):
        made("Branches", (end,))


# Several ends


@pytest.mark.parametrize("others", [{}, {"in_place": True, "fold_batchnorm": True}, {"names": "classic"}])
def test_several_ends_are_outputs_in_that_order_and_torch_s(made, tmp_path, others):
    ends = ("heads.1", "block", "stem")
    outputs = made("Branches", ends, **others).net.outputs
    assert len(outputs) == 3
    image, expected = torchs("Branches", *ends)
    text, model = tmp_path / "net.prototxt", tmp_path / "net.caffemodel"
    for engine in ("stream", "opencv"):
        with open_engine(engine, text, [model], outputs) as compute:
            tops = compute(image)
        for output, values in zip(outputs, expected, strict=True):
            np.testing.assert_allclose(tops[output], values, atol=1e-5)


@pytest.mark.caffe
def test_caffe_computes_the_ends_that_others_read(made, tmp_path):
    ends = ("heads.1", "block", "stem")
    outputs = made("Branches", ends, in_place=True).net.outputs
    image, expected = torchs("Branches", *ends)
    np.savez(tmp_path / "inputs.npz", data=image)
    (tops,) = caffe_judge.judge(tmp_path)
    for output, values in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(tops[output], values, atol=1e-5)


def test_verify_compares_the_ends_with_torch(made, tmp_path):
    plan = made("Branches", ("block", "heads.0"))
    found = parity(
        [tmp_path / "c.pth"], [tmp_path / "net.caffemodel"], options=options("Branches", end=("block", "heads.0"))
    )
    assert found.departed is None
    assert {difference.torch for difference in found.differences} >= {"block", "block.norm", "heads.0"}
    assert {difference.blob for difference in found.differences} >= set(plan.net.outputs)
    assert found.unjudged == ()


def test_verify_notices_an_end_that_departs(made, tmp_path):
    made("Branches", ("block",))
    text = tmp_path / "net.prototxt"
    text.write_text(text.read_text().replace("operation: SUM", "operation: MAX"))
    found = parity([tmp_path / "c.pth"], [tmp_path / "net.caffemodel"], options=options("Branches", end=("block",)))
    assert found.departed.torch == "block"


def test_verify_says_which_outputs_it_could_not_compare(made, tmp_path):
    made("Branches", ("relu1", "stem"))
    found = parity(
        [tmp_path / "c.pth"], [tmp_path / "net.caffemodel"], options=options("Branches", end=("relu1", "stem"))
    )
    assert found.departed is None
    assert found.unjudged == ("relu1",)


def test_built_in_nets_end_in_several_places_on_the_command_line(tmp_path, checkpoint):
    path, model = checkpoint("resnet18"), tmp_path / "net.caffemodel"
    ends = ("--end", "layer2", "--end", "layer1", "--fold-batchnorm")
    assert run_cli("convert", path, "-o", model, *ends, "--input-shape", "1,3,32,32").returncode == 0
    net = streamexport.open_model(model)
    assert not [layer.name for layer in net.layers if layer.name.startswith(("layer3", "layer4"))]
    done = run_cli("verify", path, model, "--forward", "--layers")
    assert done.returncode == 0, done.stderr
    assert "not compared" not in done.stderr


# Folding


@pytest.mark.parametrize("end", ["bn1", "layer1.0.bn2", "conv1", "layer2.0.downsample"])
def test_a_net_ends_with_what_is_folded_away(tmp_path, checkpoint, end):
    path = checkpoint("resnet18")
    chosen = Options(fold_batchnorm=True, end=end, input_shape=(1, 3, 32, 32))
    net = convert([path], tmp_path / "net.caffemodel", chosen).net
    assert [layer.type for layer in net.layers if layer.type in ("BatchNorm", "Scale")] == []
    last = {"bn1": "conv1", "layer1.0.bn2": "layer1.0.conv2", "layer2.0.downsample": "layer2.0.downsample.0"}
    assert net.layers[-1].name == last.get(end, end)
    found = parity([path], [tmp_path / "net.caffemodel"])
    assert found.departed is None
    assert found.differences[-1].torch == {"layer2.0.downsample": "layer2.0.downsample.1"}.get(end, end)


# What cannot be computed


def followed(error: NetError) -> tuple[str, ...]:
    """The ends that a refusal offers."""
    said = re.search(r"everything up to (.*) can: (`end=.*`)$", str(error))
    ends = tuple(said[2].removeprefix("`end=").removesuffix("`").split("` `end="))
    assert said[1] == " and ".join(ends)
    return ends


@pytest.mark.parametrize(
    ("name", "dialect", "end", "offered"),
    [
        ("Recurrent", "portable", (), ("cnn",)),
        ("Recurrent", "opencv", ("rnn", "cnn.0"), ("cnn",)),
        ("Branches", "portable", (), ("heads.0", "heads.1")),
        ("Branches", "portable", ("cat",), ("heads.0", "heads.1")),
        ("Stateful", "portable", (), ("conv",)),
    ],
)
def test_how_far_the_net_can_be_made_is_offered_and_true(made, tmp_path, monkeypatch, name, dialect, end, offered):
    monkeypatch.setattr(products, "LARGEST", 1000)
    with pytest.raises(NetError) as refused:
        made(name, end, dialect=dialect)
    ends = followed(refused.value)
    assert ends == offered
    made(name, ends, dialect=dialect)
    found = parity(
        [tmp_path / "c.pth"], [tmp_path / "net.caffemodel"], options=options(name, end=ends, dialect=dialect)
    )
    assert found.departed is None
    assert {difference.torch for difference in found.differences} >= {"conv" if name == "Stateful" else ends[-1]} - {
        "cnn"
    }


def test_nothing_is_offered_where_nothing_can_be_made(made):
    with pytest.raises(NetError) as refused:
        made("Hopeless")
    assert "end=" not in str(refused.value)


# Records


@pytest.mark.parametrize(
    ("end", "read"),
    [('"layer3"', ("layer3",)), ("null", ()), ("[]", ()), ('["a", "b"]', ("a", "b")), ("[1]", None), ("3", None)],
)
def test_records_of_a_single_end_are_read(end, read):
    found = decode(b'{"options": {"end": %s, "net": "resnet18", "input_shape": null}}' % end.encode())
    assert (found.end if found else None) == read


def test_a_single_name_is_one_end():
    assert Options(end="layer3").end == ("layer3",)
