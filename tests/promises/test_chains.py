"""`benchmarks/chains.py` finds what is wrong: an answer that a weight or a merged layer spoils, but not what floats lose."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from streamexport.passes import opencv
from tests.conftest import ROOT

OPENCV = 4
"""A seed whose chain is written in OpenCV's dialect, unfolded."""


@pytest.fixture
def chains(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import chains

    yield chains
    for name in ("chains", "chain_modules"):
        sys.modules.pop(name, None)


def deconvolved(seed: int) -> nn.Module:
    """OpenCV merges the two wrongly."""
    return nn.Sequential(nn.ConvTranspose2d(3, 6, 3, groups=3), nn.BatchNorm2d(6)).eval()


def test_a_merged_layer_is_found(chains, tmp_path, monkeypatch):
    import chain_modules

    monkeypatch.setattr(chain_modules, "deconvolved", deconvolved, raising=False)
    engines = {"stream": chains.stream, "opencv": chains.opencv}
    right, _, left_out = chains.tried("deconvolved", OPENCV, engines, tmp_path)
    assert not left_out
    assert max(right.values()) < chains.TOLERANCE
    monkeypatch.setattr(opencv, "keep_apart", lambda net, *_: net)
    wrong, _, _ = chains.tried("deconvolved", OPENCV, engines, tmp_path)
    assert wrong["stream"] == right["stream"]
    assert wrong["opencv"].startswith("departs by ")


@pytest.mark.parametrize("kind", ["images", "vectors", "tokens"])
def test_weights_a_thousandth_larger_are_found_in_most_chains(chains, kind):
    found, judged = 0, 0
    for seed in range(20):
        module, x = chains.reference(kind, seed)
        *_, last = (weight for weight in module.parameters() if weight.dim() > 1)
        before = last.clone()
        last *= 1.001
        spoilt = module(x)
        last.copy_(before)
        double, lost = chains.expected(module, x)
        scale = float(double.abs().max())
        judged += lost < chains.MOST_ROUNDING * scale
        found += chains.departs(float((spoilt - double).abs().max()), scale, lost)
    assert judged >= 18
    assert found >= 15


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(lambda x: (x + 1000).sub(1000), id="a difference of nearly equal numbers"),
        pytest.param(lambda x: x.square().mul(1e-4).add(1).sub(1).abs().sqrt(), id="square roots near zero"),
    ],
)
def test_what_floats_lose_is_known(chains, function: Callable[[torch.Tensor], torch.Tensor]):
    import chain_modules

    x = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.1
    double, lost = chains.expected(chain_modules.Function("", function), x)
    scale, error = float(double.abs().max()), 2 * float((function(x) - double).abs().max())
    assert error > 2 * chains.TOLERANCE * scale
    assert not chains.departs(error, scale, lost)
    assert chains.departs(100 * error, scale, lost)
