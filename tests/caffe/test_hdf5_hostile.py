"""HDF5 models made to hurt: they reach for other files, break the library, or lie about their bytes."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from streamexport import open_model
from streamexport.caffe.hdf5 import worker
from streamexport.caffe.hdf5.chunks import MOST
from streamexport.caffe.models import open_models
from streamexport.errors import FormatError, SourceError
from tests.conftest import ROOT, assert_refused, run_cli
from tests.payload.test_extents import rendered

ATTACKS = ROOT / "tests" / "shared" / "attacks"
SECRET = b"SECRET:" + b"x" * 393
VALUES = np.arange(12, dtype="<f4")


def external(place: h5py.Group, name: bytes, target: Path) -> None:
    """A dataset of 100 floats whose bytes lie in another file."""
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_external(os.fsencode(target), 0, 400)
    h5py.h5d.create(place.id, name, h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((100,)), creation)


def virtual(group: h5py.Group, file: object, dataset: str, size: int) -> None:
    layout = h5py.VirtualLayout((size,), "<f4")
    layout[:] = h5py.VirtualSource(str(file), dataset, (size,))
    group.create_virtual_dataset("0", layout)


def reaching(kind: str, here: Path) -> Path:
    """A model that reaches out of itself: `here` holds a secret, a FIFO and another model."""
    secret, other, fifo = here / "secret.bin", here / "other.h5", here / "fifo"
    secret.write_bytes(SECRET)
    os.mkfifo(fifo)
    with h5py.File(other, "w") as file:
        file["plain"] = VALUES
        file.create_dataset("data/conv/0", data=VALUES, chunks=(12,))
    with h5py.File(here / "m.h5", "w") as file:
        if kind == "the data of another file":
            file["data"] = h5py.ExternalLink(str(other), "/data")
            return here / "m.h5"
        if kind.startswith("a layer"):
            data = file.create_group("data")
            target = {"of another file": other, "in a FIFO": fifo, "in a device": "/dev/zero", "of itself": "m.h5"}
            data["conv"] = h5py.ExternalLink(str(target[kind.removeprefix("a layer ")]), "/data/conv")
            return here / "m.h5"
        group = file.create_group("data/conv")
        file["pad"] = np.zeros(5000)
        match kind:
            case "a dataset of another file":
                group["0"] = h5py.ExternalLink(str(other), "/plain")
            case "a chunked dataset of another file":
                group["0"] = h5py.ExternalLink(str(other), "/data/conv/0")
            case "a soft link through an external one":
                file["out"] = h5py.ExternalLink(str(other), "/data/conv")
                group["0"] = h5py.SoftLink("/out/0")
            case "a virtual dataset over external storage":
                external(file, b"hidden", secret)
                virtual(group, ".", "hidden", 100)
            case "a virtual dataset over a FIFO as external storage":
                external(file, b"hidden", fifo)
                virtual(group, ".", "hidden", 100)
            case "a virtual dataset of another file":
                virtual(group, other, "plain", 12)
            case "a virtual dataset of a missing file":
                virtual(group, here / "gone.h5", "plain", 12)
            case "a virtual dataset of a FIFO":
                virtual(group, fifo, "plain", 12)
            case "external storage":
                external(group, b"0", secret)
            case "external storage that it lists itself":
                external(group, b"0", secret)
                file.attrs["streamexport_sources"] = json.dumps([identity(secret)])
    return here / "m.h5"


def identity(path: Path) -> dict[str, object]:
    found = path.stat()
    return {"path": str(path), "size": found.st_size, "mtime_ns": found.st_mtime_ns}


REACHING = {
    "the data of another file": "the group /data: is a link to /data in another file, .*other.h5",
    "a layer of another file": "layer conv: is a link to /data/conv in another file, .*other.h5",
    "a layer in a FIFO": "layer conv: is a link to /data/conv in another file, .*fifo",
    "a layer in a device": "layer conv: is a link to /data/conv in another file, /dev/zero",
    "a layer of itself": "layer conv: is a link to /data/conv in another file, m.h5",
    "a dataset of another file": "layer conv, blob 0: is a link to /plain in another file, .*other.h5",
    "a chunked dataset of another file": "layer conv, blob 0: is a link to /data/conv/0 in another file, .*other.h5",
    "a soft link through an external one": "layer conv, blob 0: is a link to nowhere",
    "a virtual dataset over external storage": "layer conv, blob 0: is a virtual dataset",
    "a virtual dataset over a FIFO as external storage": "layer conv, blob 0: is a virtual dataset",
    "a virtual dataset of another file": "layer conv, blob 0: is a virtual dataset, made of others in .*other.h5",
    "a virtual dataset of a missing file": "layer conv, blob 0: is a virtual dataset, made of others in .*gone.h5",
    "a virtual dataset of a FIFO": "layer conv, blob 0: is a virtual dataset, made of others in .*fifo",
    "external storage": "layer conv, blob 0: points into .*secret.bin, which the model does not list",
    "external storage that it lists itself": "layer conv, blob 0: lies in .*secret.bin, and only files that are named",
}


@pytest.mark.parametrize("kind", REACHING)
def test_nothing_outside_a_model_is_followed(tmp_path, kind):
    path = reaching(kind, tmp_path)
    with pytest.raises((FormatError, SourceError), match=REACHING[kind]):
        open_model(path)
    line = assert_refused("convert", path, "-o", tmp_path / "n.caffemodel", timeout=60)
    assert str(path) in line
    assert not (tmp_path / "n.caffemodel").exists()


def test_inspect_lists_a_linked_model_and_says_where_it_points(tmp_path):
    path = reaching("external storage that it lists itself", tmp_path)
    done = run_cli("inspect", path)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"linked to {tmp_path / 'secret.bin'}" in done.stdout
    assert json.loads(run_cli("inspect", path, "--json").stdout)["linked_to"] == [str(tmp_path / "secret.bin")]
    (blob,) = open_model(path, sources=None).layers[0].blobs
    with pytest.raises(SourceError, match=r"m.h5: lies in .*secret.bin, and only files that are named are read"):
        rendered(blob.values)


def test_a_linked_model_is_read_beside_the_checkpoint_that_is_named(tmp_path, checkpoint):
    source, linked = checkpoint("resnet18"), tmp_path / "m.h5"
    assert run_cli("convert", source, "-o", linked, "--format", "linked").returncode == 0
    assert run_cli("convert", source, "-o", tmp_path / "m.caffemodel").returncode == 0
    for command in (
        ("convert", linked, "-o", tmp_path / "n.caffemodel"),
        ("eval", "--proto", tmp_path / "m.prototxt", "--model", linked, "--image", ATTACKS / "ok.png"),
    ):
        assert f"lies in {source}, and only files that are named are read" in assert_refused(*command)
    assert run_cli("convert", linked, source, "-o", tmp_path / "n.caffemodel").returncode == 0
    assert run_cli("verify", source, tmp_path / "n.caffemodel").returncode == 0
    (tmp_path / "link.pth").symlink_to(source)
    assert open_models([linked, tmp_path / "link.pth"]).payload == open_model(linked, [source]).payload


def test_an_offset_is_never_applied_to_another_file(tmp_path, checkpoint):
    mine, other = tmp_path / "mine.pth", tmp_path / "other.pth"
    for path in (mine, other):
        path.write_bytes(checkpoint("resnet18").read_bytes())
        os.utime(path, ns=(0, 1))
    assert run_cli("convert", mine, "-o", tmp_path / "m.h5", "--format", "linked").returncode == 0
    with pytest.raises(SourceError, match=r"lies in .*mine.pth, and only files that are named are read"):
        open_model(tmp_path / "m.h5", [other])
    mine.unlink()
    with pytest.raises(SourceError, match="mine.pth: cannot be opened"):
        open_model(tmp_path / "m.h5", [other])


def test_a_model_linked_to_shards_is_read_beside_their_index(tmp_path, checkpoint):
    import torch

    state = torch.load(checkpoint("resnet18"))
    names = sorted(state)
    for number, part in enumerate((names[::2], names[1::2])):
        torch.save({name: state[name] for name in part}, tmp_path / f"{number}.pth")
    index = {"weight_map": {name: f"{i % 2}.pth" for i, name in enumerate(names)}}
    (tmp_path / "i.json").write_text(json.dumps(index))
    assert run_cli("convert", tmp_path / "i.json", "-o", tmp_path / "m.h5", "--format", "linked").returncode == 0
    assert run_cli("verify", tmp_path / "i.json", tmp_path / "m.h5").returncode == 0
    assert "0.pth, and only files that are named" in assert_refused("verify", tmp_path / "1.pth", tmp_path / "m.h5")


def limited() -> None:
    """Little time: the worker has no more than its parent."""
    resource.setrlimit(resource.RLIMIT_CPU, (5, 6))


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("h5_segv.h5", r"malformed HDF5|has an attribute 'streamexport' of another type"),
        ("h5_hang.h5", r"malformed HDF5: the HDF5 library takes too long"),
        ("h5_mem1400M.h5", r"malformed HDF5"),
        ("h5_cset.h5", r"malformed HDF5|layer|attribute"),
        ("h5_bytesname.h5", r"malformed HDF5|has a member .* that is no blob"),
    ],
)
def test_what_breaks_the_library_is_one_line(tmp_path, file, message):
    """The library's own faults; a newer one may read the file, or refuse it in other words."""
    done = run_cli("convert", ATTACKS / file, "-o", tmp_path / "n.caffemodel", preexec_fn=limited)
    assert done.returncode in (0, 1)
    assert len(done.stderr.splitlines()) == 1
    assert done.returncode == 0 or re.search(f"{file}: .*({message})", done.stderr), done.stderr


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGXCPU, signal.SIGKILL])
def test_a_worker_that_dies_is_a_format_error(tmp_path, monkeypatch, number):
    (tmp_path / "m.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    (tmp_path / "worker.py").write_text(f"import os\nos.kill(os.getpid(), {int(number)})\n")
    monkeypatch.setattr("streamexport.caffe.hdf5.worker.__file__", str(tmp_path / "worker.py"))
    what = "takes too long" if number in (signal.SIGXCPU, signal.SIGKILL) else f"crashes on it .{number.name}"
    with pytest.raises(FormatError, match=rf"m.h5: malformed HDF5: the HDF5 library {what}"):
        open_model(tmp_path / "m.h5")


def test_the_worker_has_little_memory_and_opens_nothing(tmp_path):
    """What a fault in the library could do: measured from inside."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import h5py, worker as w\n"
        "w.confine(); rows = w.table(sys.argv[2]); print(next(rows))\n"
        "try: open(sys.argv[2])\n"
        "except OSError as error: print(error.errno)\n"
        "try: bytearray(1 << 30)\n"
        "except MemoryError: print('no memory')\n"
    )
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["data/l/0"] = VALUES
    folder = Path(worker.__file__).parent
    command = [sys.executable, "-c", script, str(folder), str(tmp_path / "m.h5")]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[1:] == ["24", "no memory"]


def test_hard_links_do_not_make_a_small_file_large(tmp_path):
    with h5py.File(tmp_path / "m.h5", "w") as file:
        group = file.create_group("data/a")
        for index in range(400):
            group[str(index)] = np.zeros(1, "<f4")
        for index in range(300):
            file[f"data/b{index}"] = group
    with pytest.raises(FormatError, match="has more than 100000 blobs"):
        open_model(tmp_path / "m.h5")


# Bytes and what they mean


def test_bfloat16_is_read_as_what_it_is(tmp_path):
    bits = np.array([0x3F80, 0xC040, 0x0001, 0x7F7F], "<u2")
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_fields(15, 7, 8, 0, 7)
    kind.set_size(2)
    kind.set_precision(16)
    with h5py.File(tmp_path / "m.h5", "w") as file:
        group = file.create_group("data/l")
        dataset = h5py.h5d.create(group.id, b"0", kind, h5py.h5s.create_simple((4,)))
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, bits.view("V2"), mtype=kind)
    (blob,) = open_model(tmp_path / "m.h5").layers[0].blobs
    assert blob.dtype.name == "float32"
    assert rendered(blob.values) == (bits.astype("<u4") << 16).tobytes()
    (blob,) = open_model(ATTACKS / "bf.h5").layers[0].blobs
    with h5py.File(ATTACKS / "bf.h5") as file:
        raw = (ATTACKS / "bf.h5").read_bytes()
        start = file["data/conv/0"].id.get_offset()
    expected = np.frombuffer(raw, "<u2", blob.count, start).astype("<u4") << 16
    assert rendered(blob.values) == expected.tobytes()


@pytest.mark.parametrize("change", ["fields", "bias", "size"])
def test_floats_of_other_fields_are_refused(tmp_path, change):
    kind = h5py.h5t.IEEE_F32LE.copy()
    if change == "fields":
        kind.set_fields(31, 20, 11, 0, 20)
    elif change == "bias":
        kind.set_ebias(100)
    else:
        kind.set_size(8)
    with h5py.File(tmp_path / "m.h5", "w") as file:
        h5py.h5d.create(file.create_group("data/l").id, b"0", kind, h5py.h5s.create_simple((4,)))
    with pytest.raises(FormatError, match="layer l, blob 0: has dtype an odd float of"):
        open_model(tmp_path / "m.h5")


KINDS = {
    "shuffled": {"chunks": (7, 3, 2), "compression": "gzip", "shuffle": True},
    "with a checksum": {"chunks": (7, 3, 2), "fletcher32": True},
    "with everything": {"chunks": (5, 7, 3), "compression": "gzip", "shuffle": True, "fletcher32": True},
    "larger than its shape": {"chunks": (64, 16, 16), "maxshape": (None, None, None)},
    "compressed and larger": {"chunks": (64, 16, 16), "maxshape": (None, None, None), "compression": "gzip"},
    "big-endian": {"chunks": (7, 3, 2), "dtype": ">f4"},
    "half": {"chunks": (7, 3, 2), "dtype": ">f2"},
    "double": {"chunks": (50, 1, 1), "dtype": "<f8", "shuffle": True, "compression": "gzip"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_are_read_whatever_they_went_through(tmp_path, kind):
    values = np.random.default_rng(0).standard_normal((50, 7, 3)).astype(KINDS[kind].get("dtype", "<f4"))
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.create_dataset("data/l/0", data=values, **{k: v for k, v in KINDS[kind].items() if k != "dtype"})
    (blob,) = open_model(tmp_path / "m.h5").layers[0].blobs
    whole = values.astype(values.dtype.newbyteorder("<")).tobytes()
    assert rendered(blob.values) == whole
    numbers = np.random.default_rng(1)
    for _ in range(20):
        start, stop = sorted(numbers.integers(0, len(whole) + 1, 2).tolist())
        assert rendered(blob.values, start, stop) == whole[start:stop]


def test_what_nobody_wrote_is_the_fill_value(tmp_path):
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.create_dataset("data/l/0", (3, 5), "<f4", fillvalue=2.5)
        partial = file.create_dataset("data/l/1", (4, 4), ">f4", chunks=(2, 2), fillvalue=-1)
        partial[2:, :2] = 7
    one, other = open_model(tmp_path / "m.h5").layers[0].blobs
    assert rendered(one.values) == np.full(15, 2.5, "<f4").tobytes()
    with h5py.File(tmp_path / "m.h5") as file:
        assert rendered(other.values) == file["data/l/1"][()].astype("<f4").tobytes()


def chunked(path: Path, size: int, data: bytes, **rest: object) -> Path:
    """A dataset of one chunk of `size` floats, stored as `data`."""
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("data/l/0", (size,), "<f4", chunks=(size,), **rest)
        dataset.id.write_direct_chunk((0,), data)
    return path


@pytest.mark.parametrize(
    ("data", "rest", "message"),
    [
        (zlib.compress(bytes(1 << 17)), {"compression": "gzip"}, "cut short, or larger than a chunk"),
        (zlib.compress(bytes(100)), {"compression": "gzip"}, "decodes to 100 bytes, not 400"),
        (zlib.compress(bytes(400))[:-9], {"compression": "gzip"}, "cut short, or larger than a chunk"),
        (b"noise" * 9, {"compression": "gzip"}, "that gzip did not write"),
        (bytes(400) + b"abcd", {"fletcher32": True}, "whose checksum is wrong"),
        (bytes(399), {}, "has a chunk of 399 bytes, not 400"),
    ],
)
def test_a_chunk_that_is_not_what_it_says_is_refused(tmp_path, data, rest, message):
    path = chunked(tmp_path / "m.h5", 100, data, **rest)
    (blob,) = open_model(path).layers[0].blobs
    with pytest.raises(FormatError, match=rf"m.h5: layer l, blob 0: .*{message}.*\(at byte \d+\)"):
        rendered(blob.values)
    assert message in assert_refused("convert", path, "-o", tmp_path / "n.caffemodel")


def test_chunks_that_would_have_to_be_held_are_refused(tmp_path):
    """A megabyte that would become one chunk of a gigabyte; and rows that each need every chunk."""
    chunked(tmp_path / "m.h5", MOST // 4 + 1, zlib.compress(bytes(MOST + 4), 9), compression="gzip")
    assert "means to hold more than 32 MiB" in assert_refused(
        "convert", tmp_path / "m.h5", "-o", tmp_path / "n.caffemodel"
    )
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.create_dataset("data/l/0", (1 << 20, 16), "<f4", chunks=(1 << 20, 1), compression="gzip")
        file.create_dataset("data/m/0", (1, 1, 1 << 24), "<f4", chunks=(1, 1, 1 << 20), compression="gzip")
    with pytest.raises(FormatError, match="layer l, blob 0: is compressed in chunks of .1048576, 1.: reading on means"):
        open_model(tmp_path / "w.h5")


def test_a_filter_that_is_not_known_is_named(tmp_path):
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.create_dataset("data/l/0", data=np.zeros(100, "<f4"), chunks=(100,), compression="lzf")
    assert "is stored through HDF5 filter 32000" in assert_refused("inspect", tmp_path / "m.h5")


def test_shapes_larger_than_caffe_counts_are_refused(tmp_path):
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.create_dataset("data/l/0", shape=(1 << 40,), dtype="<f4", chunks=(1 << 10,))
    assert "has 1099511627776 elements, Caffe's blobs hold" in assert_refused("inspect", tmp_path / "m.h5")


ODD = [np.array([1, 2]), h5py.Empty("f4"), np.float64("nan"), b"\xff", np.array([], "i4")]


@pytest.mark.parametrize("name", ["position", "type", "streamexport", "streamexport_sources"])
@pytest.mark.parametrize("value", ODD, ids=str)
def test_attributes_of_another_type_are_refused_or_harmless(tmp_path, name, value):
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["data/l/0"] = VALUES
        (file if "stream" in name else file["data/l"]).attrs[name] = value
    is_text = value == b"\xff" if isinstance(value, bytes) else False
    if is_text and name in ("type", "streamexport"):
        assert open_model(tmp_path / "m.h5").payload == 48
    else:
        with pytest.raises(FormatError, match=f"m.h5: .*(attribute '{name}' of another type|{name} are malformed)"):
            open_model(tmp_path / "m.h5")


SOURCES = ["5", "[5]", '[{"path":"/x","size":1e999,"mtime_ns":1}]', "[" * 20_000, '[{"path":"\\ud800"}]']
SOURCES += ['[{"path":"a\\u0000b","size":1,"mtime_ns":1}]', '[{"path":"/dev/zero","size":0,"mtime_ns":1}]']


@pytest.mark.parametrize("text", SOURCES, ids=range(len(SOURCES)))
def test_malformed_lists_of_sources_are_refused(tmp_path, text):
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["data/l/0"] = VALUES
        file.attrs["streamexport_sources"] = text
    with pytest.raises((FormatError, SourceError), match=r"malformed|cannot be opened|is not a regular file"):
        open_model(tmp_path / "m.h5")


def test_names_that_are_no_utf8_are_listed(tmp_path):
    with h5py.File(tmp_path / "m.h5", "w") as file:
        group = h5py.Group(h5py.h5g.create(file.create_group("data").id, b"\xff\xfe"))
        group["0"] = VALUES
    assert open_model(tmp_path / "m.h5").layers[0].name == "\udcff\udcfe"
    assert r"\udcff\udcfe" in run_cli("inspect", tmp_path / "m.h5").stdout
