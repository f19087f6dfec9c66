"""The largest elements one by one: Caffe's ArgMax makes them, nothing that OpenCV has from a prototxt does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import streamexport
from streamexport import Options
from streamexport.errors import NetError
from tests.shared import caffe_judge


class Top(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.conv(x)
        smallest, places = x.flatten(2).topk(4, largest=False)
        turned = x.permute(0, 2, 3, 1).topk(3)[0]
        return (
            *x.topk(2, 1),
            smallest,
            places,
            turned,
            x.flatten(1).topk(5)[0],
            x.sort(1, descending=True)[0],
            x.sort(3)[1],
        )


@pytest.mark.parametrize("dialect", ["bvlc", "ssd"])
@pytest.mark.parametrize("batch", [1, 2])
def test_top_values_are_those_of_torch(tmp_path, dialect, batch):
    torch.manual_seed(1)
    made = Top()
    torch.save(made.state_dict(), tmp_path / "c.pth")
    image = np.random.default_rng(1).standard_normal((batch, 3, 4, 5)).astype("f4")
    options = Options(f"{__file__}:Top", input_shape=image.shape, dialect=dialect)
    prototxt, model = tmp_path / "net.prototxt", tmp_path / "net.caffemodel"
    outputs = streamexport.convert([tmp_path / "c.pth"], model, options).net.outputs
    with torch.no_grad():
        expected = [answer.numpy() for answer in made(torch.from_numpy(image))]
    answers = [streamexport.forward(prototxt, [model], image, outputs)]
    if caffe_judge.PYTHON:
        np.savez(tmp_path / "inputs.npz", data=image)
        (tops,) = caffe_judge.judge(tmp_path)
        assert tops is not None
        answers.append(tops)
    for answer in answers:
        for name, wanted in zip(outputs, expected, strict=True):
            np.testing.assert_allclose(answer[name], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dialect", ["portable", "opencv"])
def test_they_are_refused_where_opencv_is_to_make_them(tmp_path, dialect):
    torch.save(Top().state_dict(), tmp_path / "c.pth")
    options = Options(f"{__file__}:Top", input_shape=(1, 3, 4, 5), dialect=dialect)
    with pytest.raises(NetError, match="made by Caffe's ArgMax, which OpenCV does not have; use `dialect=bvlc` or ssd"):
        streamexport.plan([tmp_path / "c.pth"], tmp_path / "net.caffemodel", options)
