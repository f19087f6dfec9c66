"""What a net expects of its pixels: said by the user, taken for granted otherwise, and computed as torch does."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

import streamexport
from streamexport import Options
from streamexport.conversion.bound import bind
from streamexport.conversion.record import decode
from streamexport.errors import NetError
from tests.conftest import assert_refused, run_cli


def convert(*arguments: object) -> str:
    done = run_cli("convert", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stderr


class Grey(torch.nn.Module):
    """For --net: any number of channels, two convolutions that take the input."""

    def __init__(self, channels: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.a = torch.nn.Conv2d(channels, 4, 3, padding=1, groups=groups)
        self.b = torch.nn.Conv2d(channels, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.a(x) * torch.sigmoid(self.b(x))


def options(channels: int = 3, groups: int = 1, **said: object) -> Options:
    keywords = json.dumps({"channels": channels, "groups": groups})
    return Options(net=f"{__file__}:Grey", net_args=keywords, input_shape=(1, channels, 9, 8), **said)


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize(
    ("order", "mean", "std", "called"),
    [
        ("rgb", (0.1307,), (0.3081,), "grey"),
        ("bgr", (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), "BGR"),
        ("bgr", None, (0.2, 0.25, 0.3), "BGR"),
        ("bgr", (0.5, 0.4, 0.3), None, "BGR"),
        ("rgb", (0.1, 0.2, 0.3, 0.4, 0.5), (0.5, 0.4, 0.3, 0.2, 0.1), "channels in torch's order"),
    ],
)
def test_a_traced_net_takes_what_the_user_says(tmp_path, fold, order, mean, std, called):
    torch.manual_seed(0)
    channels = len(mean or std)
    net = Grey(channels)
    torch.save(net.state_dict(), tmp_path / "c.pth")
    made = options(channels, mean=mean, std=std, input_order=order, fold_input_scale=fold)
    streamexport.convert([tmp_path / "c.pth"], tmp_path / "m.caffemodel", made)
    pixels = np.random.default_rng(0).integers(0, 256, (1, channels, 9, 8)).astype("f8")
    means, deviations = (np.array(v or [d] * channels).reshape(1, -1, 1, 1) for v, d in ((mean, 0), (std, 1)))
    image = ((pixels / 255 - means) / deviations).astype("f4")
    with torch.no_grad():
        expected = net(torch.from_numpy(image)).numpy()
    fed = (pixels - 255 * means if fold else image).astype("f4")
    fed = np.ascontiguousarray(fed[:, ::-1] if order == "bgr" else fed)
    (found,) = streamexport.forward(tmp_path / "m.prototxt", [tmp_path / "m.caffemodel"], fed).values()
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    text = re.search(r"^# input: (.*)$", (tmp_path / "m.prototxt").read_text(), re.M)[1]
    assert text.startswith(f"{called}, pixels 0..{255 if fold else 1}, minus mean [")
    assert ("divided by" in text) == bool(std and not fold)
    assert decode(streamexport.open_model(tmp_path / "m.caffemodel").record) == made
    assert not streamexport.verify([tmp_path / "c.pth"], [tmp_path / "m.caffemodel"], made).problems
    assert streamexport.parity([tmp_path / "c.pth"], [tmp_path / "m.caffemodel"], options=made).departed is None


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"mean": (0.5,)}, "`mean=` has 1 numbers, the input has 3 channels"),
        ({"std": (1.0, 2.0, 0.0)}, "`std=` has 0.0: nothing is divided by that"),
        ({"mean": (1.0, 2.0, float("nan"))}, "`mean=` has a number that is not finite"),
        ({"input_order": "bgr"}, "is not known to take RGB images, nor how they are normalised.*`mean=` and `std=`"),
        ({"eps": 1e-3}, "`eps=` is BatchNorm's epsilon in built-in nets; a module says its own"),
        (
            {"net": "auto", "net_args": None, "eps": -1.0},
            "`eps=` is BatchNorm's epsilon in built-in nets; -1.0 is none",
        ),
        (
            {"channels": 4, "std": (1.0,) * 3, "fold_input_scale": True},
            "`std=` has 3 numbers, the input has 4 channels",
        ),
        ({"channels": 4, "std": (1.0,) * 4, "input_order": "bgr"}, "takes channels in torch's order, not RGB images"),
        (
            {"channels": 4, "groups": 2, "std": (1.0,) * 4, "fold_input_scale": True},
            "layer a: takes the input, and only convolutions without groups",
        ),
    ],
)
def test_what_the_user_says_has_to_fit_the_input(tmp_path, said, message):
    torch.save(Grey(said.get("channels", 3), said.get("groups", 1)).state_dict(), tmp_path / "c.pth")
    made = options(said.pop("channels", 3), said.pop("groups", 1))
    with pytest.raises(NetError, match=message):
        bind([tmp_path / "c.pth"], replace(made, **said))


@pytest.mark.parametrize("net", ["auto", "resnet18"])
def test_what_is_taken_for_granted_is_said_and_can_be_said_otherwise(tmp_path, checkpoint, net):
    path, model = checkpoint("resnet18"), tmp_path / "m.caffemodel"
    first = convert(path, "-o", model, "--net", net)
    line = (
        "taken for granted, if --eps, --mean, --std do not say otherwise: epsilon 1e-05 in BatchNorm, ImageNet's mean"
    )
    assert line in first
    assert f"# {line}" in (tmp_path / "m.prototxt").read_text()
    said = ("--mean", "0.5,0.5,0.5", "--std", "0.25,0.5,0.125", "--eps", "0.001", "--fold-input-scale")
    assert "do not say otherwise" not in convert(path, "-o", model, "--net", net, *said)
    text = (tmp_path / "m.prototxt").read_text()
    assert "# input: RGB, pixels 0..255, minus mean [127.5, 127.5, 127.5]\n" in text
    assert text.count("eps: 0.001") == 20
    done = run_cli("verify", path, model, "--forward")
    assert done.returncode == 0, done.stderr
    made = decode(streamexport.open_model(model).record)
    assert (made.mean, made.std, made.eps) == ((0.5,) * 3, (0.25, 0.5, 0.125), 0.001)


def test_records_of_older_models_say_nothing_of_the_input():
    options = {"net": "resnet18", "names": "classic", "input_shape": [1, 3, 97, 111]}
    found = decode(json.dumps({"options": options}).encode())
    assert found == Options(net="resnet18", names="classic", input_shape=(1, 3, 97, 111))


@pytest.mark.parametrize("shapes", [("1,3,8,8", "1,3,9,9"), ("x=1,3,8,8",)])
def test_a_net_that_is_built_in_has_one_input_shape(tmp_path, checkpoint, shapes):
    given = [word for shape in shapes for word in ("--input-shape", shape)]
    line = assert_refused("convert", checkpoint("resnet18"), "-o", tmp_path / "m.caffemodel", *given)
    assert "resnet18 has one input, data" in line
