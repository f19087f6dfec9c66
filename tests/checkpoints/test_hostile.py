"""Files made to hurt: small ones that would take all time or memory, lie about themselves, or reach the terminal."""

from __future__ import annotations

import json
import os
import pickle
import resource
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from streamexport.caffe import caffe_pb2
from streamexport.caffe.caffemodel import wire
from streamexport.caffe.models import open_model
from streamexport.checkpoints import open_weights
from streamexport.errors import Error, FormatError, NetError
from streamexport.payload.pieces import Literal
from streamexport.sources.signatures import TORCH_LEGACY, is_model
from tests.checkpoints.test_readers_torch import save
from tests.conftest import assert_refused, run_cli
from tests.payload.test_extents import rendered

HEAD = TORCH_LEGACY + b".\x80\x02M\xe9\x03.\x80\x02}(X\x0d\x00\x00\x00little_endian\x88u."


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def tensor(shape: bytes, strides: bytes, numel: bytes = b"K\x01") -> bytes:
    """A pickled tensor on storage `0` of one element."""
    pid = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + numel + b"NtQ"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + pid + b"K\x00" + shape + strides + b"\x89Nt" + b"R"


def legacy(pickled: bytes, keys: bytes = b"\x80\x02]" + b"X\x01\x00\x00\x000a.") -> bytes:
    return HEAD + b"\x80\x02" + pickled + b"." + keys + struct.pack("<q", 1) + bytes(4)


def module(parameters: bytes = b"", modules: bytes = b"", memo: bytes = b"") -> bytes:
    """A pickled module, of keys and values."""
    held = (text("_parameters") + b"}(" + parameters + b"u", text("_modules") + b"}(" + modules + b"u")
    return b"cm\nM\n)\x81" + memo + b"}(" + b"".join(held) + b"ub"


LONG = b"\x8b" + struct.pack("<i", 4000) + b"\x7f" * 4000  # an integer of 9,600 digits
ONE = b"(K\x01t"
W = text("w")
HOSTILE = {
    "a dict that holds itself a hundred times": b"}q\x00("
    + b"".join(text(f"k{i}") + b"h\x00" for i in range(100))
    + b"u",
    "forty thousand dicts": b"}("
    + b"".join(text(f"k{i}") + b"}" + W + tensor(ONE, ONE) + b"s" for i in range(20000))
    + b"u",
    "laughs": b"]q\x00" + b"".join(b"(" + b"h%c" % i * 10 + b"lq%c" % (i + 1) for i in range(60)),
    "a string encoded a million times": b"X" + struct.pack("<I", 500_000) + b"x" * 500_000 + b"q\x00"
    b"c_codecs\nencode\nq\x01" + b"h\x01(h\x00X\x06\x00\x00\x00latin1tR0" * 10_000,
    "a size of thousands of digits": b"}" + W + tensor(b"(" + LONG + b"t", ONE) + b"s",
    "a stride of thousands of digits": b"}" + W + tensor(ONE, b"(" + LONG + b"t") + b"s",
    "a storage of thousands of digits": b"}" + W + tensor(ONE, ONE, LONG) + b"s",
    "a hundred thousand dimensions": b"}"
    + W
    + tensor(b"(" + b"K\x01" * 100_000 + b"t", b"(" + b"K\x01" * 100_000 + b"t")
    + b"s",
    "colliding keys": b"}("
    + b"".join(b"\x8a\x0a" + (i * (2**61 - 1)).to_bytes(10, "little") + b"N" for i in range(50_000))
    + b"u",
    "a memo index of many digits": b"Np" + b"9" * 1000 + b"\n",
    "nested tuples": b")" + b"\x85" * 300_000,
    "marks only": b"(" * 300_000,
    "an unhashable key": b"}]Ns",
    "a call of a call": b"ctorch._tensor\n_rebuild_from_type_v2\nq\x00(h\x00N(h\x00NNNtNtR",
    "a state of a mark": b"(Nb",
    "a frame of any length": b"\x95" + b"\xff" * 8 + b"N",
    "a string of any length": b"\x8d" + b"\xff" * 7 + b"\x00",
    "a call of a string": text("posix.system") + b")R",
    "a call of a mark": b"()R",
    "an object of nothing": b"(o",
    "keywords that are none": b"cm\nC\n))\x92",
    "a buffer that is in no file": b"\x97",
    "a reference that is none": b"P0\n",
    "calls of calls": b"cm\nC\n" + b")R" * 300_000,
    "records inside records": b"cm\nC\nq\x00" + b"h\x00" * 100_000 + b")" + b"R\x85" * 100_000,
    "an object that is its own state": b"cm\nC\n)Rq\x00h\x00b",
    "a hundred thousand names out of two long strings": b"("
    + text("m" * 1000)
    + b"q\x00"
    + text("n" * 1000)
    + b"q\x01"
    + b"h\x00h\x01\x93" * 100_000
    + b"l",
    "modules that hold each other twice, sixty deep": module(parameters=W + tensor(ONE, ONE))
    + b"q\x00"
    + b"".join(
        b"0" + module(modules=text("a") + b"h%c" % n + text("b") + b"h%c" % n) + b"q%c" % (n + 1) for n in range(60)
    ),
    "a module that holds itself": module(parameters=W + tensor(ONE, ONE), modules=text("a") + b"h\x00", memo=b"q\x00"),
    "a chain of modules": b"".join(
        b"0" + module(modules=text("a") + b"h\x00") + b"q\x00" for _ in range(10_000)
    ).replace(b"0", b"Nq\x00", 1),
    "ten thousand state dicts below a long name": b"}S'"
    + b"n" * 60_000
    + b"'\n}("
    + b"".join(text(f"k{i}") + b"}" + W + tensor(ONE, ONE) + b"s" for i in range(20_000))
    + b"us",
}


def limited() -> None:
    """Takes memory in proportion to a small file, and time that no small file needs."""
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    resource.setrlimit(resource.RLIMIT_CPU, (60, 60))


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_pickle_is_refused_in_bounded_time_and_memory(tmp_path, case):
    path = tmp_path / "c.pth"
    path.write_bytes(legacy(HOSTILE[case]))
    assert "c.pth" in assert_refused("inspect", path, preexec_fn=limited)


@pytest.mark.parametrize("value", [[[]], [1], [LONG], "text", {"0": 0}])
def test_a_list_of_storages_that_is_none_is_refused(tmp_path, value):
    keys = b"\x80\x02](" + LONG + b"e." if value == [LONG] else pickle.dumps(value, 2)
    path = tmp_path / "c.pth"
    path.write_bytes(legacy(b"}" + W + tensor(ONE, ONE) + b"s", keys))
    with pytest.raises(FormatError, match="list of storages does not match"):
        open_weights(path)
    path.write_bytes(TORCH_LEGACY + b".\x80\x02" + LONG + b"." + bytes(10))
    with pytest.raises(FormatError, match="legacy protocol is not 1001"):
        open_weights(path)


def test_a_best_accuracy_beside_the_state_dict_is_not_taken_for_it(tmp_path):
    """What the ImageNet example of PyTorch saves."""
    values = {"epoch": 1, "arch": "resnet18", "state_dict": {"w": torch.ones(2)}, "best_acc1": torch.tensor(70.0)}
    assert open_weights(save(values, tmp_path / "c", "zip")).key == "state_dict"


def test_the_model_is_not_mistaken_for_its_average_nor_one_of_two_chosen(tmp_path):
    values = {"model": {"w": torch.ones(2)}, "model_ema": {"state_dict": {"w": torch.zeros(2)}}}
    assert open_weights(save(values, tmp_path / "c", "zip")).key == "model"
    values = {name: {"state_dict": {"w": torch.ones(2)}} for name in ("generator", "discriminator")}
    with pytest.raises(NetError, match=r"several state dicts.*generator.state_dict.*discriminator.state_dict"):
        open_weights(save(values, tmp_path / "c", "zip"))
    with pytest.raises(FormatError, match="two state dicts called 'a.b'"):
        open_weights(save({"a.b": {"w": torch.ones(2)}, "a": {"b": {"w": torch.ones(2)}}}, tmp_path / "c", "zip"))


@pytest.mark.parametrize("low_byte", [0x0A, 0x12, 0x28, 0x38])
def test_safetensors_are_told_from_models_whatever_their_header_s_length(tmp_path, low_byte):
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    header += b" " * ((low_byte - len(header)) % 256)
    (tmp_path / "x").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    assert not is_model(tmp_path / "x")
    assert run_cli("inspect", tmp_path / "x").returncode == 0


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": [], "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": "", "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": {}, "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1] * 100_000, "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [0, 10**5000], "data_offsets": [0, 0]},
    ],
)
def test_safetensors_with_fields_of_another_kind_are_refused(tmp_path, entry):
    header = (
        json.dumps({"w": entry}).encode()
        if entry["shape"] != [0, 10**5000]
        else b'{"w":{"shape":[1' + b"0" * 5000 + b"]}}"
    )
    (tmp_path / "x").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(Error, match="x: "):
        open_weights(tmp_path / "x")


def field(number: int, content: bytes) -> bytes:
    return b"".join(map(rendered, wire.delimited(number, [Literal(content)])))


def model(blob: bytes) -> bytes:
    return field(100, field(7, blob))


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        (b"\x28\x01", "malformed values"),
        (b"\x29" + bytes(8), "malformed values"),
        (b"\xad\x00" + bytes(4), "malformed values"),
        (field(5, bytes(3)), "malformed values"),
        (field(5, bytes(4)) + field(8, bytes(8)), "values in several fields"),
        (field(5, bytes(4)) + field(12, bytes(4)), "values in several fields"),
        (field(7, field(1, b"\x01" * 33)) + field(5, bytes(4)), "impossible shape"),
        (field(7, field(1, b"\xff\xff\xff\xff\x7f")), "impossible shape"),
        (b"\x08" + wire.varint(-1), "impossible shape"),
        (b"\x50\x07" + field(12, bytes(4)), "raw_data of type 7"),
    ],
)
def test_a_blob_that_protobuf_would_read_otherwise_is_refused(tmp_path, blob, message):
    (tmp_path / "m").write_bytes(model(blob))
    with pytest.raises(FormatError, match=message):
        open_model(tmp_path / "m")


def test_of_several_raw_data_the_last_counts_as_in_protobuf(tmp_path):
    blob = field(12, b"ab") + b"\x50\x02" + field(12, b"cd") + field(7, field(1, b"\x01"))
    assert caffe_pb2.BlobProto.FromString(blob).raw_data == b"cd"
    (tmp_path / "m").write_bytes(model(blob))
    assert rendered(open_model(tmp_path / "m").layers[0].blobs[0].values) == b"cd"


def test_a_million_layers_of_nothing_are_refused(tmp_path):
    (tmp_path / "m").write_bytes(b"\xa2\x06\x00" * 500_000)
    assert "more than 100000 layers" in assert_refused("inspect", tmp_path / "m", preexec_fn=limited)


def test_one_long_name_does_not_pad_every_row(tmp_path):
    (tmp_path / "m").write_bytes(field(100, field(1, b"n" * 500_000)) + b"\xa2\x06\x00" * 20_000)
    done = run_cli("inspect", tmp_path / "m")
    assert done.returncode == 0
    assert len(done.stdout) < 5_000_000


RECORDS = [b"\xff", b"{", b"[" * 100_000, b"5", b'{"options": 5}']
RECORDS += [
    json.dumps({"options": {"net": "auto", "input_shape": None, **odd}}).encode()
    for odd in (
        {"net": 5},
        {"key": []},
        {"end": 5},
        {"input_shape": ["a"] * 4},
        {"what": 1},
        {"softmax": "no"},
        {"mean": ["a"]},
        {"std": 1.0},
        {"eps": "1"},
    )
]


@pytest.mark.parametrize("record", RECORDS)
def test_a_record_that_nobody_wrote_is_no_record(tmp_path, checkpoint, record):
    (tmp_path / "m").write_bytes(caffe_pb2.NetParameter(name="n", streamexport_record=record).SerializeToString())
    assert json.loads(run_cli("inspect", tmp_path / "m", "--json").stdout)["options"] is None
    assert "has no record of how it was made" in assert_refused("verify", checkpoint("resnet18"), tmp_path / "m")


def test_names_reach_the_terminal_escaped_in_any_locale(tmp_path):
    message = caffe_pb2.NetParameter(name="\x1b[31mred\nline")
    message.layer.add(name="日本")
    data = message.SerializeToString() + field(100, field(1, b"\xff\xfe"))
    (tmp_path / "m").write_bytes(data)
    for encoding in ("ascii", "utf-8:strict"):
        done = run_cli("inspect", tmp_path / "m", env={**os.environ, "PYTHONIOENCODING": encoding})
        assert done.returncode == 0, done.stderr
        assert "\x1b" not in done.stdout
        assert len(done.stdout.splitlines()) == 4


def test_an_expanded_classifier_is_refused_not_written_for_years(tmp_path, checkpoint):
    state = torch.load(checkpoint("resnet18"))
    state["fc.weight"], state["fc.bias"] = torch.ones(1, 1).expand(1 << 40, 512), torch.ones(1).expand(1 << 40)
    torch.save(state, tmp_path / "c.pth")
    line = assert_refused("convert", tmp_path / "c.pth", "-o", tmp_path / "m.caffemodel")
    assert "fc.weight: has 562949953421312 elements, Caffe's blobs hold 2147483647" in line


@pytest.mark.parametrize("shape", ["1,3,99999999999999999999,224", "9223372036854775807,3,1,1", "1,3,65536,65536"])
def test_an_input_larger_than_caffe_counts_is_refused(tmp_path, checkpoint, shape):
    line = assert_refused("convert", checkpoint("resnet18"), "-o", tmp_path / "m.caffemodel", "--input-shape", shape)
    assert "input shape" in line


# Outputs


def shell(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    python = f'"{sys.executable}" -m streamexport'
    command = ["bash", "-c", script.replace("streamexport", python, 1), "bash", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_dev_stdout_is_a_pipe_like_any_other(tmp_path, checkpoint):
    run_cli("convert", checkpoint("resnet18"), "-o", tmp_path / "m.caffemodel")
    done = shell(
        'streamexport convert "$1" -o /dev/stdout | cmp - "$2"', checkpoint("resnet18"), tmp_path / "m.caffemodel"
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_two_outputs_of_one_name_are_refused(tmp_path, checkpoint):
    for arguments in (("-o", tmp_path / "x.prototxt"), ("-o", tmp_path / "b", "--prototxt", tmp_path / "b")):
        assert "is the name of two outputs" in assert_refused("convert", checkpoint("resnet18"), *arguments)
    assert list(tmp_path.iterdir()) == []
    assert "the output has no name" in assert_refused("convert", checkpoint("resnet18"), "-o", "")


def test_closed_standard_streams_disturb_nothing(tmp_path, checkpoint):
    path, out = checkpoint("resnet18"), tmp_path / "m.caffemodel"
    for closed in (">&-", "2>&-", "<&- >&- 2>&-"):
        assert shell(f'streamexport convert "$1" -o "$2" {closed}', path, out).returncode == 0
        assert caffe_pb2.NetParameter.FromString(out.read_bytes()).name == "resnet18"
        out.unlink()
    done = shell('streamexport inspect "$1" 2>&-', tmp_path / "nowhere")
    assert (done.returncode, done.stdout) == (1, "")
    done = shell('streamexport convert "$1" -o - >&-', path)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1


def test_only_our_own_temporary_files_are_cleaned_up(tmp_path, checkpoint):
    (tmp_path / ".m.caffemodel.streamexport-notes.txt").write_text("mine")
    os.mkfifo(tmp_path / ".m.caffemodel.streamexport-00000000")
    (tmp_path / ".m.caffemodel.streamexport-12345678").write_text("stale")
    assert run_cli("convert", checkpoint("resnet18"), "-o", tmp_path / "m.caffemodel").returncode == 0
    assert (tmp_path / ".m.caffemodel.streamexport-notes.txt").exists()
    assert (tmp_path / ".m.caffemodel.streamexport-00000000").exists()
    assert not (tmp_path / ".m.caffemodel.streamexport-12345678").exists()


def test_the_longest_name_that_a_directory_takes_is_written(tmp_path, checkpoint):
    out = tmp_path / ("模" * 80 + ".caffemodel")
    done = run_cli("convert", checkpoint("resnet18"), "-o", out)
    assert done.returncode == 0, done.stderr
    assert out.exists()


def test_odd_names_of_files_are_said_on_one_line(tmp_path):
    name = b"a\nb\xff"
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(b"noise")
    assert r"a\nb\udcff: is not" in assert_refused("inspect", os.fsdecode(os.fsencode(tmp_path) + b"/" + name))


def test_a_message_never_grows_with_the_file(tmp_path):
    path = tmp_path / "c"
    path.write_bytes(legacy(b"c" + b"m" * 1000 + b"\n" + b"n" * 1000 + b"\n)R"))
    assert len(assert_refused("inspect", path)) < 3000
    path.write_bytes(
        legacy(b"}(" + W + tensor(ONE, ONE) + b"".join(text(f"k{i}") + b"cm\nC\n)R" for i in range(9_000)) + b"u")
    )
    assert len(assert_refused("convert", path, "-o", tmp_path / "m")) < 3000
    assert len(run_cli("inspect", path).stdout) < 3000
