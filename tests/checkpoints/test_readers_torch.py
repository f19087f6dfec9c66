"""torch writes, we read, torch says whether it is right: both formats, with every oddity that real files have."""

from __future__ import annotations

import collections
import pickle
import re
import struct
import zipfile

import numpy as np
import pytest
import torch

from streamexport.checkpoints import open_weights
from streamexport.errors import Error, FormatError, NetError, TruncatedError
from tests.payload.test_extents import rendered

FORMATS = ("legacy", "zip")


def save(value, path, form, **options):
    torch.save(value, path, _use_new_zipfile_serialization=form == "zip", **options)
    return path


def assert_same(weights, expected):
    assert list(weights.tensors) == list(expected)
    for name, tensor in weights.tensors.items():
        reference = expected[name].detach()
        assert tensor.name == name
        assert tensor.shape == tuple(reference.shape)
        assert f"torch.{tensor.dtype.name}" == str(reference.dtype)
        if tensor.dtype.is_floating:
            found = np.frombuffer(rendered(tensor.as_float32()), "<f4")
            np.testing.assert_array_equal(found, reference.float().contiguous().numpy().reshape(-1))


def oddities():
    torch.manual_seed(0)
    base = torch.randn(40, 50)
    shared = torch.randn(1000)
    return {
        "plain": torch.randn(3, 4, 5),
        "transposed": base.t(),
        "offset": base[3:7],
        "strided": base[::3, 1::2],
        "expanded": torch.randn(1, 4).expand(3, 4),
        "channels_last": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "first_of_shared": shared[:10],
        "second_of_shared": shared[990:],
        "scalar": torch.tensor(1.5),
        "empty": torch.empty(0, 3),
        "counter": torch.tensor(7),
        "half": torch.randn(7).half(),
        "bfloat16": torch.randn(7).bfloat16(),
        "double": torch.randn(7, dtype=torch.float64),
        "parameter": torch.nn.Parameter(torch.randn(2, 2)),
        "buffer": torch.nn.Parameter(torch.randn(2, 2), requires_grad=False),
        "behind": torch.randn(9),
        **{
            f"is_{dtype}".replace("torch.", ""): torch.ones(3, dtype=dtype)
            for dtype in (torch.int8, torch.uint8, torch.bool)
        },
        **{str(dtype): torch.ones(3, dtype=dtype) for dtype in (torch.int16, torch.int32, torch.complex64)},
    }


@pytest.mark.parametrize(("form", "protocol"), [("legacy", 2), ("zip", 2), ("zip", 4)])
def test_every_oddity_of_torch_is_read_as_torch_reads_it(tmp_path, form, protocol):
    values = oddities()
    weights = open_weights(save(values, tmp_path / "c.bin", form, pickle_protocol=protocol))
    assert weights.format == f"torch {form}"
    assert_same(weights, values)


@pytest.mark.parametrize("form", FORMATS)
def test_a_module_s_state_dict_with_its_metadata(tmp_path, form):
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    assert module.state_dict()._metadata
    assert_same(open_weights(save(module.state_dict(), tmp_path / "c", form)), module.state_dict())


@pytest.mark.parametrize("form", FORMATS)
def test_cuda_locations_do_not_matter(tmp_path, form):
    path = save({"w": torch.arange(3.0)}, tmp_path / "c", form)
    data = path.read_bytes()
    changed = data.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
    assert changed != data
    if form == "legacy":
        path.write_bytes(changed)
    else:
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "new", "w") as new:
            for info in old.infolist():
                body = old.read(info)
                new.writestr(info.filename, body.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"))
        path = tmp_path / "new"
    assert rendered(open_weights(path).tensors["w"].as_float32()) == np.arange(3, dtype="<f4").tobytes()


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("nest", "key"),
    [
        (lambda d: d, ""),
        (lambda d: {"state_dict": d, "epoch": 3, "arch": "resnet50"}, "state_dict"),
        (lambda d: {"model_state": d, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}}, "model_state"),
        (lambda d: {"ema": d, "model": d, "best": 0.5}, "model"),
        (lambda d: {"module": {"net": d}}, "module.net"),
        (lambda d: {"state_dict": collections.OrderedDict((f"module.{k}", v) for k, v in d.items())}, "state_dict"),
    ],
)
def test_the_state_dict_is_found_wherever_it_is_nested(tmp_path, form, nest, key):
    values = {"a.weight": torch.randn(2), "b.weight": torch.randn(3)}
    weights = open_weights(save(nest(values), tmp_path / "c", form))
    assert weights.key == key
    assert_same(weights, values)


def test_a_key_chooses_among_state_dicts_and_none_is_guessed(tmp_path):
    path = save({"teacher": {"w": torch.ones(1)}, "student": {"w": torch.zeros(1)}}, tmp_path / "c", "zip")
    with pytest.raises(
        NetError, match=r"several state dicts; choose with `key=`: teacher \(1 tensors, 4 bytes\), student"
    ):
        open_weights(path)
    assert rendered(open_weights(path, "student").tensors["w"].as_float32()) == bytes(4)
    with pytest.raises(NetError, match="no state dict 'other'"):
        open_weights(path, "other")


def test_files_of_old_torch_with_views_of_storages_and_rebuild_tensor(tmp_path):
    """torch 0.3 wrote `_rebuild_tensor` and view metadata; such a file, put together by hand."""

    class Old:
        def __init__(self, storage, first):
            self.storage, self.first = storage, first

        def __reduce__(self):
            return torch._utils._rebuild_tensor, (self.storage, self.first, (2,), (1,))

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return value if isinstance(value, tuple) and value[:1] == ("storage",) else None

    storage = ("storage", torch.FloatStorage, "7", "cpu", 10, ("8", 4, 6))
    path = tmp_path / "old.pth"
    save({}, path, "legacy")
    head = path.read_bytes()
    with path.open("wb") as file:
        file.write(head[: head.index(b"\x80\x02}", 40)])  # magic, protocol, system information
        Pickler(file, 2).dump({"w": Old(storage, 1)})
        pickle.dump(["7"], file, 2)
        file.write(struct.pack("<q", 10) + np.arange(10, dtype="<f4").tobytes())
    assert rendered(open_weights(path).tensors["w"].as_float32()) == np.array([5, 6], "<f4").tobytes()


class Attack:
    def __reduce__(self):
        import os

        return os.system, ("touch executed",)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("where", ["value", "key", "build"])
def test_a_pickle_that_calls_os_system_is_read_and_nothing_is_run(tmp_path, form, where, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = {"w": torch.ones(1)}
    if where == "value":
        values["x"] = Attack()
    elif where == "key":
        values[Attack()] = 1
    else:
        values = collections.OrderedDict(values)
        values._metadata = Attack()
    weights = open_weights(save(values, tmp_path / "c", form))
    assert list(weights.tensors) == ["w"]
    said = (
        r"x is a (posix|nt)\.system, no plain data, and nothing was executed \(at byte \d+\): save tensors in its place"
    )
    assert [bool(re.fullmatch(said, remark)) for remark in weights.remarks] == [True] * (where == "value")
    assert not (tmp_path / "executed").exists()


def test_big_endian_files_are_refused_by_name(tmp_path):
    path = save({"w": torch.ones(1)}, tmp_path / "c", "legacy")
    data = path.read_bytes()
    swapped = re.sub(rb"(?<=little_endianq.)\x88", b"\x89", data)
    assert swapped != data
    path.write_bytes(swapped)
    with pytest.raises(FormatError, match="big-endian"):
        open_weights(path)
    path = save({"w": torch.ones(1)}, tmp_path / "z", "zip")
    path.write_bytes(path.read_bytes().replace(b"little", b"big   "))
    with pytest.raises(FormatError, match="byte order 'big"):
        open_weights(path)


def test_compressed_members_are_refused(tmp_path):
    path = save({"w": torch.ones(100)}, tmp_path / "c", "zip")
    packed = tmp_path / "packed"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
    with pytest.raises(FormatError, match="is compressed or encrypted.*byte"):
        open_weights(packed)


def test_local_headers_say_where_data_begins_not_central_ones(tmp_path):
    path = save({"w": torch.arange(5.0)}, tmp_path / "c", "zip")
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("c/data/0")
    data = path.read_bytes()
    local = info.header_offset
    name, extra = struct.unpack_from("<HH", data, local + 26)
    assert extra != len(info.extra)
    assert open_weights(path).tensors["w"].extent.offset == local + 30 + name + extra


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_cut_anywhere_is_refused(tmp_path, form):
    """Every prefix: no traceback, no tensor out of thin air."""
    data = save({"w": torch.arange(6.0), "n": torch.tensor(1)}, tmp_path / "c", form).read_bytes()
    cut = tmp_path / "cut"
    for length in range(0, len(data), 1 if form == "legacy" else 7):
        cut.write_bytes(data[:length])
        with pytest.raises(Error) as refusal:
            open_weights(cut)
        assert str(cut) in str(refusal.value)
    assert isinstance(refusal.value, TruncatedError)


@pytest.mark.parametrize("form", FORMATS)
def test_damaged_bytes_never_crash_the_reader(tmp_path, form):
    """Any byte of the headers changed: an error of ours, or the same tensors within the file."""
    data = save({"w": torch.arange(6.0), "v": torch.ones(2, 2).t()}, tmp_path / "c", form).read_bytes()
    broken = tmp_path / "broken"
    numbers = np.random.default_rng(0)
    for position in numbers.choice(len(data), min(len(data), 1500), replace=False):
        changed = bytearray(data)
        changed[position] ^= 1 << numbers.integers(8)
        broken.write_bytes(changed)
        try:
            weights = open_weights(broken)
        except Error:
            continue
        for tensor in weights.tensors.values():
            assert tensor.extent.end <= len(data)
