"""Weights that a module computes from its parameters, at the width of real nets; and where the limit is."""

from __future__ import annotations

import json
import pickle
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

import streamexport
from streamexport import Options
from streamexport.errors import NetError
from streamexport.tracing import operands, streams, weights
from tests.payload.test_extents import rendered


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


class Orthogonal(nn.Module):
    """A weight that is an exponential of a matrix: each element has part in all others."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.utils.parametrizations.orthogonal(nn.Linear(64, 64), orthogonal_map="matrix_exp")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x)


def test_above_the_limit_the_way_on_is_named(tmp_path, monkeypatch):
    torch.manual_seed(0)
    made = Orthogonal()
    torch.save(made.state_dict(), tmp_path / "c.pth")
    monkeypatch.setattr(operands, "SMALL", 64 * 64 - 1)
    with pytest.raises(NetError) as refused:
        options = Options(net=f"{__file__}:Orthogonal", input_shape=(1, 64))
        streamexport.convert([tmp_path / "c.pth"], tmp_path / "m.caffemodel", options)
    assert "of 4096 elements, 4095 are the most; compute it once and save that: " in str(refused.value)
    nn.utils.parametrize.remove_parametrizations(made.fc, "weight")  # as it says
    torch.save(made.state_dict(), tmp_path / "c.pth")
    baked = Options(net=f"{__file__}:plain", input_shape=(1, 64))
    assert streamexport.convert([tmp_path / "c.pth"], tmp_path / "m.caffemodel", baked).size > 4 * 64 * 64


def plain() -> nn.Module:
    """For --net: what is left once the weights are computed."""
    made = Orthogonal()
    nn.utils.parametrize.remove_parametrizations(made.fc, "weight")
    return made


class Computing(nn.Conv2d):
    """A convolution whose weight a function makes of what is trained."""

    def __init__(self, name: str) -> None:
        super().__init__(6, 8, 3)
        self.function = FUNCTIONS[name]
        self.gain = nn.Parameter(torch.rand(8, 1, 1, 1) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, self.function(self.weight, self.gain), self.bias)


def _by_batch_norm(w: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
    rows, factor = w.reshape(1, len(w), -1), 0.3 * gain.view(-1)
    return F.batch_norm(rows, None, None, factor, factor - 1, True, 0.0, 1e-6).reshape_as(w)


def _by_variance(w: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
    variance, mean = torch.var_mean(w, (1, 2, 3), keepdim=True, unbiased=False)
    return (w - mean) * torch.rsqrt(variance + 1e-5) * gain


FUNCTIONS = {
    "equalised": lambda w, gain: w * 0.25,
    "standardised": lambda w, gain: (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5),
    "standardised by batch_norm": _by_batch_norm,
    "standardised by var_mean": _by_variance,
    "normalised": lambda w, gain: F.normalize(w.flatten(1), dim=1).view_as(w),
    "norms": lambda w, gain: (
        w / (w.norm() + w.abs().sum() + w.norm(1, 0, keepdim=True)) * 9 + w / w.norm(float("inf"), 1, True)
    ),
    "extremes": lambda w, gain: (w - w.amin()) / (w.amax((0, 2), keepdim=True) - w.min()) + w.var() * w.sigmoid(),
    "means in any order": lambda w, gain: w - w.mean(1, keepdim=True) + w.sum() * gain - w.transpose(2, 3).mean(0),
    "repeated": lambda w, gain: gain.expand(8, 6, 3, 3) * w.mean((0, 1)) + 0 * w,
}
HOOKS = {
    "weight norm": nn.utils.parametrizations.weight_norm,
    "weight norm of columns": lambda m: nn.utils.parametrizations.weight_norm(m, dim=1),
    "weight norm of all": lambda m: nn.utils.parametrizations.weight_norm(m, dim=None),
    "weight norm by a hook": nn.utils.weight_norm,
    "spectral norm": nn.utils.parametrizations.spectral_norm,
    "spectral norm by a hook": nn.utils.spectral_norm,
}


def computing(name: str) -> nn.Module:
    """For --net."""
    if name in FUNCTIONS:
        return Computing(name)
    return nn.Sequential(HOOKS[name](nn.Conv2d(6, 8, 3)), HOOKS[name](nn.ConvTranspose2d(8, 6, 3)))


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", [*FUNCTIONS, *HOOKS])
def test_large_weights_are_computed_in_blocks_and_never_held(tmp_path, monkeypatch, name):
    """Of 432 elements no more than 72 are ever held, and 16 computed at once; any range alone has the same bits."""
    for module, limit, most in (
        (operands, "SMALL", 72),
        (operands, "LARGE", 72),
        (weights, "LARGE", 72),
        (streams, "BLOCK", 16),
    ):
        monkeypatch.setattr(module, limit, most)
    torch.manual_seed(1)
    made = computing(name).eval()
    torch.save(made.state_dict(), tmp_path / "c.pth")
    options = Options(net=f"{__file__}:computing", net_args=json.dumps({"name": name}), input_shape=(1, 6, 7, 8))
    plan = streamexport.convert([tmp_path / "c.pth"], tmp_path / "m.caffemodel", options)
    image = torch.randn(1, 6, 7, 8)
    (found,) = streamexport.forward(tmp_path / "m.prototxt", [tmp_path / "m.caffemodel"], image.numpy()).values()
    with torch.no_grad():
        expected = made(image).numpy()
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    for blob in (layer.blobs[0] for layer in plan.net.layers if layer.type.endswith("onvolution")):
        assert_renders_alike(blob.values)
        assert_renders_alike(pickle.loads(pickle.dumps(blob.values)), rendered(blob.values))


def assert_renders_alike(piece, whole=None):
    whole = rendered(piece) if whole is None else whole
    for start, stop in ((0, 10), (4, 60), (62, 66), (piece.size - 70, piece.size)):
        part = bytearray(stop - start)
        piece.render(start, stop, memoryview(part))
        assert bytes(part) == whole[start:stop]


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


class Longer(nn.Module):
    """A sequence that is resized by a matrix of 2 billion elements."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(self.conv(x), 50000, mode="linear")


def test_what_resizes_a_long_sequence_is_never_held(tmp_path):
    torch.save(Longer().state_dict(), tmp_path / "c.pth")
    options = Options(f"{__file__}:Longer", input_shape=(1, 1, 40000))
    plan = streamexport.plan([tmp_path / "c.pth"], tmp_path / "m.caffemodel.h5", options)
    (matrix,) = (blob for layer in plan.net.layers for blob in layer.blobs if blob.shape == (50000, 40000))
    row = np.frombuffer(rendered(matrix.values, 4 * 43210 * 40000, 4 * 43211 * 40000), "f4")
    x = torch.linspace(0, 999, 40000).sin().double()[None, None]  # in float32, torch takes places of an element's 250th
    expected = F.interpolate(x, 50000, mode="linear")[0, 0, 43210]
    np.testing.assert_allclose(row @ x.numpy().ravel(), expected, rtol=1e-6)


class Warped(nn.Module):
    """An image seen through a grid: one that is straight, or one that is turned."""

    def __init__(self, turn: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 1)
        theta = torch.tensor([[0.93, turn, 0.0], [-turn, 0.93, 0.0]])
        self.register_buffer("grid", F.affine_grid(theta[None], [1, 3, 24, 24], align_corners=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.grid_sample(self.conv(x), self.grid, align_corners=False)


@pytest.mark.parametrize(
    ("turn", "size", "said"),
    [(0.0, 24, None), (0.25, 24 * 24, r"5308416 of \d+ bytes of weights are not the checkpoint's: they pick")],
)
def test_what_a_grid_picks_is_of_pixels_and_said_where_it_is_most_of_the_net(tmp_path, turn, size, said):
    torch.save(Warped(turn).state_dict(), tmp_path / "c.pth")
    options = Options(f"{__file__}:Warped", net_args=json.dumps({"turn": turn}), input_shape=(1, 3, 24, 24))
    plan = streamexport.plan([tmp_path / "c.pth"], tmp_path / "m.caffemodel", options)
    picks = [blob.shape for layer in plan.net.layers for blob in layer.blobs if len(blob.shape) > 1 and not blob.origin]
    assert max(shape[0] for shape in picks) == size
    assert any(re.match(said or "no such", note) for note in plan.notes) is (said is not None)


def test_a_grid_of_too_many_pixels_is_refused_by_name(tmp_path):
    torch.save(Warped(0.25).state_dict(), tmp_path / "c.pth")
    options = Options(f"{__file__}:Warped", net_args='{"turn": 0.25}', input_shape=(1, 3, 2000, 2000))
    with pytest.raises(
        NetError, match=r"aten.index.Tensor .* has \d+ elements, Caffe's blobs hold 2147483647; .*`end=conv`"
    ):
        streamexport.plan([tmp_path / "c.pth"], tmp_path / "m.caffemodel", options)
