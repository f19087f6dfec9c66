"""Binary caffemodels: one NetParameter, laid out without ever being a message.

    NetParameter     1 name · 100 layer, each · 60001 how the file was made (JSON)
    LayerParameter   1 name · 2 type · 3 bottom · 4 top · 7 blobs, each · 10… the small parameters
    BlobProto        5 data (packed float) · 7 shape          float32
                     7 shape · 8 double_data                  float64
                     7 shape · 10 raw_data_type · 12 raw_data float16: NVIDIA's fork and OpenCV

Fields stand in the order of their numbers, as protobuf's own serializer writes them: a file without padding is byte for
byte what it would write. The old dimensions 1 to 4 of BlobProto are never written: where they are present they win over
`shape`. With `align`, a layer whose payload is large has a field of zeros (60002) in front of it, such that its first
large blob lies at the same offset modulo `align` as in its source: file systems that share blocks can then clone it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from ...net.graph import Blob, Layer, Net
from ...net.operations import Opaque
from ...payload.pieces import Extent, Layout, Literal, Piece
from ...payload.tensors import FLOAT16, FLOAT64
from ..caffe_pb2 import BlobProto, BlobShape, LayerParameter, NetParameter
from ..codec import encode
from ..prototxt import heading
from .wire import delimited, size, tag, varint

CAFFE_LIMIT = 2_147_483_646
"""Bytes of the largest file that stock Caffe loads: protobuf's INT_MAX less one, measured."""

ALIGNED_FROM = 64 << 10  # smaller blobs are quicker copied than cloned


def layout(net: Net, record: bytes = b"", align: int = 0) -> Layout:
    """The whole file of a net, of any size.

    Parameters
    ----------
    record : kept in a field that other readers skip
    align : if not 0, offsets of large blobs agree with those in their sources modulo this many bytes
    """
    pieces = _name(net)
    at = size(pieces)
    for layer in net.layers:
        field = layer_field(layer)
        if align:
            padding = _padding(field, at, align)
            pieces += padding
            at += size(padding)
        pieces += field
        at += size(field)
    pieces += net.unread
    pieces += _record(record)
    return Layout.of(pieces)


def layer_size(layer: Layer) -> int:
    """Bytes that a layer adds to a file."""
    return size(layer_field(layer))


def file_overhead(net: Net, record: bytes) -> int:
    """Bytes of a file without layers."""
    return size(_name(net)) + size(net.unread) + size(_record(record))


def layer_field(layer: Layer) -> list[Piece]:
    """A layer as a field of NetParameter; nothing for one that borrows its blobs: Caffe would ask it for them."""
    if layer.is_borrowing:
        return []
    small = encode(layer, on_wire=True)
    head = LayerParameter(name=layer.name or None, type=layer.type or None, bottom=layer.bottoms, top=layer.tops)
    for field in ("name", "type", "bottom", "top"):
        small.ClearField(field)
    blobs = (piece for blob in layer.blobs for piece in delimited(LayerParameter.BLOBS_FIELD_NUMBER, _blob(blob)))
    unread = layer.operation.fields if isinstance(layer.operation, Opaque) else ()
    content = [_serialized(head), *blobs, _serialized(small), *unread]
    return delimited(NetParameter.LAYER_FIELD_NUMBER, content)


def _blob(blob: Blob) -> Iterator[Piece]:
    shape = BlobShape(dim=blob.shape)
    if blob.dtype == FLOAT16:
        yield _serialized(BlobProto(shape=shape, raw_data_type=BlobProto.FLOAT16))
        yield from delimited(BlobProto.RAW_DATA_FIELD_NUMBER, [blob.values])
    elif blob.dtype == FLOAT64:
        yield _serialized(BlobProto(shape=shape))
        yield from delimited(BlobProto.DOUBLE_DATA_FIELD_NUMBER, [blob.values])
    else:
        if blob.count:
            yield from delimited(BlobProto.DATA_FIELD_NUMBER, [blob.values])
        yield _serialized(BlobProto(shape=shape))


def _name(net: Net) -> list[Piece]:
    return [_serialized(heading(net))] if net.name else []


def _record(record: bytes) -> list[Piece]:
    return [_serialized(NetParameter(streamexport_record=record))] if record else []


def _serialized(small: NetParameter | LayerParameter | BlobProto) -> Literal:
    return Literal(small.SerializeToString(deterministic=True))


def _padding(field: list[Piece], at: int, align: int) -> list[Piece]:
    """Zeros to stand at byte `at` in front of a layer, so that the first large extent in it comes to its place."""
    inside = 0
    for piece in field:
        if isinstance(piece, Extent) and piece.length >= ALIGNED_FROM:
            break
        inside += piece.size
    else:
        return []
    missing = (piece.offset - at - inside) % align
    if not missing:
        return []
    number = tag(NetParameter.STREAMEXPORT_PADDING_FIELD_NUMBER)
    for width in itertools.count(1):
        # The length takes this many bytes even if fewer would do, so that it does not move what it counts.
        length = (missing - len(number) - width) % align
        if length < 1 << 7 * width:
            break
    return [Literal(number + varint(length, width) + bytes(length))]
