"""Caffemodels and prototxts made to hurt: what they lead to is the right file, or an error of one line."""

from __future__ import annotations

import json
import os
import struct

import pytest
from google.protobuf import text_format

import streamexport
from streamexport import convert, open_model, open_weights
from streamexport.caffe import caffe_pb2
from streamexport.caffe.caffemodel import wire
from streamexport.caffe.prototxt import TEXT_LIMIT, read_prototxt
from streamexport.errors import FormatError, NetError, judging
from streamexport.sources.index import JSON_LIMIT
from tests.conftest import ROOT, assert_refused, run_cli

ATTACKS = ROOT / "tests" / "shared" / "attacks"

OUTCOMES = {
    # what it is converted to: the model alone, with its prototxt, HDF5, halves; None is done, a text the refusal
    "badname": ["not UTF-8", "not UTF-8", "not UTF-8", "not UTF-8"],
    "badnet": ["net .* not UTF-8", "net .* not UTF-8", None, "net .* not UTF-8"],
    "badparam": [r"badparam.caffemodel: layer a: malformed parameters \(at byte 6\)"] * 4,
    "half_noblob": [None, None, None, None],
    "half_scalar": [None, r"has parameters that are not known here \(at byte \d+\)", None, None],
    "netnull": [None, "no description of the net", None, None],
    "nulltype": [None, "no description of the net", "is not UTF-8, or holds a NUL", None],
    "v1_a": [None, None, None, None],
    "v1overlong": [None, None, None, None],
}
WAYS = [
    ["m.caffemodel"],
    ["m.caffemodel", "--prototxt", "m.prototxt"],
    ["m.h5"],
    ["m.caffemodel", "--dtype", "float16"],
]


@pytest.mark.parametrize("name", OUTCOMES)
def test_a_hostile_caffemodel_is_an_error_or_the_right_file(tmp_path, name):
    """What is written, protobuf parses."""
    path = ATTACKS / f"{name}.caffemodel"
    for (out, *rest), message in zip(WAYS, OUTCOMES[name], strict=True):
        options = streamexport.Options(dtype="float16" if "--dtype" in rest else None)
        keywords = {"prototxt": tmp_path / rest[1]} if "--prototxt" in rest else {}
        if message is None:
            convert([path], tmp_path / out, options, **keywords)
            if out.endswith("caffemodel"):
                caffe_pb2.NetParameter.FromString((tmp_path / out).read_bytes())
        else:
            with pytest.raises((FormatError, NetError), match=message):
                convert([path], tmp_path / out, options, **keywords)


@pytest.mark.parametrize("name", ["badname", "badparam"])
def test_the_command_says_it_in_one_line(tmp_path, name):
    arguments = ("-o", tmp_path / "m.caffemodel", "--prototxt", tmp_path / "m.prototxt")
    assert_refused("convert", ATTACKS / f"{name}.caffemodel", *arguments)
    assert list(tmp_path.iterdir()) == []


def long_varint(value: int) -> bytes:
    """In the five bytes that protobuf allows."""
    return bytes(value >> 7 * i & 0x7F | 0x80 for i in range(4)) + b"\0"


def test_v1_layers_keep_their_parameters_however_their_tags_are_written(tmp_path):
    parameters = caffe_pb2.ConvolutionParameter(num_output=3, kernel_size=[5]).SerializeToString()
    for tag in (wire.varint(10 << 3 | 2), long_varint(10 << 3 | 2)):  # 10: V1LayerParameter's convolution_param
        layer = b"\x22\x01a\x28\x04" + tag + long_varint(len(parameters)) + parameters
        (tmp_path / "m.caffemodel").write_bytes(b"\x0a\x01n\x12" + wire.varint(len(layer)) + layer)
        convert([tmp_path / "m.caffemodel"], tmp_path / "n.caffemodel", prototxt=tmp_path / "n.prototxt")
        for net in (
            caffe_pb2.NetParameter.FromString((tmp_path / "n.caffemodel").read_bytes()),
            text_format.Parse((tmp_path / "n.prototxt").read_text(), caffe_pb2.NetParameter()),
        ):
            assert (net.layer[0].name, net.layer[0].type) == ("a", "Convolution")
            assert net.layer[0].convolution_param.num_output == 3
            assert list(net.layer[0].convolution_param.kernel_size) == [5]


def test_an_unknown_field_of_gigabytes_is_never_held(tmp_path):
    import resource

    with (tmp_path / "m.caffemodel").open("wb") as file:
        layer = b"\x0a\x01a" + wire.tag(5000) + wire.varint(3 << 30)
        file.write(wire.tag(100) + wire.varint(len(layer) + (3 << 30)) + layer)
        file.truncate(file.tell() + (3 << 30))

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))

    done = run_cli(
        "convert", tmp_path / "m.caffemodel", "-o", tmp_path / "n.caffemodel", "--dry-run", preexec_fn=limited
    )
    assert done.returncode == 0, done.stderr
    arguments = ("-o", tmp_path / "n.caffemodel", "--prototxt", tmp_path / "n.prototxt")
    line = assert_refused("convert", tmp_path / "m.caffemodel", *arguments, preexec_fn=limited)
    assert "layer a: has parameters that are not known here (at byte" in line


def test_a_prototxt_of_many_megabytes_is_refused_unread(tmp_path):
    (tmp_path / "m.prototxt").write_bytes(b'layer { name: "a" type: "ReLU" }\n' * (TEXT_LIMIT // 33 + 1))
    with pytest.raises(FormatError, match="too many for a prototxt"):
        read_prototxt(tmp_path / "m.prototxt")
    assert "too many for a prototxt" in assert_refused("inspect", tmp_path / "m.prototxt")


@pytest.mark.parametrize("name", ["big_input", "big_input3"])
def test_an_image_larger_than_memory_is_refused_before_it_is_made(tmp_path, name):
    files = ("--proto", ATTACKS / f"{name}.prototxt", "--model", ATTACKS / "v1_a.caffemodel")
    assert "an image of more than 268435456 numbers" in assert_refused("eval", *files, "--image", ATTACKS / "ok.png")


def test_headers_are_bounded(tmp_path):
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    header = json.dumps({"w": entry, "__metadata__": {"x": "x" * JSON_LIMIT}}).encode()
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(FormatError, match="has a header of .* bytes, too many"):
        open_weights(tmp_path / "w.safetensors")
    (tmp_path / "w.index.json").write_bytes(b'{"weight_map": {}}')
    os.truncate(tmp_path / "w.index.json", JSON_LIMIT + 1)
    with pytest.raises(FormatError, match="too large for an index"):
        open_weights(tmp_path / "w.index.json")


@pytest.mark.parametrize("error", [KeyError("k"), IndexError(), RecursionError("deep"), MemoryError(), UnicodeError()])
def test_whatever_comes_out_of_a_reader_is_a_format_error_with_the_file(monkeypatch, error):
    def fails(_: object) -> None:
        raise error

    monkeypatch.setattr("streamexport.caffe.caffemodel.reading.read", fails)
    with pytest.raises(FormatError, match=r"v1_a.caffemodel: (is malformed: |takes more memory)") as caught:
        open_model(ATTACKS / "v1_a.caffemodel")
    assert caught.value.__cause__ is error


def test_errors_of_ours_stay_what_they_are():
    with pytest.raises(NetError, match="mine"), judging("f"):
        raise NetError("mine")
