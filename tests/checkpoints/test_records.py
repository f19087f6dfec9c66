"""What is pickled beside the weights, and around them: read as data, never made. torch writes, torch says what is right."""

from __future__ import annotations

import argparse
import collections
import datetime
import enum
import functools
import pathlib
import pickle
import random
import re
import struct
import subprocess
import sys
import types
import warnings
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from streamexport import Options, plan
from streamexport.checkpoints import open_weights
from streamexport.errors import NetError
from tests.checkpoints.test_readers_torch import FORMATS, assert_same, save
from tests.conftest import assert_refused, run_cli


class Colour(enum.Enum):
    RED = 1


class Config(dict):
    """As yacs has it: a dict with attributes."""

    def __init__(self, **items):
        super().__init__(**items)
        self.__dict__["frozen"] = True


class Slotted:
    __slots__ = ("held",)

    def __init__(self):
        self.held = "x"


class Keyword:
    def __new__(cls, *, held=1):
        return super().__new__(cls)

    def __getnewargs_ex__(self):
        return (), {"held": 1}


Point = collections.namedtuple("Point", "x y")
BESIDE = {
    "namespace": argparse.Namespace(lr=0.1, device="cuda", nested=argparse.Namespace(a=[1])),
    "numpy scalars": [np.float64(0.9), np.int64(3), np.bool_(True), np.datetime64("2020-01-01")],
    "numpy arrays": [np.arange(3), np.zeros((2, 0)), np.array(["a"]), np.array([{1}, None]), np.zeros(2, "i4,f8")],
    "generators": [torch.get_rng_state(), np.random.get_state(), random.getstate(), np.random.default_rng(0)],
    "dicts of other classes": [Config(a=Config(b=1)), collections.Counter("ab"), collections.defaultdict(int, a=1)],
    "paths, dates and enums": [pathlib.PurePosixPath("/x"), datetime.datetime.now(), datetime.timedelta(1), Colour.RED],
    "functions": [len, functools.partial(print, "x"), torch.relu, Config.update, "x".join],
    "sets": [{1, 2}, frozenset({"a"}), collections.deque([1], 3), set()],
    "objects": [
        Slotted(),
        Keyword(),
        Point(1, 2),
        types.SimpleNamespace(a=1),
        slice(1),
        ...,
        1j,
        range(3),
        ValueError("x"),
    ],
    "torch's own": [torch.float16, torch.device("cuda"), torch.Size([1]), torch.strided, torch.finfo, nn.ReLU],
    "an optimizer": torch.optim.Adam([nn.Parameter(torch.ones(2))]),
    "storages": [torch.ones(3).untyped_storage(), torch.ones(3).untyped_storage().clone()],
    "long ones": ["x" * 5000, b"y" * 5000, bytearray(b"z" * 300), "ü" * 2000, 1 << 2000, {"k" * 3000: 1}],
}


@pytest.mark.parametrize(("form", "protocol"), [("legacy", 2), ("zip", 2), ("zip", 4), ("zip", 5)])
@pytest.mark.parametrize("beside", BESIDE)
def test_what_lies_beside_the_weights_does_not_matter(tmp_path, form, protocol, beside):
    state = {"a.weight": torch.randn(20, 3), "b.weight": torch.randn(3)}
    values = {"before": BESIDE[beside], "state_dict": state, "behind": BESIDE[beside]}
    weights = open_weights(save(values, tmp_path / "c", form, pickle_protocol=protocol))
    assert weights.key == "state_dict"
    assert_same(weights, state)
    flat = {**state, "beside": BESIDE[beside]}
    assert_same(open_weights(save(flat, tmp_path / "c", form, pickle_protocol=protocol)), state)


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_of_pickle_is_read(tmp_path, protocol):
    held = np.arange(6, dtype="f4").reshape(2, 3)
    newer = ("objects", "generators") if protocol < 2 else ()  # have no pickle of old protocols
    values = {"w": held, **{name: value for name, value in BESIDE.items() if name not in newer}}
    with (tmp_path / "c.pkl").open("wb") as file:
        pickle.dump(values, file, protocol)
    weights = open_weights(tmp_path / "c.pkl")
    assert weights.format == "pickle"
    assert_same(weights, {"w": torch.from_numpy(held)})


# Nothing is run


def string(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


CALL = b"(" + string("touch executed") + b"tR"
GADGETS = {
    "reduce": b"cposix\nsystem\n" + CALL,
    "reduce of a builtin": b"c__builtin__\neval\n(" + string("__import__('canary')") + b"tR",
    "newobj": b"csubprocess\nPopen\n" + string("false") + b"\x85\x81",
    "newobj with keywords": b"csubprocess\nPopen\n" + string("false") + b"\x85}\x92",
    "inst": b"(" + string("touch executed") + b"iposix\nsystem\n",
    "obj": b"(cposix\nsystem\n" + string("touch executed") + b"o",
    "stack global": string("posix") + string("system") + b"\x93" + CALL,
    "dotted": string("canary") + string("Canary.__init__.__globals__") + b"\x93)R",
    "extension": b"\x82\x01)R",
    "build": b"ccanary\nCanary\n)\x81}" + string("state") + b"Nsb",
    "items": b"ccanary\nCanary\n)R(" + string("k") + b"Nu",
    "appends": b"ccanary\nCanary\n)R(NNe",
    "getattr": b"cbuiltins\ngetattr\ncposix\nsystem\n" + string("__call__") + b"\x86R" + CALL,
    "a call of what a call made": b"coperator\nattrgetter\n" + string("system") + b"\x85R(ccanary\nCanary\ntR",
    "reconstructor": b"ccopyreg\n_reconstructor\n(ccanary\nCanary\nc__builtin__\nobject\nNtR}b",
    "a tensor rebuilt by it": b"ctorch._tensor\n_rebuild_from_type_v2\n(cposix\nsystem\nN(" + string("exit") + b"t}tR",
    "a module's source": b"("
    + string("module")
    + b"ccanary\nCanary\n"
    + string("f")
    + string("import canary")
    + b"tQ)R",
}
PLACES = {
    "value": lambda gadget, w: b"}(" + w + string("x") + gadget + b"u",
    "before": lambda gadget, w: b"}(" + string("x") + gadget + w + b"u",
    "key": lambda gadget, w: b"}(" + w + gadget + b"Nu",
    "state": lambda gadget, w: b"ccollections\nOrderedDict\n)R(" + w + b"u" + gadget + b"b",
    "argument": lambda gadget, w: b"}(" + w + string("x") + b"ccanary\nCanary\n" + gadget + b"\x85Ru",
    "thrown away": lambda gadget, w: gadget + b"0}(" + w + b"u",
    "in a module": lambda gadget, w: (
        b"ccanary\nM\n)\x81}("
        + (string("_parameters") + b"}(" + w + b"u" + string("_modules") + b"}" + string("x") + gadget + b"s")
        + b"ub"
    ),
}
CANARY = """
import sys
sys.path.insert(0, sys.argv[1])
from streamexport.checkpoints import open_weights
open_weights(sys.argv[2])
known = set(sys.modules)
seen = []
watching = False
sys.addaudithook(lambda event, arguments: seen.append((event, arguments[0])) if watching else None)
for path in sys.argv[2:]:
    watching = True
    weights = open_weights(path)
    watching = False
    assert [name for name in weights.tensors if name != "x"] == ["w"], path  # x may stand for a tensor, without elements
    assert [event for event in seen if event[0] != "builtins.id"] == [("open", path)], (path, seen)
    seen.clear()
assert set(sys.modules) == known, set(sys.modules) - known
"""


def test_nothing_that_a_pickle_names_is_imported_or_called(tmp_path):
    """Audit hooks see every import, open, exec and system call of Python's; a module that may be imported lies ready."""
    (tmp_path / "canary.py").write_text("open('executed', 'w')\nclass Canary: pass\n")
    w = save({"w": torch.ones(1)}, tmp_path / "plain", "legacy").read_bytes()
    start, stop = w.index(b"}q\x00X\x01\x00\x00\x00w"), w.index(b"s.", w.index(b"_rebuild_tensor"))
    item = w[start + 3 : stop]
    paths = []
    for name, gadget in GADGETS.items():
        for place, put in PLACES.items():
            paths.append(tmp_path / f"{name}-{place}".replace(" ", "_").replace("'", ""))
            paths[-1].write_bytes(w[:start] + put(gadget, item) + w[stop + 1 :])
    command = [sys.executable, "-c", CANARY, tmp_path, tmp_path / "plain", *paths]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "executed").exists()


# Tensors that no blob can be made of


class Wrapped(torch.Tensor):
    """A subclass whose elements are somewhere else."""

    @staticmethod
    def __new__(cls):
        return torch.Tensor._make_wrapper_subclass(cls, (2,), dtype=torch.float32)

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return torch.zeros(2)


class Tagged(torch.Tensor):
    """A subclass with elements like any other's."""


def unreadable():
    per_channel = torch.quantize_per_channel(torch.ones(3, 2), torch.ones(3), torch.zeros(3), 0, torch.quint8)
    yield "is quantised (qint8)", torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
    yield "is quantised (quint8)", per_channel
    yield "is sparse", torch.eye(2).to_sparse()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield "is sparse", torch.eye(2).to_sparse_csr()
        yield "is a nested tensor", torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    yield "holds float8_e4m3fn", torch.ones(3).to(torch.float8_e4m3fn)
    yield "holds uint16", torch.ones(3).to(torch.uint16)
    yield "is lazily conjugated or negated", torch.ones(3, dtype=torch.complex64).conj()
    yield "lies on the meta device", torch.ones(3, device="meta")
    yield "is a Wrapped, which is rebuilt in a way of its own", Wrapped()


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(("what", "tensor"), list(unreadable()))
def test_a_tensor_that_cannot_be_read_is_ignored_and_named_where_it_is_needed(tmp_path, checkpoint, form, what, tensor):
    state = torch.load(checkpoint("resnet18"))
    path = save({**state, "unused": tensor}, tmp_path / "c", form)
    assert len(plan([path], tmp_path / "m.caffemodel", Options(net="resnet18")).net.layers) > 60
    (remark,) = open_weights(path).remarks
    assert remark.startswith(f"unused {what}")
    path = save({**state, "fc.weight": tensor}, tmp_path / "c", form)
    with pytest.raises(
        NetError, match=rf"fc.weight is \[.*\], not .*; fc.weight {re.escape(what)}.* \(at byte \d+\): "
    ):
        plan([path], tmp_path / "m.caffemodel", Options(net="resnet18"))


@pytest.mark.parametrize("form", FORMATS)
def test_a_tensor_of_the_right_shape_is_refused_for_what_it_is(tmp_path, checkpoint, form):
    state = torch.load(checkpoint("resnet18"))
    state["fc.weight"] = torch.quantize_per_tensor(state["fc.weight"], 0.1, 0, torch.qint8)
    line = assert_refused("convert", save(state, tmp_path / "c", form), "-o", tmp_path / "m.caffemodel")
    assert re.search(r"fc.weight: is quantised \(qint8\) \(at byte \d+\); dequantize\(\) it before saving", line)


@pytest.mark.parametrize("form", FORMATS)
def test_complex_numbers_are_refused_where_they_are_needed(tmp_path, checkpoint, form):
    state = torch.load(checkpoint("resnet18"))
    state["fc.weight"] = state["fc.weight"].to(torch.complex64)
    line = assert_refused("convert", save(state, tmp_path / "c", form), "-o", tmp_path / "m.caffemodel")
    assert "fc.weight: holds complex64, a Caffe blob holds floating-point numbers" in line


@pytest.mark.parametrize("form", FORMATS)
def test_tensors_of_subclasses_and_with_attributes_are_tensors(tmp_path, form):
    tagged, parameter = torch.arange(3.0).as_subclass(Tagged), nn.Parameter(torch.ones(2))
    tagged.note = parameter.note = "x"
    path = save({"a": tagged, "b": parameter, "c": nn.Buffer(torch.zeros(2))}, tmp_path / "c", form)
    assert_same(open_weights(path), {"a": torch.arange(3.0), "b": torch.ones(2), "c": torch.zeros(2)})


def test_an_object_where_a_tensor_is_needed_is_named(tmp_path, checkpoint):
    state = torch.load(checkpoint("resnet18"))
    path = save({**state, "fc.weight": argparse.Namespace(a=1)}, tmp_path / "c", "zip")
    last = run_cli("inspect", path).stdout.splitlines()[-1]
    line = assert_refused("convert", path, "-o", tmp_path / "m.caffemodel", "--net", "resnet18")
    assert last in line
    assert "fc.weight is [], not [1000, 512]" in line
    assert "fc.weight is a argparse.Namespace, no plain data, and nothing was executed (at byte " in line


# Files that are something else


STRANGERS = {
    "is a web page": [
        b"<!DOCTYPE html><html>",
        b"\n  <html lang='en'>",
        b"\xef\xbb\xbf<HTML>",
        b"<?xml version='1.0'?><Error>",
    ],
    "is a Git LFS pointer": [b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"],
    "is compressed with gzip": [b"\x1f\x8b\x08\x00" + bytes(20)],
    "is compressed with xz": [b"\xfd7zXZ\x00\x00\x04"],
    "is a 7z archive": [b"7z\xbc\xaf\x27\x1c\x00\x04"],
    "is a rar archive": [b"Rar!\x1a\x07\x01\x00"],
    "is a tar archive": [b"sys_info".ljust(257, b"\0") + b"ustar\x0000" + bytes(500)],
    "is an ONNX model": [b"\x08\x07\x12\x07pytorch\x1a\x032.0", b"\x08\x0a:\x04abcd"],
    "is a module of torch for mobile devices": [b"\x1c\x00\x00\x00PTMF" + bytes(20)],
    "is empty": [b""],
    "is not a torch checkpoint": [b"noise"],
}


@pytest.mark.parametrize("what", STRANGERS)
@pytest.mark.parametrize("command", [("inspect",), ("convert", "-o", "m.caffemodel")])
def test_what_is_something_else_is_called_so(tmp_path, what, command):
    for content in STRANGERS[what]:
        (tmp_path / "x.pth").write_bytes(content)
        line = assert_refused(command[0], tmp_path / "x.pth", *command[1:], cwd=tmp_path)
        assert f"x.pth: {what}" in line


def test_pickles_that_are_no_checkpoints(tmp_path):
    for value in ({"a": 1}, [1, 2], "text", 5, None, argparse.Namespace(a=1)):
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(value, 4))
        assert "x.pkl: holds no state dict" in assert_refused("inspect", tmp_path / "x.pkl")


def test_the_pickle_alone_of_a_torch_file(tmp_path):
    with zipfile.ZipFile(save({"w": torch.ones(2)}, tmp_path / "c", "zip")) as archive:
        (tmp_path / "data.pkl").write_bytes(archive.read("c/data.pkl"))
    line = assert_refused("inspect", tmp_path / "data.pkl")
    assert "is the pickle of a torch file, without the elements of its tensors" in line
