"""Layers as LayerParameter messages, and nets as prototxt text, written and read."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import TypeVar

from google.protobuf.message import DecodeError

from ..errors import FormatError, NetError, judging
from ..extents import Extent, Layout, Piece, Source
from ..nets.graph import Layer, Net
from ..sources import open_source
from . import caffe_pb2

Message = TypeVar("Message", caffe_pb2.NetParameter, caffe_pb2.LayerParameter)

TEXT_LIMIT = 8 << 20
"""Bytes that a prototxt may have, of 180,000 short layers. Protobuf takes some sixty times that much memory to read it."""

HEAD = 64 << 10
"""Bytes by which a prototxt is recognised, so many because comments may stand in front of its first field."""


def message(layer: Layer) -> caffe_pb2.LayerParameter:
    """A layer without its blobs and without what is unread: name, type, bottoms, tops, parameters."""
    try:
        return caffe_pb2.LayerParameter(
            name=layer.name or None, type=layer.type or None, bottom=layer.bottoms, top=layer.tops, **layer.parameters
        )
    except UnicodeError as error:
        raise _not_text(f"layer {layer.name}") from error


def heading(net: Net) -> caffe_pb2.NetParameter:
    """A net without its layers and without what is unread: its name."""
    try:
        return caffe_pb2.NetParameter(name=net.name or None)
    except UnicodeError as error:
        raise _not_text(f"net {net.name}") from error


def _not_text(tensor: str) -> NetError:
    return NetError("has a name that is not UTF-8, which protobuf does not write", tensor=tensor, advice="rename it")


def prototxt(net: Net, comment: str = "") -> str:
    """The net's description, each line of `comment` in front of it behind a `#`. All of it is printable.

    NetError if a layer was read with parameters that our schema does not know: the text would be without them.
    """
    from google.protobuf import text_format

    lines = [f"# {line}".rstrip() for line in comment.splitlines()]
    head = _parsed(heading(net), net.unread, "the net")
    lines += text_format.MessageToString(head, as_utf8=True).splitlines()
    for layer in net.layers:
        whole = _parsed(message(layer), layer.unread, f"layer {layer.name}")
        if layer.unread and whole.pooling_param.HasField("round_mode") and not whole.pooling_param.round_mode:
            # Field 13 at 0 would be the default of BVLC's `round_mode`, which nobody writes: it is `ceil_mode: false`.
            whole.pooling_param.ClearField("round_mode")
            whole.pooling_param.ceil_mode = False
        lines.append("layer {\n" + text_format.MessageToString(whole, indent=2, as_utf8=True) + "}")
    return "".join(f"{_printable(line)}\n" for text in lines for line in text.split("\n"))


def _printable(line: str) -> str:
    """Control characters of names as the text format escapes bytes: what a file says may end up on a terminal."""
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else "".join(f"\\{byte:03o}" for byte in c.encode()) for c in line)


def _parsed(whole: Message, unread: Sequence[Piece], what: str) -> Message:
    """`whole` with the fields that were left unread."""
    fields = Layout.of(unread)
    file, offset = next(((p.source.name, p.offset) for p in fields.pieces if isinstance(p, Extent)), (None, None))
    known = None
    if fields.size <= TEXT_LIMIT:
        data = bytearray(fields.size)
        fields.render(0, fields.size, memoryview(data))
        try:
            whole.MergeFromString(bytes(data))
            known = type(whole).FromString(whole.SerializeToString())
        except DecodeError as error:
            raise FormatError("malformed parameters", file=file, tensor=what, offset=offset) from error
        known.DiscardUnknownFields()
    if known is None or known.ByteSize() != whole.ByteSize():
        advice = "use the prototxt that came with it"
        raise NetError("has parameters that are not known here", file=file, tensor=what, offset=offset, advice=advice)
    return whole


def is_prototxt(path: str | os.PathLike[str]) -> bool:
    """Whether a file looks like a prototxt: text that begins, behind comments, with a field. SourceError if unreadable."""
    source = open_source(path)
    head = source.read(0, min(source.size, HEAD))
    is_text = not re.search(rb"[\x00-\x08\x0e-\x1f\x7f]", head)
    return is_text and bool(re.match(rb"(?:\s|#[^\n]*\n)*[A-Za-z_]\w*\s*[:{<]", head))


def read_prototxt(path: str | os.PathLike[str], strict: bool = False) -> caffe_pb2.NetParameter:
    """Reads a prototxt as the net that Caffe makes of it for testing.

    Layers for other phases, levels and stages are left out. Inputs of the older kinds (`input` with `input_dim` or
    `input_shape`) become an Input layer.

    Parameters
    ----------
    strict : refuse fields that are not known here instead of skipping them; who computes must not overlook any

    Raises
    ------
    SourceError : it cannot be read
    FormatError : it is no prototxt, or one of Caffe's first year; the line is named
    """
    source = open_source(path)
    if source.size > TEXT_LIMIT:
        raise FormatError(f"has {source.size} bytes, too many for a prototxt", file=source.name)
    with judging(source.name):
        return _read(source, strict)


def _read(source: Source, strict: bool) -> caffe_pb2.NetParameter:
    try:
        text = source.read(0, source.size).decode()
    except UnicodeDecodeError as error:
        raise FormatError("is not text", file=source.name, offset=error.start) from error
    net = _from_text(text, source.name, skip_unknown=True)
    if net.layers:
        raise FormatError(
            "describes layers in the words of Caffe's first year (layers { })",
            file=source.name,
            advice="run Caffe's upgrade_net_proto_text",
        )
    if strict:
        net = _from_text(text, source.name, skip_unknown=False)
    _name_inputs(net, source.name)
    kept = [layer for layer in net.layer if _is_included(layer, net.state)]
    del net.layer[:]
    net.layer.extend(kept)
    return net


def _from_text(text: str, file: str, skip_unknown: bool) -> caffe_pb2.NetParameter:
    from google.protobuf import text_format

    try:
        return text_format.Parse(text, caffe_pb2.NetParameter(), allow_unknown_field=skip_unknown)
    except text_format.ParseError as error:
        line, lines = error.GetLine() or 1, text.split("\n")
        what = str(error).removeprefix(f"{line}:{error.GetColumn()} : ")
        what = what.removeprefix(f"'{lines[line - 1]}': ").rstrip(".")
        advice = None if skip_unknown else "what is not known here cannot be computed"
        raise FormatError(f"line {line}: {what}", file=file, advice=advice) from error
    except RecursionError as error:
        raise FormatError("nests messages too deeply for a prototxt", file=file) from error


def _name_inputs(net: caffe_pb2.NetParameter, file: str) -> None:
    """Turns the net's own inputs into an Input layer, the way Caffe does."""
    if not net.input:
        return
    shapes = [list(shape.dim) for shape in net.input_shape]
    shapes += [list(net.input_dim[at : at + 4]) for at in range(0, len(net.input_dim), 4)]
    if len(shapes) not in (0, len(net.input)) or len(net.input_dim) % 4:
        numbers = " of 4 numbers each" if net.input_dim else ""
        raise FormatError(f"gives {len(shapes)} shapes for {len(net.input)} inputs{numbers}", file=file)
    layer = caffe_pb2.LayerParameter(name="input", type="Input", top=net.input)
    for shape in shapes:
        layer.input_param.shape.add(dim=shape)
    layers = [layer, *net.layer]
    for name in ("input", "input_dim", "input_shape", "layer"):
        net.ClearField(name)
    net.layer.extend(layers)


def _is_included(layer: caffe_pb2.LayerParameter, state: caffe_pb2.NetState) -> bool:
    if layer.include:
        return any(_is_met(rule, state) for rule in layer.include)
    return not any(_is_met(rule, state) for rule in layer.exclude)


def _is_met(rule: caffe_pb2.NetStateRule, state: caffe_pb2.NetState) -> bool:
    """Whether a net for testing, of this level and these stages, is one that a rule is about."""
    return all(
        (
            not rule.HasField("phase") or rule.phase == caffe_pb2.TEST,
            not rule.HasField("min_level") or state.level >= rule.min_level,
            not rule.HasField("max_level") or state.level <= rule.max_level,
            set(rule.stage) <= set(state.stage),
            set(rule.not_stage).isdisjoint(state.stage),
        )
    )
