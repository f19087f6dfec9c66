"""Comparisons at the edges: numbers next to each other, very small and very large ones, zeros of either sign."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import streamexport
from streamexport import Options
from streamexport.errors import NetError
from tests.conversion.test_consumers import opencv_logits
from tests.shared import caffe_judge

THRESHOLDS = (0.0, 0.1, -7.5, 1e-30)


class Edges(nn.Module):
    """Which comparisons hold, with numbers, and with other elements."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        others = [*THRESHOLDS, x.roll(1, 1), x.flip(1)]
        masks = [mask for y in others for mask in (x > y, x >= y, x < y, x <= y, x == y, x != y)]
        return torch.cat([*(mask.float() for mask in masks), x.sign()], 1) * self.scale


@pytest.fixture(scope="module")
def edges():
    near = [np.nextafter(np.float32(t), np.float32(way)) for t in THRESHOLDS if t for way in (-np.inf, np.inf)]
    far = [1e38, -1e38, 2e-38, -2e-38, -0.0, 1.0, -1.0]  # OpenCV takes what is below 1.2e-38 for 0
    return np.array([*near, *THRESHOLDS, *far], "f4")[None]


@pytest.mark.parametrize("dialect", ["portable", "bvlc", "opencv"])
def test_comparisons_are_exact(tmp_path, edges, dialect):
    made = Edges()
    torch.save(made.state_dict(), tmp_path / "c.pth")
    options = Options(f"{__file__}:Edges", input_shape=edges.shape, dialect=dialect)
    prototxt, model = tmp_path / "net.prototxt", tmp_path / "net.caffemodel"
    (output,) = streamexport.convert([tmp_path / "c.pth"], model, options).net.outputs
    with torch.no_grad():
        expected = made(torch.from_numpy(edges)).numpy()
    answers = {"stream": streamexport.forward(prototxt, [model], edges)[output]}
    if dialect != "bvlc":
        answers["opencv"] = opencv_logits(prototxt, model, edges, output)
    if dialect != "opencv" and caffe_judge.PYTHON:
        np.savez(tmp_path / "inputs.npz", data=edges)
        (tops,) = caffe_judge.judge(tmp_path)
        assert tops is not None
        answers["caffe"] = tops[output]
    assert expected.any() and not expected.all()
    for answer in answers.values():
        assert (answer.reshape(expected.shape) == expected).all()


REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "rounded": (lambda x: x.long().float(), "rounds an activation, to torch.int64"),
    "rounded means": (lambda x: F.avg_pool1d((x > 0).long(), 2).float(), "rounds means of whole numbers"),
    "bits": (lambda x: ((x > 0).int() & (x > 1).int()).float(), "works on the bits of whole numbers"),
    "infinity": (lambda x: (x < float("inf")).float(), "compares with inf; Caffe's nets compute with finite numbers"),
    "infinite in places": (
        lambda x: torch.where(x > 0, x, torch.tensor([0.0, 1.0, float("inf")])),
        "chooses from a constant that is infinite in places",
    ),
    "elements where a mask says": (
        lambda x: x.index_put((x > 0,), x.new_empty(3)[: int(x.numel() / 2)] * x[0]),
        "writes different elements where a mask says; write it as torch.where",
    ),
    "added by several": (
        lambda x: x.index_put((torch.tensor([0]), torch.tensor([1])), x[0, :1], accumulate=True),
        "writes where several tensors say",
    ),
}


class Refused(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.fc = name, nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return REFUSED[self.name][0](self.fc(x))


@pytest.mark.parametrize("name", REFUSED)
def test_what_floats_do_not_say_is_refused(tmp_path, name):
    torch.save(Refused(name).state_dict(), tmp_path / "c.pth")
    options = Options(f"{__file__}:Refused", net_args=json.dumps({"name": name}), input_shape=(1, 3))
    with pytest.raises(NetError, match=re.escape(REFUSED[name][1])):
        streamexport.plan([tmp_path / "c.pth"], tmp_path / "m.caffemodel", options)
