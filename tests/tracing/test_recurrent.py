"""nn.LSTM, nn.GRU, nn.RNN and their cells, in the words of every dialect: torch beside our own engine, Caffe and OpenCV."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import streamexport
from streamexport import Options, Plan
from streamexport.caffe.prototxt import read_prototxt
from streamexport.errors import AbsentError, NetError
from streamexport.net.kernels import Blocks, Filled, Selected, Sum
from streamexport.payload.pieces import Extent, Layout
from streamexport.running.engines import open_engine
from tests.shared import caffe_judge
from tests.shared.real_nets import SpeakerEncoder
from tests.tracing.test_traced import traced_once

TOLERANCE = 1e-5
READERS = {"portable": ("stream", "opencv", "caffe"), "bvlc": ("stream", "caffe"), "ssd": ("stream", "caffe")}
READERS["opencv"] = ("stream", "opencv")
STEPS, BATCH, INPUTS, OUTPUTS = 4, 2, 3, 5
SEQUENCE = (STEPS, BATCH, INPUTS)


class Steps(nn.Module):
    """A recurrence of which the steps are wanted."""

    def __init__(self, kind: str, **options: Any) -> None:
        super().__init__()
        self.r = getattr(nn, kind)(INPUTS, OUTPUTS, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.r(x)[0]


class Everything(Steps):
    """All that it makes, from states that are given."""

    def forward(self, x: Tensor, h: Tensor, c: Tensor | None = None) -> Any:
        return self.r(x, h if c is None else (h, c))


class Scaled(Everything):
    """The same, each multiplied by what OpenCV would merge."""

    def forward(self, x: Tensor, h: Tensor, c: Tensor | None = None) -> Any:
        return [leaf * 1.5 for leaf in tree_leaves(super().forward(x, h, c))]


class Ends(Steps):
    """What a classifier of sequences takes."""

    def __init__(self, kind: str, **options: Any) -> None:
        super().__init__(kind, **options)
        self.fc = nn.Linear(OUTPUTS, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, state = self.r(x)
        h = state[0] if isinstance(state, tuple) else state
        return self.fc(h[-1]), self.fc(y[:, -1] if self.r.batch_first else y[-1])


class Cells(nn.Module):
    """Cells in a loop, from zeros on."""

    def __init__(self, kind: str, **options: Any) -> None:
        super().__init__()
        self.cell = getattr(nn, kind)(INPUTS, OUTPUTS, **options)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for step in x:
            state = self.cell(step, state)
        return state[0] if isinstance(state, tuple) else state


class Twice(Steps):
    """The same weights on two sequences."""

    def forward(self, x: Tensor) -> Tensor:
        return self.r(x)[0] + self.r(x * 0.5 + 1)[0]


class Recogniser(nn.Module):
    """Text in an image, as CRNN reads it: columns of features are steps, read in both directions."""

    def __init__(self) -> None:
        super().__init__()
        # Caffe as it is built here reads no `round_mode`, so nothing is rounded down.
        self.features = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.AvgPool2d((4, 2), ceil_mode=True))
        self.r = nn.LSTM(6, 5, num_layers=2, bidirectional=True)
        self.fc = nn.Linear(10, 7)

    def forward(self, image: Tensor) -> Tensor:
        columns = self.features(image).squeeze(2).permute(2, 0, 1)
        return self.fc(self.r(columns)[0]).log_softmax(2)


class Tagger(nn.Module):
    """From a state that is learned, with a gate of another recurrence's last state."""

    def __init__(self) -> None:
        super().__init__()
        self.r, self.other = nn.GRU(INPUTS, OUTPUTS, bidirectional=True), nn.LSTM(INPUTS, OUTPUTS)
        self.h = nn.Parameter(torch.randn(2, 1, OUTPUTS))

    def forward(self, x: Tensor) -> Tensor:
        y, h = self.r(x, self.h.expand(2, x.shape[1], OUTPUTS))
        _, (_, c) = self.other(x)
        return y[-1:].relu() * torch.cat((c, h[1:]), 2).sigmoid()


NETS = {
    net.__name__: net for net in (Steps, Everything, Scaled, Ends, Cells, Twice, Recogniser, Tagger, SpeakerEncoder)
}


def build(net: str, **arguments: Any) -> nn.Module:
    """For --net."""
    torch.manual_seed(1)
    return NETS[net](**arguments)


@dataclass
class Case:
    """A module, and the shapes of what it takes."""

    net: str
    arguments: dict[str, Any] = field(default_factory=dict)
    shapes: Sequence[tuple[int, ...]] = (SEQUENCE,)

    def converted(
        self,
        directory: Path,
        dialect: str,
        output: str = "net.caffemodel",
        form: str | None = None,
        saved: torch.dtype = torch.float32,
        **options: Any,
    ) -> Plan:
        directory.mkdir(exist_ok=True)
        torch.save(build(self.net, **self.arguments).to(saved).state_dict(), directory / "c.pth")
        asked = self.options(dialect, **options)
        with traced_once(f"{self}"):
            return streamexport.convert([directory / "c.pth"], directory / output, asked, form=form)

    def options(self, dialect: str, **options: Any) -> Options:
        arguments = json.dumps({"net": self.net, **self.arguments})
        shape = tuple(self.shapes) if len(self.shapes) > 1 else self.shapes[0]
        return Options(net=f"{__file__}:build", net_args=arguments, input_shape=shape, dialect=dialect, **options)

    def given(self) -> list[Tensor]:
        return [torch.randn(shape, generator=torch.Generator().manual_seed(n)) for n, shape in enumerate(self.shapes)]

    def expected(self) -> list[np.ndarray]:
        with torch.no_grad():
            return [leaf.numpy() for leaf in tree_leaves(build(self.net, **self.arguments).eval()(*self.given()))]

    def assert_computed(self, plan: Plan, engine: str, directory: Path, tolerance: float = TOLERANCE) -> None:
        given = dict(zip(plan.net.inputs, (x.numpy() for x in self.given()), strict=True))
        files = directory / "net.prototxt", [plan.path]
        with open_engine(engine, *files, plan.net.outputs) as compute:
            compute(given)  # Caffe's LSTM keeps its state, and must not go on with it
            found = compute(given)
        for name, values in zip(plan.net.outputs, self.expected(), strict=True):
            assert found[name].size == values.size
            error = np.abs(found[name].reshape(values.shape) - values).max()
            assert error <= tolerance * np.abs(values).max(), (engine, name, error)


FIRST, STATE = (BATCH, STEPS, INPUTS), (1, BATCH, OUTPUTS)
CASES = {
    "lstm": Case("Steps", {"kind": "LSTM"}),
    "lstm of one image, batch first": Case("Steps", {"kind": "LSTM", "batch_first": True}, [(1, STEPS, INPUTS)]),
    "lstm, batch first, without biases": Case("Steps", {"kind": "LSTM", "batch_first": True, "bias": False}, [FIRST]),
    "lstm, both directions": Case("Steps", {"kind": "LSTM", "bidirectional": True}),
    "lstm, two layers, both directions": Case("Steps", {"kind": "LSTM", "num_layers": 2, "bidirectional": True}),
    "lstm of one step": Case("Ends", {"kind": "LSTM"}, [(1, BATCH, INPUTS)]),
    "lstm without a batch": Case("Steps", {"kind": "LSTM"}, [(STEPS, INPUTS)]),
    "lstm, states of one step": Case("Everything", {"kind": "LSTM"}, [(1, BATCH, INPUTS), STATE, STATE]),
    "lstm, states": Case("Everything", {"kind": "LSTM"}, [SEQUENCE, STATE, STATE]),
    "lstm, states, both directions": Case(
        "Everything", {"kind": "LSTM", "num_layers": 2, "bidirectional": True}, [SEQUENCE, *[(4, BATCH, OUTPUTS)] * 2]
    ),
    "lstm, states, scaled": Case("Scaled", {"kind": "LSTM"}, [SEQUENCE, STATE, STATE]),
    "lstm, ends": Case("Ends", {"kind": "LSTM"}),
    "lstm, ends, batch first": Case("Ends", {"kind": "LSTM", "batch_first": True, "num_layers": 2}, [FIRST]),
    "gru": Case("Steps", {"kind": "GRU"}),
    "gru, both directions, without biases": Case("Steps", {"kind": "GRU", "bidirectional": True, "bias": False}),
    "gru, states": Case("Everything", {"kind": "GRU", "bidirectional": True}, [SEQUENCE, (2, BATCH, OUTPUTS)]),
    "gru, ends": Case("Ends", {"kind": "GRU"}),
    "rnn": Case("Steps", {"kind": "RNN", "num_layers": 2}),
    "rnn, relu, both directions": Case("Steps", {"kind": "RNN", "nonlinearity": "relu", "bidirectional": True}),
    "rnn, states": Case("Everything", {"kind": "RNN"}, [SEQUENCE, STATE]),
    "lstm cell": Case("Cells", {"kind": "LSTMCell"}),
    "gru cell": Case("Cells", {"kind": "GRUCell", "bias": False}),
    "rnn cell": Case("Cells", {"kind": "RNNCell"}),
    "lstm, called twice": Case("Twice", {"kind": "LSTM"}),
    "recogniser": Case("Recogniser", shapes=[(1, 1, 4, 12)]),
    "recogniser, two images": Case("Recogniser", shapes=[(2, 1, 4, 12)]),
    "tagger": Case("Tagger"),
}


@pytest.mark.parametrize("name", CASES)
def test_our_engine_and_opencv_compute_what_torch_computes(tmp_path, name):
    for dialect, engines in READERS.items():
        plan = CASES[name].converted(tmp_path / dialect, dialect)
        assert set(read_prototxt(tmp_path / dialect / "net.prototxt").ends) == set(plan.net.outputs)
        for engine in engines[: 2 if "opencv" in engines else 1]:
            CASES[name].assert_computed(plan, engine, tmp_path / dialect)


@pytest.mark.caffe
@pytest.mark.parametrize("dialect", ["portable", "bvlc", "ssd"])
def test_caffe_computes_what_torch_computes(tmp_path, dialect):
    caffe_judge.require()
    for number, case in enumerate(CASES.values()):
        directory = tmp_path / str(number)
        case.assert_computed(case.converted(directory, dialect), "caffe", directory)


# What they are made of


def blobs(plan: Plan) -> dict[str, list[Any]]:
    return {layer.name: [blob.values for blob in layer.blobs] for layer in plan.net.layers if layer.blobs}


@pytest.mark.parametrize("dialect", ["bvlc", "opencv"])
def test_the_weights_of_an_lstm_are_moved_from_where_they_lie(tmp_path, dialect):
    """Gates change places, and no number is looked at but those of biases, which are added up range by range."""
    plan = CASES["lstm"].converted(tmp_path, dialect)
    (pieces,) = blobs(plan).values()
    kinds = [Sum if isinstance(piece, Blocks) and isinstance(piece.values, Sum) else type(piece) for piece in pieces]
    assert kinds == ([Layout, Sum, Layout] if dialect == "bvlc" else [Layout, Layout, Sum, Filled, Filled])
    for piece in pieces[:2]:
        assert {type(part) for part in getattr(piece, "pieces", ())} <= {Extent}
    files, options = ([tmp_path / "c.pth"], [tmp_path / "net.caffemodel"]), CASES["lstm"].options(dialect)
    assert streamexport.verify(*files, options).problems == ()


@pytest.mark.parametrize("dialect", ["bvlc", "ssd"])
@pytest.mark.parametrize("name", ["gru", "rnn", "gru cell", "lstm cell", "lstm, called twice"])
def test_weights_of_all_steps_are_stored_once_where_layers_share_them(tmp_path, name, dialect):
    plan = CASES[name].converted(tmp_path, dialect)
    stored = sum(piece.size for pieces in blobs(plan).values() for piece in pieces if not isinstance(piece, Selected))
    case = build(CASES[name].net, **CASES[name].arguments)
    assert stored <= 4 * sum(weight.numel() for weight in case.parameters())
    written = CASES[name].converted(tmp_path / "portable", "portable")
    assert any("OpenCV does not know shared ones" in note for note in written.notes)


def test_what_is_one_extent_is_linked(tmp_path):
    CASES["gru"].converted(tmp_path, "bvlc", "net.h5", form="linked")
    CASES["lstm"].converted(tmp_path / "lstm", "bvlc", "net.h5", form="linked")
    with h5py.File(tmp_path / "net.h5") as file:
        assert all(data.external for group in file["data"].values() for data in group.values())
    with h5py.File(tmp_path / "lstm" / "net.h5") as file:
        assert not any(data.external for group in file["data"].values() for data in group.values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
@pytest.mark.parametrize("dialect", ["bvlc", "opencv"])
def test_gates_of_other_checkpoints_change_places_too(tmp_path, dtype, dialect):
    case = CASES["lstm, both directions"]
    plan = case.converted(tmp_path, dialect, saved=dtype)
    case.assert_computed(plan, "stream", tmp_path, 1e-5 if dtype == torch.float64 else 2e-3)


@pytest.mark.parametrize(("name", "dialect"), [("lstm", "bvlc"), ("lstm", "opencv"), ("gru", "opencv")])
def test_weights_in_half_precision(tmp_path, name, dialect):
    plan = CASES[name].converted(tmp_path, dialect, "net.caffemodel", dtype="float16")
    halves = {blob.dtype.name for layer in plan.net.layers for blob in layer.blobs if len(blob.shape) > 1}
    assert "float16" in halves
    for engine in READERS[dialect][: 2 if dialect == "opencv" else 1]:
        CASES[name].assert_computed(plan, engine, tmp_path, 5e-3)


# Who reads them, and what is refused


@pytest.mark.parametrize(
    ("name", "dialect", "said"),
    [
        ("lstm", "bvlc", ["runs in BVLC's Caffe"]),
        ("lstm", "ssd", ["runs in Caffes of the SSD family", "OpenCV 4 lacks DummyData, LSTM"]),
        ("lstm", "opencv", ["runs in OpenCV 4", "Caffes of the SSD family lacks LSTM of one bottom"]),
        ("gru", "opencv", ["runs in OpenCV 4", "Caffes of the SSD family lacks GRU"]),
        ("gru", "ssd", ["runs in Caffes of the SSD family", "OpenCV 4 lacks shared weights"]),
        ("lstm", "portable", ["runs in Caffe, its forks, OpenCV 4"]),
    ],
)
def test_the_result_line_says_who_reads_it(tmp_path, name, dialect, said):
    notes = CASES[name].converted(tmp_path, dialect).notes
    assert [note for note in notes if note.startswith("runs in") or " lacks " in note] == said


def test_opencv_is_not_given_what_it_crashes_on(tmp_path):
    plan = CASES["lstm"].converted(tmp_path, "bvlc")
    with (
        pytest.raises(AbsentError, match="an LSTM in Caffe's words, on which OpenCV crashes; `dialect=opencv`"),
        open_engine("opencv", tmp_path / "net.prototxt", [plan.path], plan.net.outputs),
    ):
        pass


def test_projections_are_refused_by_name(tmp_path):
    with pytest.raises(NetError, match=r"aten.lstm.input \(in r at .*\) projects its states \(proj_size\)"):
        Case("Steps", {"kind": "LSTM", "proj_size": 2}).converted(tmp_path, "portable")


# Trained weights

VOICES = ("resemblyzer==0.1.4", "pretrained.pt")


@pytest.mark.parametrize(("dialect", "engine"), [("bvlc", "stream"), ("opencv", "opencv"), ("bvlc", "caffe")])
def test_trained_weights_of_an_lstm(real, tmp_path, dialect, engine):
    if engine == "caffe":
        caffe_judge.require()
    case = Case("SpeakerEncoder", shapes=[(2, 12, 40)])
    trained = build("SpeakerEncoder").eval()
    trained.load_state_dict(torch.load(real(*VOICES), "cpu")["model_state"], strict=False)
    plan = streamexport.convert([real(*VOICES)], tmp_path / "net.caffemodel", case.options(dialect))
    (given,) = (x.abs() for x in case.given())
    with open_engine(engine, tmp_path / "net.prototxt", [plan.path], plan.net.outputs) as compute:
        (found,) = compute(given.numpy()).values()
    with torch.no_grad():
        expected = trained(given).numpy()
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()
    assert np.abs(expected[0] - expected[1]).max() > 0.01
