"""HDF5 models: h5py reads what we lay out, we read what h5py writes, links are checked, other files are refused."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import h5py
import numpy as np
import pytest
import torch

import streamexport
from streamexport.caffe.hdf5 import writing as hdf5
from streamexport.caffe.models import open_model
from streamexport.checkpoints import open_weights
from streamexport.errors import FormatError, NetError, SourceError
from streamexport.net.graph import Blob, Layer, Net
from streamexport.net.operations import Opaque
from streamexport.payload.pieces import Literal
from tests.conftest import ROOT, assert_refused, run_cli
from tests.conversion.test_consumers import HALVES, NSFW, SSD
from tests.payload.test_extents import rendered


def convert(*arguments: object) -> str:
    done = run_cli("convert", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stderr


def datasets(path) -> dict[str, np.ndarray]:
    found = {}
    with h5py.File(path) as file:
        file["data"].visititems(
            lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
        )
    return found


def blobs(path, *sources) -> dict[str, np.ndarray]:
    """Every blob as our reader of models finds it, under its dataset's name; `sources`: what the model is linked to."""
    return {
        f"{layer.name}/{index}": np.frombuffer(rendered(blob.values), blob.dtype.code).reshape(blob.shape)
        for layer in open_model(path, sources).layers
        for index, blob in enumerate(layer.blobs)
    }


def assert_equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    assert len(one) > 3
    for name, values in one.items():
        assert values.dtype == other[name].dtype
        np.testing.assert_array_equal(values, other[name], err_msg=name)


@pytest.mark.parametrize("form", ["hdf5", "linked"])
@pytest.mark.parametrize("storage", ["legacy", "zip"])
def test_h5py_finds_every_blob_where_caffe_looks_for_it(tmp_path, checkpoint, form, storage):
    path, out = checkpoint("resnet18", "--format", storage), tmp_path / "m.caffemodel.h5"
    convert(path, "-o", out, "--format", form)
    convert(path, "-o", tmp_path / "m.caffemodel")
    assert_equal(datasets(out), blobs(tmp_path / "m.caffemodel"))
    assert_equal(datasets(out), blobs(out, path))
    assert (tmp_path / "m.prototxt").exists()
    assert (out.stat().st_size < 200_000) == (form == "linked")
    assert run_cli("verify", path, out).returncode == 0


def test_half_floats_halve_the_file(tmp_path, checkpoint):
    path, out = checkpoint("resnet18"), tmp_path / "m.caffemodel.h5"
    convert(path, "-o", out, "--dtype", "float16")
    found = datasets(out)
    expected = torch.load(path)["layer4.1.conv2.weight"].numpy().astype("f2")
    np.testing.assert_array_equal(found["layer4.1.conv2/0"], expected)
    assert found["bn1/0"].dtype == np.float32
    assert out.stat().st_size < 0.52 * path.stat().st_size


def test_a_stream_is_the_same_bytes_as_a_file(tmp_path, checkpoint):
    path, out = checkpoint("resnet18"), tmp_path / "m.h5"
    convert(path, "-o", out)
    command = [sys.executable, "-m", "streamexport", "convert", str(path), "-o", "-", "--format", "hdf5"]
    assert subprocess.run(command, capture_output=True, check=True).stdout == out.read_bytes()


def test_what_cannot_be_linked_goes_inside(tmp_path, checkpoint):
    state = torch.load(checkpoint("resnet18"))
    state["fc.weight"] = state["fc.weight"].t().contiguous().t()
    state["conv1.weight"] = state["conv1.weight"].bfloat16()
    torch.save(state, tmp_path / "c.pth")
    convert(tmp_path / "c.pth", "-o", tmp_path / "m.h5", "--format", "linked")
    with h5py.File(tmp_path / "m.h5") as file:
        for name in ("fc/0", "conv1/0", "bn1/2"):
            assert file["data"][name].external is None
        ((name, offset, size),) = file["data"]["fc/1"].external
    assert name == str(tmp_path / "c.pth")
    assert (tmp_path / "c.pth").read_bytes()[offset : offset + size] == state["fc.bias"].numpy().tobytes()
    np.testing.assert_array_equal(datasets(tmp_path / "m.h5")["fc/0"], state["fc.weight"].numpy())


def test_links_are_absolute(tmp_path, checkpoint):
    (tmp_path / "c.pth").write_bytes(checkpoint("resnet18").read_bytes())
    done = run_cli("convert", "c.pth", "-o", "m.h5", "--format", "linked", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "has to stay where and as it is" in done.stderr
    assert_equal(datasets(tmp_path / "m.h5"), blobs(tmp_path / "m.h5", tmp_path / "c.pth"))


@pytest.mark.parametrize("change", ["moved", "shortened", "touched"])
def test_a_checkpoint_that_is_not_what_was_linked_is_noticed(tmp_path, checkpoint, change):
    source, out = tmp_path / "c.pth", tmp_path / "m.h5"
    source.write_bytes(checkpoint("resnet18").read_bytes())
    convert(source, "-o", out, "--format", "linked")
    if change == "moved":
        source.rename(tmp_path / "d.pth")
    elif change == "shortened":
        os.truncate(source, 1_000_000)
    else:
        os.utime(source, ns=(0, 1))
    for command in (("inspect", out), ("verify", checkpoint("resnet18"), out)):
        line = assert_refused(*command)
        assert "c.pth" in line
        assert ("No such file" if change == "moved" else "changed since a model was linked to it") in line


@pytest.mark.parametrize("file", [NSFW, SSD, *HALVES])
def test_real_models_go_to_hdf5_and_back_bit_for_bit(real, tmp_path, file):
    original = real(*file)
    convert(original, "-o", tmp_path / "m.h5")
    assert_equal(datasets(tmp_path / "m.h5"), blobs(original))
    convert(tmp_path / "m.h5", "-o", tmp_path / "back.caffemodel")
    assert_equal(blobs(tmp_path / "back.caffemodel"), blobs(original))
    assert [layer.type for layer in open_model(tmp_path / "m.h5").layers] == [
        layer.type for layer in open_model(original).layers if layer.blobs
    ]
    assert not (tmp_path / "m.prototxt").exists()


def test_a_transcoded_model_still_verifies(tmp_path, checkpoint):
    path = checkpoint("resnet18")
    convert(path, "-o", tmp_path / "a.caffemodel", "--names", "classic")
    convert(tmp_path / "a.caffemodel", "-o", tmp_path / "b.h5", "--dtype", "float16")
    convert(tmp_path / "b.h5", "-o", tmp_path / "c.caffemodel")
    for name in ("b.h5", "c.caffemodel"):
        done = run_cli("verify", path, tmp_path / name)
        assert done.returncode == 0, done.stdout
    convert(tmp_path / "c.caffemodel", "-o", tmp_path / "d.caffemodel", "--dtype", "float32")
    assert {values.dtype for values in blobs(tmp_path / "d.caffemodel").values()} == {np.dtype("<f4")}


def test_parts_of_a_model_are_joined_and_a_layer_in_two_is_an_error(tmp_path, checkpoint):
    path = checkpoint("resnet18")
    convert(path, "-o", tmp_path / "m.caffemodel", "--max-file-size", "20MB")
    parts = sorted(tmp_path.glob("m-*"))
    convert(*parts, "-o", tmp_path / "m.h5")
    assert run_cli("verify", path, tmp_path / "m.h5").returncode == 0
    line = assert_refused("convert", *parts, parts[0], "-o", tmp_path / "n.h5")
    assert "conv1: stands in the model twice" in line
    assert "cannot be parts of one model" in assert_refused("convert", path, parts[0], "-o", tmp_path / "n.h5")
    line = assert_refused("convert", parts[0], "-o", tmp_path / "n.h5", "--names", "classic")
    assert "another format, --dtype or --max-file-size, and nothing else" in line


def test_hdf5_in_parts_no_larger_than_asked(tmp_path, checkpoint):
    path, limit = checkpoint("resnet18"), 15_000_000
    convert(path, "-o", tmp_path / "m.caffemodel.h5", "--max-file-size", limit)
    parts = sorted(tmp_path.glob("m-*"))
    assert [part.name for part in parts] == [f"m-{n:05}-of-00004.caffemodel.h5" for n in range(1, 5)]
    assert all(part.stat().st_size <= limit for part in parts)
    assert run_cli("verify", path, *parts).returncode == 0


def test_the_prototxt_of_a_model_is_taken_from_the_model(tmp_path, checkpoint):
    for dialect in ("portable", "opencv", "bvlc"):
        convert(checkpoint("resnet18"), "-o", tmp_path / "m.caffemodel", "--dialect", dialect)
        convert(tmp_path / "m.caffemodel", "-o", tmp_path / "n.h5", "--prototxt", tmp_path / "n.prototxt")
        one, other = (re.sub(r"^#.*\n", "", (tmp_path / f"{name}.prototxt").read_text(), flags=re.M) for name in "mn")
        assert one == other
    line = assert_refused("convert", tmp_path / "n.h5", "-o", tmp_path / "o.h5", "--prototxt", tmp_path / "o.prototxt")
    assert "HDF5" in line


def test_a_directory_gets_the_format_that_caffe_loads(tmp_path, checkpoint):
    convert(checkpoint("resnet18"), "-o", f"{tmp_path}/")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["resnet18.caffemodel", "resnet18.prototxt"]
    convert(
        checkpoint("resnet18"),
        "-o",
        f"{tmp_path}/",
        "--max-file-size",
        "40MB",
        "--net",
        "resnet18",
        "--names",
        "classic",
    )
    assert sorted(p.name for p in tmp_path.iterdir())[:2] == [f"resnet18-0000{n}-of-00002.caffemodel" for n in (1, 2)]
    assert not (tmp_path / ".prototxt").exists()
    large = tmp_path / "large.pth"
    tool = ROOT / "tools" / "make_checkpoint.py"
    subprocess.run([sys.executable, tool, "--sparse", "--bytes", "3GB", large], check=True)
    done = run_cli("convert", large, "-o", tmp_path, "--dry-run")
    assert re.search(r"resnext101_32x48d_wsl.caffemodel.h5: \d+ bytes", done.stdout), done.stderr


# Reading what others wrote


def test_chunked_compressed_big_endian_and_double_datasets_are_read(tmp_path):
    values = np.random.default_rng(0).standard_normal((50, 7, 3)).astype("<f4")
    with h5py.File(tmp_path / "m.h5", "w") as file:
        group = file.create_group("data/l")
        group.create_dataset("0", data=values, chunks=(7, 3, 2))
        group.create_dataset("1", data=values, compression="gzip")
        group.create_dataset("2", data=values.astype(">f4"))
        group.create_dataset("3", data=values.astype("<f8"))
        group.create_dataset("4", data=np.float32(3))
        group.create_dataset("5", data=np.empty((0, 3), "<f4"))
    found = blobs(tmp_path / "m.h5")
    for index in range(4):
        np.testing.assert_array_equal(found[f"l/{index}"], values)
    assert found["l/4"] == 3
    assert found["l/5"].shape == (0, 3)
    (layer,) = open_model(tmp_path / "m.h5").layers
    numbers, whole = np.random.default_rng(1), values.tobytes()
    for _ in range(50):
        start, stop = sorted(numbers.integers(0, len(whole) + 1, 2).tolist())
        assert rendered(layer.blobs[1].values, start, stop) == whole[start:stop]
    convert(tmp_path / "m.h5", "-o", tmp_path / "n.caffemodel")
    np.testing.assert_array_equal(blobs(tmp_path / "n.caffemodel")["l/2"], values)


def broken(kind: str, path) -> None:
    with h5py.File(path, "w") as file:
        if kind == "no data":
            file.create_group("other")
            return
        group = file.create_group("data/conv1")
        group["0"] = np.zeros(3, "<f4")
        if kind == "integers":
            group["1"] = np.zeros(3, "<i4")
        elif kind == "a link to nowhere":
            group["1"] = h5py.SoftLink("/nowhere")
        elif kind == "an extra dataset":
            group["extra"] = np.zeros(3, "<f4")
        elif kind == "a gap":
            group["2"] = np.zeros(3, "<f4")
        elif kind == "a dataset for a layer":
            file["data/conv2"] = np.zeros(3, "<f4")
        elif kind == "a foreign file":
            group.create_dataset("1", (3,), "<f4", external=[("/etc/passwd", 0, 12)])
        elif kind == "a slash":
            file["data/a/b/0"] = np.zeros(3, "<f4")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no data", "no group /data"),
        ("integers", "layer conv1, blob 1: has dtype int32"),
        ("a link to nowhere", "layer conv1, blob 1: is a link to nowhere"),
        ("an extra dataset", "layer conv1: has a member 'extra' that is no blob"),
        ("a gap", "layer conv1: has a member '2' that is no blob"),
        ("a dataset for a layer", "layer conv2: is not a group"),
        ("a foreign file", "points into /etc/passwd, which the model does not list"),
        ("a slash", "layer a: has a member 'b' that is no blob"),
    ],
)
def test_hdf5_that_is_no_model_is_refused(tmp_path, kind, message):
    broken(kind, tmp_path / "m.h5")
    with pytest.raises((FormatError, SourceError), match=message):
        open_model(tmp_path / "m.h5")
    assert message in assert_refused("convert", tmp_path / "m.h5", "-o", tmp_path / "n.caffemodel")


def test_a_damaged_file_is_refused(tmp_path, checkpoint):
    convert(checkpoint("resnet18"), "-o", tmp_path / "m.h5")
    for size in (5000, 100):
        os.truncate(tmp_path / "m.h5", size)
        assert "malformed HDF5" in assert_refused("inspect", tmp_path / "m.h5")


def test_a_layer_whose_name_cannot_be_a_group_is_refused():
    with pytest.raises(NetError, match="layer 'a/b': its name cannot be a group's"):
        hdf5.layout(Net("n", (Layer("a/b", Opaque("X"), (), (), blobs=(Blob((1,), Literal(bytes(4))),)),)))


def test_two_layers_of_one_name_are_refused_where_both_have_blobs():
    full, empty = (
        Layer("a", Opaque("X"), (), (), blobs=(Blob((1,), Literal(bytes(4))),)),
        Layer("a", Opaque("Y"), (), ()),
    )
    hdf5.layout(Net("n", (full, empty, empty)))
    with pytest.raises(NetError, match="layer 'a': two layers of this name have blobs"):
        hdf5.layout(Net("n", (full, empty, full)))


def test_payload_stays_extents_and_metadata_small(checkpoint):
    layout = hdf5.layout(streamexport.plan([checkpoint("resnet18")], "m.h5").net, b"{}")
    literals = sum(piece.size for piece in layout.pieces if isinstance(piece, Literal))
    tensors = [t for t in open_weights(checkpoint("resnet18")).tensors.values() if t.dtype.is_floating]
    assert layout.size - literals == sum(tensor.nbytes for tensor in tensors)
    assert literals < 200_000


def test_the_record_stands_in_the_root(tmp_path, checkpoint):
    convert(checkpoint("resnet18"), "-o", tmp_path / "m.h5", "--names", "classic")
    with h5py.File(tmp_path / "m.h5") as file:
        assert json.loads(file.attrs["streamexport"])["options"]["names"] == "classic"
    assert json.loads(run_cli("inspect", tmp_path / "m.h5", "--json").stdout)["options"]["names"] == "classic"
