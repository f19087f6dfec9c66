"""The encoder against protobuf's own serializer, and the reader against files that protobuf wrote."""

from __future__ import annotations

import random

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from streamexport.caffe import caffe_pb2, shards
from streamexport.caffe.caffemodel import wire
from streamexport.caffe.caffemodel import writing as caffemodel
from streamexport.caffe.models import open_model, open_models
from streamexport.errors import Error, FormatError, LimitError, NetError
from streamexport.net.graph import Blob, Layer, Net
from streamexport.net.operations import Convolution, Input, Opaque, Pooling
from streamexport.net.windows import Window
from streamexport.payload.pieces import Extent, Literal
from streamexport.payload.tensors import DTYPES, FLOAT16, FLOAT64
from streamexport.sources.local import LocalFile
from tests.conftest import assert_refused, run_cli
from tests.payload.test_extents import rendered

VARINTS = [
    (0, "00"),
    (1, "01"),
    (127, "7f"),
    (128, "80 01"),
    (300, "ac 02"),
    (16383, "ff 7f"),
    (16384, "80 80 01"),
    (2**31 - 1, "ff ff ff ff 07"),
    (2**63, "80 80 80 80 80 80 80 80 80 01"),
    (-1, "ff ff ff ff ff ff ff ff ff 01"),
]


def test_a_varint_may_be_wider_than_it_has_to_be():
    assert [wire.varint(value, 3).hex() for value in (0, 1, 300, 1 << 14, 1 << 21)] == [
        "808000",
        "818000",
        "ac8200",
        "808001",
        "80808001",
    ]


@pytest.mark.parametrize(("value", "expected"), VARINTS)
def test_varints(value, expected):
    assert wire.varint(value) == bytes.fromhex(expected)


@pytest.mark.parametrize(
    ("number", "content", "expected"),
    [
        (1, b"", "0a 00"),
        (7, b"ab", "3a 02 61 62"),
        (100, b"x", "a2 06 01 78"),
        (5, bytes(200), "2a c8 01" + " 00" * 200),
    ],
)
def test_delimited_fields(number, content, expected):
    field = wire.delimited(number, [Literal(content)])
    assert b"".join(map(rendered, field)) == bytes.fromhex(expected)
    assert wire.size(field) == len(bytes.fromhex(expected))


def blob(values: np.ndarray, dtype="float32") -> Blob:
    data = values.astype(DTYPES[dtype].code)
    return Blob(values.shape, Literal(data.tobytes()), DTYPES[dtype])


def some_net() -> Net:
    numbers = np.random.default_rng(0)
    return Net(
        "net",
        (
            Layer("data", Input(((1, 3, 8, 8),)), (), ("data",)),
            Layer(
                "conv",
                Convolution(4, Window.of((3, 3), pad=(1, 1))),
                ("data",),
                ("conv",),
                (blob(numbers.standard_normal((4, 3, 3, 3))), blob(numbers.standard_normal(4))),
            ),
            Layer("pool", Pooling("AVE"), ("conv",), ("pool",)),
        ),
    )


def test_a_model_is_byte_for_byte_what_protobuf_would_write():
    net = some_net()
    reference = caffe_pb2.NetParameter(name="net", streamexport_record=b"{}")
    convolution = {"num_output": 4, "pad": [1], "kernel_size": [3], "stride": [1]}
    parameters = {
        "data": caffe_pb2.LayerParameter(input_param={"shape": [{"dim": [1, 3, 8, 8]}]}),
        "conv": caffe_pb2.LayerParameter(convolution_param=convolution),
        "pool": caffe_pb2.LayerParameter(pooling_param={"pool": "AVE", "global_pooling": True}),
    }
    for layer in net.layers:
        made = reference.layer.add(name=layer.name, type=layer.type, bottom=layer.bottoms, top=layer.tops)
        for values in layer.blobs:
            data = np.frombuffer(rendered(values.values), "<f4")
            made.blobs.add(shape={"dim": values.shape}, data=data)
        made.MergeFrom(parameters[layer.name])
    expected = reference.SerializeToString(deterministic=True)
    layout = caffemodel.layout(net, b"{}")
    assert rendered(layout) == expected
    assert layout.size == len(expected)


def test_a_half_float_blob_is_raw_data_and_a_double_one_double_data():
    numbers = np.random.default_rng(0).standard_normal((2, 3))
    net = Net("n", (Layer("l", Opaque("X"), (), (), blobs=(blob(numbers, "float16"), blob(numbers, "float64"))),))
    half, double = caffe_pb2.NetParameter.FromString(rendered(caffemodel.layout(net))).layer[0].blobs
    assert half.raw_data_type == caffe_pb2.BlobProto.FLOAT16
    assert half.raw_data == numbers.astype("<f2").tobytes()
    assert not half.data
    assert list(double.double_data) == list(numbers.reshape(-1))
    assert [list(b.shape.dim) for b in (half, double)] == [[2, 3], [2, 3]]


@pytest.mark.parametrize(("ceil_mode", "on_the_wire"), [(False, "CEIL"), (True, "FLOOR")])
def test_ceil_mode_is_field_13_on_the_wire(ceil_mode, on_the_wire):
    layer = Layer("p", Pooling("MAX", rounds_down=not ceil_mode, says_ceil_mode=True), ("a",), ("b",))
    parsed = caffe_pb2.NetParameter.FromString(rendered(caffemodel.layout(Net("n", (layer,)))))
    assert parsed.layer[0].pooling_param == caffe_pb2.PoolingParameter(
        pool="MAX", global_pooling=True, round_mode=on_the_wire
    )


@pytest.mark.parametrize("align", [1, 2, 3, 100, 512, 4096, 16_384, 65_536, 1 << 20, 3_000_001])
def test_padding_brings_large_blobs_to_their_place_and_is_skipped(tmp_path, align):
    path, numbers = tmp_path / "source", random.Random(align)
    path.write_bytes(np.arange(1 << 18, dtype="<f4").tobytes())
    source = LocalFile.at(path)
    layers = []
    for index, size in enumerate([70_000, 12, 65_536, 4, 300_000, 65_540] + [65_536] * 20):
        at = 4 * numbers.randint(0, (source.size - size) // 4)
        layers.append(Layer(f"l{index}", Opaque("X"), (), (), blobs=(Blob((size // 4,), Extent(source, at, size)),)))
    net = Net("n", tuple(layers))
    layout = caffemodel.layout(net, b"{}", align)
    large = [(start, p) for start, p in zip(layout.starts, layout.pieces, strict=False) if p.size >= 1 << 16]
    assert sum(isinstance(piece, Extent) for _, piece in large) == 24
    assert all((start - piece.offset) % align == 0 for start, piece in large if isinstance(piece, Extent))
    padded, plain = (
        caffe_pb2.NetParameter.FromString(rendered(made)) for made in (layout, caffemodel.layout(net, b"{}"))
    )
    padded.ClearField("streamexport_padding")
    is_same = padded == plain  # whose difference nobody wants printed
    assert is_same


@pytest.mark.parametrize("align", [2, 130, 131, 4096, 16_384, 16_391, 1 << 21])
def test_padding_of_any_length_ends_where_it_should(tmp_path, align):
    """One layer behind names of every length, so that each number of bytes is missing, or the first and last hundred are."""
    path = tmp_path / "source"
    path.write_bytes(bytes(1 << 16))
    blob = Blob((1 << 14,), Extent(LocalFile.at(path), 0, 1 << 16))
    for length in {*range(1, min(align, 300)), *range(max(align - 300, 1), align)}:
        layout = caffemodel.layout(Net("x" * length, (Layer("l", Opaque("X"), (), (), blobs=(blob,)),)), align=align)
        (start,) = (s for s, piece in zip(layout.starts, layout.pieces, strict=False) if isinstance(piece, Extent))
        assert start % align == 0
        assert start < length + 50 + align + 10  # where the field itself does not fit, it goes around once more


def split(net: Net, limit: int, record: bytes = b"") -> list[Net]:
    return shards.split(net, limit, caffemodel.file_overhead(net, record), caffemodel.layer_size)


def test_parts_are_as_large_as_allowed_and_together_the_whole():
    layers = tuple(Layer(f"l{n}", Opaque("X"), (), (), blobs=(blob(np.full(n * 10, n)),)) for n in range(1, 20))
    net, limit = Net("net", layers), 1500
    parts = split(net, limit, b"{}")
    layouts = [caffemodel.layout(part, b"{}") for part in parts]
    assert len(parts) > 3
    assert all(layout.size <= limit for layout in layouts)
    for layout, following in zip(layouts, parts[1:], strict=False):
        assert layout.size + wire.size(caffemodel.layer_field(following.layers[0])) > limit
    joined = caffe_pb2.NetParameter.FromString(b"".join(map(rendered, layouts)))
    assert list(joined.layer) == list(caffe_pb2.NetParameter.FromString(rendered(caffemodel.layout(net))).layer)
    assert split(net, caffemodel.CAFFE_LIMIT) == [net]
    smallest = max(caffemodel.layout(Net("net", (layer,)), b"{}").size for layer in layers)
    assert max(caffemodel.layout(p, b"{}").size for p in split(net, smallest, b"{}")) == smallest
    with pytest.raises(LimitError, match=f"layer l19: needs a file of {smallest} bytes, the limit is {smallest - 1}"):
        split(net, smallest - 1, b"{}")


# Reading


def write(tmp_path, message) -> str:
    path = tmp_path / "m.caffemodel"
    path.write_bytes(message if isinstance(message, bytes) else message.SerializeToString())
    return str(path)


def floats(blob: Blob) -> list[float]:
    return np.frombuffer(rendered(blob.values), blob.dtype.code).tolist()


def test_what_we_write_reads_back_as_the_same_bytes(tmp_path):
    data = rendered(caffemodel.layout(some_net(), b"{}"))
    net = open_model(write(tmp_path, data))
    assert net.record == b"{}"
    assert [layer.type for layer in net.layers] == ["Input", "Convolution", "Pooling"]
    assert rendered(caffemodel.layout(net, net.record)) == data


def test_unknown_layers_and_fields_pass_through(tmp_path):
    unknown = wire.tag(900, 0) + wire.varint(77)
    layer = caffe_pb2.LayerParameter(name="odd", type="Warp", bottom=["a", "b"], top=["c"]).SerializeToString()
    layer += unknown + b"".join(map(rendered, wire.delimited(901, [Literal(b"inside")])))
    data = b"".join(map(rendered, wire.delimited(100, [Literal(layer)]))) + b"\x20\x05" + unknown
    net = open_model(write(tmp_path, data))
    assert (net.layers[0].name, net.layers[0].bottoms, net.layers[0].tops) == ("odd", ("a", "b"), ("c",))
    assert rendered(caffemodel.layout(net)) == data


def test_data_that_is_not_packed_or_in_several_fields(tmp_path):
    values = np.arange(50_000, dtype="<f4")
    unpacked = b"".join(b"\x2d" + value.tobytes() for value in values)
    shape = caffe_pb2.BlobProto(shape={"dim": [50_008]}).SerializeToString()
    packed = b"\x2a\x10" + np.array([1, 2, 3, 4], "<f4").tobytes()
    content = b"".join(map(rendered, wire.delimited(7, [Literal(packed + unpacked + shape + packed)])))
    data = b"".join(map(rendered, wire.delimited(100, [Literal(content)])))
    assert caffe_pb2.NetParameter.FromString(data).layer[0].blobs[0].data[4:-4] == values.tolist()
    (blob,) = open_model(write(tmp_path, data)).layers[0].blobs
    assert floats(blob) == [1, 2, 3, 4, *values.tolist(), 1, 2, 3, 4]
    numbers = random.Random(0)
    whole = rendered(blob.values)
    for _ in range(50):
        start = numbers.randint(0, len(whole))
        stop = numbers.randint(start, len(whole))
        assert rendered(blob.values, start, stop) == whole[start:stop]


def test_old_dimensions_win_over_shape_as_in_caffe(tmp_path):
    message = caffe_pb2.NetParameter()
    message.layer.add().blobs.add(num=1, channels=1, height=2, width=3, shape={"dim": [6]}, data=range(6))
    (blob,) = open_model(write(tmp_path, message)).layers[0].blobs
    assert blob.shape == (1, 1, 2, 3)


def test_double_data_and_raw_data(tmp_path):
    message = caffe_pb2.NetParameter()
    layer = message.layer.add()
    layer.blobs.add(shape={"dim": [2]}, double_data=[0.1, 0.2])
    layer.blobs.add(shape={"dim": [2]}, raw_data_type="FLOAT16", raw_data=np.array([1, 2], "<f2").tobytes())
    double, half = open_model(write(tmp_path, message)).layers[0].blobs
    assert (double.dtype, floats(double)) == (FLOAT64, [0.1, 0.2])
    assert (half.dtype, floats(half)) == (FLOAT16, [1, 2])


def v1_model() -> bytes:
    """A model of Caffe's first years: `layers`, with types as numbers and parameters under other numbers."""
    convolution = caffe_pb2.ConvolutionParameter(num_output=2, kernel_size=[1])
    blob = caffe_pb2.BlobProto(num=2, channels=1, height=1, width=1, data=[1, 2])

    def field(number, content):
        return b"".join(map(rendered, wire.delimited(number, [Literal(content)])))

    layer = field(2, b"data") + field(3, b"conv") + field(4, b"conv") + wire.tag(5, 0) + wire.varint(4)
    layer += field(6, blob.SerializeToString()) + wire.tag(7, 5) + bytes(4) + field(10, convolution.SerializeToString())
    return field(1, b"old") + field(2, layer)


def test_the_first_years_layers_become_today_s(tmp_path):
    net = open_model(write(tmp_path, v1_model()))
    parsed = caffe_pb2.NetParameter.FromString(rendered(caffemodel.layout(net)))
    expected = caffe_pb2.NetParameter(name="old")
    layer = expected.layer.add(name="conv", type="Convolution", bottom=["data"], top=["conv"])
    layer.blobs.add(shape={"dim": [2, 1, 1, 1]}, data=[1, 2])
    layer.convolution_param.CopyFrom(caffe_pb2.ConvolutionParameter(num_output=2, kernel_size=[1]))
    assert parsed == expected


@pytest.mark.parametrize("make", [v1_model, lambda: rendered(caffemodel.layout(some_net(), b"{}"))])
def test_a_model_cut_or_damaged_anywhere_never_crashes_the_reader(tmp_path, make):
    data = make()
    numbers = np.random.default_rng(0)
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1 << numbers.integers(8)
        for broken in (bytes(changed), data[:position]):
            try:
                net = open_model(write(tmp_path, broken))
            except Error as error:
                assert str(tmp_path) in str(error)
                continue
            assert all(
                source.size == len(broken) for layer in net.layers for b in layer.blobs for source in b.values.sources
            )


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"shape": {"dim": [3]}, "data": [1, 2]}, r"blob of shape \[3\] holds 8 bytes"),
        ({"shape": {"dim": [-1, -2]}, "data": [1, 2]}, "negative size"),
        ({"shape": {"dim": [2]}, "raw_data": b"abc"}, "holds 3 bytes"),
    ],
)
def test_a_blob_that_contradicts_itself_is_refused(tmp_path, message, expected):
    net = caffe_pb2.NetParameter()
    net.layer.add().blobs.add(**message)
    with pytest.raises(FormatError, match=expected):
        open_model(write(tmp_path, net))


def test_our_schema_lives_beside_caffe_s_own_in_one_process():
    """pycaffe registers `caffe.NetParameter`; a stand-in with another idea of it must not disturb ours."""
    file = descriptor_pb2.FileDescriptorProto(name="caffe/proto/caffe.proto", package="caffe")
    message = file.message_type.add(name="NetParameter")
    message.field.add(name="name", number=1, type=5, label=1)
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    theirs = message_factory.GetMessageClass(pool.FindMessageTypeByName("caffe.NetParameter"))
    assert theirs(name=5).SerializeToString() == b"\x08\x05"
    assert caffe_pb2.NetParameter(name="x").SerializeToString() == b"\x0a\x01x"


def repeated() -> caffe_pb2.NetParameter:
    """A net as it was trained, whose layers for training and testing share names; some have none."""
    net = caffe_pb2.NetParameter(name="repeated")
    for name, kind, numbers in (
        ("data", "Data", []),
        ("data", "Data", []),
        ("", "Python", [1, 2]),
        ("conv", "Convolution", [3]),
        ("", "Python", [4]),
        ("conv", "Convolution", [5, 6]),
        ("loss", "SoftmaxWithLoss", []),
    ):
        layer = net.layer.add(name=name, type=kind, top=[f"top{len(net.layer)}"])
        if numbers:
            layer.blobs.add(shape={"dim": [len(numbers)]}, data=numbers)
    return net


def test_layers_that_share_a_name_or_have_none_pass_through(tmp_path):
    (tmp_path / "m.caffemodel").write_bytes(repeated().SerializeToString())
    assert run_cli("convert", tmp_path / "m.caffemodel", "-o", tmp_path / "again.caffemodel").returncode == 0
    again = caffe_pb2.NetParameter.FromString((tmp_path / "again.caffemodel").read_bytes())
    expected = repeated()
    for layer in expected.layer:
        if not layer.name:
            layer.ClearField("name")
    assert list(again.layer) == list(expected.layer)
    line = assert_refused("convert", tmp_path / "m.caffemodel", "-o", tmp_path / "m.h5")
    assert "layer ''" in line


def test_layers_of_several_files_are_matched_by_name_and_none_by_having_none(tmp_path):
    first, second = repeated(), caffe_pb2.NetParameter(layer=[repeated().layer[number] for number in (0, 2, 6)])
    second.layer[2].blobs.add(shape={"dim": [1]}, data=[7])
    for name, net in (("a", first), ("b", second)):
        (tmp_path / name).write_bytes(net.SerializeToString())
    joined = open_models([tmp_path / "a", tmp_path / "b"])
    assert [layer.name for layer in joined.layers] == ["data", "data", "", "conv", "", "conv", "loss", ""]
    assert len(joined.layers[6].blobs) == 1
    (tmp_path / "c").write_bytes(caffe_pb2.NetParameter(layer=[first.layer[3]]).SerializeToString())
    with pytest.raises(NetError, match="c: layer conv: stands in the model twice"):
        open_models([tmp_path / "a", tmp_path / "c"])
