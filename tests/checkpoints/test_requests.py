"""From afar each read costs a round trip: headers come in few requests, and what is taken for granted is confirmed later."""

from __future__ import annotations

import os
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import streamexport
from streamexport.checkpoints import open_weights
from streamexport.errors import FormatError, TruncatedError
from streamexport.payload.pieces import Extent, Piece
from tests.checkpoints.test_readers_torch import assert_same, save
from tests.payload.test_extents import rendered
from tests.shared.far import Far

FORMS = ("legacy", "zip", "safetensors")
VALUES = {f"layer{n}.weight": torch.arange(n, n + 3000.0 + n) for n in range(600)}  # 8 MB


def written(form: str, path: Path, values: dict[str, torch.Tensor] = VALUES) -> Path:
    if form == "safetensors":
        save_file(values, path)
        return path
    return save(values, path, form)


@pytest.mark.parametrize("form", FORMS)
def test_six_hundred_tensors_are_found_in_few_requests(tmp_path, form):
    far = Far(written(form, tmp_path / "c"))
    weights = open_weights(far)
    assert far.requests <= 2
    assert far.size > 7 * far.window
    assert_same(weights, {name: VALUES[name] for name in weights.tensors})
    assert weights.tensors.keys() == VALUES.keys()
    far.confirm_all()


def test_a_module_in_torchscript_s_archive_takes_as_few(tmp_path):
    module = torch.nn.Sequential(*(torch.nn.Linear(n % 40 + 20, 60) for n in range(300)))
    torch.jit.script(module).save(tmp_path / "c")
    far = Far(tmp_path / "c")
    assert len(open_weights(far).tensors) == 600
    assert far.requests <= 3
    far.confirm_all()


@pytest.mark.parametrize(("net", "form"), [("resnet101", "--sparse"), ("resnet18", "--format=zip")])
def test_a_plan_takes_few_and_it_is_the_one_of_the_local_file(tmp_path, checkpoint, net, form):
    path = checkpoint(net, form)
    far = Far(path)
    (_, layout), (_, local) = (streamexport.plan([source], tmp_path / "m").parts[0] for source in (far, path))
    assert far.requests <= 2
    assert [where(piece) for piece in layout.pieces] == [where(piece) for piece in local.pieces]
    far.confirm_all()


@pytest.mark.parametrize("options", [{"fold_batchnorm": True}, {"dtype": "float16"}, {"end": ("layer4",)}])
def test_a_plan_of_computed_pieces_takes_few(tmp_path, checkpoint, options):
    far = Far(checkpoint("resnet101", "--sparse"))
    streamexport.plan([far], tmp_path / "m", streamexport.Options(**options))
    assert far.requests <= 8


def where(piece: Piece) -> object:
    return (piece.offset, piece.length) if isinstance(piece, Extent) else piece


@pytest.mark.parametrize("form", ["legacy", "zip"])
def test_headers_that_lie_are_found_when_they_pass_by(tmp_path, form):
    path = written(form, tmp_path / "c")
    extent = open_weights(path).tensors["layer300.weight"].extent
    data = bytearray(path.read_bytes())
    if form == "legacy":
        at, said = extent.offset - 8, "storage .* has 7 elements, not 3300"
        data[at : at + 8] = struct.pack("<q", 7)
    else:
        with zipfile.ZipFile(path) as archive:
            at = next(info.header_offset for info in archive.infolist() if info.filename.endswith("/data/300"))
        said = f"c/data/300: begins at byte {extent.offset + 7}, not {extent.offset}"
        (length,) = struct.unpack_from("<H", data, at + 28)
        struct.pack_into("<H", data, at + 28, length + 7)
    path.write_bytes(data)
    far = Far(path)
    tensors = open_weights(far).tensors
    rendered(tensors["layer10.weight"].extent)
    with pytest.raises(FormatError, match=rf"{path}: {said} .*\(at byte {at}\)"):
        rendered(tensors["layer300.weight"].extent)


@pytest.mark.parametrize("form", ["legacy", "zip"])
@pytest.mark.parametrize("length", [1, 100_000, 2_000_000])
def test_what_ends_early_is_found_before_anything_is_fetched(tmp_path, form, length):
    path = written(form, tmp_path / "c")
    os.truncate(path, path.stat().st_size - length)
    far = Far(path)
    with pytest.raises(TruncatedError, match="fetch it again"):
        open_weights(far)
    assert far.requests <= 2


def test_what_follows_the_last_storage_is_no_reason_to_refuse_the_file_but_to_look(tmp_path):
    path = written("legacy", tmp_path / "c")
    with path.open("ab") as file:
        torch.save({"other": torch.zeros(500_000)}, file, _use_new_zipfile_serialization=False)
    far = Far(path)
    weights = open_weights(far)
    assert far.requests == 2
    assert_same(weights, VALUES)
