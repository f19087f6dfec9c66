"""Views against torch, which carries out what they only say; and blobs that no checkpoint holds."""

from __future__ import annotations

import random
from math import prod

import numpy as np
import pytest
import torch

from streamexport.net import kernels
from streamexport.payload.tensors import FLOAT32, Stored
from streamexport.tracing.views import View
from tests.payload.test_extents import rendered


def carried_out(view: View) -> torch.Tensor:
    """The elements 0, 1, 2, ... of a blob, seen through a view."""
    return torch.arange(prod(view.atoms)).reshape(view.atoms or (1,)).permute(view.order or (0,)).reshape(view.shape)


def factors(number: int, chooser: random.Random) -> list[int]:
    """Random sizes whose product it is."""
    sizes = [1] * chooser.randrange(2)
    while number > 1:
        size = chooser.choice([n for n in range(2, number + 1) if number % n == 0])
        sizes.append(size)
        number //= size
    return sizes


@pytest.mark.parametrize("seed", range(60))
def test_a_view_is_what_torch_s_is(seed):
    chooser = random.Random(seed)
    shape = tuple(chooser.choice([1, 2, 3, 4, 6]) for _ in range(4))
    view, tensor = View.of(shape), torch.arange(prod(shape)).reshape(shape)
    for _ in range(6):
        order = chooser.sample(range(tensor.ndim), tensor.ndim)
        view, tensor = view.permuted(order), tensor.permute(order)
        wanted = tuple(factors(tensor.numel(), chooser))
        reshaped = view.reshaped(wanted)
        if reshaped is not None:
            view, tensor = reshaped, tensor.reshape(wanted)
        assert view.shape == tuple(tensor.shape)
        assert torch.equal(carried_out(view), tensor)
        assert view.is_contiguous == torch.equal(tensor.flatten(), torch.arange(tensor.numel()))


def test_what_was_turned_back_is_contiguous():
    view = View.of((2, 6, 5, 7)).reshaped((2, 3, 2, 5, 7))
    assert view is not None
    turned = view.permuted((0, 2, 1, 3, 4))
    assert not turned.is_contiguous
    assert turned.permuted((0, 2, 1, 3, 4)).is_contiguous
    assert turned.reshaped((2, 6, 35)) == View((2, 3, 2, 35), ((0,), (2, 1), (3,)))
    assert turned.reshaped((3, 2, 2, 35)) is None


def array(blob_or_values: object, shape: tuple[int, ...]) -> np.ndarray:
    return np.frombuffer(rendered(blob_or_values), "<f4").reshape(shape)


def test_kernels_are_embedded_where_they_belong():
    small = np.arange(1, 13, dtype="<f4").reshape(2, 1, 2, 3)
    source = kernels.literal(small.shape, small.ravel().tolist())
    made = kernels.Embedded(Stored(source.values, FLOAT32, "kernel"), (2, 3), (4, 7), (1, 0), (2, 3))
    expected = np.zeros((2, 1, 4, 7), "f4")
    expected[:, :, 1::2, ::3] = small
    np.testing.assert_array_equal(array(made, expected.shape), expected)
    whole = rendered(made)
    for start in range(0, len(whole), 5):
        assert rendered(made, start, min(start + 33, len(whole))) == whole[start : start + 33]


def test_constants_and_selections():
    np.testing.assert_array_equal(array(kernels.filled((3, 2), 0.5).values, (3, 2)), np.full((3, 2), 0.5))
    made = kernels.selected((3, 4), [2, None, 0])
    np.testing.assert_array_equal(array(made.values, (3, 4)), [[0, 0, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0]])
    assert rendered(made.values, 7, 40) == rendered(made.values)[7:40]
    np.testing.assert_array_equal(array(kernels.literal((2,), [1, -2]).values, (2,)), [1, -2])
