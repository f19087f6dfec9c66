"""Layers as LayerParameter messages, and nets as prototxt text."""

from __future__ import annotations

from ..nets.graph import Layer, Net
from . import caffe_pb2


def message(layer: Layer) -> caffe_pb2.LayerParameter:
    """A layer without its blobs and without what is unread: name, type, bottoms, tops, parameters."""
    return caffe_pb2.LayerParameter(
        name=layer.name or None, type=layer.type or None, bottom=layer.bottoms, top=layer.tops, **layer.parameters
    )


def prototxt(net: Net, comment: str = "") -> str:
    """The net's description, each line of `comment` in front of it behind a `#`."""
    from google.protobuf import text_format

    lines = [f"# {line}".rstrip() for line in comment.splitlines()]
    lines.append(text_format.MessageToString(caffe_pb2.NetParameter(name=net.name)).rstrip())
    for layer in net.layers:
        text = text_format.MessageToString(message(layer), indent=2, as_utf8=True)
        lines.append("layer {\n" + text + "}")
    return "\n".join(lines) + "\n"
