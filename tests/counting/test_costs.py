"""What nets cost: torch counts the same arithmetic, the checkpoint holds the same parameters, Caffe makes the same blobs."""

from __future__ import annotations

import csv
import io
import json

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812
from torch.utils.flop_counter import FlopCounterMode

import streamexport
from streamexport.errors import NetError
from tests.conftest import assert_refused, run_cli
from tests.shared import caffe_judge
from tests.shared.reference import reference
from tests.shared.small_nets import inputs, layer

COUNTED = ("multiply_adds", "parameters", "activation_bytes")


def counted_by_torch(compute) -> int:
    """Multiply-adds; torch counts them as two operations each."""
    with FlopCounterMode(display=False) as counter:
        compute()
    assert counter.get_total_flops() % 2 == 0
    return counter.get_total_flops() // 2


@pytest.fixture(scope="module")
def nets(tmp_path_factory, checkpoint):
    """Prototxts of built-in nets by name, as `convert` writes them."""
    directory = tmp_path_factory.mktemp("nets")
    for name in ("resnet18", "resnext50_32x4d"):
        streamexport.convert([checkpoint(name)], directory / f"{name}.caffemodel")
    return {name: directory / f"{name}.prototxt" for name in ("resnet18", "resnext50_32x4d")}


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d"])
@pytest.mark.parametrize("shape", [None, (2, 3, 97, 64)])
def test_arithmetic_and_parameters_of_built_in_nets_are_those_of_torch(nets, checkpoint, name, shape):
    found = streamexport.costs(nets[name], shape)
    state = torch.load(checkpoint(name))
    image = torch.zeros(shape or (1, 3, 224, 224))
    assert sum(cost.multiply_adds for cost in found) == counted_by_torch(lambda: reference(state, image))
    trained = [
        t for key, t in state.items() if not key.endswith(("running_mean", "running_var", "num_batches_tracked"))
    ]
    assert sum(cost.parameters for cost in found) == sum(tensor.numel() for tensor in trained)
    by_layer = {cost.layer: cost for cost in found}
    assert by_layer["layer3.0.conv2"].parameters == state["layer3.0.conv2.weight"].numel()
    assert by_layer["fc"].parameters == state["fc.weight"].numel() + 1000


def weight(*shape: int) -> torch.Tensor:
    return torch.zeros(shape)


@pytest.mark.parametrize(
    ("text", "compute"),
    [
        (
            layer(
                "c", "Convolution", "x", "y", "convolution_param { num_output: 4 group: 2 kernel_size: 3 stride: 2 }"
            ),
            lambda x: F.conv2d(x, weight(4, 3, 3, 3), stride=2, groups=2),
        ),
        (
            layer("c", "Convolution", "x", "y", "convolution_param { num_output: 4 kernel_h: 1 kernel_w: 3 pad: 2 }"),
            lambda x: F.conv2d(x, weight(4, 6, 1, 3), weight(4), padding=2),
        ),
        (
            layer(
                "c", "Convolution", "x", "y", "convolution_param { num_output: 6 group: 6 kernel_size: 3 dilation: 2 }"
            ),
            lambda x: F.conv2d(x, weight(6, 1, 3, 3), groups=6, dilation=2),
        ),
        (
            layer(
                "d", "Deconvolution", "x", "y", "convolution_param { num_output: 4 group: 2 kernel_size: 4 stride: 2 }"
            ),
            lambda x: F.conv_transpose2d(x, weight(6, 2, 4, 4), stride=2, groups=2),
        ),
        (
            layer("i", "InnerProduct", "x", "y", "inner_product_param { num_output: 5 }"),
            lambda x: F.linear(x.flatten(1), weight(5, 6 * 7 * 9), weight(5)),
        ),
        (
            layer("i", "InnerProduct", "x", "y", "inner_product_param { num_output: 5 axis: -1 transpose: true }"),
            lambda x: F.linear(x, weight(9, 5).T),
        ),
        (layer("p", "Pooling", "x", "y", "pooling_param { kernel_size: 3 }"), lambda x: F.max_pool2d(x, 3)),
        (layer("e", "Eltwise", "x x", "y"), lambda x: x + x),
        (layer("s", "Scale", "x", "y"), lambda x: x * 2),
        (layer("n", "Silence", "x", ""), lambda x: None),
    ],
)
def test_arithmetic_of_single_layers_is_what_torch_counts(tmp_path, text, compute):
    shape = (2, 6, 7, 9)
    (tmp_path / "net.prototxt").write_text(inputs({"x": shape}) + text)
    _, cost = streamexport.costs(tmp_path / "net.prototxt")
    assert cost.multiply_adds == counted_by_torch(lambda: compute(torch.zeros(shape)))


@pytest.mark.caffe
def test_activations_are_the_blobs_that_caffe_makes(tmp_path):
    names = {"x": (2, 3, 8, 8)}
    pooling = "pooling_param { kernel_size: 2 stride: 2 }"
    text = inputs(names) + layer("p", "Pooling", "x", "p", pooling) + layer("r", "ReLU", "p", "p")
    text += layer("s", "Slice", "p", "a b", "slice_param { slice_point: 1 }") + layer("t", "TanH", "b", "t")
    (tmp_path / "net.prototxt").write_text(text)
    np.savez(tmp_path / "inputs.npz", x=np.zeros(names["x"], np.float32))
    (blobs,) = caffe_judge.judge(tmp_path)
    found = streamexport.costs(tmp_path / "net.prototxt")
    assert sum(cost.activation_bytes for cost in found) == sum(values.nbytes for values in blobs.values())
    shapes = {cost.layer: cost.shapes for cost in found}
    assert shapes["s"] == (blobs["a"].shape, blobs["b"].shape)
    assert {cost.layer: cost.activation_bytes for cost in found}["r"] == 0


def test_refusals_name_the_file_and_the_layer(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(inputs({"x": (1, 2), "y": (1, 2)}) + layer("odd", "Interp", "x", "z"))
    with pytest.raises(NetError, match=r"net.prototxt: layer odd: is of type 'Interp'"):
        streamexport.costs(path)
    with pytest.raises(NetError, match=r"net.prototxt: has 2 inputs \(x, y\), one shape was given"):
        streamexport.costs(path, (1, 3))


def test_the_command_prints_layers_and_totals_for_people_and_programs(nets):
    net = nets["resnet18"]
    found = streamexport.costs(net)
    totals = {name: sum(getattr(cost, name) for cost in found) for name in COUNTED}
    table = run_cli("inspect", net, "--flops").stdout.splitlines()
    assert table[2].split() == ["conv1", "Convolution", "1x64x112x112", "118013952", "9408", "3211264"]
    assert table[-1].split() == ["total", *map(str, totals.values())]

    described = json.loads(run_cli("inspect", net, "--flops", "--json").stdout)
    assert {name: described[name] for name in COUNTED} == totals
    assert [layer["layer"] for layer in described["layers"]] == [cost.layer for cost in found]
    assert described["layers"][1]["shapes"] == [[1, 64, 112, 112]]

    rows = list(csv.DictReader(io.StringIO(run_cli("inspect", net, "--flops", "--csv").stdout)))
    assert [row["layer"] for row in rows] == [cost.layer for cost in found]
    assert {name: sum(int(row[name]) for row in rows) for name in COUNTED} == totals

    doubled = json.loads(run_cli("inspect", net, "--flops", "--json", "--input-shape", "2,3,224,224").stdout)
    assert doubled["multiply_adds"] == 2 * totals["multiply_adds"]
    assert doubled["parameters"] == totals["parameters"]


def test_a_plot_is_a_png_of_what_was_counted(tmp_path, nets):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    net = tmp_path / "$net_{.prototxt"  # no formula
    net.write_text(nets["resnext50_32x4d"].read_text().replace('"layer1.0.conv1"', r'"$\\frac{\n"'))
    first, again = tmp_path / "a.png", tmp_path / "b.png"
    for path in (first, again):
        done = run_cli("inspect", net, "--flops", "--plot", path)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines()[-1].startswith("total ")
    assert first.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert first.read_bytes() == again.read_bytes()
    picture = cv2.imread(str(first))
    assert picture.shape == (1260, 1800, 3)
    blue = np.count_nonzero((picture == (0x8F, 0x61, 0x33)).all(axis=2))
    assert blue > 10_000, "no bars of convolutions"
    assert "is its own input" in assert_refused("inspect", net, "--flops", "--plot", net)


def test_a_plot_without_matplotlib_says_what_to_install(tmp_path, nets, monkeypatch):
    from streamexport import errors
    from streamexport.counting import plots

    monkeypatch.setattr(errors, "find_spec", lambda name: None)
    with pytest.raises(streamexport.Error, match=r"needs matplotlib, .*; pip install 'streamexport\[plot\]'"):
        plots.plot(streamexport.costs(nets["resnet18"]), "")


def test_counting_wants_a_prototxt(tmp_path, checkpoint, nets):
    for path in (checkpoint("resnet18"), nets["resnet18"].with_suffix(".caffemodel")):
        line = assert_refused("inspect", path, "--flops")
        assert line.endswith("is no prototxt; give the net's description, which convert writes beside a model")
    for option in (["--csv"], ["--plot", tmp_path / "a.png"], ["--input-shape", "1,3,8,8"]):
        done = run_cli("inspect", nets["resnet18"], *option)
        assert (done.returncode, done.stdout) == (2, "")
        assert "go with --flops" in done.stderr


# Inspect a prototxt without counting


def test_a_prototxt_is_listed_whatever_it_is_called(tmp_path):
    path = tmp_path / "net.caffemodel"
    text = "\n# a comment\n\n" + inputs({"x": (1, 2, 4, 4)})
    path.write_text(text + layer("s", "Slice", "x", "a b") + layer("r", "ReLU", "a", "a"))
    described = json.loads(run_cli("inspect", path, "--json").stdout)
    assert described["format"] == "prototxt"
    assert described["layers"][1:] == [
        {"name": "s", "type": "Slice", "bottoms": ["x"], "tops": ["a", "b"], "shapes": [[1, 1, 4, 4]] * 2},
        {"name": "r", "type": "ReLU", "bottoms": ["a"], "tops": ["a"], "shapes": [[1, 1, 4, 4]]},
    ]
    table = run_cli("inspect", path).stdout.splitlines()
    assert table[2].split() == ["s", "Slice", "x", "a", "b", "1x1x4x4", "1x1x4x4"]
    assert table[-1] == "prototxt: 3 layers"


def test_layers_that_are_not_known_are_listed_without_shapes(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(inputs({"x": (1, 2)}) + layer("odd", "Interp", "x", "y"))
    done = run_cli("inspect", path, "--json")
    assert [layer["shapes"] for layer in json.loads(done.stdout)["layers"]] == [None, None]
    assert "net.prototxt: layer odd: is of type 'Interp', " in done.stderr
    assert run_cli("inspect", path).stdout.splitlines()[2].split() == ["odd", "Interp", "x", "y", "unknown"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"layer { name: 1 }", "line 1: "),
        (b"# of Caffe's first year\nlayers { }", "first year"),
        (b'name: "\xff"', "is not text"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b"<html>", "is a web page"),
        (b"#" * 100_000, "is not a torch checkpoint"),
        (b'name: "\0"', "is not a torch checkpoint"),
    ],
)
def test_text_that_is_no_prototxt_is_refused_in_one_line(tmp_path, data, message):
    (tmp_path / "net.prototxt").write_bytes(data)
    assert message in assert_refused("inspect", tmp_path / "net.prototxt")


def test_shapes_are_of_inputs_that_the_net_has(tmp_path):
    (tmp_path / "net.prototxt").write_text(inputs({"x": (1, 2), "y": (1, 3)}) + layer("r", "ReLU", "x", "r"))
    with pytest.raises(NetError, match=r"net.prototxt: has no input z; its inputs are x, y"):
        streamexport.costs(tmp_path / "net.prototxt", {"z": (4, 2)})
