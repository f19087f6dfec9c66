"""Weights that a module computes from its parameters, at the width of real nets; and where the limit is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import streamexport
from streamexport import Options
from streamexport.errors import NetError
from streamexport.tracing import operands


class Wide(nn.Module):
    """One convolution of 512 x 512 x 3 x 3, normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(512, 512, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


@pytest.fixture
def wide(tmp_path):
    torch.manual_seed(0)
    made = Wide().eval()
    torch.save(made.state_dict(), tmp_path / "c.pth")
    return made


OPTIONS = Options(net=f"{__file__}:Wide", input_shape=(1, 512, 3, 3))


def test_a_normalised_weight_of_real_width_is_computed(tmp_path, wide):
    streamexport.convert([tmp_path / "c.pth"], tmp_path / "m.caffemodel", OPTIONS)
    image = torch.randn(1, 512, 3, 3)
    (found,) = streamexport.forward(tmp_path / "m.prototxt", [tmp_path / "m.caffemodel"], image.numpy()).values()
    with torch.no_grad():
        expected = wide(image).numpy()
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_above_the_limit_the_way_on_is_named(tmp_path, wide, monkeypatch):
    monkeypatch.setattr(operands, "SMALL", 512 * 512 * 9 - 1)
    with pytest.raises(NetError) as refused:
        streamexport.convert([tmp_path / "c.pth"], tmp_path / "m.caffemodel", OPTIONS)
    assert "of 2359296 elements, 2359295 are the most; compute it once and save that: " in str(refused.value)
    nn.utils.parametrize.remove_parametrizations(wide.conv, "weight")  # as it says
    torch.save(wide.state_dict(), tmp_path / "c.pth")
    baked = Options(net=f"{__file__}:plain", input_shape=(1, 512, 3, 3))
    assert streamexport.convert([tmp_path / "c.pth"], tmp_path / "m.caffemodel", baked).size > 9_000_000


def plain() -> nn.Module:
    """For --net: what is left once the weights are computed."""
    made = Wide()
    nn.utils.parametrize.remove_parametrizations(made.conv, "weight")
    return made


def test_what_several_ways_lead_to_is_computed_once():
    """Each of 40 sums takes the one before twice; the next answer is computed anew."""
    calls = []

    def first() -> torch.Tensor:
        calls.append(1)
        return torch.ones(3)

    constant = operands.Constant((3,), (), None, first)
    for _ in range(40):
        constant = operands.Constant((3,), (), None, lambda last=constant: last.value() + last.value())
    assert torch.equal(constant.value(), torch.full((3,), 2.0**40)) and len(calls) == 1
    assert torch.equal(constant.value(), torch.full((3,), 2.0**40)) and len(calls) == 2
