"""Caffe itself judges what we say of each kind of layer: shapes, numbers, and what is refused.

Hundreds of layers stand side by side in one net for each table below; what we refuse is asked one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format

from streamexport.caffe import caffe_pb2, codec
from streamexport.errors import NetError
from streamexport.net.graph import Net
from streamexport.net.inference import infer
from streamexport.running.forward import forward_layers
from tests.shared import caffe_judge
from tests.shared.small_nets import dims, inputs, layer, random, weights, write_model

pytestmark = pytest.mark.caffe

Case = tuple[str, str, int, str]
"""Type, bottoms, number of tops, parameters."""

SHAPES = {
    "a": (2, 3, 4, 5),
    "b": (2, 3, 4, 5),
    "c": (3,),
    "d": (3, 4),
    "e": (2, 3),
    "f": (4, 5),
    "g": (2, 7, 4, 5),
    "h": (2, 3, 3, 2),
    "i": (6,),
    "w": (2, 6, 7, 9),
    "tiny": (1, 2, 2, 3),
    "line": (2, 6, 8),
    "volume": (2, 6, 5, 4, 7),
    "deeper": (1, 2, 2, 2, 2, 2),
}


def pooling() -> Iterator[Case]:
    grid = product((1, 2, 3, 4), (1, 2, 3, 4), (0, 1, 2), ("", "ceil_mode: false"), ("MAX", "AVE"), ("w", "tiny"))
    for kernel, stride, pad, rounding, method, bottom in grid:
        size = f"kernel_size: {kernel} stride: {stride} pad: {pad} {rounding}"
        yield "Pooling", bottom, 1, f"pooling_param {{ pool: {method} {size} }}"
    for method, kernel, stride, pad, other in product(("MAX", "AVE"), (1, 3), (1, 3), (0, 1), (0, 2)):
        size = f"kernel_h: {kernel} kernel_w: 5 stride_h: {stride} stride_w: 2 pad_h: {pad} pad_w: {other}"
        yield "Pooling", "w", 1, f"pooling_param {{ pool: {method} {size} }}"
    for strange in (
        "global_pooling: true",
        "global_pooling: true pool: AVE",
        "global_pooling: true pad: 1",
        "global_pooling: true stride: 2",
        "global_pooling: true kernel_size: 2",
        "kernel_h: 1",
        "kernel_size: 0",
        "kernel_size: 2 stride: 0",
        "kernel_size: 2 stride_h: 1",
        "kernel_size: 2 pad_h: 1",
        "kernel_size: 2 pad: 1 pad_h: 1",
        "",
    ):
        yield "Pooling", "w", 1, f"pooling_param {{ {strange} }}"
    yield "Pooling", "d", 1, "pooling_param { kernel_size: 1 }"


def convolution() -> Iterator[Case]:
    windows = [
        f"kernel_size: {kernel} stride: {stride} pad: {pad} dilation: {dilation} group: {groups} {bias}"
        for kernel, stride, pad, dilation, groups, bias in product(
            (1, 2, 3), (1, 2), (0, 1), (1, 2), (1, 2, 3), ("", "bias_term: false")
        )
    ]
    windows += [
        "kernel_h: 3 kernel_w: 1",
        "kernel_size: 3 kernel_size: 2 pad: 1 pad: 0 stride: 2 stride: 1 dilation: 1 dilation: 2",
        "kernel_size: 3 pad_h: 2 pad_w: 1",
        "kernel_size: 3 pad_h: 2",
        "kernel_size: 2 stride_h: 2 stride_w: 3",
        "kernel_size: 3 force_nd_im2col: true",
        "kernel_size: 2 axis: -3",
        "kernel_h: 2",
        "kernel_size: 2 kernel_h: 2 kernel_w: 2",
        "kernel_size: 1 kernel_size: 1 kernel_size: 1",
        "kernel_size: 0",
        "stride: 2",
        "kernel_size: 2 stride: 0",
        "kernel_size: 2 group: 4",
        "kernel_size: 2 group: 0",
        "kernel_size: 2 pad: 1 pad_h: 1",
    ]
    for kind, window in product(("Convolution", "Deconvolution"), windows):
        yield kind, "w", 1, f"convolution_param {{ num_output: 6 {window} }}"
    windows = [
        "kernel_size: 3",
        "kernel_size: 2 stride: 2 pad: 1 dilation: 2 group: 2",
        "kernel_size: 3 kernel_size: 1 kernel_size: 2",
        "kernel_size: 3 pad: 0 pad: 1 pad: 2 bias_term: false",
        "kernel_size: 2 stride: 1 stride: 2 stride: 3 dilation: 1 dilation: 3 dilation: 2 pad: 1 group: 3 axis: -4",
        "kernel_size: 2 kernel_size: 3",
        "kernel_h: 2 kernel_w: 1",
    ]
    for kind, bottom, window in product(("Convolution", "Deconvolution"), ("volume", "line"), windows):
        yield kind, bottom, 1, f"convolution_param {{ num_output: 6 {window} }}"
    yield "Convolution", "w", 1, "convolution_param { kernel_size: 2 }"
    yield "Convolution", "w", 1, "convolution_param { num_output: 2 kernel_size: 9 }"
    yield "Deconvolution", "tiny", 1, "convolution_param { num_output: 2 kernel_size: 1 pad: 2 }"


def inner_product() -> Iterator[Case]:
    for axis, transposed, bias in product(range(-5, 5), ("", "transpose: true"), ("", "bias_term: false")):
        yield "InnerProduct", "a", 1, f"inner_product_param {{ num_output: 5 axis: {axis} {transposed} {bias} }}"
    yield "InnerProduct", "a", 1, ""


def normalization() -> Iterator[Case]:
    for bottom, options in product(
        "adg", ("", "eps: 0.01", "use_global_stats: false", "use_global_stats: true eps: 0.001")
    ):
        yield "BatchNorm", bottom, 1, f"batch_norm_param {{ {options} }}"
    sizes = ("", "local_size: 3", "local_size: 4", "local_size: 7 alpha: 2 beta: 0.5 k: 3", "alpha: 0.0001")
    for bottom, size, region in product("agd", sizes, ("", "norm_region: WITHIN_CHANNEL")):
        yield "LRN", bottom, 1, f"lrn_param {{ {size} {region} }}"
    flags = product("adgi", ("", "normalize_variance: false"), ("", "across_channels: true"), ("", "eps: 0.1"))
    for bottom, variance, channels, epsilon in flags:
        yield "MVN", bottom, 1, f"mvn_param {{ {variance} {channels} {epsilon} }}"
    flags = product("adi", ("", "across_spatial: false"), ("", "channel_shared: false"), ("", "eps: 0.5"))
    for bottom, spatial, shared, epsilon in flags:
        yield "Normalize", bottom, 1, f"norm_param {{ {spatial} {shared} {epsilon} }}"


def affine() -> Iterator[Case]:
    for axis, count in product((-4, -1, 0, 1, 2, 3, 4), (-2, -1, 0, 1, 2, 3, 4)):
        yield "Scale", "a", 1, f"scale_param {{ axis: {axis} num_axes: {count} }}"
        yield "Scale", "a", 1, f"scale_param {{ axis: {axis} num_axes: {count} bias_term: true }}"
        yield "Bias", "a", 1, f"bias_param {{ axis: {axis} num_axes: {count} }}"
    for other, axis in (("b", 0), ("c", 1), ("d", 1), ("e", 0), ("f", 2), ("c", -3), ("f", -2), ("b", -4)):
        yield "Scale", f"a {other}", 1, f"scale_param {{ axis: {axis} }}"
        yield "Scale", f"a {other}", 1, f"scale_param {{ axis: {axis} bias_term: true }}"
    for other, axis in product("bcdef", (-4, -2, 0, 1, 2)):
        yield "Bias", f"a {other}", 1, f"bias_param {{ axis: {axis} }}"


def pointwise() -> Iterator[Case]:
    kinds = [
        ("ReLU", ""),
        ("ReLU", "relu_param { negative_slope: 0.1 }"),
        ("ReLU6", ""),
        ("PReLU", ""),
        ("PReLU", "prelu_param { channel_shared: true }"),
        ("ELU", ""),
        ("ELU", "elu_param { alpha: 0.3 }"),
        ("Sigmoid", ""),
        ("TanH", ""),
        ("AbsVal", ""),
        ("BNLL", ""),
        ("Exp", ""),
        ("Exp", "exp_param { base: 2 scale: 0.5 shift: 1 }"),
        ("Exp", "exp_param { scale: 2 shift: 1 }"),
        ("Exp", "exp_param { base: 0 }"),
        ("Exp", "exp_param { base: -2 }"),
        ("Log", ""),
        ("Log", "log_param { base: 2 scale: 0.1 shift: 9 }"),
        ("Log", "log_param { base: 10 scale: 3 }"),
        ("Power", ""),
        ("Power", "power_param { power: 2 }"),
        ("Power", "power_param { power: 0.5 scale: 0.1 shift: 7 }"),
        ("Power", "power_param { power: 0 }"),
        ("Power", "power_param { power: 2 scale: 0 shift: 3 }"),
        ("Power", "power_param { power: -1 }"),
        ("Power", "power_param { power: 3 shift: 0.5 }"),
        ("Dropout", "dropout_param { dropout_ratio: 0.9 }"),
    ]
    for bottom, (kind, parameters) in product("adi", kinds):
        yield kind, bottom, 1, parameters


def joining() -> Iterator[Case]:
    for bottom, axis in product("adi", range(-4, 5)):
        yield "Softmax", bottom, 1, f"softmax_param {{ axis: {axis} }}"
    operations = ("", "operation: PROD", "operation: MAX")
    coefficients = ("", "coeff: 1 coeff: -1", "coeff: 0.5 coeff: 2 coeff: -3", "coeff: 2")
    for bottoms, operation, coefficient in product(("a b", "a b a", "a a", "a a a", "a"), operations, coefficients):
        yield "Eltwise", bottoms, 1, f"eltwise_param {{ {operation} {coefficient} }}"
    axes = ("", "axis: 0", "axis: -1", "axis: -3", "axis: 4", "concat_dim: 1", "concat_dim: 0", "axis: 1 concat_dim: 1")
    for bottoms, axis in product(("a b", "a g", "a g b", "a", "a d", "a h", "i i c"), axes):
        yield "Concat", bottoms, 1, f"concat_param {{ {axis} }}"


def cutting() -> Iterator[Case]:
    points = (
        "",
        "axis: 0",
        "axis: 2",
        "axis: -1",
        "slice_point: 1",
        "slice_point: 2 slice_point: 5",
        "slice_dim: 1 slice_point: 3 slice_point: 4",
        "slice_point: 3 slice_point: 3",
        "slice_point: 7",
        "slice_point: 0",
        "slice_point: 5 slice_point: 2",
        "axis: 1 slice_dim: 1",
        "axis: 3 slice_point: 1 slice_point: 2 slice_point: 4",
    )
    for count, point in product((1, 2, 3, 4, 7), points):
        yield "Slice", "g", count, f"slice_param {{ {point} }}"
    for count in (1, 2, 3):
        yield "Split", "a", count, ""
    offsets = (
        "",
        "axis: 0",
        "axis: 1",
        "axis: 3",
        "axis: -1",
        "axis: -2 offset: 1 offset: 2",
        "axis: 2 offset: 1",
        "axis: 1 offset: 0 offset: 1 offset: 2",
        "axis: 1 offset: 1",
        "axis: 2 offset: 5",
        "axis: 0 offset: 0 offset: 0",
    )
    for bottoms, offset in product(("a h", "g a", "a d", "d a", "a b", "h a", "d e"), offsets):
        yield "Crop", bottoms, 1, f"crop_param {{ {offset} }}"


def shaping() -> Iterator[Case]:
    for bottom, first, last in product("ad", (-4, -1, 0, 1, 2, 3), (-4, -2, -1, 0, 1, 2, 3)):
        yield "Flatten", bottom, 1, f"flatten_param {{ axis: {first} end_axis: {last} }}"
    shapes = [(), (0, -1), (-1,), (0, 0, -1), (6, -1), (0, 0, 0, 0), (1,), (-1, -1), (7, -1), (-2, 3), (4, 5), (3, 4)]
    ranges = ("", "axis: 1", "axis: 2", "axis: -1", "axis: -3", "axis: 1 num_axes: 1", "axis: 1 num_axes: 0")
    for bottom, shape, axes in product("ad", shapes, (*ranges, "num_axes: 2", "axis: 9", "num_axes: 9")):
        yield "Reshape", bottom, 1, f"reshape_param {{ {dims(shape)} {axes} }}"
    for bottom, order in product("ad", [(), (0, 2, 3, 1), (1, 0), (3, 2, 1, 0), (2,), (0, 0), (5,)]):
        yield "Permute", bottom, 1, f"permute_param {{ {' '.join(f'order: {axis}' for axis in order)} }}"
    for bottom, axis, count in product("ad", (-3, -1, 0, 1, 2, 3), (0, 1, 3)):
        yield "Tile", bottom, 1, f"tile_param {{ axis: {axis} tiles: {count} }}"


def reducing() -> Iterator[Case]:
    for bottom, operation, axis in product("ad", ("SUM", "ASUM", "SUMSQ", "MEAN"), (-4, -1, 0, 1, 3)):
        yield "Reduction", bottom, 1, f"reduction_param {{ operation: {operation} axis: {axis} coeff: 0.5 }}"
    flags = product("adi", ("", "top_k: 2", "top_k: 9"), ("", "axis: 1", "axis: 0", "axis: -1"), ("false", "true"))
    for bottom, count, axis, values in flags:
        yield "ArgMax", bottom, 1, f"argmax_param {{ {count} {axis} out_max_val: {values} }}"
    yield "Silence", "a d", 0, ""
    yield "Silence", "a", 1, ""
    yield "ReLU", "a b", 1, ""
    yield "ReLU", "a", 2, ""
    yield "Crop", "a", 1, ""


TABLES = (
    pooling,
    convolution,
    inner_product,
    normalization,
    affine,
    pointwise,
    joining,
    cutting,
    shaping,
    reducing,
)


REFUSED = 24
"""Layers of each table that we refuse, and Caffe is asked about, one process for each."""


def described(case: Case, number: int = 0) -> str:
    kind, bottoms, count, parameters = case
    return layer(f"l{number}", kind, bottoms, " ".join(f"t{number}.{index}" for index in range(count)), parameters)


def parsed(text: str) -> Net:
    return Net("", tuple(map(codec.decode, text_format.Parse(text, caffe_pb2.NetParameter()).layer)))


def is_refused(case: Case) -> bool:
    """By us."""
    try:
        infer(parsed(inputs(SHAPES) + described(case)))
    except NetError:
        return True
    return False


def write_net(directory: Path, cases: list[Case]) -> Path:
    directory.mkdir()
    text = inputs(SHAPES) + "".join(described(case, number) for number, case in enumerate(cases))
    (directory / "net.prototxt").write_text(text)
    np.savez(directory / "inputs.npz", **{name: random(shape) for name, shape in SHAPES.items()})
    return directory


def write_weights(directory: Path) -> None:
    """Blobs of the shapes that we think right: Caffe refuses others."""
    steps = [step for step in infer(parsed((directory / "net.prototxt").read_text())) if step.blobs]
    blobs = {step.layer.name: weights(step.layer.type, step.blobs) for step in steps}
    write_model(directory / "net.caffemodel", blobs)


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """By table: the directory of its net, Caffe's blobs, and of the cases that we refuse those that Caffe takes."""
    caffe_judge.require()
    root = tmp_path_factory.mktemp("nets")
    directories, refused = [], []
    for table in TABLES:
        cases = list(table())
        accepted = [case for case in cases if not is_refused(case)]
        directories.append(write_net(root / table.__name__, accepted))
        write_weights(directories[-1])
        strange = [case for case in cases if is_refused(case)]
        refused += [(table, case) for case in strange[:: len(strange) // REFUSED + 1]]
    single = [write_net(root / f"refused{number}", [case]) for number, (_, case) in enumerate(refused)]
    answers = caffe_judge.judge(*directories, *single)
    taken = [asked for asked, answer in zip(refused, answers[len(directories) :], strict=True) if answer is not None]
    return {
        table: (directory, answer, [case for of, case in taken if of is table])
        for table, directory, answer in zip(TABLES, directories, answers, strict=False)
    }


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.__name__)
def test_caffe_computes_the_same(judged, table):
    directory, expected, _ = judged[table]
    assert expected is not None, "Caffe refuses a layer that we take"
    given = {name: random(shape) for name, shape in SHAPES.items()}
    for made, tops in forward_layers(directory / "net.prototxt", [directory / "net.caffemodel"], given):
        for name, values in tops.items():
            assert_close(values, expected[name], str(made))


def assert_close(values: np.ndarray, expected: np.ndarray, what: str) -> None:
    """Of the same shape, and equal to 2e-6 of the largest number; not numbers, and what stands for none, exactly."""
    assert values.shape == expected.shape, what
    number = np.abs(expected) < 1e30
    np.testing.assert_array_equal(values[~number], expected[~number], what)
    scale = np.abs(expected[number]).max(initial=1e-6)
    np.testing.assert_allclose(values[number], expected[number], rtol=0, atol=2e-6 * scale, err_msg=what)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.__name__)
def test_what_is_refused_caffe_refuses_as_well(judged, table):
    assert judged[table][2] == []
