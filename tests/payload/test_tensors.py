"""Views of storages against torch's own, and casts against numpy's."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from streamexport.errors import LimitError, TensorError
from streamexport.payload.pieces import BUFFER, Extent
from streamexport.payload.tensors import DTYPES, FLOAT16, FLOAT32, Cast, Stored, Tensor, rounded_to_half
from streamexport.sources.local import LocalFile
from tests.payload.test_extents import rendered


def storage(tmp_path, array: np.ndarray) -> Extent:
    path = tmp_path / "storage"
    path.write_bytes(b"\xee" * 24 + array.tobytes())
    source = LocalFile.at(path)
    return Extent(source, 24, source.size - 24)


def test_every_view_of_a_storage_has_the_elements_that_torch_says(tmp_path):
    values = np.arange(20_000, dtype="<f4")
    held, reference, numbers = storage(tmp_path, values), torch.from_numpy(values), random.Random(1)
    for _ in range(400):
        rank = numbers.randint(0, 4)
        shape = [numbers.choice([0, 1, 2, 3, 5, 6] if numbers.random() < 0.1 else [1, 2, 3, 6]) for _ in range(rank)]
        strides = [numbers.choice([0, 1, 2, 5, 30, 180]) for _ in range(rank)]
        first = numbers.randint(0, 50)
        tensor = Tensor.in_storage("t", FLOAT32, shape, strides, held, first)
        expected = torch.as_strided(reference, shape, strides, first)
        assert tensor.is_contiguous == expected.is_contiguous()
        raw, piece = expected.contiguous().numpy().tobytes(), tensor.as_float32()
        start = numbers.randint(0, len(raw))
        stop = numbers.randint(start, len(raw))
        assert piece.size == len(raw)
        assert rendered(piece, start, stop) == raw[start:stop]


def test_a_view_whose_runs_do_not_fit_into_one_buffer(tmp_path):
    values = np.arange(600 * 700, dtype="<f4").reshape(600, 700)
    assert values.nbytes > 2 * BUFFER
    tensor = Tensor.in_storage("t", FLOAT32, (700, 600), (1, 700), storage(tmp_path, values))
    assert rendered(tensor.as_float32()) == values.T.copy().tobytes()


def test_contiguous_float32_is_the_extent_itself(tmp_path):
    held = storage(tmp_path, np.zeros(60, "<f4"))
    tensor = Tensor.in_storage("t", FLOAT32, (3, 4), (4, 1), held, 5)
    assert tensor.as_float32() == Extent(held.source, 24 + 20, 48)


@pytest.mark.parametrize(
    ("shape", "strides", "first"),
    [
        ((11,), (1,), 0),
        ((10,), (1,), 1),
        ((2, 2), (9, 1), 0),
        ((1,), (1,), 10),
        ((1,), (1,), -1),
        ((-1,), (1,), 0),
        ((2,), (-1,), 5),
        ((2,), (1, 1), 0),
        ((1 << 62, 4), (1, 1), 0),
        ((2,), (1 << 63,), 0),
        ((True,), (1,), 0),
        ((2.0,), (1,), 0),
    ],
)
def test_a_view_that_reaches_outside_its_storage_cannot_be_made(tmp_path, shape, strides, first):
    with pytest.raises(TensorError, match="t: "):
        Tensor.in_storage("t", FLOAT32, shape, strides, storage(tmp_path, np.zeros(10, "<f4")), first)


def test_half_and_bfloat16_become_float32_exactly(tmp_path):
    bits = np.arange(1 << 16, dtype="<u2")
    for name, dtype in (("float16", torch.float16), ("bfloat16", torch.bfloat16)):
        held = storage(tmp_path, bits)
        tensor = Tensor.in_storage("t", DTYPES[name], (1 << 16,), (1,), held)
        expected = torch.from_numpy(bits.copy()).view(dtype).float().numpy()
        found = np.frombuffer(rendered(tensor.as_float32()), "<f4")
        np.testing.assert_array_equal(found, expected)


def test_double_is_rounded_to_nearest_and_too_large_ones_are_named(tmp_path):
    values = np.array([1 / 3, 1e-50, -2.0, 3.4e38], "<f8")
    tensor = Tensor.in_storage("t", DTYPES["float64"], (4,), (1,), storage(tmp_path, values))
    assert rendered(tensor.as_float32()) == values.astype("<f4").tobytes()
    huge = Tensor.in_storage("big", DTYPES["float64"], (2,), (1,), storage(tmp_path, np.array([1.0, 1e39])))
    with pytest.raises(LimitError, match=r"big: element 1 is 1e\+39, too large for float32"):
        rendered(huge.as_float32())


def test_a_value_that_overflows_half_is_named_and_infinity_stays(tmp_path):
    for values, refused in (([1.0, 65504.0, np.inf, np.nan], False), ([1.0, 65520.0], True)):
        held = storage(tmp_path, np.array(values, "<f4"))
        tensor = Tensor.in_storage("w", FLOAT32, (len(values),), (1,), held)
        cast = Cast(Stored(tensor.extent, FLOAT32, tensor.name), FLOAT16)
        if refused:
            with pytest.raises(LimitError, match="w: element 1 is 65520, too large for float16"):
                rendered(cast)
        else:
            np.testing.assert_array_equal(np.frombuffer(rendered(cast), "<f2"), np.array(values, "<f2"))


def test_float32_is_rounded_to_half_like_numpy_s_cast():
    """Every sign, exponent and seven bits of the significand, with lower bits around each power of two."""
    low = sorted({(1 << bit) + nearby & 0xFFFF for bit in range(17) for nearby in (-1, 0, 1)})
    for upper in range(0, 1 << 16, 1 << 12):
        bits = (np.arange(upper, upper + (1 << 12), dtype="<u4")[:, None] << 16) + np.array(low, "<u4")
        values = bits.reshape(-1).view("<f4")
        fit = np.abs(values) < 65520
        halves = rounded_to_half(values[fit])
        np.testing.assert_array_equal(halves.view("<u2"), values[fit].astype("<f2").view("<u2"))
        for value in values[~fit][::997]:  # too large, infinite or no number
            assert rounded_to_half(np.array([0, value], "<f4")) is None
    assert rounded_to_half(np.empty(0, "<f4")).size == 0


@pytest.mark.parametrize("name", [name for name, dtype in DTYPES.items() if not dtype.is_floating])
def test_what_is_not_floating_point_is_refused_where_a_blob_needs_it(tmp_path, name):
    dtype = DTYPES[name]
    tensor = Tensor.in_storage("counter", dtype, (2,), (1,), storage(tmp_path, np.zeros(2 * dtype.itemsize, "u1")))
    with pytest.raises(TensorError, match=f"counter: holds {name}"):
        tensor.as_float32()
