"""Arrays of numpy in pickles and in files of their own: numpy writes, and numpy says whether it is right."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from streamexport.checkpoints import open_weights
from streamexport.errors import Error, FormatError
from streamexport.payload.pieces import Extent
from streamexport.sources.decoded import STEP, Latin1, Swapped
from streamexport.sources.local import LocalFile
from tests.checkpoints.test_readers_torch import save
from tests.payload.test_extents import rendered
from tests.promises.test_promises import measured


def arrays():
    numbers = np.random.default_rng(0)
    return {
        "plain": numbers.standard_normal((3, 4, 5)).astype("f4"),
        "double": numbers.standard_normal(7),
        "half": numbers.standard_normal((2, 3)).astype("f2"),
        "fortran": np.asfortranarray(numbers.standard_normal((30, 40, 2)).astype("f4")),
        "big": numbers.standard_normal((5, 6)).astype(">f4"),
        "big double": np.asfortranarray(numbers.standard_normal((5, 6)).astype(">f8")),
        "big half": numbers.standard_normal(5).astype(">f2"),
        "transposed": numbers.standard_normal((4, 6)).astype("f4").T,
        "sliced": numbers.standard_normal((40, 60)).astype("f4")[::3, ::-2],
        "scalar": np.array(1.5, "f4"),
        "empty": np.zeros((0, 3), "f4"),
        "long": numbers.standard_normal(100_000).astype("f4"),
        "zeros": np.zeros(5000, "f4"),
        "counter": np.array(7),
        "is_bool": np.array([True, False]),
    }


def assert_same(weights, expected):
    assert list(weights.tensors) == list(expected)
    for name, tensor in weights.tensors.items():
        reference = expected[name]
        assert (tensor.name, tensor.shape) == (name, reference.shape)
        assert tensor.dtype.name == reference.dtype.name
        if tensor.dtype.is_floating:
            found = np.frombuffer(rendered(tensor.as_float32()), "<f4")
            np.testing.assert_array_equal(found, reference.astype("<f4").reshape(-1))


def pickled(value, path, protocol):
    path.write_bytes(pickle.dumps(value, protocol))
    return path


@pytest.mark.parametrize("protocol", range(1, 6))
def test_a_pickle_of_arrays_as_detectron2_has_it(tmp_path, protocol):
    values = {"model": arrays(), "__author__": "somebody", "matching_heuristics": True}
    weights = open_weights(pickled(values, tmp_path / "c.pkl", protocol))
    assert (weights.format, weights.key) == ("pickle", "model")
    assert_same(weights, arrays())


def test_protocol_0_holds_small_ones_and_says_what_to_do_about_large_ones(tmp_path):
    small = {name: array for name, array in arrays().items() if array.nbytes < 5000}
    assert_same(open_weights(pickled(small, tmp_path / "c.pkl", 0)), small)
    with pytest.raises(Error, match="no end of line .*; save it again with a pickle protocol above 1"):
        open_weights(pickled(arrays(), tmp_path / "c.pkl", 0))


def test_bytes_lie_in_the_file_where_the_protocol_has_bytes(tmp_path):
    path = pickled({"w": arrays()["long"]}, tmp_path / "c.pkl", 3)
    extent = open_weights(path).tensors["w"].extent
    assert isinstance(extent.source, LocalFile)
    assert path.read_bytes()[extent.offset : extent.end] == arrays()["long"].tobytes()


def test_python_2_pickled_bytes_as_strings(tmp_path):
    """`BINSTRING` and `SHORT_BINSTRING`, as Caffe2's and detectron's model zoos have them."""
    for count in (10, 1000):
        held = np.arange(count, dtype="f4")
        text = b"U%c" % held.nbytes if held.nbytes < 256 else b"T" + held.nbytes.to_bytes(4, "little")
        data = b"\x80\x02}U\x01wcnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR(K\x01(M"
        data += count.to_bytes(2, "little") + b"tcnumpy\ndtype\n(U\x02f4K\x00K\x01tR(K\x03U\x01<NNN"
        data += b"J\xff\xff\xff\xffJ\xff\xff\xff\xff"
        data += b"K\x00tbI00\n" + text + held.tobytes() + b"tbs."
        assert np.array_equal(pickle.loads(data, encoding="latin1")["w"], held)
        (tmp_path / "c.pkl").write_bytes(data)
        assert_same(open_weights(tmp_path / "c.pkl"), {"w": held})


@pytest.mark.parametrize(("form", "protocol"), [("legacy", 2), ("zip", 2), ("zip", 4), ("zip", 5)])
def test_arrays_that_torch_saved(tmp_path, form, protocol):
    values = {"state_dict": arrays(), "epoch": np.int64(3)}
    assert_same(open_weights(save(values, tmp_path / "c", form, pickle_protocol=protocol)), arrays())


def test_npz(tmp_path):
    np.savez(tmp_path / "c", **arrays())
    weights = open_weights(tmp_path / "c.npz")
    assert weights.format == "numpy"
    assert_same(weights, arrays())
    np.savez_compressed(tmp_path / "c", **arrays())
    with pytest.raises(FormatError, match=r"plain.npy: is compressed or encrypted.*save it again with numpy.savez"):
        open_weights(tmp_path / "c.npz")


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_npy_is_called_like_its_file(tmp_path, version):
    with (tmp_path / "fc.weight.npy").open("wb") as file:
        np.lib.format.write_array(file, arrays()["fortran"], version)
    assert_same(open_weights(tmp_path / "fc.weight.npy"), {"fc.weight": arrays()["fortran"]})


def test_a_dict_that_was_saved_as_an_array(tmp_path):
    np.save(tmp_path / "c.npy", {"model": arrays()}, allow_pickle=True)
    weights = open_weights(tmp_path / "c.npy")
    assert weights.key == "model"
    assert_same(weights, arrays())


def test_arrays_of_anything_else_are_named_where_they_are_needed(tmp_path):
    np.savez(
        tmp_path / "c", w=np.ones(2, "f4"), text=np.array(["a"]), pairs=np.zeros(2, "i4,f8"), wide=np.zeros(2, "u4")
    )
    weights = open_weights(tmp_path / "c.npz")
    assert list(weights.tensors) == ["w"]
    assert [remark.partition(" (")[0] for remark in weights.remarks] == [
        f"{name} is an array whose elements no blob can hold" for name in ("text", "pairs", "wide")
    ]


def test_a_file_of_numpy_s_cut_or_damaged_anywhere_is_refused(tmp_path):
    np.savez(tmp_path / "c", w=np.ones(9, "f4"))
    np.save(tmp_path / "w", np.ones(9, "f4"))
    pickled({"w": np.ones(100, "f4")}, tmp_path / "p", 4)
    numbers = np.random.default_rng(0)
    for name in ("c.npz", "w.npy", "p"):
        data = (tmp_path / name).read_bytes()
        for length in range(0, len(data) - 1, 3):
            (tmp_path / "x").write_bytes(data[:length])
            with pytest.raises(Error):
                open_weights(tmp_path / "x")
        for position in numbers.choice(len(data), 200):
            changed = bytearray(data)
            changed[position] ^= 1 << numbers.integers(8)
            (tmp_path / "x").write_bytes(changed)
            try:
                weights = open_weights(tmp_path / "x")
            except Error:
                continue
            assert all(tensor.extent.end <= tensor.extent.source.size for tensor in weights.tensors.values())


def test_any_range_of_bytes_that_stand_as_text(tmp_path):
    numbers = np.random.default_rng(0)
    for high in (0.0, 0.5, 1.0):
        data = np.where(numbers.random(300_001) < high, 200, 65).astype("u1").tobytes()
        text = b"xy" + data.decode("latin-1").encode() + b"z"
        (tmp_path / "t").write_bytes(text)
        source = pickle.loads(
            pickle.dumps(Latin1.of(Extent(LocalFile.at(tmp_path / "t"), 2, len(text) - 3), len(data)))
        )
        for start in (0, 1, STEP - 1, STEP, STEP // 2, 200_000, 300_000):
            for length in (1, 2, 70_000, 200_000):
                stop = min(start + length, len(data))
                into = bytearray(stop - start)
                source.render(start, stop, memoryview(into))
                assert into == data[start:stop]


@pytest.mark.parametrize(("text", "message"), [("aé", "2 characters, not 3"), ("aあb", "characters that are no bytes")])
def test_text_that_is_no_bytes_is_refused(tmp_path, text, message):
    (tmp_path / "t").write_text(text, "utf-8")
    file = LocalFile.at(tmp_path / "t")
    with pytest.raises(FormatError, match=rf"t: .*{message}"):
        rendered(Latin1.of(Extent(file, 0, file.size), 3))


@pytest.mark.parametrize("itemsize", [2, 4, 8])
def test_any_range_of_numbers_in_the_other_byte_order(tmp_path, itemsize):
    data = np.random.default_rng(0).bytes(1024)
    (tmp_path / "n").write_bytes(b"..." + data)
    swapped = np.frombuffer(data, f">u{itemsize}").astype(f"<u{itemsize}").tobytes()
    piece = pickle.loads(pickle.dumps(Swapped.of(Extent(LocalFile.at(tmp_path / "n"), 3, 1024), itemsize)))
    for start, stop in ((0, 1024), (1, 2), (3, 900), (1023, 1024), (5, 5)):
        into = bytearray(stop - start)
        piece.render(start, stop, memoryview(into))
        assert into == swapped[start:stop]


@pytest.mark.parametrize("protocol", [2, 4])
def test_memory_does_not_grow_with_arrays(tmp_path, protocol):
    """Three hundred megabytes of them, more than a pickle may take of other things."""
    held = {f"w{i}": np.full(25_000_000, 1e-3 * i, "f4") for i in range(3)}
    with (tmp_path / "c.pkl").open("wb") as file:
        pickle.dump(held, file, protocol)
    assert measured("inspect", tmp_path / "c.pkl")[0] < 32 << 10
    last = open_weights(tmp_path / "c.pkl").tensors["w2"].as_float32()
    into = bytearray(4000)
    last.render(last.size - 4000, last.size, memoryview(into))
    assert into == held["w2"][-1000:].tobytes()


def test_a_net_out_of_arrays(tmp_path, checkpoint):
    """The same caffemodel as out of the tensors, byte for byte but for its record."""
    from streamexport import convert
    from streamexport.caffe.models import open_model

    state = torch.load(checkpoint("resnet18"))
    np.savez(tmp_path / "c", **{name: value.numpy() for name, value in state.items()})
    convert([tmp_path / "c.npz"], tmp_path / "a.caffemodel")
    convert([checkpoint("resnet18")], tmp_path / "b.caffemodel")
    ours, theirs = open_model(tmp_path / "a.caffemodel"), open_model(tmp_path / "b.caffemodel")
    for layer, other in zip(ours.layers, theirs.layers, strict=True):
        assert layer.name == other.name
        assert [rendered(blob.values) for blob in layer.blobs] == [rendered(blob.values) for blob in other.blobs]
