"""safetensors written by its own library, sharded sets, and headers that lie."""

from __future__ import annotations

import json
import struct
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from streamexport.checkpoints import open_weights
from streamexport.errors import Error, FormatError, SourceError
from tests.checkpoints.test_readers_torch import assert_same


def values():
    torch.manual_seed(0)
    return {
        "a": torch.randn(3, 4),
        "b": torch.randn(5).half(),
        "c": torch.randn(2, 2).bfloat16(),
        "d": torch.randn(3, dtype=torch.float64),
        "e": torch.tensor(3),
        "f": torch.empty(0, 2),
    }


def test_what_the_library_writes_is_read(tmp_path):
    path = tmp_path / "x.bin"
    save_file(values(), path, metadata={"format": "pt"})
    weights = open_weights(path)
    assert weights.format == "safetensors"
    assert_same(weights, {name: values()[name] for name in weights.tensors})
    assert set(weights.tensors) == set(values())


@pytest.mark.parametrize("form", ["torch", "safetensors"])
def test_a_sharded_set_is_one_checkpoint(tmp_path, form):
    names = list(values())
    shards = {"one.bin": names[:2], "two.bin": names[2:]}
    for file, held in shards.items():
        part = {f"module.{name}": values()[name] for name in held}
        save_file(part, tmp_path / file) if form == "safetensors" else torch.save(part, tmp_path / file)
    index = {f"module.{name}": file for file, held in shards.items() for name in held}
    path = tmp_path / "model.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": index}))
    weights = open_weights(path)
    assert weights.format == "sharded"
    assert len(weights.sources) == 3
    assert_same(weights, values())


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": {"w": "../outside"}}, "not a file beside it"),
        ({"weight_map": {"w": "/etc/passwd"}}, "not a file beside it"),
        ({"weight_map": {"w": "x.index.json"}}, "is not a torch checkpoint"),
        ({"weight_map": {"w": "gone.bin"}}, "No such file"),
        ({"weight_map": {"w": "held.bin"}}, "w: is not in the file that the index names"),
        ({"weight_map": ["w"]}, "no weight_map"),
        ({"weights": {}}, "no weight_map"),
    ],
)
def test_an_index_that_lies_is_refused(tmp_path, index, message):
    torch.save({"other": torch.ones(1)}, tmp_path / "held.bin")
    path = tmp_path / "x.index.json"
    path.write_text(json.dumps(index))
    with pytest.raises((FormatError, SourceError), match=message):
        open_weights(path)


@pytest.mark.parametrize("form", ["torch", "safetensors"])
def test_a_set_of_more_shards_than_descriptors_is_read(tmp_path, form):
    """By four threads, too, in a process that may open fewer files than there are."""
    weight_map = {}
    for number in range(100):
        part = {f"w{number}": torch.full((2,), float(number))}
        file = f"{number}.bin"
        save_file(part, tmp_path / file) if form == "safetensors" else torch.save(part, tmp_path / file)
        weight_map[f"w{number}"] = file
    path = tmp_path / "model.index.json"
    path.write_text(json.dumps({"weight_map": weight_map}))
    done = subprocess.run([sys.executable, "-c", FEW, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [list(range(100))] * 4


FEW = """
import json, resource, struct, sys
from concurrent.futures import ThreadPoolExecutor
resource.setrlimit(resource.RLIMIT_NOFILE, (96, 96))
from streamexport import open_weights
from streamexport.payload.pieces import Layout
layout = Layout.of([tensor.as_float32() for tensor in open_weights(sys.argv[1]).tensors.values()])
def values(_):
    data = bytearray(layout.size)
    layout.render(0, layout.size, memoryview(data))
    return [int(number) for number in struct.unpack("<200f", data)[::2]]
with ThreadPoolExecutor(4) as pool:
    print(json.dumps(list(pool.map(values, range(4)))))
"""
ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({**ENTRY, "data_offsets": [0, 12]}, "w: lies at 0 to 12 of 8 bytes"),
        ({**ENTRY, "data_offsets": [8, 0]}, "w: lies at 8 to 0"),
        ({**ENTRY, "data_offsets": [-8, 0]}, "w: malformed"),
        ({**ENTRY, "shape": [1]}, "w: has 8 bytes, its shape needs 4"),
        ({**ENTRY, "shape": [3]}, "needs 12 bytes, its storage holds 8"),
        ({**ENTRY, "shape": "2"}, "w: malformed"),
        ({**ENTRY, "dtype": "F8_E4M3"}, "w: has dtype 'F8_E4M3'"),
        ({"dtype": "F32"}, "w: malformed"),
        ([], "w: malformed"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path, entry, message):
    path = tmp_path / "x.safetensors"
    header = json.dumps({"w": entry}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(Error, match=message):
        open_weights(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (struct.pack("<Q", 50) + b'{"a":1}', "its header needs 50 bytes"),
        (struct.pack("<Q", 7) + b'{"a":1,', "malformed JSON"),
        (struct.pack("<Q", 19) + b'{"a":[],"a":[]}    ', "a key stands twice"),
        (struct.pack("<Q", 100_000) + b'{"a":' + b"[" * 99_995, "malformed JSON"),
    ],
)
def test_a_header_that_is_no_json_is_refused(tmp_path, data, message):
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=message):
        open_weights(path)
