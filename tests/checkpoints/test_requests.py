"""From a store each read is a request: headers come in few of them, and what says them again is compared later."""

from __future__ import annotations

import mmap
import os
import pickle
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import streamexport
from streamexport.checkpoints import open_weights
from streamexport.errors import FormatError, TruncatedError
from streamexport.payload.pieces import Extent, Layout, Piece
from streamexport.transfer.moving import stream
from tests.checkpoints.test_readers_torch import assert_same, save
from tests.shared.web import Server, serving

FORMS = ("legacy", "zip", "safetensors")
VALUES = {f"layer{n}.weight": torch.arange(n, n + 3000.0 + n) for n in range(600)}
"""8 MB, which is 8 blocks of headers."""


def written(form: str, path: Path, values: dict[str, torch.Tensor] = VALUES) -> Path:
    if form == "safetensors":
        save_file(values, path)
        return path
    return save(values, path, form)


@contextmanager
def served(path: Path) -> Iterator[Server]:
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        serving({path.name: data}) as server,
    ):
        yield server


@pytest.mark.parametrize("form", FORMS)
def test_six_hundred_tensors_are_found_in_few_requests(tmp_path, form):
    with served(written(form, tmp_path / "c")) as server:
        weights = open_weights(server.url)
        assert len(server.requests) <= 3
        assert_same(weights, {name: VALUES[name] for name in weights.tensors})
        assert weights.tensors.keys() == VALUES.keys()


def test_a_module_in_torchscript_s_archive_takes_as_few(tmp_path):
    module = torch.nn.Sequential(*(torch.nn.Linear(n % 40 + 20, 60) for n in range(300)))
    torch.jit.script(module).save(tmp_path / "c")
    with served(tmp_path / "c") as server:
        assert_same(open_weights(server.url), module.state_dict())
        assert len(server.requests) <= 6  # three blocks and two ends


@pytest.mark.parametrize(("net", "form"), [("resnet101", "--sparse"), ("resnet18", "--format=zip")])
@pytest.mark.parametrize("options", [{}, {"fold_batchnorm": True}, {"dtype": "float16"}, {"end": ("layer4",)}])
def test_a_plan_takes_few_and_it_is_the_one_of_the_local_file(tmp_path, checkpoint, net, form, options):
    path, chosen = checkpoint(net, form), streamexport.Options(**options)
    with served(path) as server:
        far, local = (streamexport.plan([name], tmp_path / "m", chosen).parts[0][1] for name in (server.url, path))
        assert len(server.requests) <= 8
    assert [where(piece) for piece in far.pieces] == [where(piece) for piece in local.pieces]


def where(piece: Piece) -> object:
    return (piece.offset, piece.length) if isinstance(piece, Extent) else piece.size


@pytest.mark.parametrize("order", ["scatter", "ordered"])
@pytest.mark.parametrize("form", ["legacy", "zip"])
def test_headers_that_lie_are_found_when_they_pass_by(tmp_path, checkpoint, form, order):
    path = tmp_path / "c.pth"
    path.write_bytes(checkpoint("resnet18", "--format", form).read_bytes())
    extent = open_weights(path).tensors["layer4.0.conv1.weight"].extent
    data = bytearray(path.read_bytes())
    if form == "legacy":
        at, said = extent.offset - 8, "storage .* has 7 elements, not 1179648"
        data[at : at + 8] = struct.pack("<q", 7)
    else:
        with zipfile.ZipFile(path) as archive:
            at = max(info.header_offset for info in archive.infolist() if info.header_offset < extent.offset)
        said = f"data/.*: begins at byte {extent.offset + 7}, not {extent.offset}"
        (length,) = struct.unpack_from("<H", data, at + 28)
        struct.pack_into("<H", data, at + 28, length + 7)
    path.write_bytes(data)
    out = tmp_path / "m.caffemodel"
    options = streamexport.Options(fold_batchnorm=order == "ordered")
    with served(path) as server, pytest.raises(FormatError, match=rf"{server.url}: .*{said} \(at byte {at}\)"):
        streamexport.convert([server.url], out, options)
    assert [file.name for file in tmp_path.iterdir()] == ["c.pth"]


@pytest.mark.parametrize("form", ["legacy", "zip"])
def test_they_are_found_by_another_process_that_only_moves_the_payload(tmp_path, form):
    path = written(form, tmp_path / "c")
    extent = open_weights(path).tensors["layer300.weight"].extent
    data = bytearray(path.read_bytes())
    at = extent.offset - 8 if form == "legacy" else data.rindex(b"PK\x03\x04", 0, extent.offset)
    data[at] ^= 1
    path.write_bytes(data)
    with served(path) as server:
        here = open_weights(server.url).tensors["layer300.weight"].extent
        there = pickle.loads(pickle.dumps(Layout((here,))))
        assert len(pickle.dumps(there)) < 100_000
        with Path(os.devnull).open("wb") as sink, pytest.raises(FormatError, match=rf"\(at byte {at}\)"):
            stream(there, sink.fileno())


@pytest.mark.parametrize("form", ["legacy", "zip"])
@pytest.mark.parametrize("length", [1, 100_000, 2_000_000])
def test_what_ends_early_is_found_before_anything_is_fetched(tmp_path, form, length):
    path = written(form, tmp_path / "c")
    os.truncate(path, path.stat().st_size - length)
    with served(path) as server:
        with pytest.raises(TruncatedError, match="fetch it again"):
            open_weights(server.url)
        assert len(server.requests) <= 3


def test_what_follows_the_last_storage_is_no_reason_to_refuse_a_file_but_to_look(tmp_path):
    path = written("legacy", tmp_path / "c")
    with path.open("ab") as file:
        torch.save({"other": torch.zeros(500_000)}, file, _use_new_zipfile_serialization=False)
    with served(path) as server:
        weights = open_weights(server.url)
        assert len(server.requests) == 2
        assert_same(weights, VALUES)


def test_a_zip_file_whose_data_are_not_aligned_is_read_by_its_local_headers(tmp_path):
    path = written("zip", tmp_path / "c", {"a": torch.arange(5.0), "b": torch.arange(7.0)})
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "new", "w") as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
    with served(tmp_path / "new") as server:
        assert_same(open_weights(server.url), {"a": torch.arange(5.0), "b": torch.arange(7.0)})
