"""Dimensions in another order, in dialects that have no layer for it: what numpy says, to the bit, in every program."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch

import streamexport
from streamexport import Layer, Net
from streamexport.caffe.prototxt import prototxt
from streamexport.counting.costs import costs
from streamexport.net.operations import Convolution, Deconvolution, Input, Permute, Power, Rearrange
from streamexport.passes import dialects, exchanges
from streamexport.running.engines import open_engine
from tests.payload.test_extents import rendered
from tests.shared import caffe_judge
from tests.shared.traced_modules import build

CASES = {
    "channels last": ((1, 6, 4, 5), (1, 6, 20), (0, 2, 1), (1, 4, 5, 6)),
    "channels first": ((1, 4, 5, 6), (1, 20, 6), (0, 2, 1), (1, 6, 4, 5)),
    "a batch": ((3, 6, 4, 5), (3, 6, 20), (0, 2, 1), (3, 4, 5, 6)),
    "rows and columns": ((2, 3, 5, 4), (2, 3, 5, 4), (0, 1, 3, 2), (2, 3, 4, 5)),
    "channels and rows": ((2, 3, 5, 4), (2, 3, 5, 4), (0, 2, 1, 3), (2, 5, 3, 4)),
    "the batch behind": ((3, 8), (3, 8), (1, 0), (8, 3)),
    "heads": ((2, 7, 12), (2, 7, 3, 4), (0, 2, 1, 3), (2, 3, 7, 4)),
    "heads, turned": ((2, 7, 12), (2, 7, 3, 4), (0, 2, 3, 1), (2, 3, 4, 7)),
    "heads, packed": ((1, 7, 36), (7, 3, 3, 4), (1, 2, 0, 3), (3, 3, 7, 4)),
    "windows": ((1, 5, 6, 4), (5, 3, 2, 2, 2), (1, 3, 2, 4, 0), (6, 4, 5)),
    "windows, joined": ((6, 4, 5), (3, 2, 2, 2, 5), (4, 0, 2, 1, 3), (1, 5, 6, 4)),
    "all of it backwards": ((2, 3, 4, 5), (2, 3, 4, 5), (3, 2, 1, 0), (5, 4, 3, 2)),
}
"""Of a bottom: its shape, the atoms, their order, the top's shape."""
COPIED = {
    "few first": ((2, 3, 5, 128), (2, 3, 5, 128), (0, 2, 1, 3), (2, 5, 3, 128)),
    "few second": ((2, 5, 3, 128), (2, 5, 3, 128), (0, 2, 1, 3), (2, 3, 5, 128)),
    "the batch": ((2, 3, 600), (2, 3, 600), (1, 0, 2), (3, 2, 600)),
    "two apart": ((1, 2, 3, 4, 200), (2, 3, 4, 200), (2, 1, 0, 3), (4, 3, 2, 200)),
    "channels of vectors": ((2, 15, 128), (2, 5, 3, 128), (0, 2, 1, 3), (2, 3, 5, 128)),
    "many": ((1, 40, 33, 64), (40, 33, 64), (1, 0, 2), (1, 33, 40, 64)),
}
"""Of long runs: these are cut."""


def expected(values: np.ndarray, case: tuple) -> np.ndarray:
    _, atoms, order, shape = case
    return values.reshape(atoms).transpose(order).reshape(shape)


class Turned:
    """A net in a dialect that turns a blob between two layers that do nothing, as files, and what is given to it."""

    def __init__(self, directory: Path, case: tuple, dialect: str) -> None:
        bottom, _, _, shape = case
        directory.mkdir()
        self.net = dialects.express(
            Net(
                "turned",
                (
                    Layer("data", Input((bottom,)), (), ("data",), shapes=(bottom,)),
                    Layer("turned", Rearrange(*case), ("data",), ("turned",), shapes=(shape,)),
                    Layer("end", Power(), ("turned",), ("end",), shapes=(shape,)),
                ),
            ),
            dialect,
        )
        self.prototxt, self.model = directory / "net.prototxt", directory / "net.caffemodel"
        self.prototxt.write_text(prototxt(self.net))
        streamexport.publish([streamexport.File(str(self.model), streamexport.layout(self.net))])
        self.values = np.random.default_rng(0).standard_normal(bottom).astype("<f4")
        if not any(layer.blobs for layer in self.net.layers):
            self.values.flat[:3] = np.inf, -np.inf, np.nan
        self.expected = expected(self.values, case)
        np.savez(directory / "inputs.npz", data=self.values)

    def answer(self, engine: str) -> np.ndarray:
        with open_engine(engine, self.prototxt, [self.model], ["end"]) as compute:
            return compute({"data": self.values})["end"]


def random_case(seed: int) -> tuple:
    chooser = random.Random(seed)
    atoms = tuple(chooser.choice([1, 2, 3, 4, 5]) for _ in range(chooser.randint(2, 6)))
    atoms = (*atoms[:-1], atoms[-1] * chooser.choice([1, 100]))
    order = tuple(chooser.sample(range(len(atoms)), len(atoms)))
    return (atoms[0], prod(atoms[1:])), atoms, order, tuple(atoms[atom] for atom in order)


ALL = {**CASES, **COPIED, **{f"seed {seed}": random_case(seed) for seed in range(12)}}


@pytest.mark.parametrize("engine", ["stream", "opencv"])
@pytest.mark.parametrize("case", ALL.values(), ids=ALL)
def test_what_is_turned_is_what_numpy_says(tmp_path, case, engine):
    turned = Turned(tmp_path / "net", case, "portable")
    assert not any(isinstance(layer.operation, Permute | Rearrange) for layer in turned.net.layers)
    np.testing.assert_array_equal(turned.answer(engine), turned.expected)


@pytest.mark.parametrize("case", COPIED.values(), ids=COPIED)
def test_long_runs_are_copied(tmp_path, case):
    """By layers that multiply nothing, and hold nothing: so --flops says, too."""
    turned = Turned(tmp_path / "net", case, "portable")
    kinds = [layer.type for layer in turned.net.layers if layer.type != "Reshape"]
    assert kinds == ["Input", *["Slice", "Concat"] * ((len(kinds) - 2) // 2), "Power"]
    assert all(cost.multiply_adds == cost.parameters == 0 for cost in costs(turned.prototxt))


IMAGES = {
    "picked": ((2, 6, 3, 4), (2, 2, 3, 12), ["Convolution"]),
    "copied": ((1, 60, 12, 12), (1, 3, 20, 144), ["Slice", "Concat"]),
    "copied from behind": ((2, 64, 9, 11), (2, 16, 4, 99), ["Slice", "Concat"]),
    "before others": ((2, 60, 12, 12), (2, 3, 5, 4, 144), ["Slice", "Concat"]),
}
"""A bottom's shape, the atoms, of which the second and the third change places, and the layers that do it in portable."""


@pytest.fixture(params=itertools.product(IMAGES.values(), ("portable", "ssd")), ids=str)
def image(request, tmp_path):
    """Channels of images in another order, of which there is one more, and larger, than was said; what it makes of them."""
    (shape, atoms, kinds), dialect = request.param
    turned = Turned(tmp_path / "net", (shape, atoms, (0, 2, 1, *range(3, len(atoms))), shape), dialect)
    assert [layer.type for layer in turned.net.layers[1:-1] if layer.type != "Reshape"] == (
        kinds if dialect == "portable" else ["Permute"]
    )
    n, _, height, width = larger = (shape[0] + 1, shape[1], shape[2] + 1, shape[3] + 2)
    values = np.random.default_rng(1).standard_normal(larger).astype("<f4")
    wanted = values.reshape(n, *atoms[1:-1], height, width).swapaxes(1, 2).reshape(larger)
    return turned, values, wanted


@pytest.mark.parametrize("engine", ["stream", "opencv"])
def test_channels_change_places_at_any_size_of_image(image, engine):
    turned, values, wanted = image
    with open_engine(engine, turned.prototxt, [turned.model], ["end"]) as compute:
        np.testing.assert_array_equal(compute({"data": turned.values})["end"], turned.expected)
        np.testing.assert_array_equal(compute({"data": values})["end"], wanted)


@pytest.mark.caffe
def test_channels_change_places_at_any_size_of_image_in_caffe(image):
    turned, values, wanted = image
    data, *layers = turned.net.layers
    larger = replace(data, operation=Input((values.shape,)), shapes=(values.shape,))
    turned.prototxt.write_text(prototxt(turned.net.with_layers((larger, *layers))))
    np.savez(turned.prototxt.parent / "inputs.npz", data=values)
    (tops,) = caffe_judge.judge(turned.prototxt.parent)
    assert tops is not None
    np.testing.assert_array_equal(tops["end"], wanted)


@pytest.mark.caffe
def test_and_in_caffe(tmp_path):
    nets = [Turned(tmp_path / f"{n:02}", case, "bvlc") for n, case in enumerate(ALL.values())]
    for turned, tops in zip(nets, caffe_judge.judge(*sorted(tmp_path.iterdir())), strict=True):
        assert tops is not None
        np.testing.assert_array_equal(tops["end"], turned.expected)


def test_the_batch_stays_free(tmp_path):
    turned = Turned(tmp_path / "net", CASES["a batch"], "portable")
    values = np.concatenate([turned.values, turned.values[:1]])
    with open_engine("stream", turned.prototxt, [turned.model], ["end"]) as compute:
        np.testing.assert_array_equal(
            compute({"data": values})["end"], np.concatenate([turned.expected, turned.expected[:1]])
        )


def carried_out(atoms: tuple[int, ...], path: exchanges.Path) -> tuple[int, ...]:
    found = tuple(range(len(atoms)))
    for i, j, k in path:
        found = (*found[:i], *found[j:k], *found[i:j], *found[k:])
    return found


@pytest.mark.parametrize("atoms", [(2, 3, 5, 7), (7, 5, 3, 2), (1, 6, 1, 4), (9, 2, 2, 8)])
def test_every_order_of_four_is_reached_in_three_steps_at_most(atoms):
    for order in itertools.permutations(range(4)):
        _, path = exchanges.cheapest(atoms, order)
        left = [atom for atom in carried_out(atoms, path) if atoms[atom] != 1]
        assert left == [atom for atom in order if atoms[atom] != 1]
        assert len(set(left)) - 1 >= len(path) or 1 in atoms


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_a_matrix_or_kernels_behind_take_it_in_their_weights(tmp_path, dtype):
    """What numpy says of the weights, and no layer; where rows are kept that are turned themselves, layers."""
    module = build("turned before a matrix and kernels").to(dtype)
    torch.save(module.state_dict(), tmp_path / "c.pth")
    options = streamexport.Options(
        net="tests.shared.traced_modules:build",
        net_args='{"name": "turned before a matrix and kernels"}',
        input_shape=(1, 4, 9, 12),
    )
    net = streamexport.plan([tmp_path / "c.pth"], tmp_path / "m.caffemodel", options).net
    assert [layer.name for layer in net.layers if layer.name.endswith((".turn", ".pick"))] == ["flatten6.turn"]
    held = {layer.name: np.frombuffer(rendered(layer.blobs[0].values), "<f4") for layer in net.layers if layer.blobs}
    weights = {name: value.float().numpy() for name, value in module.state_dict().items()}
    first = weights["first.weight"].reshape(5, 12, 4, 9).transpose(0, 2, 3, 1)
    last = weights["last.weight"].reshape(5, 7, 10, 6).transpose(0, 3, 1, 2)
    mixed = weights["mixed.weight"].reshape(5, 3, 2, 6).transpose(0, 2, 1, 3)
    for name, expected in (("first", first), ("last", last), ("mixed", mixed)):
        np.testing.assert_array_equal(held[name], expected.ravel())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_matrices_and_kernels_in_front_make_it_in_that_order(tmp_path, dtype):
    """What numpy says of weights and biases, and no layer; where pixels are turned, too, layers."""
    module = build("turned behind matrices and kernels").to(dtype)
    torch.save(module.state_dict(), tmp_path / "c.pth")
    options = streamexport.Options(
        net="tests.shared.traced_modules:build",
        net_args='{"name": "turned behind matrices and kernels"}',
        input_shape=(1, 4, 9, 12),
    )
    net = streamexport.plan([tmp_path / "c.pth"], tmp_path / "m.caffemodel", options).net
    held = {layer.name: [np.frombuffer(rendered(b.values), "<f4") for b in layer.blobs] for layer in net.layers}
    assert [name for name in held if name.endswith((".turn", ".split")) or ".flatten" in name] == ["transpose4.split"]
    assert [layer.name for layer in net.layers if layer.bottoms == ("relu",)] == ["max_pool2d", "max_pool2d.size"]
    weights = {name: value.float().numpy() for name, value in module.state_dict().items()}
    orders = {
        "matrix": ((0, 1), (2, 5), (1, 0)),
        "conv": ((0, 1, 2, 3), (2, 3), (1, 0)),
        "up": ((1, 0, 2, 3), (2, 2, 3), (2, 0, 1)),
        "vector": ((0, 1), (4, 6), (1, 0)),
    }
    for name, (axes, atoms, order) in orders.items():
        rows = np.arange(prod(atoms)).reshape(atoms).transpose(order).ravel()
        expected = weights[f"{name}.weight"].transpose(axes)[rows].transpose(axes)
        np.testing.assert_array_equal(held[name][0], expected.ravel())
        if f"{name}.bias" in weights:
            np.testing.assert_array_equal(held[name][1], weights[f"{name}.bias"][rows])


def test_the_shorter_kernel_is_taken(tmp_path):
    """Channels last, of 768 channels and 14 x 14 pixels, or the other way round."""
    kinds = []
    for blob, atoms in (((1, 768, 14, 14), (1, 768, 196)), ((1, 14, 14, 768), (1, 196, 768))):
        layer = Layer("x", Rearrange(blob, atoms, (0, 2, 1), (1, atoms[2], atoms[1])), ("a",), ("x",))
        made = [step for step in exchanges.express(layer, atoms, (0, 2, 1)) if step.blobs]
        assert [step.blobs[0].shape for step in made] == [(196, 1, 1, 196)]
        kinds.append(type(made[0].operation))
    assert kinds == [Convolution, Deconvolution]
