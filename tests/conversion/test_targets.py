"""Formats and targets: what a name stands for, what files are called after it, and what is written where."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import h5py
import pytest
from google.protobuf.message import DecodeError

import streamexport
from streamexport.caffe import caffe_pb2
from streamexport.caffe.formats import CAFFEMODEL, FORMATS, HDF5, LINKED, named, of_path
from streamexport.conversion import targets
from streamexport.conversion.names import stem
from streamexport.conversion.targets import Directory, OneFile, Parts, Special, Stdout
from streamexport.errors import OutputError


@pytest.fixture
def weights(tmp_path) -> Path:
    """A convolution and an inner product of 4 KB each, as a Caffe model: it takes no tracing to convert."""
    net = caffe_pb2.NetParameter(name="tiny")
    for name in ("first", "second"):
        net.layer.add(name=name, type="InnerProduct").blobs.add(shape={"dim": [10, 100]}, data=[1.5] * 1000)
    path = tmp_path / "tiny-in.caffemodel"
    path.write_bytes(net.SerializeToString())
    return path


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_a_format_is_found_by_its_name_and_its_files_by_their_suffix(form, weights, tmp_path):
    assert named(form.name) is form
    assert of_path("x" + form.suffixes[0]).suffixes == form.suffixes
    assert stem("dir.v1/x.y" + form.suffixes[0]) == "dir.v1/x.y"
    net = streamexport.open_model(weights)
    (layout,) = form.layouts(net, b"{}")
    assert layout.size <= form.overhead(net, b"{}") + sum(map(form.layer_size, net.layers))
    parts = form.layouts(net, b"{}", limit=form.overhead(net, b"{}") + max(map(form.layer_size, net.layers)))
    assert len(parts) == 2


@pytest.mark.parametrize(
    ("path", "form"),
    [("m.caffemodel", CAFFEMODEL), ("m.h5", HDF5), ("m.caffemodel.h5", HDF5), ("m", CAFFEMODEL), ("m.bin", CAFFEMODEL)],
)
def test_the_suffix_says_the_format(path, form):
    assert of_path(path) is form
    assert stem(path) == "m"


def test_a_format_that_is_not_there_is_refused():
    with pytest.raises(OutputError, match="no format 'onnx'; choose from caffemodel, hdf5, linked"):
        named("onnx")


def test_what_stock_caffe_loads(weights):
    assert [form.holds(CAFFEMODEL.limit) for form in FORMATS] == [True, True, True]
    assert [form.holds(CAFFEMODEL.limit + 1) for form in FORMATS] == [False, True, True]
    assert [form.aligned is not None for form in FORMATS] == [True, False, False]
    assert [bool(form.warning) for form in FORMATS] == [False, False, True]
    assert LINKED.suffixes == HDF5.suffixes


def test_what_a_name_stands_for(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "fifo")
    (tmp_path / "dangling").symlink_to(tmp_path / "none")
    found = {
        "-": Stdout(),
        "/dev/stdout": Stdout(),
        "/dev//fd/1": Stdout(),
        str(tmp_path): Directory(str(tmp_path), False),
        f"{tmp_path}/new/": Directory(f"{tmp_path}/new/", False),
        str(tmp_path / "file"): OneFile(str(tmp_path / "file")),
        str(tmp_path / "none"): OneFile(str(tmp_path / "none")),
        str(tmp_path / "dangling"): OneFile(str(tmp_path / "dangling")),
        str(tmp_path / "fifo"): Special(str(tmp_path / "fifo")),
        str(tmp_path / "link"): Special(str(tmp_path / "link")),
        "/dev/null": Special("/dev/null"),
    }
    for path, place in found.items():
        at = targets.at(path, False)
        assert (type(at), at) == (type(place), place)
    assert targets.at("m", True) == Parts("m")
    assert targets.at(tmp_path, True).target("net", HDF5) == Parts(f"{tmp_path}/net.caffemodel.h5")
    assert targets.at(tmp_path, False).target("net", CAFFEMODEL) == OneFile(f"{tmp_path}/net.caffemodel")
    assert targets.at("m.h5", False).target("net", CAFFEMODEL) == OneFile("m.h5")
    with pytest.raises(OutputError, match="the output has no name"):
        targets.at("", False)


def test_where_the_prototxt_goes():
    assert OneFile("a/m.caffemodel.h5").description == "a/m.prototxt"
    assert Parts("a/m.caffemodel").description == "a/m.prototxt"
    assert Special("/dev/null").description is None
    assert Stdout().description is None


@pytest.mark.parametrize("output", ["-", "/dev/null"])
def test_what_takes_one_file_takes_no_parts(weights, output, tmp_path):
    before = sorted(os.listdir("/dev"))
    with pytest.raises(OutputError, match=r"takes one file, not several parts; leave out `max_file_size=`"):
        streamexport.convert([weights], output, max_file_size=5000)
    assert sorted(os.listdir("/dev")) == before


def test_every_target_takes_the_same_model(weights, tmp_path, capfdbinary):
    os.mkfifo(tmp_path / "fifo")
    received = []
    reader = threading.Thread(target=lambda: received.append((tmp_path / "fifo").read_bytes()))
    reader.start()
    for output in (tmp_path / "fifo", "-", tmp_path / "m.caffemodel", f"{tmp_path}/"):
        streamexport.convert([weights], output)
    reader.join()
    (tmp_path / "out").mkdir()
    streamexport.convert([weights], tmp_path / "out", max_file_size=1 << 20)
    parts = [*received, capfdbinary.readouterr().out]
    parts += [(tmp_path / name).read_bytes() for name in ("m.caffemodel", "tiny.caffemodel")]
    assert len({*parts}) == 1
    net = caffe_pb2.NetParameter.FromString(parts[0])
    assert [layer.name for layer in net.layer] == ["first", "second"]
    cut = caffe_pb2.NetParameter.FromString((tmp_path / "out" / "tiny.caffemodel").read_bytes())
    assert cut.layer == net.layer  # its record says the limit, too


def test_a_directory_gets_hdf5_where_caffe_would_not_load_a_caffemodel(weights, tmp_path, monkeypatch):
    from dataclasses import replace

    from streamexport.caffe import formats

    monkeypatch.setattr(formats, "CAFFEMODEL", replace(CAFFEMODEL, limit=5000))
    streamexport.convert([weights], f"{tmp_path}/")
    assert (tmp_path / "tiny.caffemodel.h5").exists()
    assert not (tmp_path / "tiny.caffemodel").exists()
    with h5py.File(tmp_path / "tiny.caffemodel.h5") as file:
        assert (file["data/second/0"][:] == 1.5).all()
    with pytest.raises(DecodeError):
        caffe_pb2.NetParameter.FromString((tmp_path / "tiny.caffemodel.h5").read_bytes())
