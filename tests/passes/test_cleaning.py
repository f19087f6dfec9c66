"""Passes that leave layers out or write over them: small nets before and after, computed by OpenCV and by torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import streamexport
from streamexport.caffe.prototxt import prototxt
from streamexport.net import operations as ops
from streamexport.net.graph import Layer, Net
from streamexport.net.kernels import literal
from streamexport.net.windows import ONE_PIXEL
from streamexport.passes import cleaning, opencv
from streamexport.running.engines import open_engine
from tests.payload.test_extents import rendered

SHAPE = (1, 3, 4, 5)
IMAGE = np.random.default_rng(0).standard_normal(SHAPE).astype("f4")


def layer(name: str, kind: str, bottoms: str, **attributes: object) -> Layer:
    return Layer(name, getattr(ops, kind)(**attributes), tuple(bottoms.split()), (name,))


def power(name: str, bottom: str, **attributes: float) -> Layer:
    return layer(name, "Power", bottom, **attributes)


def convolution(name: str, bottom: str) -> Layer:
    """1x1, from three channels to four."""
    blobs = (literal((4, 3, 1, 1), np.random.default_rng(1).standard_normal(12)),)
    return Layer(name, ops.Convolution(4, ONE_PIXEL, has_bias=False), (bottom,), (name,), blobs)


def product(name: str, bottom: str) -> Layer:
    """Of three channels of 4x5 pixels with a matrix of two rows."""
    blobs = (literal((2, 60), np.random.default_rng(2).standard_normal(120)),)
    return Layer(name, ops.InnerProduct(2, has_bias=False), (bottom,), (name,), blobs)


def net(*layers: Layer, outputs: str) -> Net:
    data = Layer("data", ops.Input((SHAPE,)), (), ("data",))
    return Net("net", (data, *layers), outputs=tuple(outputs.split()))


def names(made: Net) -> list[str]:
    return [layer.name for layer in made.layers]


def computed(directory: Path, made: Net, engine: str) -> list[np.ndarray]:
    """What an engine makes of a net's outputs, asked for together: OpenCV overwrites what it is not asked for."""
    text, model = directory / "net.prototxt", directory / "net.caffemodel"
    text.write_text(prototxt(made))
    model.write_bytes(rendered(streamexport.layout(made)))
    with open_engine(engine, text, [model], made.outputs) as compute:
        tops = compute(IMAGE)
    return [tops[output] for output in made.outputs]


@pytest.fixture(params=["opencv", "stream"])
def assert_same(tmp_path, request):
    """Asserts that a net has the outputs of another one, and the same numbers in them."""

    def check(made: Net, original: Net) -> None:
        assert made.outputs == original.outputs
        pairs = zip(*(computed(tmp_path, each, request.param) for each in (made, original)), strict=True)
        for found, expected in pairs:
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)

    return check


@pytest.fixture(params=["opencv", "stream"])
def assert_computes(tmp_path, request):
    """Asserts that a net's only output is this array."""

    def check(made: Net, expected: np.ndarray) -> None:
        (found,) = computed(tmp_path, made, request.param)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)

    return check


# Identities


def test_dropout_and_powers_that_change_nothing_are_left_out(assert_same):
    original = net(
        convolution("conv", "data"),
        layer("drop", "Dropout", "conv"),
        power("same", "drop", power=1.0, scale=1.0),
        layer("relu", "ReLU", "same"),
        layer("sum", "Eltwise", "same relu"),
        outputs="sum",
    )
    made = cleaning.without_identities(original)
    assert names(made) == ["data", "conv", "relu", "sum"]
    assert made.layers[-1].bottoms == ("conv", "relu")
    assert_same(made, original)


def test_an_identity_that_an_output_is_called_after_stays(assert_same):
    original = net(convolution("conv", "data"), layer("drop", "Dropout", "conv"), outputs="drop")
    made = cleaning.without_identities(original)
    assert made == original
    assert_same(made, original)


@pytest.mark.parametrize("parameters", [{"power": 2.0}, {"scale": -1.0}, {"shift": 0.5}])
def test_a_power_that_changes_something_stays(parameters):
    original = net(power("power", "data", **parameters), layer("relu", "ReLU", "power"), outputs="relu")
    assert cleaning.without_identities(original) == original


# Flatten


def test_flatten_in_front_of_inner_products_is_left_out(assert_same):
    original = net(
        layer("relu", "ReLU", "data"),
        layer("flat", "Flatten", "relu"),
        product("fc1", "flat"),
        product("fc2", "flat"),
        layer("sum", "Eltwise", "fc1 fc2"),
        outputs="sum",
    )
    made = cleaning.without_flatten(original)
    assert names(made) == ["data", "relu", "fc1", "fc2", "sum"]
    assert_same(made, original)


@pytest.mark.parametrize(
    "layers",
    [
        pytest.param((product("fc", "flat"), layer("soft", "Softmax", "flat")), id="a consumer of another kind"),
        pytest.param((product("fc", "flat"),), id="an output of that name"),
        pytest.param((layer("soft", "Softmax", "flat"),), id="no inner product"),
    ],
)
def test_flatten_that_somebody_else_takes_stays(layers):
    outputs = " ".join(layer.name for layer in layers)
    original = net(layer("flat", "Flatten", "data"), *layers, outputs=outputs if len(layers) > 1 else f"{outputs} flat")
    assert cleaning.without_flatten(original) == original


def test_flatten_that_keeps_dimensions_stays():
    """An inner product over the last axis takes what Flatten makes of height and width."""
    rows = layer("rows", "Flatten", "data", axis=2)
    blobs = (literal((2, 20), [1.0] * 40),)
    parameters = {"inner_product_param": {"num_output": 2, "bias_term": False, "axis": 2}}
    original = net(rows, Layer("fc", "InnerProduct", ("rows",), ("fc",), parameters, blobs), outputs="fc")
    assert cleaning.without_flatten(original) == original


# Power


def test_powers_in_a_row_become_one(assert_computes):
    original = net(
        power("a", "data", scale=2.0, shift=1.0),
        power("b", "a", scale=-0.5),
        power("c", "b", power=2.0, scale=3.0, shift=0.25),
        outputs="c",
    )
    made = cleaning.merge_powers(original)
    assert names(made) == ["data", "c"]
    x = IMAGE.astype("f8")
    assert_computes(made, (0.25 + 3 * (-0.5 * (1 + 2 * x))) ** 2)


def test_a_power_behind_one_that_is_no_line_stays():
    original = net(power("a", "data", power=2.0), power("b", "a", scale=3.0, shift=1.0), outputs="b")
    assert cleaning.merge_powers(original) == original


def test_a_power_that_others_take_stays(assert_same):
    original = net(
        power("a", "data", scale=2.0),
        power("b", "a", shift=1.0),
        layer("sum", "Eltwise", "a b"),
        outputs="sum",
    )
    made = cleaning.merge_powers(original)
    assert made == original
    assert_same(made, original)


def test_a_power_that_is_an_output_stays():
    original = net(power("a", "data", scale=2.0), power("b", "a", shift=1.0), outputs="a b")
    assert cleaning.merge_powers(original) == original


# Dead layers


def test_what_no_output_needs_is_left_out_but_inputs_stay(assert_same):
    original = net(
        convolution("conv", "data"),
        layer("abs", "AbsVal", "conv"),
        layer("relu", "ReLU", "conv"),
        layer("exp", "Exp", "abs"),
        outputs="relu",
    )
    made = cleaning.without_dead(original)
    assert names(made) == ["data", "conv", "relu"]
    assert_same(made, original)
    of_two = net(layer("other", "Input", "", shapes=((1,),)), layer("relu", "ReLU", "data"), outputs="relu")
    assert cleaning.without_dead(of_two) == of_two


# In place


def test_layers_write_over_their_bottoms(assert_same):
    original = net(
        convolution("conv", "data"),
        layer("tanh", "TanH", "conv"),
        layer("relu", "ReLU", "tanh"),
        convolution("conv2", "data"),
        layer("sum", "Eltwise", "relu conv2"),
        outputs="sum",
    )
    made = cleaning.write_in_place(original)
    tops = {layer.name: (layer.bottoms, layer.tops) for layer in made.layers}
    assert tops["tanh"] == tops["relu"] == (("conv",), ("conv",))
    assert tops["sum"] == (("conv", "conv2"), ("sum",))
    assert_same(made, original)


def test_products_are_written_over_a_factor_that_nobody_else_takes(assert_same):
    """The second one comes first then; neither, where both are taken by others, or are the same."""
    original = net(
        convolution("conv", "data"),
        convolution("gate", "data"),
        layer("first", "Eltwise", "conv gate", method="PROD"),
        layer("square", "Eltwise", "first first", method="PROD"),
        convolution("conv2", "data"),
        layer("second", "Eltwise", "square conv2", method="PROD"),
        layer("sum", "Eltwise", "second square"),
        layer("end", "Eltwise", "sum conv", method="PROD"),
        layer("soft", "Softmax", "end"),
        layer("last", "AbsVal", "soft"),
        outputs="last",
    )
    made = cleaning.write_in_place(original)
    tops = {layer.name: (layer.bottoms, layer.tops) for layer in made.layers}
    assert tops["first"] == (("gate", "conv"), ("gate",))
    assert tops["square"] == (("gate", "gate"), ("square",))
    assert tops["second"] == (("conv2", "square"), ("conv2",))
    assert tops["sum"] == (("conv2", "square"), ("sum",))
    assert tops["end"] == (("sum", "conv"), ("sum",)) and tops["soft"] == (("sum",), ("sum",))
    assert_same(made, original)


@pytest.mark.parametrize(
    ("layers", "outputs"),
    [
        pytest.param([layer("relu", "ReLU", "data"), convolution("conv", "relu")], "conv", id="over the input"),
        pytest.param(
            [convolution("conv", "data"), layer("abs", "AbsVal", "conv"), layer("soft", "Softmax", "abs")],
            "soft",
            id="AbsVal, which Caffe refuses in place",
        ),
        pytest.param(
            [convolution("conv", "data"), layer("relu", "ReLU", "conv"), layer("sum", "Eltwise", "conv relu")],
            "sum",
            id="over what others take",
        ),
        pytest.param([convolution("conv", "data"), layer("relu", "ReLU", "conv")], "relu", id="as an output"),
        pytest.param(
            [convolution("conv", "data"), layer("relu", "ReLU", "conv"), layer("soft", "Softmax", "relu")],
            "conv soft",
            id="over an output",
        ),
        pytest.param(
            [convolution("conv", "data"), layer("soft", "Softmax", "conv"), convolution("end", "data")],
            "soft end",
            id="what works on several elements",
        ),
    ],
)
def test_layers_that_may_not_write_in_place_do_not(assert_same, layers, outputs):
    original = net(*layers, outputs=outputs)
    made = cleaning.write_in_place(original)
    assert made == original
    assert_same(made, original)


# Together


def test_cleaning_leaves_a_net_alone_that_does_not_say_what_it_is_for():
    original = net(layer("drop", "Dropout", "data"), layer("abs", "AbsVal", "data"), outputs="")
    assert cleaning.clean(original) is original


def test_cleaning_uncovers_what_can_be_cleaned(assert_same):
    """Dropout between two Powers, and a Flatten whose other consumer is dead."""
    original = net(
        power("a", "data", scale=2.0),
        layer("drop", "Dropout", "a"),
        power("b", "drop", shift=1.0),
        layer("flat", "Flatten", "b"),
        product("fc", "flat"),
        outputs="fc",
    )
    made = cleaning.clean(original)
    assert names(made) == ["data", "b", "fc"]
    assert_same(made, original)


# What OpenCV merges


@pytest.mark.parametrize("exponent", [0.5, -0.5, 2.0])
@pytest.mark.parametrize("dialect", ["portable", "opencv", "ssd"])
def test_a_factor_behind_a_power_is_no_part_of_it(assert_computes, dialect, exponent):
    original = net(
        layer("sigmoid", "Sigmoid", "data"),
        power("root", "sigmoid", power=exponent),
        power("line", "root", scale=3.0, shift=-1.0),
        outputs="line",
    )
    sigmoid = 1 / (1 + np.exp(-IMAGE.astype("f8")))
    assert_computes(opencv.keep_apart(original, dialect), 3 * sigmoid**exponent - 1)


@pytest.mark.parametrize(
    "layers",
    [
        pytest.param([power("a", "data", power=2.0), layer("b", "ReLU", "a")], id="no factor behind it"),
        pytest.param([power("a", "data", scale=2.0), power("b", "a", shift=1.0)], id="no power"),
        pytest.param([power("a", "data", power=2.0, shift=1.0), power("b", "a", scale=2.0)], id="a shift of its own"),
    ],
)
def test_what_opencv_merges_rightly_stays_as_it_is(assert_same, layers):
    original = net(*layers, outputs="b")
    made = opencv.keep_apart(original, "portable")
    assert made == original
    assert_same(made, original)


def test_bvlc_s_dialect_has_nothing_to_keep_apart():
    original = net(power("a", "data", power=2.0), power("b", "a", scale=2.0), outputs="b")
    assert opencv.keep_apart(original, "bvlc") is original
