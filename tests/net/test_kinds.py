"""Every kind of layer that is known, walked through all that is said of kinds: fields, shapes, arithmetic, numbers, engines.

A kind without examples fails, and so does one whose codec leaves an attribute out: examples set all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import MISSING, dataclass, fields
from math import prod
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from google.protobuf import text_format
from torch.nn import functional as F  # noqa: N812
from torch.utils.flop_counter import FlopCounterMode

import streamexport
from streamexport.caffe import caffe_pb2, codec
from streamexport.caffe.prototxt import prototxt
from streamexport.conversion.consumers import CAFFES, OPENCVS, VOLUMES, types
from streamexport.errors import NetError
from streamexport.net import operations as ops
from streamexport.net.graph import Blob, Layer, Net
from streamexport.net.inference import Step, infer
from streamexport.net.operations import KINDS, NEUTRAL, Operation, Shape
from streamexport.net.windows import Window
from streamexport.payload.pieces import Literal
from streamexport.running.compute import compute
from streamexport.running.forward import forward
from streamexport.running.task import Buffer, Parameters, Task
from tests.shared import caffe_judge
from tests.shared.small_nets import random, weights

IMAGE = (2, 4, 5, 6)
UNEVEN = Window.of((3, 2), (1, 2), (1, 0), (2, 1))
VOLUME = (2, 4, 3, 5, 6)
DEEP = Window.of((2, 3, 1), (1, 2, 3), (1, 0, 0), (1, 1, 2))


@dataclass(frozen=True)
class Example:
    """A layer, the shapes of its bottoms, and how many tops it has."""

    operation: Operation
    bottoms: tuple[Shape, ...] = (IMAGE,)
    tops: int = 1


EXAMPLES: dict[type[Operation], Sequence[Example]] = {
    kind: [made if isinstance(made, Example) else Example(made) for made in examples]
    for kind, examples in {
        ops.AbsVal: [ops.AbsVal()],
        ops.ArgMax: [ops.ArgMax(1, 2, True), ops.ArgMax(None, 3, True)],
        ops.BNLL: [ops.BNLL()],
        ops.BatchNorm: [ops.BatchNorm(0.125), ops.BatchNorm(0.125, is_stored=False)],
        ops.Bias: [ops.Bias(2, 2), Example(ops.Bias(0), (IMAGE, (2, 4)))],
        ops.Clip: [ops.Clip(-0.5, 0.75)],
        ops.Concat: [Example(ops.Concat(2), (IMAGE, (2, 4, 1, 6)))],
        ops.Const: [Example(ops.Const((3, 2)), ())],
        ops.Convolution: [
            ops.Convolution(6, UNEVEN, 2),
            ops.Convolution(3, Window.of((1, 1)), has_bias=False, axis=-3),
            Example(ops.Convolution(6, DEEP, 2), (VOLUME,)),
            Example(ops.Convolution(3, Window.of((2, 2, 2), dilation=(2, 2, 2)), has_bias=False), (VOLUME,)),
        ],
        ops.Crop: [Example(ops.Crop(1, (1, 1, 2)), (IMAGE, (1, 3, 3, 4)))],
        ops.Deconvolution: [
            ops.Deconvolution(6, Window.of((3, 2), (2, 1), (1, 0)), 2),
            ops.Deconvolution(3, Window.of((2, 2)), has_bias=False, axis=-3),
            Example(ops.Deconvolution(6, DEEP, 2), (VOLUME,)),
            Example(ops.Deconvolution(3, Window.of((2, 2, 2)), has_bias=False), (VOLUME,)),
        ],
        ops.Dropout: [ops.Dropout(0.25)],
        ops.DummyData: [
            Example(ops.DummyData((IMAGE, (2, 3)), (0.5, 2.0)), (), 2),
            Example(ops.DummyData((IMAGE,)), ()),
        ],
        ops.ELU: [ops.ELU(0.5)],
        ops.Eltwise: [
            Example(ops.Eltwise("SUM", (0.5, -2.0)), (IMAGE, IMAGE)),
            Example(ops.Eltwise("PROD"), (IMAGE, IMAGE)),
            Example(ops.Eltwise("MAX"), (IMAGE, IMAGE)),
        ],
        ops.Embed: [Example(ops.Embed(5, 7, False), ((3, 2, 4, 2),)), Example(ops.Embed(5, 7), ((3, 2, 4, 2),))],
        ops.Exp: [ops.Exp(2.0, 0.5, 0.25)],
        ops.Flatten: [ops.Flatten(2, 3)],
        ops.GRU: [Example(ops.GRU(5), ((3, 2, 4),))],
        ops.Gelu: [ops.Gelu()],
        ops.InnerProduct: [ops.InnerProduct(3, False, 2, True), ops.InnerProduct(3)],
        ops.Input: [Example(ops.Input((IMAGE, (2, 3))), (), 2)],
        ops.LRN: [ops.LRN(3, 0.5, 0.25, False, 2.0), ops.LRN(3, 0.5, 0.75, True)],
        ops.LSTM: [
            Example(ops.LSTM(5), ((3, 2, 4), (3, 2))),
            Example(ops.LSTM(5, exposes_states=True), ((3, 2, 4), (3, 2), (1, 2, 5), (1, 2, 5)), 3),
            Example(ops.LSTM(5), ((3, 2, 4),)),
            Example(ops.LSTM(5, is_reversed=True), ((3, 2, 4),)),
        ],
        ops.Log: [ops.Log(2.0, 0.25, 4.0)],
        ops.MVN: [ops.MVN(True, True, 0.125), ops.MVN(False)],
        ops.MatMul: [
            Example(ops.MatMul(), (IMAGE, (2, 4, 6, 3))),
            Example(ops.MatMul(True, True), (IMAGE, (2, 4, 3, 5))),
            Example(ops.MatMul(), ((1, 1, 3, 5), IMAGE)),
        ],
        ops.Normalize: [ops.Normalize(False, False, 0.125)],
        ops.PReLU: [ops.PReLU(), ops.PReLU(is_shared=True)],
        ops.Parameter: [Example(ops.Parameter((3, 2)), ())],
        ops.Permute: [ops.Permute((0, 2, 3, 1))],
        ops.Pooling: [
            ops.Pooling("MAX", Window.of((3, 2), (2, 2), (1, 0)), rounds_down=True, says_ceil_mode=True),
            ops.Pooling("AVE", Window.of((2, 2), (3, 3), (1, 1))),
            ops.Pooling("AVE"),
        ],
        ops.Power: [ops.Power(2.0, 0.5, 0.25)],
        ops.ReLU: [ops.ReLU(0.25)],
        ops.ReLU6: [ops.ReLU6()],
        ops.Rearrange: [ops.Rearrange(IMAGE, (2, 2, 2, 5, 6), (0, 2, 1, 3, 4), IMAGE)],
        ops.Recurrent: [
            Example(ops.Recurrent(5, "lstm", (3, 2, 4), True, False, ("state", "cell")), ((3, 2, 4),), 2),
            Example(ops.Recurrent(5, "gru", (3, 2, 4)), ((3, 2, 4), (1, 2, 5))),
        ],
        ops.Reduction: [ops.Reduction("MEAN", 2, 0.5), ops.Reduction("ASUM", 1, 0.5)],
        ops.Reshape: [ops.Reshape((0, -1), 1, 3)],
        ops.Scale: [ops.Scale(1, 2, True), Example(ops.Scale(0), (IMAGE, (2, 4)))],
        ops.Sigmoid: [ops.Sigmoid()],
        ops.Silence: [Example(ops.Silence(), (IMAGE, (2, 3)), tops=0)],
        ops.Slice: [Example(ops.Slice(2, (1, 3)), tops=3)],
        ops.Softmax: [ops.Softmax(2)],
        ops.Split: [Example(ops.Split(), tops=2)],
        ops.TanH: [ops.TanH()],
        ops.Threshold: [ops.Threshold(0.25)],
        ops.Tile: [ops.Tile(3, 2)],
    }.items()
}


def test_every_kind_has_an_example_that_sets_all_it_has():
    assert set(EXAMPLES) == set(KINDS.values())
    for kind, examples in EXAMPLES.items():
        for field in fields(kind):
            values = {getattr(example.operation, field.name) for example in examples}
            assert values - {field.default}, (kind, field.name)


def layer(example: Example, name: str = "tested", bottoms: Sequence[str] = ()) -> Layer:
    names = tuple(bottoms) or tuple(f"x{index}" for index in range(len(example.bottoms)))
    tops = tuple(f"{name}.{index}" for index in range(example.tops))
    return Layer(name, example.operation, names if example.bottoms else (), tops)


def cases(*without: type[Operation]) -> list[object]:
    left = ((kind, number) for kind in KINDS.values() if kind not in without for number in range(len(EXAMPLES[kind])))
    return [pytest.param(EXAMPLES[kind][number], id=f"{kind.__name__}{number}") for kind, number in left]


@pytest.mark.parametrize("example", cases(*NEUTRAL))
def test_what_is_encoded_is_decoded(example):
    """From the message, from text, and from the wire, which says `ceil_mode` as a number that is `round_mode`'s."""
    asked = layer(example)
    message = codec.encode(asked)
    assert codec.decode(message) == asked
    assert codec.decode(text_format.Parse(str(message), caffe_pb2.LayerParameter())) == asked
    wire = codec.encode(asked, on_wire=True).SerializeToString()
    assert not caffe_pb2.LayerParameter.FromString(wire).pooling_param.HasField("ceil_mode")
    if not getattr(asked.operation, "says_ceil_mode", False):
        assert codec.decode(caffe_pb2.LayerParameter.FromString(wire)) == asked


OTHER_WORDS = {"concat_dim", "slice_dim", "ceil_mode", "pad_h", "pad_w"}
"""Fields that say what another one says: both at once are refused."""


def test_what_is_not_said_is_what_caffe_takes_for_granted():
    """Kinds that are made without arguments are what the schema's defaults say, to what float32 holds of them."""
    granted = caffe_pb2.LayerParameter()
    for parameters in (field for field in granted.DESCRIPTOR.fields if field.name.endswith("_param")):
        message = getattr(granted, parameters.name)
        for field in parameters.message_type.fields:
            if field.has_default_value and field.name not in OTHER_WORDS:
                setattr(message, field.name, field.default_value)
    assert granted.power_param.HasField("scale")
    for kind in KINDS.values():
        if kind in NEUTRAL or any(field.default is MISSING for field in fields(kind)):
            continue
        granted.type = kind.__name__
        heard = codec.decode(granted).operation
        for field in fields(kind):
            value, default = getattr(heard, field.name), field.default
            assert value == (pytest.approx(default, rel=1e-6) if isinstance(default, float) else default), kind


@pytest.mark.parametrize("kind", NEUTRAL)
def test_what_is_neutral_has_no_fields(kind):
    with pytest.raises(NetError, match=f"layer tested: is a {kind.__name__}, which no Caffe has"):
        codec.encode(layer(EXAMPLES[kind][0]))


@pytest.fixture(scope="module")
def side_by_side() -> Net:
    """All examples that Caffe's relatives have, behind inputs of their shapes, with weights."""
    return net(example for kind in KINDS.values() if kind not in (*NEUTRAL, ops.Input) for example in EXAMPLES[kind])


def net(examples: Iterator[Example]) -> Net:
    inputs: dict[Shape, str] = {}
    layers = []
    for number, example in enumerate(examples):
        bottoms = [inputs.setdefault(shape, "x" + "x".join(map(str, shape))) for shape in example.bottoms]
        layers.append(layer(example, f"{example.operation.type}{number}", bottoms))
    data = [Layer(name, ops.Input((shape,)), (), (name,)) for shape, name in inputs.items()]
    steps = infer(Net("kinds", (*data, *layers)))
    return Net("kinds", tuple(map(filled, steps)))


def filled(step: Step) -> Layer:
    made = [np.asarray(values, "<f4") for values in weights(step.layer.type, step.blobs)]
    blobs = tuple(Blob(values.shape, Literal(values.tobytes())) for values in made)
    return Layer(step.layer.name, step.layer.operation, step.layer.bottoms, step.layer.tops, blobs)


def write(directory: Path, made: Net) -> tuple[Path, Path, dict[str, np.ndarray]]:
    directory.mkdir(exist_ok=True)
    text, model = directory / "net.prototxt", directory / "net.caffemodel"
    text.write_text(prototxt(made))
    layout = streamexport.layout(made)
    data = bytearray(layout.size)
    layout.render(0, layout.size, memoryview(data))
    model.write_bytes(data)
    given = {name: random(shape) for name, shape in zip(made.inputs, made.input_shapes, strict=True)}
    for name in (layer.bottoms[0] for layer in made.layers if isinstance(layer.operation, ops.Embed)):
        given[name] = np.abs(given[name]).clip(0, 6)  # which is rounded down
    np.savez(directory / "inputs.npz", **given)
    return text, model, given


def only(made: Net, wanted: frozenset[str]) -> Net:
    return made.with_layers(tuple(step for step in made.layers if types([step]) <= wanted))


@pytest.mark.caffe
def test_shapes_and_numbers_are_caffe_s(tmp_path, side_by_side):
    """Of what Caffe 1.0 and its SSD family have; what one reader alone has is held against torch elsewhere."""
    made = only(side_by_side, frozenset({*KINDS, VOLUMES}) - {"Clip", "Const", "GRU", "Gelu", "MatMul", "ReLU6"})
    assert {layer.type for layer in made.layers} >= CAFFES & set(KINDS)
    text, model, given = write(tmp_path, made)
    (expected,) = caffe_judge.judge(tmp_path)
    ours = forward(text, [model], given)
    for step in infer(made):
        for top, shape in zip(step.tops, step.layer.tops, strict=True):
            assert expected[shape].shape == top, step.layer
    assert set(ours) == set(made.ends)
    for top, values in ours.items():
        np.testing.assert_allclose(values, expected[top], atol=2e-6 * np.abs(expected[top]).max(), err_msg=top)


def test_opencv_reads_all_kinds_that_it_has(tmp_path, side_by_side):
    """But for blobs without axes, which are one number for all channels: it has none."""
    layers = (layer for layer in only(side_by_side, OPENCVS).layers if () not in [blob.shape for blob in layer.blobs])
    made = side_by_side.with_layers(tuple(layers))
    assert {layer.type for layer in made.layers} >= OPENCVS & set(KINDS)
    text, model, _ = write(tmp_path, made)
    known = set(cv2.dnn.readNetFromCaffe(str(text), str(model)).getLayerNames())
    for read in made.layers:
        assert read.type == "Input" or known & {read.name, *read.tops}, read  # a convolution is called after its top


def counted_by_torch(step: Step) -> int:
    """The multiply-adds of what torch calls such a layer; of one that it should have no name for, of how we compute it."""
    operation, bottoms = step.layer.operation, [torch.zeros(shape) for shape in step.bottoms]
    with FlopCounterMode(display=False) as counter:
        if isinstance(operation, (ops.Convolution, ops.Deconvolution)):
            (x,) = bottoms
            forward, transposed = (F.conv2d, F.conv_transpose2d) if x.ndim == 4 else (F.conv3d, F.conv_transpose3d)
            function = forward if isinstance(operation, ops.Convolution) else transposed
            window = operation.window
            sliding = {"stride": window.stride, "padding": window.pad, "dilation": window.dilation}
            function(x, torch.zeros(step.blobs[0]), None, **sliding, groups=operation.groups)
        elif isinstance(operation, ops.InnerProduct):
            weight = torch.zeros(step.blobs[0])
            F.linear(bottoms[0].flatten(operation.axis), weight.T if operation.is_transposed else weight)
        else:
            blobs = [Blob(shape, Literal(bytes(4 * prod(shape)))) for shape in step.blobs]
            task = Task(bottoms, step.tops, Parameters(blobs, step.blobs, Buffer()))
            compute(operation, task)
    return counter.get_total_flops() // 2


def test_arithmetic_is_what_torch_counts(side_by_side):
    steps = [step for step in infer(side_by_side) if step.bottoms]
    assert [(step.layer.name, step.multiply_adds) for step in steps] == [
        (step.layer.name, counted_by_torch(step)) for step in steps
    ]
    products = {"Convolution", "Deconvolution", "GRU", "InnerProduct", "LSTM", "MatMul"}
    assert {step.layer.type for step in steps if step.multiply_adds} == products
