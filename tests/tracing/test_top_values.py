"""The largest elements one by one: Caffe's ArgMax makes them, or comparisons of each with each."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import streamexport
from streamexport import Options
from streamexport.errors import NetError
from streamexport.passes.dialects import DIALECTS
from tests.conversion.test_consumers import opencv_logits
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
            *x.kthvalue(2, 1),
            *x.flatten(1).kthvalue(118, keepdim=True),
            *x.median(3),
            *x.median(2),
        )


class Ties(nn.Module):
    """Elements that are alike: how often they come is defined, and where they stand if torch is asked for that."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.conv(x).relu()
        return (
            *x.sort(dim=1, stable=True),
            *x.sort(dim=2, stable=True, descending=True),
            x.argsort(dim=3, stable=True),
            x.topk(4, 1)[0],
            x.kthvalue(3, 1)[0],
            x.median(1)[0],
        )


class Flat(nn.Module):
    """All of an image at once, and one image alone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.conv(x)
        return x.median(), x[0].mean(0).msort(), x[0, 0].argsort(descending=True)


CASES = [(Top, 1), (Top, 2), (Ties, 1), (Ties, 2), (Flat, 1)]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(("made", "batch"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_top_values_are_those_of_torch(tmp_path, dialect, made, batch):
    torch.manual_seed(1)
    net = made()
    torch.save(net.state_dict(), tmp_path / "c.pth")
    image = np.random.default_rng(1).standard_normal((batch, 3, 4, 5)).astype("f4")
    options = Options(f"{__file__}:{made.__name__}", input_shape=image.shape, dialect=dialect)
    prototxt, model = tmp_path / "net.prototxt", tmp_path / "net.caffemodel"
    outputs = streamexport.convert([tmp_path / "c.pth"], model, options).net.outputs
    with torch.no_grad():
        expected = [np.atleast_1d(answer.numpy()) for answer in net(torch.from_numpy(image))]
    answers = [streamexport.forward(prototxt, [model], image, outputs)]
    if dialect in ("portable", "opencv"):
        answers.append({name: opencv_logits(prototxt, model, image, name) for name in outputs})
    if dialect != "opencv" and caffe_judge.PYTHON:
        np.savez(tmp_path / "inputs.npz", data=image)
        (tops,) = caffe_judge.judge(tmp_path)
        assert tops is not None
        answers.append(tops)
    for answer in answers:
        for name, wanted in zip(outputs, expected, strict=True):
            np.testing.assert_allclose(answer[name].reshape(wanted.shape), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dialect", ["portable", "opencv"])
def test_what_takes_too_many_comparisons_is_refused(tmp_path, dialect):
    torch.save(Top().state_dict(), tmp_path / "c.pth")
    options = Options(f"{__file__}:Top", input_shape=(1, 3, 100, 100), dialect=dialect)
    with pytest.raises(NetError, match="compares 60000 elements with each other.* use `dialect=bvlc` or ssd"):
        streamexport.plan([tmp_path / "c.pth"], tmp_path / "net.caffemodel", options)
