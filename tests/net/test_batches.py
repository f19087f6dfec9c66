"""Which nets take any batch, and what keeps others from it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from streamexport.net import batches
from streamexport.net import operations as ops
from streamexport.net.graph import Layer, Net
from streamexport.net.operations import NEUTRAL, Operation, Shape
from streamexport.net.windows import Window
from streamexport.running.forward import forward
from tests.net.test_kinds import cases, net, write


def free() -> list[object]:
    """Examples of kinds whose bottoms begin alike, and that take any batch."""
    alike = [case for case in cases(*NEUTRAL, ops.Input) if len({shape[0] for shape in case.values[0].bottoms}) == 1]
    return [case for case in alike if batches.said(net(iter(case.values))) == "batch is free"]


@pytest.mark.parametrize("example", free())
def test_where_a_kind_takes_any_batch_each_image_is_what_it_is_alone(tmp_path, example):
    made = net(iter([example]))
    text, model, given = write(tmp_path, made)
    others = {name: np.flip(values, -1).copy() for name, values in given.items()}
    alone = [forward(text, [model], images) for images in (given, others)]
    both = forward(text, [model], {name: np.concatenate([given[name], others[name]]) for name in given})
    for top, values in both.items():
        np.testing.assert_allclose(values, np.concatenate([one[top] for one in alone]), rtol=1e-5, atol=1e-6)


def of(*steps: tuple[Operation, Sequence[str], Sequence[str]], shapes: Sequence[Shape] = ((1, 4, 5, 6),)) -> Net:
    data = [Layer(f"x{n}", ops.Input((shape,)), (), (f"x{n}",)) for n, shape in enumerate(shapes)]
    layers = (Layer(f"made{n}", step, tuple(given), tuple(tops)) for n, (step, given, tops) in enumerate(steps))
    return Net("n", (*data, *layers))


def one(operation: Operation, *, tops: int = 1, bottoms: int = 1, shape: Shape = (2, 4, 5, 6)) -> Net:
    return of((operation, ["x0"] * bottoms, [f"y{n}" for n in range(tops)]), shapes=(shape,))


FREE = {
    "the batch that is there": one(ops.Reshape((0, 2, 60))),
    "what is left, if it is of images": one(ops.Reshape((-1, 5, 6))),
    "a convolution": one(ops.Convolution(3, Window.of((3, 3)))),
    "sums of channels": one(ops.InnerProduct(3)),
    "a constant for each channel": of(
        (ops.DummyData(((4,),), (1.0,)), [], ["c"]), (ops.Scale(1), ["x0", "c"], ["y"]), shapes=((2, 4, 5, 6),)
    ),
}
FIXED = {
    "a size that is said": (one(ops.Reshape((2, 4, 30))), "Reshape"),
    "what is left, over images": (one(ops.Reshape((1, -1, 30))), "Reshape"),
    "images in another order": (one(ops.Permute((1, 0, 2, 3))), "Permute"),
    "images beside each other": (one(ops.Concat(0), bottoms=2), "Concat"),
    "images that are parted": (one(ops.Slice(0), tops=2), "Slice"),
    "images that are repeated": (one(ops.Tile(2, 0)), "Tile"),
    "a softmax over images": (one(ops.Softmax(0)), "Softmax"),
    "a softmax over them, counted from behind": (one(ops.Softmax(-4)), "Softmax"),
    "statistics of the batch": (one(ops.BatchNorm(is_stored=False)), "BatchNorm"),
    "sums over them": (one(ops.Reduction("SUM", 0)), "Reduction"),
    "a matrix over them": (one(ops.InnerProduct(3, axis=0)), "InnerProduct"),
    "numbers for each of them": (one(ops.Scale(0, 2)), "Scale"),
    "steps": (one(ops.GRU(3), shape=(2, 4, 5)), "GRU"),
    "a constant of their shape": (
        of(
            (ops.DummyData(((2, 4, 5, 6),), (1.0,)), [], ["c"]),
            (ops.Eltwise(), ["x0", "c"], ["y"]),
            shapes=((2, 4, 5, 6),),
        ),
        "Eltwise",
    ),
}


@pytest.mark.parametrize("name", FREE)
def test_a_batch_is_free(name):
    assert batches.said(FREE[name]) == "batch is free"


@pytest.mark.parametrize("name", FIXED)
def test_a_batch_is_fixed_by_the_first_layer_that_does_not_take_another(name):
    made, kind = FIXED[name]
    assert batches.said(made) == f"batch is fixed at 2 by {made.layers[-1].name} ({kind})"


def test_inputs_that_begin_differently_have_no_batch():
    made = of((ops.Silence(), ["x0", "x1"], []), shapes=((1, 4), (5, 4)))
    assert batches.said(made) == "batch is fixed: its inputs begin with different sizes"
