"""Any blobs of a net from any engine: what they hold, how many there may be, and which are refused."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from streamexport.caffe.prototxt import read_prototxt
from streamexport.errors import EngineError, NetError, SourceChangedError
from streamexport.running.engines import open_engine
from tests.conftest import run_cli
from tests.shared.small_nets import inputs, layer, random, weights, write_model

ENGINES = ("stream", "opencv", pytest.param("caffe", marks=pytest.mark.caffe))


def small_net(directory):
    """A convolution whose blob a ReLU overwrites, cut in two, the second half of which is doubled."""
    text = inputs({"x": (1, 3, 6, 5)})
    text += layer("conv", "Convolution", "x", "y", "convolution_param { num_output: 4 kernel_size: 3 }")
    text += layer("relu", "ReLU", "y", "y")
    text += layer("halves", "Slice", "y", "left right", "slice_param { slice_point: 1 }")
    text += layer("twice", "Power", "right", "z", "power_param { scale: 2 }")
    (directory / "net.prototxt").write_text(text)
    blobs = weights("Convolution", [(4, 3, 3, 3), (4,)])
    return directory / "net.prototxt", write_model(directory / "net.caffemodel", {"conv": blobs}), blobs


@pytest.mark.parametrize("engine", ENGINES)
def test_blobs_come_by_name_and_hold_what_the_last_layer_left(tmp_path, engine):
    net, model, blobs = small_net(tmp_path)
    with open_engine(engine, net, [model], ["z", "y", "left", "x", "right", "y"]) as compute:
        for seed, batch in enumerate((1, 2, 1)):
            x = random((batch, 3, 6, 5), seed)
            found = compute(x)
            y = F.conv2d(*map(torch.from_numpy, (x, *blobs))).relu().numpy()
            expected = {"x": x, "y": y, "left": y[:, :1], "right": y[:, 1:], "z": 2 * y[:, 1:]}
            assert found.keys() == expected.keys()
            for name, values in expected.items():
                assert found[name].dtype == np.float32
                np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("wanted", ["conv", "norm", "scale", "relu", "conv norm scale relu last", "scale last"])
def test_blobs_of_layers_that_an_engine_merges_hold_what_they_say(tmp_path, engine, wanted):
    """OpenCV makes one layer of these, but for the last, and calls it after its top."""
    text = inputs({"x": (1, 3, 6, 5)})
    text += layer("first", "Convolution", "x", "conv", "convolution_param { num_output: 4 kernel_size: 3 }")
    text += layer("norm", "BatchNorm", "conv", "norm", "batch_norm_param { eps: 1e-3 }")
    text += layer("scale", "Scale", "norm", "scale", "scale_param { bias_term: true }")
    text += layer("relu", "ReLU", "scale", "relu")
    text += layer("last", "Convolution", "relu", "last", "convolution_param { num_output: 2 kernel_size: 1 }")
    (tmp_path / "net.prototxt").write_text(text)
    (conv, bias), (last, shift) = (
        weights("Convolution", shapes) for shapes in ([(4, 3, 3, 3), (4,)], [(2, 4, 1, 1), (2,)])
    )
    mean, variance, factor, addend = np.linspace(0.1, 2, 16, dtype="f4").reshape(4, 4)
    blobs = {"first": (conv, bias), "norm": (mean, variance, np.ones(1, "f4")), "scale": (factor, addend)}
    model = write_model(tmp_path / "net.caffemodel", {**blobs, "last": (last, shift)})
    x = random((2, 3, 6, 5))
    values = [torch.from_numpy(array) for array in (x, conv, bias, mean, variance, factor, addend, last, shift)]
    y = F.conv2d(*values[:3])
    expected = {
        "conv": y,
        "norm": F.batch_norm(y, *values[3:5], eps=1e-3),
        "scale": F.batch_norm(y, *values[3:7], eps=1e-3),
    }
    expected["relu"] = expected["scale"].relu()
    expected["last"] = F.conv2d(expected["relu"], *values[7:])
    with open_engine(engine, tmp_path / "net.prototxt", [model], wanted.split()) as compute:
        for name, found in compute(x).items():
            np.testing.assert_allclose(found, expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_input_alone_may_be_asked_for(tmp_path, engine):
    net, model, _ = small_net(tmp_path)
    x = random((1, 3, 6, 5))
    with open_engine(engine, net, [model], ["x"]) as compute:
        found = compute(x)
    np.testing.assert_array_equal(found["x"], x)
    assert found["x"] is not x


def test_our_own_engine_reads_prototxt_and_headers_once_and_weights_each_time(tmp_path):
    net, model, _ = small_net(tmp_path)
    x = random((1, 3, 6, 5))
    with open_engine("stream", net, [model], ["z"]) as compute:
        net.unlink()
        np.testing.assert_array_equal(compute(x)["z"], compute(x)["z"])
        os.utime(model, ns=(0, 0))
        with pytest.raises(SourceChangedError):
            compute(x)


@pytest.mark.caffe
def test_every_blob_of_a_residual_net_is_the_same_whoever_computes(tmp_path, checkpoint):
    done = run_cli("convert", checkpoint("resnet50"), "-o", tmp_path / "m.caffemodel")
    assert done.returncode == 0, done.stderr
    net, model, image = tmp_path / "m.prototxt", tmp_path / "m.caffemodel", random((1, 3, 97, 97))
    blobs = list(dict.fromkeys(top for layer in read_prototxt(net).layers for top in layer.tops))
    assert len(blobs) > 70
    made = {}
    for engine in ("caffe", "stream", "opencv"):
        with open_engine(engine, net, [model], blobs) as compute:
            made[engine] = compute(image)
    expected = made.pop("caffe")
    for found in made.values():
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            assert np.abs(found[name] - values).max() <= 1e-5 * np.abs(values).max(), name


@pytest.mark.parametrize("engine", ["stream", "opencv", "caffe"])
def test_blobs_and_inputs_that_a_net_does_not_have_are_refused(tmp_path, engine):
    net, model, _ = small_net(tmp_path)
    with pytest.raises(NetError, match="net.prototxt: no layer makes a, b"):
        open_engine(engine, net, [model], ["y", "b", "a"])
    net.write_text(net.read_text() + inputs({"more": (1, 3)}))
    with open_engine(engine, net, [model], ["y"]) as compute:
        with pytest.raises(NetError, match="the net has 2 inputs: x, more; give them by name"):
            compute(np.zeros((1, 3), "f4"))
        with pytest.raises(NetError, match="given are the inputs x; the net has x, more"):
            compute({"x": np.zeros((1, 3), "f4")})


def test_an_engine_that_is_not_known_is_refused(tmp_path):
    with pytest.raises(EngineError, match="there is no engine 'abacus'; choose from stream, caffe, opencv"):
        open_engine("abacus", tmp_path / "net.prototxt", [], [])
