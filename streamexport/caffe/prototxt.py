"""Nets as prototxt text, written and read."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import TypeVar

from google.protobuf.message import DecodeError

from ..errors import FormatError, NetError, judging
from ..net.graph import Net
from ..net.operations import Opaque
from ..payload.pieces import Extent, Layout, Piece, Source
from ..sources import open_source
from . import codec
from .caffe_pb2 import TEST, LayerParameter, NetParameter, NetState, NetStateRule

Message = TypeVar("Message", NetParameter, LayerParameter)

TEXT_LIMIT = 8 << 20
"""Bytes that a prototxt may have, of 180,000 short layers. Protobuf takes some sixty times that much memory to read it."""

HEAD = 64 << 10
"""Bytes by which a prototxt is recognised, so many because comments may stand in front of its first field."""


def heading(net: Net) -> NetParameter:
    """A net without its layers and without what is unread: its name."""
    try:
        return NetParameter(name=net.name or None)
    except UnicodeError as error:
        raise codec.not_text(f"net {net.name}") from error


def prototxt(net: Net, comment: str = "") -> str:
    """The net's description, each line of `comment` in front of it behind a `#`. All of it is printable.

    NetError if a layer was read with parameters that our schema does not know: the text would be without them.
    """
    from google.protobuf import text_format

    lines = [f"# {line}".rstrip() for line in comment.splitlines()]
    head = _parsed(heading(net), net.unread, "the net")
    lines += text_format.MessageToString(head, as_utf8=True).splitlines()
    for layer in net.layers:
        whole = codec.encode(layer)
        if isinstance(layer.operation, Opaque):
            whole = codec.with_ceil_mode(_parsed(whole, layer.operation.fields, f"layer {layer.name}"))
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


def read_prototxt(path: str | os.PathLike[str], strict: bool = False) -> Net:
    """Reads a prototxt as the net that Caffe makes of it for testing, without blobs.

    Layers for other phases, levels and stages are left out. Inputs of the older kinds (`input` with `input_dim` or
    `input_shape`) become an Input layer.

    Parameters
    ----------
    strict : refuse fields that are not known here, and layers that contradict themselves, instead of skipping the ones and
        leaving the others opaque; who computes must not overlook any

    Raises
    ------
    SourceError : it cannot be read
    FormatError : it is no prototxt, or one of Caffe's first year; the line is named
    NetError : what a layer says contradicts itself; it is named
    """
    source = open_source(path)
    if source.size > TEXT_LIMIT:
        raise FormatError(f"has {source.size} bytes, too many for a prototxt", file=source.name)
    with judging(source.name):
        return _read(source, strict)


def _read(source: Source, strict: bool) -> Net:
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
    kept = tuple(codec.decode(layer, strict) for layer in net.layer if _is_included(layer, net.state))
    return Net(net.name, kept)


def _from_text(text: str, file: str, skip_unknown: bool) -> NetParameter:
    from google.protobuf import text_format

    try:
        return text_format.Parse(text, NetParameter(), allow_unknown_field=skip_unknown)
    except text_format.ParseError as error:
        line, lines = error.GetLine() or 1, text.split("\n")
        what = str(error).removeprefix(f"{line}:{error.GetColumn()} : ")
        what = what.removeprefix(f"'{lines[line - 1]}': ").rstrip(".")
        advice = None if skip_unknown else "what is not known here cannot be computed"
        raise FormatError(f"line {line}: {what}", file=file, advice=advice) from error
    except RecursionError as error:
        raise FormatError("nests messages too deeply for a prototxt", file=file) from error


def _name_inputs(net: NetParameter, file: str) -> None:
    """Turns the net's own inputs into an Input layer, the way Caffe does."""
    if not net.input:
        return
    shapes = [list(shape.dim) for shape in net.input_shape]
    shapes += [list(net.input_dim[at : at + 4]) for at in range(0, len(net.input_dim), 4)]
    if len(shapes) not in (0, len(net.input)) or len(net.input_dim) % 4:
        numbers = " of 4 numbers each" if net.input_dim else ""
        raise FormatError(f"gives {len(shapes)} shapes for {len(net.input)} inputs{numbers}", file=file)
    layer = LayerParameter(name="input", type="Input", top=net.input)
    for shape in shapes:
        layer.input_param.shape.add(dim=shape)
    layers = [layer, *net.layer]
    for name in ("input", "input_dim", "input_shape", "layer"):
        net.ClearField(name)
    net.layer.extend(layers)


def _is_included(layer: LayerParameter, state: NetState) -> bool:
    if layer.include:
        return any(_is_met(rule, state) for rule in layer.include)
    return not any(_is_met(rule, state) for rule in layer.exclude)


def _is_met(rule: NetStateRule, state: NetState) -> bool:
    """Whether a net for testing, of this level and these stages, is one that a rule is about."""
    return all(
        (
            not rule.HasField("phase") or rule.phase == TEST,
            not rule.HasField("min_level") or state.level >= rule.min_level,
            not rule.HasField("max_level") or state.level <= rule.max_level,
            set(rule.stage) <= set(state.stage),
            set(rule.not_stage).isdisjoint(state.stage),
        )
    )
