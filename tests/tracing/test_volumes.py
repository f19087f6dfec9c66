"""Convolutions of volumes: whose bytes their weights are, how many layers they take, who reads them, and other people's."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from google.protobuf import text_format
from torch import nn
from torch.nn import functional as F  # noqa: N812

import streamexport
from streamexport import Options, Plan
from streamexport.caffe import caffe_pb2
from streamexport.payload.pieces import Extent
from tests.conftest import run_cli
from tests.conversion.test_consumers import opencv_logits
from tests.shared.small_nets import inputs, random, write_model
from tests.tracing.test_traced import Converted

SHAPE = (1, 2, 3, 4, 5)
MADE = {
    "plain": ("Conv3d", (2, 4, (3, 2, 1)), {"stride": (1, 2, 1), "padding": (1, 0, 2)}),
    "apart": ("ConvTranspose3d", (2, 4, 2), {"stride": 2}),
    "overlapping": ("ConvTranspose3d", (2, 4, (2, 4, 3)), {"stride": 2, "padding": 1, "groups": 2}),
}


def build(name: str) -> nn.Module:
    kind, sizes, options = MADE[name]
    torch.manual_seed(1)
    return getattr(nn, kind)(*sizes, **options)


def converted(
    directory: Path, name: str, dialect: str, output: str = "net.caffemodel", form: str | None = None
) -> Plan:
    directory.mkdir(exist_ok=True)
    torch.save(build(name).state_dict(), directory / "c.pth")
    asked = Options(f"{__file__}:build", net_args=json.dumps({"name": name}), input_shape=SHAPE, dialect=dialect)
    return streamexport.convert([directory / "c.pth"], directory / output, asked, form=form)


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("dialect", ["portable", "bvlc", "opencv", "ssd"])
def test_weights_are_the_checkpoint_s_bytes_where_they_lie(tmp_path, name, dialect):
    plan = converted(tmp_path, name, dialect)
    kernel = build(name).weight.detach().numpy()
    pieces = [blob.values for layer in plan.net.layers for blob in layer.blobs if blob.origin == ("weight",)]
    (held,) = pieces
    assert isinstance(held, Extent)
    assert held.source.name == str(tmp_path / "c.pth")
    data = (tmp_path / "c.pth").read_bytes()
    assert data[held.offset : held.offset + held.length] == kernel.tobytes()


@pytest.mark.parametrize(
    ("name", "dialect", "kinds"),
    [
        *(("plain", dialect, "Convolution") for dialect in ("portable", "bvlc", "opencv", "ssd")),
        *((name, dialect, "Deconvolution") for name in ("apart", "overlapping") for dialect in ("bvlc", "ssd")),
        *(
            ("apart", dialect, "Reshape Deconvolution Reshape Deconvolution Reshape")
            for dialect in ("portable", "opencv")
        ),
        (
            "overlapping",
            "portable",
            "Reshape Convolution Reshape Deconvolution Convolution Reshape Deconvolution Reshape Convolution Reshape",
        ),
    ],
)
def test_layers(tmp_path, name, dialect, kinds):
    plan = converted(tmp_path, name, dialect)
    assert [layer.type for layer in plan.net.layers] == ["Input", *kinds.split()]


def test_kernels_are_linked(tmp_path):
    for name in MADE:
        converted(tmp_path, name, "bvlc", f"{name}.h5", form="linked")
        with h5py.File(tmp_path / f"{name}.h5") as file:
            (group,) = file["data"].values()
            assert all(data.external for data in group.values())
            assert group["0"].shape == tuple(build(name).weight.shape)


@pytest.mark.parametrize("fold_batchnorm", [False, True])
def test_other_options_compute_the_same(tmp_path, fold_batchnorm):
    for dialect, in_place in (("bvlc", True), ("opencv", False)):
        made = Converted(
            tmp_path / dialect, "volumes", dialect=dialect, in_place=in_place, fold_batchnorm=fold_batchnorm
        )
        made.assert_agrees(made.stream())
    (answer,) = (opencv_logits(made.prototxt, made.model, made.image, output) for output in made.outputs)
    made.assert_agrees([answer.reshape(made.expected[0].shape)])


@pytest.mark.parametrize(
    ("dialect", "said"),
    [
        ("bvlc", ["runs in BVLC's Caffe"]),
        ("ssd", ["runs in Caffes of the SSD family", "OpenCV 4 lacks Deconvolution of volumes"]),
        ("opencv", ["runs in Caffes of the SSD family, OpenCV 4"]),
        ("portable", ["runs in Caffe, its forks, OpenCV 4"]),
    ],
)
def test_the_result_line_says_who_reads_it(tmp_path, dialect, said):
    notes = converted(tmp_path, "overlapping", dialect).notes
    assert [note for note in notes if note.startswith("runs in") or " lacks " in note] == said


def test_caffe_s_own_code_is_asked_for(tmp_path):
    """cuDNN's layers refuse blobs of more than four axes."""
    converted(tmp_path, "plain", "portable")
    net = text_format.Parse((tmp_path / "net.prototxt").read_text(), caffe_pb2.NetParameter())
    (said,) = (layer.convolution_param for layer in net.layer if layer.type == "Convolution")
    assert said.engine == caffe_pb2.CAFFE


SOMEBODY_S = """
layer { name: "c" type: "Convolution" bottom: "x" top: "c" convolution_param { num_output: 4 kernel_size: 3 pad: 1 group: 2 } }
layer { name: "d" type: "Deconvolution" bottom: "c" top: "d"
  convolution_param { num_output: 2 kernel_size: 2 stride: 2 stride: 1 stride: 3 bias_term: false engine: CAFFE } }
"""


def test_somebody_else_s_net_is_read_counted_copied_and_computed(tmp_path):
    prototxt, model, copy = tmp_path / "net.prototxt", tmp_path / "net.caffemodel", tmp_path / "copy.caffemodel.h5"
    prototxt.write_text(inputs({"x": SHAPE}) + SOMEBODY_S)
    kernel, bias, back = (random(shape) for shape in ((4, 1, 3, 3, 3), (4,), (4, 2, 2, 2, 2)))
    write_model(model, {"c": [kernel, bias], "d": [back]})
    streamexport.convert([model], copy)
    image = random(SHAPE)
    x, k, b, t = map(torch.from_numpy, (image, kernel, bias, back))
    expected = F.conv_transpose3d(F.conv3d(x, k, b, 1, 1, groups=2), t, None, (2, 1, 3)).numpy()
    for weights in (model, copy):
        np.testing.assert_allclose(streamexport.forward(prototxt, [weights], image)["d"], expected, atol=1e-5)
    counted = run_cli("inspect", prototxt, "--flops", "--csv")
    rows = {row["layer"]: row for row in csv.DictReader(counted.stdout.splitlines())}
    found = {name: (row["output"], row["multiply_adds"]) for name, row in rows.items() if name != "x"}
    assert found == {
        "c": ("1x4x3x4x5", str(3 * 4 * 5 * kernel.size)),
        "d": ("1x2x6x5x14", str(3 * 4 * 5 * back.size)),
    }
