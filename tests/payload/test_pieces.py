"""Every kind of piece: any range of it, from any thread, and in any process that was sent it, is what numpy says."""

from __future__ import annotations

import copy
import hashlib
import importlib
import pickle
import pkgutil
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest
import torch

import streamexport
from streamexport.caffe.caffemodel.reading import Unpacked
from streamexport.caffe.formats import FORMATS
from streamexport.caffe.hdf5 import chunks
from streamexport.caffe.hdf5.chunks import Chunked
from streamexport.caffe.models import open_model
from streamexport.errors import SourceChangedError
from streamexport.net import kernels
from streamexport.net.graph import Blob, Layer
from streamexport.net.operations import BatchNorm, Scale
from streamexport.passes import folding
from streamexport.payload.pieces import Extent, Layout, Literal, Piece
from streamexport.payload.tensors import (
    BFLOAT16,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    Cast,
    Computed,
    DType,
    Stored,
    Strided,
    Tensor,
)
from streamexport.sources.decoded import Held, Latin1, Swapped
from streamexport.sources.local import LocalFile
from streamexport.tracing import streams
from tests.conftest import ROOT
from tests.payload.test_extents import rendered

Made = tuple[Piece, bytes]
"""A piece, and the bytes that it has to have."""


def stored(tmp_path, values: np.ndarray, dtype: DType = FLOAT32, name: str = "values") -> Stored:
    path = tmp_path / name
    path.write_bytes(b"\xee" * 3 + values.tobytes())
    return Stored(Extent(LocalFile.at(path), 3, values.nbytes), dtype, name)


def normal(*shape: int, dtype: str = "<f4") -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape).astype(dtype)


def view(tmp_path, shape: tuple[int, ...], strides: tuple[int, ...], first: int = 0) -> Made:
    values = normal(first + 1 + sum((n - 1) * step for n, step in zip(shape, strides, strict=True)))
    held = stored(tmp_path, values).values
    piece = Strided(Tensor.in_storage("view", FLOAT32, shape, strides, held, first))
    return piece, torch.as_strided(torch.from_numpy(values), shape, strides, first).contiguous().numpy().tobytes()


def batch_norm(tmp_path) -> tuple[Layer, Layer, dict[str, np.ndarray]]:
    """BatchNorm and Scale of 2,000 channels, more than are computed at once."""
    held = {name: np.abs(normal(2000, dtype="<f4")) + 0.5 for name in ("mean", "variance", "scale", "bias")}
    held["factor"] = np.array([2], "<f4")
    blobs = {n: Blob(v.shape, stored(tmp_path, v, name=n).values) for n, v in held.items()}
    norm = Layer("n", BatchNorm(1e-3), (), (), tuple(blobs[n] for n in ("mean", "variance", "factor")))
    wide = {name: values.astype("<f8") for name, values in held.items()}
    return norm, Layer("s", Scale(has_bias=True), (), (), (blobs["scale"], blobs["bias"])), wide


def factors(wide: dict[str, np.ndarray]) -> np.ndarray:
    return wide["scale"] / (wide["variance"] / 2 + 1e-3) ** 0.5


def statistics(tmp_path) -> Made:
    norm, scale, wide = batch_norm(tmp_path)
    return folding.Statistics(norm, scale), factors(wide).tobytes()


def folded_bias(tmp_path) -> Made:
    norm, scale, wide = batch_norm(tmp_path)
    own = normal(2000)
    bias = folding.FoldedBias(folding.Statistics(norm, scale), stored(tmp_path, own, name="own"))
    return bias, (wide["bias"] + (own.astype("<f8") - wide["mean"] * 0.5) * factors(wide)).tobytes()


def per_channel(tmp_path) -> Made:
    norm, scale, wide = batch_norm(tmp_path)
    values = normal(2000, 7)
    piece = folding.PerChannel(stored(tmp_path, values), folding.Statistics(norm, scale), 7)
    return piece, (values * factors(wide)[:, None]).tobytes()


def input_channels(tmp_path) -> Made:
    values = normal(5, 3, 2, 4)
    piece = folding.InputChannels(stored(tmp_path, values), values.shape, (2.0, 0.5, 3.0), True)
    return piece, (values * np.array([2.0, 0.5, 3.0])[:, None, None])[:, ::-1].tobytes()


def embedded(tmp_path) -> Made:
    values, room = normal(6, 2, 3), np.zeros((6, 5, 9), "<f4")
    room[:, 1:4:2, 2:9:3] = values
    return kernels.Embedded(stored(tmp_path, values), (2, 3), (5, 9), (1, 2), (2, 3)), room.tobytes()


def selected(tmp_path) -> Made:
    columns = (3, None, 0, 4, None)
    rows = [[float(column == at) for at in range(5)] for column in columns]
    return kernels.Selected(5, columns), np.array(rows, "<f4").tobytes()


def cast(tmp_path, code: str, dtype: DType, wanted: DType) -> Made:
    values = normal(777).astype(code)
    return Cast(stored(tmp_path, values, dtype), wanted), values.astype(wanted.code).tobytes()


def brain_floats(tmp_path) -> Made:
    values = torch.from_numpy(normal(777)).bfloat16()
    return Cast(stored(tmp_path, values.view(torch.int16).numpy(), BFLOAT16), FLOAT32), values.float().numpy().tobytes()


def unpacked(tmp_path) -> Made:
    values = normal(333)
    tagged = b"".join(b"\x2d" + value.tobytes() for value in values)
    return Unpacked(stored(tmp_path, np.frombuffer(tagged, "u1")).values, FLOAT32), values.tobytes()


def dataset(tmp_path, values: np.ndarray, **how: object) -> Made:
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.create_dataset("data/layer/0", data=values, **how)
    blob = open_model(tmp_path / "m.h5").layers[0].blobs[0]
    assert isinstance(blob.values, Chunked)
    return blob.values, values.astype(blob.dtype.code).tobytes()


def decoded(tmp_path, how: str) -> Made:
    """Bytes that a file holds otherwise, see `sources.decoded`."""
    values = normal(30_000)
    if how == "held":
        numbers = Extent(Held("x", values.nbytes, values.tobytes()), 0, values.nbytes)
    elif how == "latin-1":
        text = np.frombuffer(values.tobytes().decode("latin-1").encode(), "u1")
        numbers = Latin1.of(stored(tmp_path, text).values, values.nbytes)
    else:
        numbers = Swapped.of(stored(tmp_path, values.astype(how)).values, 4)
    return Stored(numbers, FLOAT32, how), values.tobytes()


def layout(tmp_path) -> Made:
    parts = [embedded(tmp_path), (Literal(b""), b""), (Literal(b"between"), b"between"), literal(tmp_path)]
    parts += [(Layout(()), b""), extent(tmp_path)]
    return Layout.of(piece for piece, _ in parts), b"".join(data for _, data in parts)


def literal(tmp_path) -> Made:
    return Literal(b"some bytes that we hold"), b"some bytes that we hold"


def extent(tmp_path) -> Made:
    values = normal(100)
    return stored(tmp_path, values, name="extent").values, values.tobytes()


def plain(tmp_path) -> Made:
    values = normal(500)
    return stored(tmp_path, values), values.tobytes()


def streamed(tmp_path) -> Made:
    """Of more than a block."""
    values, factors = normal(150_000), normal(500, 1)
    rows = streams.Repeated(factors, (500, 300))
    made = streams.Applied("mul.Tensor", (streams.Lying(stored(tmp_path, values)), rows), {})
    return streams.Streamed(made, 150_000, "w"), (values.reshape(500, 300) * factors).tobytes()


def banded(tmp_path):
    rows = [(0, (1.5,)), (3, (0.25, 0.75)), (2, ()), (5, (1.0, -2.0)), *((n % 7, (n / 3,)) for n in range(40))]
    made = np.zeros((len(rows), 7), "<f4")
    for row, (column, numbers) in zip(made, rows, strict=True):
        row[column : column + len(numbers)] = numbers
    return kernels.Banded(rows, 7), made.tobytes()


def blocks(tmp_path) -> Made:
    values = normal(600)
    expected = np.concatenate([values[400:600], values[:200], values[200:400]])
    return kernels.Blocks(stored(tmp_path, values), 200, (2, 0, 1)), expected.tobytes()


def summed(tmp_path) -> Made:
    values, others = normal(500), normal(500) + 1
    parts = [stored(tmp_path, values), stored(tmp_path, others, name="others")]
    return kernels.Sum(parts), (values + others).tobytes()


KINDS: dict[str, tuple[type, Callable[..., Made]]] = {
    "Literal": (Literal, literal),
    "Extent": (Extent, extent),
    "Layout": (Layout, layout),
    "Stored": (Stored, plain),
    "Strided, transposed": (Strided, lambda tmp: view(tmp, (60, 50), (1, 60))),
    "Strided, every other": (Strided, lambda tmp: view(tmp, (40_000,), (2,), 5)),
    "Strided, far apart": (Strided, lambda tmp: view(tmp, (40, 2, 3), (5000, 1, 1700), 5)),
    "Strided, longer than a buffer": (Strided, lambda tmp: view(tmp, (3, 50_000), (2, 6))),
    "Strided, expanded": (Strided, lambda tmp: view(tmp, (7, 300, 2), (0, 1, 0))),
    "Cast, to half": (Cast, lambda tmp: cast(tmp, "<f4", FLOAT32, FLOAT16)),
    "Cast, from half": (Cast, lambda tmp: cast(tmp, "<f2", FLOAT16, FLOAT32)),
    "Cast, from double": (Cast, lambda tmp: cast(tmp, "<f8", FLOAT64, FLOAT32)),
    "Cast, from bfloat16": (Cast, brain_floats),
    "Filled": (kernels.Filled, lambda tmp: (kernels.Filled(99, 1.5), np.full(99, 1.5, "<f4").tobytes())),
    "Selected": (kernels.Selected, selected),
    "Banded": (kernels.Banded, banded),
    "Triangle": (kernels.Triangle, lambda tmp: (kernels.Triangle(200), np.tri(200, dtype="<f4").tobytes())),
    "Embedded": (kernels.Embedded, embedded),
    "Blocks": (kernels.Blocks, blocks),
    "Sum": (kernels.Sum, summed),
    "Statistics": (folding.Statistics, statistics),
    "PerChannel": (folding.PerChannel, per_channel),
    "FoldedBias": (folding.FoldedBias, folded_bias),
    "InputChannels": (folding.InputChannels, input_channels),
    "Streamed": (streams.Streamed, streamed),
    "Unpacked": (Unpacked, unpacked),
    "Stored, in the other byte order": (Stored, lambda tmp: decoded(tmp, ">f4")),
    "Stored, as text": (Stored, lambda tmp: decoded(tmp, "latin-1")),
    "Stored, held": (Stored, lambda tmp: decoded(tmp, "held")),
    "Chunked": (Chunked, lambda tmp: dataset(tmp, normal(37, 50), chunks=(8, 9), compression="gzip")),
    "Chunked, big-endian": (Chunked, lambda tmp: dataset(tmp, normal(37, 5, dtype=">f8"))),
}
"""Of each kind one or several: what it is, and what makes one."""


@pytest.fixture(params=KINDS)
def made(request, tmp_path) -> Made:
    kind, make = KINDS[request.param]
    piece, expected = make(tmp_path)
    assert type(piece) is kind
    return piece, expected


def ranges(size: int, count: int, seed: int = 0) -> list[tuple[int, int]]:
    """Nothing at either end, a byte at either end, everything, and random ranges."""
    numbers = random.Random(seed)
    edges = [(0, 0), (size, size), (0, 1), (size - 1, size), (1, size), (0, size - 1), (0, size)]
    return edges + [tuple(sorted((numbers.randint(0, size), numbers.randint(0, size)))) for _ in range(count)]


def test_every_kind_is_here():
    for module in pkgutil.walk_packages(streamexport.__path__, "streamexport."):
        if not module.name.endswith(("__main__", ".worker")):  # they run
            importlib.import_module(module.name)
    found, wanted = {Computed}, {kind for kind, _ in KINDS.values()}
    while found:
        kind = found.pop()
        found.update(kind.__subclasses__())
        assert kind in wanted or kind.__abstractmethods__, f"{kind} has no entry"


def test_any_range_is_that_of_the_whole(made):
    piece, expected = made
    assert piece.size == len(expected)
    for start, stop in ranges(piece.size, 60):
        assert rendered(piece, start, stop) == expected[start:stop], (start, stop)


Read = list[tuple[str, int, int]]
"""Parts of files: name, first byte, and the byte behind the last."""


@pytest.fixture
def was_read(monkeypatch) -> Read:
    """What was read of local files since it was cleared last."""
    read: Read = []

    def read_into(self: LocalFile, offset: int, into: memoryview) -> None:
        read.append((self.name, offset, offset + len(into)))
        plain(self, offset, into)

    def read_runs(self: LocalFile, offsets: Sequence[int], length: int) -> bytes:
        read.extend((self.name, offset, offset + length) for offset in offsets)
        return runs(self, offsets, length)

    plain, runs = LocalFile.read_into, LocalFile.read_runs
    monkeypatch.setattr(LocalFile, "read_into", read_into)
    monkeypatch.setattr(LocalFile, "read_runs", read_runs)
    return read


def joined(read: Read) -> Read:
    """The same in order, what touches made one."""
    found: Read = []
    for name, start, stop in sorted(part for part in read if part[1] < part[2]):
        if found and found[-1][0] == name and start <= found[-1][2]:
            start, stop = found[-1][1], max(stop, found.pop()[2])
        found.append((name, start, stop))
    return found


def said(extents: Sequence[Extent]) -> Read:
    assert all(extent.length for extent in extents)
    return [(extent.source.name, extent.offset, extent.end) for extent in extents]


def test_what_a_range_reads_is_known_before(made, was_read, monkeypatch):
    """To the byte, where nothing is kept from an earlier range; and never less."""
    piece, expected = made
    unread = copy.deepcopy(piece)
    for start, stop in ranges(piece.size, 6):
        monkeypatch.setattr(chunks, "_HELD", chunks._Held())
        fresh = copy.deepcopy(unread)
        was_read.clear()
        known = said(fresh.reads(start, stop))
        assert not was_read
        assert rendered(fresh, start, stop) == expected[start:stop]
        assert joined(known) == joined(was_read), (start, stop)
        was_read.clear()
        known = said(piece.reads(start, stop))
        assert rendered(piece, start, stop) == expected[start:stop]
        assert joined(known + was_read) == joined(known), (start, stop)
    assert not piece.reads(0, 0)
    with pytest.raises(ValueError, match="lies outside a piece"):
        piece.reads(0, piece.size + 1)


@pytest.mark.parametrize("is_rendered", [False, True])
@pytest.mark.parametrize("way", ["pickle", "copy", "deepcopy"])
def test_a_copy_has_the_same_bytes(made, way, is_rendered):
    piece, expected = made
    if is_rendered:
        rendered(piece, 1, piece.size // 2)
    copied = {"pickle": lambda it: pickle.loads(pickle.dumps(it)), "copy": copy.copy, "deepcopy": copy.deepcopy}[way](
        piece
    )
    assert type(copied) is type(piece)
    assert copied.sources == piece.sources
    assert rendered(copied) == expected
    assert rendered(piece) == expected


RENDERED_ELSEWHERE = """
import hashlib, pickle, sys
for piece in pickle.load(sys.stdin.buffer):
    data = bytearray(piece.size)
    piece.render(0, piece.size, memoryview(data))
    print(hashlib.sha256(data).hexdigest())
"""


def test_another_process_renders_the_same_bytes(tmp_path):
    pieces, expected = [], []
    for number, (_, make) in enumerate(KINDS.values()):
        (tmp_path / str(number)).mkdir()
        piece, data = make(tmp_path / str(number))
        pieces.append(piece)
        expected.append(hashlib.sha256(data).hexdigest())
    done = subprocess.run([sys.executable, "-c", RENDERED_ELSEWHERE], input=pickle.dumps(pieces), capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().split() == expected


def test_four_threads_at_once_render_the_same_bytes(made):
    piece, expected = made
    together = threading.Barrier(4)

    def render(seed: int) -> list[tuple[int, int]]:
        together.wait()
        return [(a, b) for a, b in ranges(piece.size, 40, seed) if rendered(piece, a, b) != expected[a:b]]

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(render, range(4))) == [[]] * 4


def test_a_range_outside_is_refused(made):
    piece, _ = made
    for start, stop in (
        (-1, 1),
        (0, piece.size + 1),
        (piece.size, piece.size + 4),
        (3, 2),
        (piece.size + 1, piece.size + 1),
    ):
        into = memoryview(bytearray(max(0, stop - start)))
        with pytest.raises(ValueError, match=f"range {start} to {stop} lies outside a piece of {piece.size} bytes"):
            piece.render(start, stop, into)
    for wrong in (0, 3, 5):
        with pytest.raises(ValueError, match=f"range 0 to 4 does not fit a buffer of {wrong} bytes"):
            piece.render(0, 4, memoryview(bytearray(wrong)))


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("stored_as", ["float32", "bfloat16"])
def test_a_pickled_plan_is_the_same_file_and_so_is_its_net_laid_out_again(tmp_path, checkpoint, form, dtype, stored_as):
    path = checkpoint("resnet18")
    if stored_as == "bfloat16":
        state = {name: t.bfloat16() if t.is_floating_point() else t for name, t in torch.load(path).items()}
        path = tmp_path / "c.pth"
        torch.save(state, path)
    options = streamexport.Options(dtype=dtype, fold_batchnorm=dtype == "float16", end="layer1")
    plan = streamexport.plan([path], tmp_path / "m", options, form=form.name)
    sent = pickle.loads(pickle.dumps(plan))
    expected = rendered(plan.parts[0][1])
    assert rendered(sent.parts[0][1]) == expected
    for net in (plan.net, sent.net, copy.deepcopy(plan.net)):
        assert rendered(form.layouts(net)[0]) == rendered(form.layouts(plan.net)[0])
    assert (sent.path, sent.prototxt, sent.notes) == (plan.path, plan.prototxt, plan.notes)


@pytest.mark.parametrize("form", ["caffemodel", "hdf5"])
@pytest.mark.parametrize(
    "options", [streamexport.Options(), streamexport.Options(dtype="float16", fold_batchnorm=True)]
)
def test_a_layout_that_travels_is_small(tmp_path, form, options):
    """3.3 GB, of which nothing is on the disk."""
    tool = ROOT / "tools" / "make_checkpoint.py"
    subprocess.run([sys.executable, tool, "--sparse", "resnext101_32x48d_wsl", tmp_path / "c.pth"], check=True)
    ((_, layout),) = streamexport.plan([tmp_path / "c.pth"], tmp_path / "m", options, form=form).parts
    assert layout.size > 1.6e9
    packed = pickle.dumps(layout)
    assert len(packed) <= 256 << 10
    sent = pickle.loads(packed)
    assert (sent.size, sent.sources, len(sent.pieces)) == (layout.size, layout.sources, len(layout.pieces))


def test_no_other_file_is_read_that_took_the_name_of_the_one_that_was_read(tmp_path):
    piece, expected = dataset(tmp_path, normal(37, 50), chunks=(8, 9))
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file.create_dataset("data/layer/0", data=np.zeros((37, 50), "<f4"), chunks=(8, 9))
    (tmp_path / "other.h5").rename(tmp_path / "m.h5")
    assert rendered(piece) == expected  # it has the file open
    with pytest.raises(SourceChangedError, match=r"m\.h5: changed while it was read"):
        rendered(pickle.loads(pickle.dumps(piece)))
