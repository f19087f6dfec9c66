"""Comparisons at the edges: numbers next to each other, very small and very large ones, zeros of either sign."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import streamexport
from streamexport import Options
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
