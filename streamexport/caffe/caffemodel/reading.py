"""Binary caffemodels, read by a scan of the wire format that jumps over payloads.

A message is a sequence of fields: a tag (the varint `number << 3 | type`), then by type a varint (0), 8 bytes (1), a
length and that many bytes (2), or 4 bytes (5). Numbers of NetParameter, LayerParameter and BlobProto stand in
`writing.py` and `caffe/caffe.proto`. What is understood besides:

- `layers` (2), the layers of Caffe's first year: V1LayerParameter with 2 bottom, 3 top, 4 name, 5 type (a number),
  6 blobs, and parameters under other numbers than today's, which are renumbered;
- blobs whose `data` is not packed: a tag before each float;
- the dimensions num, channels, height, width (1 to 4), which win over `shape`;
- `double_data`, and `raw_data` with its type.

Layers of any type and fields that are not known stay as they are. Gradients (`diff`) are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, NoReturn

from google.protobuf.message import DecodeError

from ...errors import FormatError, TruncatedError
from ...net.graph import Blob, Layer, Net
from ...net.operations import Opaque
from ...payload.pieces import Extent, Layout, Literal, Piece, Source
from ...payload.tensors import DTYPES, FLOAT16, FLOAT32, FLOAT64, Computed, DType
from ...sources.cursor import Cursor
from ..caffe_pb2 import BlobProto, BlobShape, LayerParameter, NetParameter
from .wire import DELIMITED, FIXED32, FIXED64, VARINT, tag

if TYPE_CHECKING:
    from ...payload.tensors import Array

LAYERS_V1 = 2  # NetParameter.layers
MOST_LAYERS = 100_000
SHORT = 5  # bytes that protobuf allows a tag or a length, which need not be written in the fewest
SMALL = 1 << 20  # bytes that a name, a shape or the record may take
MOST_AT_ONCE = 1 << 14  # single values that are looked at together, of 5 or 9 bytes


@dataclass(frozen=True, slots=True)
class Field:
    """One field: bytes [start, end) of the file, a tag, then from `tagged` on its value; [body, end) are its content.

    Tags and lengths may be written in more bytes than they need. `value` is a varint's.
    """

    number: int
    type: int
    start: int
    tagged: int
    body: int
    end: int
    value: int = 0


def read(source: Source) -> Net:
    return _Reader(source).net()


class _Reader:
    def __init__(self, source: Source) -> None:
        self.source, self.cursor = source, Cursor(source)

    def net(self) -> Net:
        name, record, layers, unread = "", b"", list[Layer](), list[Piece]()
        for field in self.fields(self.source.size):
            if field.number == NetParameter.NAME_FIELD_NUMBER:
                name = self.text(field)
            elif field.number == NetParameter.LAYER_FIELD_NUMBER:
                layers.append(self.layer(field))
            elif field.number == LAYERS_V1:
                layers.append(self.layer_v1(field))
            elif field.number == NetParameter.STREAMEXPORT_RECORD_FIELD_NUMBER:
                record = self.small(field)
            elif field.number != NetParameter.STREAMEXPORT_PADDING_FIELD_NUMBER:
                unread.append(self.extent(field.start, field.end))
            if len(layers) > MOST_LAYERS:
                self.fail(f"has more than {MOST_LAYERS} layers", field)
        self.check(unread, NetParameter, f"net {name}")
        return Net(name, tuple(layers), unread=Layout.of(unread).pieces, record=record)

    def check(self, unread: list[Piece], kind: type[NetParameter | LayerParameter], what: str) -> None:
        """FormatError if small fields that are passed on are none that protobuf can read."""
        fields = Layout.of(unread)
        if 0 < fields.size <= SMALL:
            data = bytearray(fields.size)
            fields.render(0, fields.size, memoryview(data))
            try:
                kind.FromString(bytes(data))
            except DecodeError as error:
                at = next(piece.offset for piece in fields.pieces if isinstance(piece, Extent))
                raise FormatError("malformed parameters", file=self.source.name, tensor=what, offset=at) from error

    def layer(self, outer: Field) -> Layer:
        strings: dict[int, list[str]] = {1: [], 2: [], 3: [], 4: []}  # name, type, bottom, top
        blobs, unread = [], list[Piece]()
        for field in self.inside(outer):
            if field.number in strings:
                strings[field.number].append(self.text(field))
            elif field.number == LayerParameter.BLOBS_FIELD_NUMBER:
                blobs.append(self.blob(field))
            else:
                unread.append(self.extent(field.start, field.end))
        name, kind = ((strings[number] or [""])[-1] for number in (1, 2))
        self.check(unread, LayerParameter, f"layer {name}")
        operation = Opaque(kind, Layout.of(unread).pieces)
        return Layer(name, operation, tuple(strings[3]), tuple(strings[4]), tuple(blobs))

    def layer_v1(self, outer: Field) -> Layer:
        name, kind, bottoms, tops, blobs, unread = "", "", list[str](), list[str](), [], list[Piece]()
        for field in self.inside(outer):
            if field.number == 1:
                self.fail("holds a layer of Caffe's oldest kind (V0)", field, "run Caffe's upgrade_net_proto_binary")
            elif field.number == 2:
                bottoms.append(self.text(field))
            elif field.number == 3:
                tops.append(self.text(field))
            elif field.number == 4:
                name = self.text(field)
            elif field.number == 5:
                kind = _V1_TYPES.get(field.value, f"V1_{field.value}")
            elif field.number == 6:
                blobs.append(self.blob(field))
            elif field.number in _V1_FIELDS:
                unread.append(Literal(tag(_V1_FIELDS[field.number], field.type)))
                unread.append(self.extent(field.tagged, field.end))
        self.check(unread, LayerParameter, f"layer {name}")
        return Layer(name, Opaque(kind, Layout.of(unread).pieces), tuple(bottoms), tuple(tops), tuple(blobs))

    def blob(self, outer: Field) -> Blob:
        shape: list[int] = []
        old = dict[int, int]()
        values: dict[str, list[Piece]] = {}
        raw_type: int = BlobProto.DOUBLE  # protobuf's default: the first of its enumeration
        raw: Field | None = None
        for field in self.inside(outer):
            if field.number in (1, 2, 3, 4) and field.type == VARINT:
                old[field.number] = field.value
            elif field.number == BlobProto.SHAPE_FIELD_NUMBER:
                shape += self.dimensions(field)
            elif field.number == BlobProto.DATA_FIELD_NUMBER:
                values.setdefault("float32", []).append(self.packed_or_not(field, FLOAT32, outer.end))
            elif field.number == BlobProto.DOUBLE_DATA_FIELD_NUMBER:
                values.setdefault("float64", []).append(self.packed_or_not(field, FLOAT64, outer.end))
            elif field.number == BlobProto.RAW_DATA_TYPE_FIELD_NUMBER:
                raw_type = field.value
            elif field.number == BlobProto.RAW_DATA_FIELD_NUMBER and field.type == DELIMITED:
                raw = field  # of several, the last one counts
        if raw is not None:
            dtype = _RAW_TYPES.get(raw_type) or self.fail(f"raw_data of type {raw_type} is not known", raw)
            values.setdefault("raw", []).append(self.extent(raw.body, raw.end))
        if len(values) > 1:
            self.fail(f"blob with values in several fields ({', '.join(values)})", outer)
        kind, pieces = next(iter(values.items()), ("float32", []))
        dtype = dtype if kind == "raw" else DTYPES[kind]
        shape = [old.get(number, 0) for number in (1, 2, 3, 4)] if old else shape
        if len(shape) > 32 or any(not 0 <= size < 1 << 31 for size in shape):
            self.fail("blob of an impossible shape", outer)
        held = sum(piece.size for piece in pieces)
        if prod(shape) * dtype.itemsize != held:
            self.fail(f"blob of shape {shape} holds {held} bytes of {dtype.name}", outer)
        return Blob(tuple(shape), pieces[0] if len(pieces) == 1 else Layout.of(pieces), dtype)

    def packed_or_not(self, field: Field, dtype: DType, stop: int) -> Piece:
        """The payload of a repeated number: one packed field, or a run of single ones."""
        length = field.end - field.body
        if field.type == DELIMITED and length % dtype.itemsize == 0:
            return self.extent(field.body, field.end)
        fixed = FIXED32 if dtype == FLOAT32 else FIXED64
        if field.type != fixed or field.body - field.start != 1:
            self.fail(f"malformed values of {dtype.name}", field)
        run = self.extent(field.start, self.end_of_run(field, stop))
        self.cursor.seek(run.end)
        return Unpacked(run, dtype)

    def end_of_run(self, field: Field, stop: int) -> int:
        """Where the fields end that follow `field` without a gap and have its tag."""
        step, at = field.end - field.start, field.start
        first = self.source.read(at, 1)
        while at + step <= stop:
            chunk = self.source.read(at, min((stop - at) // step, MOST_AT_ONCE) * step)
            others = chunk[::step].lstrip(first)
            at += len(chunk) - len(others) * step
            if others:
                break
        return at

    def dimensions(self, outer: Field) -> list[int]:
        try:
            message = BlobShape.FromString(self.small(outer))
        except DecodeError:
            self.fail("malformed shape", outer)
        if any(size < 0 for size in message.dim):
            self.fail("a shape has a negative size", outer)
        return list(message.dim)

    def fields(self, stop: int) -> Iterator[Field]:
        """The fields up to byte `stop`; afterwards the cursor stands there, wherever the caller moved it meanwhile."""
        cursor = self.cursor
        while cursor.offset < stop:
            start = cursor.offset
            tag, tagged = self.varint(SHORT), cursor.offset
            number, kind = tag >> 3, tag & 7
            value = length = 0
            if kind == VARINT:
                value = self.varint()
            elif kind == DELIMITED:
                length = self.varint(SHORT)
            elif kind in (FIXED32, FIXED64):
                length = 4 if kind == FIXED32 else 8
            else:
                raise FormatError(f"wire type {kind} has no place in a caffemodel", file=self.source.name, offset=start)
            field = Field(number, kind, start, tagged, cursor.offset, cursor.offset + length, value)
            if not number or field.end > stop:
                raise TruncatedError(
                    f"field {number} needs {length} bytes, {stop - field.body} are left",
                    file=self.source.name,
                    offset=start,
                    advice="it is cut short, or not a caffemodel",
                )
            yield field
            if cursor.offset < field.end:
                cursor.seek(field.end)

    def inside(self, field: Field) -> Iterator[Field]:
        """The fields of the message that is the content of `field`."""
        if field.type != DELIMITED:
            self.fail(f"field {field.number} is no message", field)
        self.cursor.seek(field.body)
        return self.fields(field.end)

    def varint(self, most: int = 10) -> int:
        value = shift = 0
        while True:
            byte = self.cursor.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFFFFFFFFFFFFFF
            shift += 7
            if shift >= 7 * most:
                what = f"a varint of more than {most} bytes"
                raise FormatError(what, file=self.source.name, offset=self.cursor.offset)

    def small(self, field: Field) -> bytes:
        if field.type != DELIMITED or field.end - field.body > SMALL:
            self.fail(f"field {field.number} is malformed or too large", field)
        return self.source.read(field.body, field.end - field.body)

    def text(self, field: Field) -> str:
        return self.small(field).decode("utf-8", "surrogateescape")

    def extent(self, start: int, stop: int) -> Extent:
        return Extent(self.source, start, stop - start)

    def fail(self, what: str, field: Field, advice: str | None = None) -> NoReturn:
        raise FormatError(what, file=self.source.name, offset=field.start, advice=advice)


class Unpacked(Computed):
    """Repeated numbers that each have a tag of one byte before them."""

    name = "unpacked data"

    def __init__(self, run: Extent, dtype: DType) -> None:
        self.run, self.dtype, self.count = run, dtype, run.length // (1 + dtype.itemsize)

    @property
    def sources(self) -> tuple[Source, ...]:
        return self.run.sources

    def extents(self, first: int, last: int) -> Sequence[Extent]:
        step = 1 + self.dtype.itemsize
        return self.run.reads(first * step, last * step)

    def elements(self, first: int, last: int) -> Array:
        import numpy as np

        step = 1 + self.dtype.itemsize
        tagged = np.empty((last - first, step), np.uint8)
        self.run.render(first * step, last * step, tagged.data.cast("B"))
        values: Array = tagged[:, 1:].copy().view(self.dtype.code)[:, 0]
        return values


_RAW_TYPES: Mapping[int, DType] = {BlobProto.DOUBLE: FLOAT64, BlobProto.FLOAT: FLOAT32, BlobProto.FLOAT16: FLOAT16}

_V1_TYPES: Mapping[int, str] = dict(
    enumerate(
        "None Accuracy BNLL Concat Convolution Data Dropout EuclideanLoss Flatten HDF5Data HDF5Output Im2col ImageData"
        " InfogainLoss InnerProduct LRN MultinomialLogisticLoss Pooling ReLU Sigmoid Softmax SoftmaxWithLoss Split TanH"
        " WindowData Eltwise Power SigmoidCrossEntropyLoss HingeLoss MemoryData ArgMax Threshold DummyData Slice MVN"
        " AbsVal Silence ContrastiveLoss Exp Deconvolution".split()
    )
)

# Fields of V1LayerParameter and what they are called by in LayerParameter. The learning rates and the names for sharing
# (7, 8, 1001, 1002) became the message ParamSpec; a model that is run needs neither.
_V1_FIELDS: Mapping[int, int] = {
    32: 8,
    33: 9,
    35: 5,
    36: 100,
    42: 101,
    27: 102,
    23: 103,
    9: 104,
    40: 105,
    10: 106,
    11: 107,
    12: 108,
    26: 109,
    24: 110,
    41: 111,
    13: 112,
    14: 113,
    29: 114,
    15: 115,
    16: 116,
    17: 117,
    18: 118,
    22: 119,
    34: 120,
    19: 121,
    21: 122,
    30: 123,
    38: 124,
    39: 125,
    31: 126,
    37: 127,
    25: 128,
    20: 129,
}
