"""Batches of traced nets: other ones than they were traced with, where that is said to be possible, and several images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import streamexport
from streamexport import Options
from streamexport.conversion.plan import Plan
from streamexport.running.engines import open_engine
from tests.shared import caffe_judge

TOLERANCE = 1e-5
JUDGES = [("portable", "stream"), ("portable", "caffe"), ("portable", "opencv"), ("ssd", "caffe"), ("opencv", "opencv")]


class Image(nn.Module):
    """What turns dimensions in the blob, and resizing, pads and norms that reshape."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.pad(self.norm(self.conv(x)), (1, 1, 0, 0), "reflect")
        x = nn.functional.interpolate(x, (6, 8), mode="bilinear").roll(1, 2)
        return self.fc(x.permute(0, 3, 2, 1).tanh().transpose(1, 3)).flatten(1)


class Attention(nn.Module):
    """A class token, positions, and torch's own encoder, which has tokens first inside."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.randn(1, 1, 8))
        self.position = nn.Parameter(torch.randn(1, 5, 8))
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.token.expand(len(x), 1, 8), x), 1) + self.position
        return self.encoder(x)[:, 0]


class Recurrence(nn.Module):
    """A recogniser: columns of an image are steps, of both directions; its last states, too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gru = nn.Conv2d(3, 4, (8, 1)), nn.GRU(4, 5, bidirectional=True, batch_first=True)
        self.lstm = nn.LSTM(10, 6, 2, batch_first=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        steps, (_, cell) = self.lstm(self.gru(self.conv(x).squeeze(2).transpose(1, 2))[0])
        return steps.softmax(2), cell[-1]


SHAPE = (3, 8, 8)
NETS = {made.__name__: made for made in (Image, Attention, Recurrence)}
FIXED = {
    ("Attention", "ssd"): "encoder.self_attn.scores.put (Eltwise)",
    ("Recurrence", "ssd"): "lstm.l0 (LSTM)",
    ("Recurrence", "opencv"): "gru.l0.gru (GRU)",
}
"""Which layer ties a net to its batch, by net and dialect; the others take any."""


def build(name: str) -> nn.Module:
    """For --net."""
    torch.manual_seed(3)
    return NETS[name]().eval()


@dataclass(frozen=True)
class Made:
    plan: Plan
    directory: Path

    @property
    def batch(self) -> str:
        (said,) = (note for note in self.plan.notes if note.startswith("batch is"))
        return said

    def assert_computed(self, name: str, engine: str, batch: int) -> None:
        given = np.random.default_rng(7).standard_normal((batch, *SHAPE)).astype("f4")
        with torch.no_grad():
            answer = build(name)(torch.from_numpy(given))
        expected = answer if isinstance(answer, tuple) else (answer,)
        with open_engine(engine, self.directory / "m.prototxt", [self.plan.path], self.plan.net.outputs) as compute:
            compute(given)  # what is left of one forward is not in the next
            found = compute(given)
        for output, wanted in zip(self.plan.net.outputs, expected, strict=True):
            assert found[output].size == wanted.numel()
            error = np.abs(found[output].reshape(wanted.shape) - wanted.numpy()).max()
            assert error <= TOLERANCE * wanted.abs().max(), (output, error)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Callable[[str, str, int], Made]:
    known: dict[tuple[str, str, int], Made] = {}

    def converted(name: str, dialect: str, batch: int) -> Made:
        key = (name, dialect, batch)
        if key not in known:
            directory = tmp_path_factory.mktemp("batches")
            torch.save(build(name).state_dict(), directory / "c.pth")
            options = Options(
                net=f"{__file__}:build",
                net_args=f'{{"name": "{name}"}}',
                input_shape=(batch, *SHAPE),
                dialect=dialect,
            )
            known[key] = Made(
                streamexport.convert([directory / "c.pth"], directory / "m.caffemodel", options), directory
            )
        return known[key]

    return converted


@pytest.mark.parametrize(("dialect", "engine"), JUDGES)
@pytest.mark.parametrize("name", NETS)
def test_a_net_traced_with_one_image_takes_three_where_it_says_so(made, name, dialect, engine):
    if engine == "caffe":
        caffe_judge.require()
    net = made(name, dialect, 1)
    layer = FIXED.get((name, dialect))
    said = f"batch is fixed at 1 by {layer}" if layer else "batch is free"
    assert net.batch == said
    assert f"\n# {said}\n" in (net.directory / "m.prototxt").read_text()
    net.assert_computed(name, engine, 1 if layer else 3)


@pytest.mark.parametrize(("dialect", "engine"), JUDGES)
@pytest.mark.parametrize("name", NETS)
def test_a_net_is_traced_with_four_images(made, name, dialect, engine):
    if engine == "caffe":
        caffe_judge.require()
    made(name, dialect, 4).assert_computed(name, engine, 4)
