"""Layers as LayerParameter messages, and nets as prototxt text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from ..errors import NetError
from ..extents import Piece
from ..nets.graph import Layer, Net
from . import caffe_pb2

Message = TypeVar("Message", caffe_pb2.NetParameter, caffe_pb2.LayerParameter)


def message(layer: Layer) -> caffe_pb2.LayerParameter:
    """A layer without its blobs and without what is unread: name, type, bottoms, tops, parameters."""
    return caffe_pb2.LayerParameter(
        name=layer.name or None, type=layer.type or None, bottom=layer.bottoms, top=layer.tops, **layer.parameters
    )


def prototxt(net: Net, comment: str = "") -> str:
    """The net's description, each line of `comment` in front of it behind a `#`.

    NetError if a layer was read with parameters that our schema does not know: the text would be without them.
    """
    from google.protobuf import text_format

    lines = [f"# {line}".rstrip() for line in comment.splitlines()]
    head = _parsed(caffe_pb2.NetParameter(name=net.name or None), net.unread, "the net")
    lines += text_format.MessageToString(head, as_utf8=True).splitlines()
    for layer in net.layers:
        whole = _parsed(message(layer), layer.unread, f"layer {layer.name}")
        if layer.unread and whole.pooling_param.HasField("round_mode") and not whole.pooling_param.round_mode:
            # Field 13 at 0 would be the default of BVLC's `round_mode`, which nobody writes: it is `ceil_mode: false`.
            whole.pooling_param.ClearField("round_mode")
            whole.pooling_param.ceil_mode = False
        lines.append("layer {\n" + text_format.MessageToString(whole, indent=2, as_utf8=True) + "}")
    return "\n".join(lines) + "\n"


def _parsed(whole: Message, unread: Sequence[Piece], what: str) -> Message:
    """`whole` with the fields that were left unread."""
    for piece in unread:
        data = bytearray(piece.size)
        piece.render(0, piece.size, memoryview(data))
        whole.MergeFromString(bytes(data))
    known = type(whole).FromString(whole.SerializeToString())
    known.DiscardUnknownFields()
    if known.ByteSize() != whole.ByteSize():
        raise NetError(
            "has parameters that are not known here", tensor=what, advice="use the prototxt that came with it"
        )
    return whole
