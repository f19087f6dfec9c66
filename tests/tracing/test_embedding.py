"""Rows of tables by numbers that come in: torch beside Caffe, OpenCV and our own engine, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import streamexport
from streamexport import Options, Plan
from streamexport.caffe.models import open_model
from streamexport.errors import NetError
from streamexport.payload.pieces import Extent
from streamexport.running.engines import open_engine
from tests.shared import caffe_judge

READERS = {"portable": ("stream", "opencv", "caffe"), "bvlc": ("stream", "caffe"), "ssd": ("stream", "caffe")}
READERS["opencv"] = ("stream", "opencv")
WORDS, NUMBERS, LENGTH = 11, 6, 7


class Words(nn.Module):
    """Rows of a table and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(WORDS, NUMBERS, padding_idx=0)

    def forward(self, words: Tensor) -> Tensor:
        return self.table(words.long())


class Weights(nn.Module):
    """The same by an index."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(WORDS, NUMBERS))

    def forward(self, words: Tensor) -> Tensor:
        return self.table[words.int()]


class Halves(nn.Module):
    """Two tables, each of which gets some of the numbers, and dimensions in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Embedding(WORDS, NUMBERS), nn.Embedding(WORDS - 3, NUMBERS)

    def forward(self, words: Tensor) -> Tensor:
        return torch.cat((self.first(words[:, :3].T.long()), self.second(words[:, 3:6].T.long())), 2)


class Language(nn.Module):
    """A language model as they are: positions, a causal block, and the table once more at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.places = nn.Embedding(WORDS, 8), nn.Embedding(LENGTH, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)

    def forward(self, words: Tensor) -> Tensor:
        x = self.table(words.long()) + self.places(torch.arange(words.shape[1]))
        mask = nn.Transformer.generate_square_subsequent_mask(words.shape[1])
        return self.block(x, src_mask=mask) @ self.table.weight.T


class Rounded(Words):
    """Whole numbers that are computed with."""

    def forward(self, words: Tensor) -> Tensor:
        return super().forward(words) * words.long()[..., None]


NETS = {net.__name__: net for net in (Words, Weights, Halves, Language, Rounded)}


def build(name: str) -> nn.Module:
    """For --net."""
    torch.manual_seed(5)
    return NETS[name]().eval()


def converted(directory: Path, name: str, dialect: str = "bvlc", batch: int = 2) -> tuple[Plan, Options]:
    directory.mkdir(exist_ok=True)
    torch.save(build(name).state_dict(), directory / "c.pth")
    net_args = f'{{"name": "{name}"}}'
    options = Options(net=f"{__file__}:build", net_args=net_args, input_shape=(batch, LENGTH), dialect=dialect)
    return streamexport.convert([directory / "c.pth"], directory / "net.caffemodel", options), options


def asked(engine: str, directory: Path, plan: Plan, words: np.ndarray) -> np.ndarray:
    with open_engine(engine, directory / "net.prototxt", [plan.path], plan.net.outputs) as compute:
        (found,) = compute(words).values()
    return found


def some(batch: int = 2, rows: int = WORDS - 3) -> np.ndarray:
    return np.random.default_rng(3).integers(rows, size=(batch, LENGTH)).astype(np.float32)


@pytest.mark.caffe
@pytest.mark.parametrize("dialect", READERS)
@pytest.mark.parametrize("name", ["Words", "Weights", "Halves", "Language"])
def test_all_engines_find_the_rows_that_torch_finds(tmp_path, name, dialect):
    plan, options = converted(tmp_path, name, dialect)
    with torch.no_grad():
        expected = build(name)(torch.from_numpy(some())).numpy()
    largest = 1e-5 * np.abs(expected).max() if name == "Language" else 0
    for engine in READERS[dialect]:
        if engine == "caffe":
            caffe_judge.require()
        found = asked(engine, tmp_path, plan, some())
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= largest, engine
    parity = streamexport.parity([tmp_path / "c.pth"], [plan.path], options=options)
    assert parity.departed is None
    assert parity.differences


@pytest.mark.parametrize("dialect", ["portable", "bvlc"])
def test_one_text_traced_any_number_read(tmp_path, dialect):
    plan, _ = converted(tmp_path, "Words", dialect, batch=1)
    assert "batch is free" in plan.notes
    with torch.no_grad():
        expected = build("Words")(torch.from_numpy(some(3))).numpy()
    np.testing.assert_array_equal(asked("stream", tmp_path, plan, some(3)), expected)


@pytest.mark.parametrize("dialect", READERS)
def test_the_table_is_moved_from_where_it_lies(tmp_path, dialect):
    plan, _ = converted(tmp_path, "Words", dialect)
    (table,) = (blob for layer in plan.net.layers for blob in layer.blobs if blob.origin)
    assert isinstance(table.values, Extent)
    (stored,) = (
        layer for layer in open_model(plan.path).layers if layer.blobs and layer.blobs[-1].count == table.count
    )
    assert stored.blobs[-1].values.size == 4 * WORDS * NUMBERS


def test_rows_that_are_not_there_are_an_error(tmp_path):
    plan, _ = converted(tmp_path, "Words")
    with pytest.raises(NetError, match=r"layer table: cannot be computed: rows 0 to 11 are asked for, of 11"):
        asked("stream", tmp_path, plan, np.array([[0, 11, 1, 1, 1, 1, 1]] * 2, np.float32))


def test_numbers_that_are_rounded_and_computed_with_are_refused(tmp_path):
    with pytest.raises(NetError, match="rounds an activation, to torch.int64"):
        converted(tmp_path, "Rounded")
