"""Products of two activations: torch runs the module, other programs run what it became, and the numbers agree."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

import streamexport
from streamexport.caffe.models import open_models
from streamexport.errors import NetError
from streamexport.net import kernels
from streamexport.net.graph import Call, Layer, Net
from streamexport.net.kernels import Selected
from streamexport.net.operations import Bias, Convolution, Input, MatMul, Power, Rearrange, Slice
from streamexport.net.windows import ONE_PIXEL
from streamexport.passes import dialects, products, slicing
from streamexport.running.engines import open_engine
from streamexport.sources import open_source
from tests.conversion.test_consumers import opencv_logits
from tests.payload.test_extents import rendered
from tests.shared import caffe_judge, traced_modules
from tests.shared.product_modules import PRODUCTS
from tests.tracing.test_traced import Converted


def by_opencv(made: Converted) -> list[np.ndarray]:
    found = [opencv_logits(made.prototxt, made.model, made.image, output) for output in made.outputs]
    return [a.reshape(b.shape) for a, b in zip(found, made.expected, strict=True)]


@pytest.mark.parametrize("name", PRODUCTS)
def test_opencv_and_stream_compute_what_torch_computes(tmp_path, name):
    for dialect in ("opencv", "portable", "bvlc", "ssd"):
        made = Converted(tmp_path / dialect, name, dialect=dialect)
        made.assert_agrees(made.stream())
        if dialect in ("opencv", "portable"):
            made.assert_agrees(by_opencv(made))


@pytest.mark.parametrize("options", [{"in_place": True}, {"names": "classic", "in_place": True}])
@pytest.mark.parametrize("dialect", ["bvlc", "opencv"])
def test_other_options_compute_the_same(tmp_path, dialect, options):
    made = Converted(tmp_path, "small vit", dialect=dialect, **options)
    made.assert_agrees(made.stream())


@pytest.mark.parametrize("name", ["attention, unbind", "attention, select", "small vit"])
def test_a_packed_product_is_one_for_each_part(tmp_path, name):
    """Of a block of rows of the checkpoint's, and nothing is picked or sliced."""
    made = Converted(tmp_path, name, dialect="opencv")
    net = made.plan.net
    assert not any(layer.type == "Slice" for layer in net.layers)
    picks = [layer for layer in net.layers if layer.blobs and isinstance(layer.blobs[0].values, Selected)]
    assert len(picks) == ("vit" in name)  # the class token
    state = torch.load(tmp_path / "c.pth")
    packed = [key for key in state if key.endswith(("qkv.weight", "in_proj_weight"))]
    for key in packed:
        for place, kind in enumerate(("weight", "bias")):
            held = [layer.blobs[place] for layer in net.layers if layer.blobs and key in layer.blobs[0].origin]
            expected = state[key.replace("weight", kind)].numpy()
            np.testing.assert_array_equal(
                [np.frombuffer(rendered(b.values), "<f4") for b in held], expected.reshape(3, -1)
            )
    assert packed


@pytest.mark.parametrize("dialect", ["bvlc", "ssd", "opencv", "portable"])
def test_what_only_caffe_runs_has_sums_in_less_memory(tmp_path, dialect):
    """Means of one image are subtracted as they are, and in place a sum is written over a term; elsewhere there is no Bias."""

    def made(in_place: bool) -> list[Layer]:
        directory = tmp_path / f"{in_place}"
        return list(Converted(directory, "small vit", dialect=dialect, in_place=in_place).plan.net.layers)

    plain, lean = made(False), made(True)
    biases = [[layer for layer in layers if isinstance(layer.operation, Bias)] for layers in (plain, lean)]
    if dialect in ("opencv", "portable"):
        assert biases == [[], []]
        return
    assert plain and all(layer.operation == Bias(2) and layer.name.endswith(".centred") for layer in biases[0])
    assert not any(layer.name.endswith("mean_spread") for layer in plain)
    over = [layer for layer in biases[1] if layer.operation == Bias(0)]
    assert over and all(layer.tops == layer.bottoms[:1] for layer in over)


def test_opencv_multiplies_large_matrices_itself_for_any_batch(tmp_path):
    """Where nobody else runs the net; each image is what it is alone, to the bit."""
    made = Converted(tmp_path, "attention, wide", dialect="opencv")
    kinds = Counter(layer.type for layer in made.plan.net.layers)
    assert (kinds["Const"], kinds["MatMul"], kinds["Convolution"], kinds["InnerProduct"]) == (6, 8, 0, 0)
    images = np.random.default_rng(0).standard_normal((2, *made.shape[1:])).astype("f4")
    for output in made.outputs:
        alone = [opencv_logits(made.prototxt, made.model, image[None], output) for image in images]
        together = opencv_logits(made.prototxt, made.model, images, output)
        np.testing.assert_array_equal(together.reshape(2, -1), [answer.ravel() for answer in alone])


@pytest.mark.parametrize("name", ["attention, unbind", "attention, chunk, by hand"])
@pytest.mark.parametrize(("dialect", "powers"), [("portable", 0), ("bvlc", 0), ("ssd", 0), ("opencv", 1)])
def test_the_scale_of_attention_is_no_layer_where_the_product_is_composed(tmp_path, name, dialect, powers):
    """Whether queries or scores are multiplied by it."""
    made = Converted(tmp_path, name, dialect=dialect)
    assert [layer.type for layer in made.plan.net.layers].count("Power") == powers
    made.assert_agrees(made.stream())


def test_what_others_take_is_scaled_by_a_layer():
    """A factor that is an output or that two take, and what a module made; another's scale is taken once."""
    shape = (1, 2, 3, 3)

    def net(*outputs: str, origin: Call | None = None) -> Net:
        layers = [
            Layer("x", Input((shape,)), (), ("x",)),
            Layer("half", Power(scale=0.5), ("x",), ("half",), origin=origin),
            Layer("moved", Rearrange(shape, (2, 3, 3), (0, 2, 1), shape), ("half",), ("moved",)),
            Layer("p", MatMul(), ("x", "moved"), ("p",)),
            Layer("third", Power(scale=0.25), ("p",), ("third",)),
            Layer("q", MatMul(False, True), ("third", "x"), ("q",)),
        ]
        return Net("n", tuple(replace(layer, shapes=(shape,)) for layer in layers), outputs=("q", *outputs))

    def taken(given: Net) -> list[tuple[str, float]]:
        layers = products.take_scales(given).layers
        return [(layer.name, getattr(layer.operation, "scale", 0)) for layer in layers[1:] if layer.name != "moved"]

    assert taken(net()) == [("p", 0.125), ("q", 0)]
    assert taken(net("half")) == [("half", 0.5), ("p", 0.25), ("q", 0)]
    assert taken(net("p")) == [("p", 0.5), ("q", 0.25)]
    assert taken(net("third")) == [("p", 0.5), ("third", 0.25), ("q", 0)]
    assert taken(net(origin=Call("half"))) == [("half", 0.5), ("p", 0.25), ("q", 0)]


def test_parts_that_are_not_all_of_a_blob_are_picked_by_themselves():
    """Nor are parts that overlap, nor all of one blob in another's place."""
    blob, other = (Layer(name, Input(((1, 6, 2, 2),)), (), (name,), shapes=((1, 6, 2, 2),)) for name in "xy")

    def pick(bottom: str, first: int, last: int) -> Layer:
        weight = kernels.selected((last - first, 6, 1, 1), range(first, last))
        name, shape = f"{bottom}{first}{last}", (1, last - first, 2, 2)
        return Layer(
            name, Convolution(last - first, ONE_PIXEL, has_bias=False), (bottom,), (name,), (weight,), shapes=(shape,)
        )

    def sliced(*picks: Layer) -> list[Layer]:
        net = Net("net", (blob, other, *picks), outputs=tuple(layer.tops[0] for layer in picks))
        return list(slicing.slice_parts(net).layers[2:])

    for left in (
        [pick("x", 0, 2), pick("x", 2, 5)],
        [pick("x", 0, 3), pick("x", 2, 6)],
        [pick("x", 0, 2), pick("y", 2, 6)],
    ):
        assert sliced(*left) == left
    (made,) = sliced(pick("x", 4, 6), pick("x", 0, 1), pick("x", 1, 4))
    assert (made.operation, made.tops) == (Slice(1, (1, 4)), ("x01", "x14", "x46"))


@pytest.mark.parametrize("form", ["caffemodel", "hdf5"])
def test_no_file_holds_what_layers_write(tmp_path, form):
    made = Converted(tmp_path, "attention, unbind", dialect="bvlc")
    path = tmp_path / f"m.{'caffemodel' if form == 'caffemodel' else 'caffemodel.h5'}"
    streamexport.convert([tmp_path / "c.pth"], path, made.options)
    held = {layer.name for layer in open_models([open_source(path)]).layers if layer.blobs}
    assert held and not held.intersection(layer.name for layer in made.plan.net.layers if layer.shared)
    (found,) = streamexport.forward(path.parent / "m.prototxt", [path], made.image, made.outputs).values()
    made.assert_agrees([found])
    costs = {cost.layer: cost for cost in streamexport.costs(path.parent / "m.prototxt")}
    written = [layer for layer in made.plan.net.layers if layer.shared]
    assert len(written) == 4 and not any(costs[layer.name].parameters for layer in written)
    assert sum(costs[layer.name].multiply_adds for layer in written) == 2 * 2 * 144


def test_what_products_need_is_said(tmp_path):
    notes = {
        d: Converted(tmp_path / d, "attention, unbind", dialect=d).plan.notes for d in ("opencv", "bvlc", "portable")
    }
    assert not any("products of two activations" in note for note in notes["opencv"])
    assert any(note.startswith("2 products of two activations are convolutions") for note in notes["bvlc"])
    # scores: 2 heads of 6 x 6 sums of 4, then 6 x 4 sums of 6; each multiplication twice, and the results
    whole, weights = 4 * (2 * 2 * (144 + 144) + 72 + 48), 4 * (48 + 72 + 48 + 48)
    said = f"2 products of two activations take {whole} bytes where no memory is used again, as in Caffe; `dialect=bvlc` takes"
    assert any(note.startswith(f"{said} {weights} for them") for note in notes["portable"])


def test_portable_refuses_what_no_blob_holds():
    """2,048 tokens of 1,024 numbers each."""
    inputs = tuple(Layer(name, Input(((2048, 1024),)), (), (name,), shapes=((2048, 1024),)) for name in "xy")
    product = Layer("p", MatMul(False, True), ("x", "y"), ("p",), shapes=((2048, 2048),))
    net = Net("net", (*inputs, product), outputs=("p",))
    with pytest.raises(
        NetError, match="layer p: multiplies matrices as blobs of 4294967296 elements, Caffe's hold 2147483647"
    ):
        dialects.express(net, "portable")
    assert {layer.type for layer in dialects.express(net, "bvlc").layers} >= {"Parameter", "Silence"}


@pytest.mark.caffe
def test_caffe_computes_what_torch_computes(tmp_path):
    made = {
        f"{dialect} {name}": Converted(
            tmp_path / f"{dialect}{number}", name, dialect=dialect, in_place=bool(number % 2)
        )
        for number, name in enumerate(PRODUCTS)
        for dialect in ("portable", "bvlc", "ssd")
    }
    assert not caffe_judge.departures(made)


@pytest.mark.caffe
@pytest.mark.parametrize("suffix", [".caffemodel", ".caffemodel.h5"])
def test_what_is_written_into_a_blob_is_written_anew_for_each_input(tmp_path, suffix):
    """In one net that stays loaded, from files that do not hold the blob."""
    name = "attention, select"
    made = Converted(tmp_path, name, dialect="bvlc")
    model = tmp_path / f"again{suffix}"
    streamexport.convert([made.model], model)
    module = traced_modules.seeded(name)
    with open_engine("caffe", made.prototxt, [model], made.outputs, caffe_judge.PYTHON) as compute:
        for seed in (1, 2, 1):
            given = np.random.default_rng(seed).standard_normal(made.shape).astype("f4")
            with torch.no_grad():
                made.expected = [module(torch.from_numpy(given)).numpy()]
            answer = compute({made.plan.net.inputs[0]: given})
            made.assert_agrees([answer[output] for output in made.outputs])
