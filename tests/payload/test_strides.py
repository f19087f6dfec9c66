"""Strided views are read right whatever the limits, in few reads, and in memory that does not depend on them."""

from __future__ import annotations

import random
import tracemalloc
from math import prod

import numpy as np
import pytest
import torch

from streamexport.payload import strides
from streamexport.payload.pieces import BUFFER, Extent
from streamexport.payload.tensors import FLOAT32, Strided, Tensor
from streamexport.sources.local import LocalFile
from tests.payload.test_extents import rendered

LIMITS = {
    "as they are": {},
    "elements one by one": {"GAP": 0, "LONG": 1, "AHEAD": 4, "BUFFER": 4},
    "cut runs": {"BUFFER": 40, "RUNS": 3},
    "small blocks": {"GAP": 16, "LONG": 64, "AHEAD": 1000, "BUFFER": 256, "RUNS": 5},
    "large gaps": {"GAP": 1 << 20, "BUFFER": 2000},
}


@pytest.mark.parametrize("limits", LIMITS)
def test_every_view_has_the_elements_that_torch_says(tmp_path, monkeypatch, limits):
    for name, value in LIMITS[limits].items():
        monkeypatch.setattr(strides, name, value)
    values, numbers = np.arange(20_000, dtype="<f4"), random.Random(limits)
    (tmp_path / "storage").write_bytes(b"\xee" * 24 + values.tobytes())
    source = LocalFile.at(tmp_path / "storage")
    for _ in range(150):
        rank = numbers.randint(1, 5)
        shape = [numbers.choice([1, 2, 3, 5, 40 if rank < 3 else 4]) for _ in range(rank)]
        steps = [numbers.choice([0, 1, 2, 5, 30, 180, 200]) for _ in range(rank)]
        first = numbers.randint(0, 50)
        expected = torch.as_strided(torch.from_numpy(values), shape, steps, first).contiguous().numpy().tobytes()
        held = Extent(source, 24, values.nbytes)
        piece = Strided(Tensor.in_storage("t", FLOAT32, shape, steps, held, first))
        part = numbers.randint(1, 400)  # one after the other, as files are written
        assert (
            b"".join(rendered(piece, at, min(at + part, piece.size)) for at in range(0, piece.size, part)) == expected
        )
        start = numbers.randint(0, piece.size)
        stop = numbers.randint(start, piece.size)
        assert rendered(piece, start, stop) == expected[start:stop], (shape, steps, first, start, stop)


class Counting(LocalFile):
    """Counts what the system is asked for."""

    def read_into(self, offset, into):
        super().read_into(offset, into)
        self.__dict__["reads"] = self.__dict__.get("reads", 0) + 1

    def read_runs(self, offsets, length):
        self.__dict__["reads"] = self.__dict__.get("reads", 0) + len(offsets)
        return super().read_runs(offsets, length)


def sparse(tmp_path, elements: int) -> Counting:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(4 * elements)
    return Counting.at(tmp_path / "sparse")


@pytest.mark.parametrize(
    ("shape", "steps", "most"),
    [
        ((1 << 18,), (2,), 40),  # every other element of 2 MiB
        ((1 << 18,), (7,), 140),
        ((16, 32768), (65536, 2), 80),  # of rows of 256 KiB
        ((16, 16383), (16384, 1), 32),
        ((512, 1024), (1, 512), 1024),
        ((512, 8192), (1, 512), 16 * 1024),
        ((64, 25088), (1, 64), 100),  # neighbours are near
        ((1024, 25088), (1, 1024), 13 * 25088),  # 83 rows at a time
        ((64, 64, 3, 3), (9, 9 * 64, 3, 1), 64),  # a transposed convolution's weights as a convolution's
        ((64, 64, 3, 3), (1, 64, 3 * 64 * 64, 64 * 64), 16),  # another framework's
        ((64, 64, 7, 7), (49 * 64, 1, 7 * 64, 64), 50),  # channels last
        ((4096, 4096), (0, 1), 512),  # expanded
        ((4096, 4096), (1, 0), 512),
    ],
)
def test_views_are_read_in_few_reads(tmp_path, shape, steps, most):
    source = sparse(tmp_path, 1 + sum((n - 1) * step for n, step in zip(shape, steps, strict=True)))
    piece = Strided(Tensor.in_storage("t", FLOAT32, shape, steps, Extent(source, 0, source.size)))
    into = memoryview(bytearray(BUFFER))
    for start in range(0, piece.size, BUFFER):
        stop = min(start + BUFFER, piece.size)
        piece.render(start, stop, into[: stop - start])
    assert 0 < source.reads <= most


@pytest.mark.parametrize(("rows", "columns"), [(512, 2048), (512, 16384), (4096, 8192), (8, 1 << 22)])
def test_a_transpose_takes_no_more_memory_than_one_block(tmp_path, rows, columns):
    source = sparse(tmp_path, rows * columns)
    piece = Strided(Tensor.in_storage("t", FLOAT32, (rows, columns), (1, rows), Extent(source, 0, source.size)))
    assert piece.size == 4 * prod((rows, columns))
    into = memoryview(bytearray(BUFFER))
    piece.render(0, 8, into[:8])
    tracemalloc.start()
    for start in range(0, piece.size // 2, BUFFER):
        piece.render(start, start + BUFFER, into)
    _, peak = tracemalloc.get_traced_memory()
    piece.render(piece.size - BUFFER, piece.size, into)
    left, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < strides.AHEAD + 8 * BUFFER
    assert left < BUFFER
