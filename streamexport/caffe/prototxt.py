"""Layers as LayerParameter messages, and nets as prototxt text."""

from __future__ import annotations

from google.protobuf import text_format

from ..nets.graph import Layer, Net
from . import caffe_pb2


def message(layer: Layer) -> caffe_pb2.LayerParameter:
    """A layer without its blobs: name, type, bottoms, tops, and what its parameters and unread fields say."""
    made = caffe_pb2.LayerParameter(
        name=layer.name, type=layer.type, bottom=layer.bottoms, top=layer.tops, **layer.parameters
    )
    for piece in layer.unread:
        data = bytearray(piece.size)
        piece.render(0, piece.size, memoryview(data))
        made.MergeFromString(bytes(data))
    return made


def prototxt(net: Net, comment: str = "") -> str:
    """The net's description, each line of `comment` in front of it behind a `#`."""
    lines = [f"# {line}".rstrip() for line in comment.splitlines()]
    lines.append(text_format.MessageToString(caffe_pb2.NetParameter(name=net.name)).rstrip())
    for layer in net.layers:
        text = text_format.MessageToString(message(layer), indent=2, as_utf8=True)
        lines.append("layer {\n" + text + "}")
    return "\n".join(lines) + "\n"
