"""streamexport inspect: what a checkpoint or a Caffe model holds, and what a net's layers make and cost."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..caffe.models import open_model
from ..caffe.prototxt import is_prototxt, read_prototxt
from ..checkpoints import Weights, open_weights
from ..checkpoints.storages import Unreadable
from ..conversion import record
from ..counting.costs import Cost, costs
from ..errors import FormatError, NetError, one_line
from ..net.graph import Net
from ..payload.pieces import Layout, Literal
from ..sources import open_source
from ..sources.signatures import is_model
from ..transfer.files import File, publish
from . import arguments
from .saying import say

MOST = 12
"""Values beside the tensors that are listed."""
COUNTED = ("multiply_adds", "parameters", "activation_bytes")


def register(parser: argparse.ArgumentParser) -> None:
    parser.description = "Lists what a checkpoint, a Caffe model or a prototxt holds."
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--key", metavar="PATH", help="the state dict inside the checkpoint, where there are several")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="for programs, on one line")
    group = parser.add_argument_group(
        "what a net costs",
        "Multiply-adds of convolutions, deconvolutions and inner products, one for each use of a weight; all other layers,"
        " and biases, count 0. FLOPs are twice as many. Parameters are trained numbers, without BatchNorm's statistics."
        " Activations are the tops as float32; those that take their bottom's place count 0.",
    )
    group.add_argument("--flops", action="store_true", help="count, layer by layer; FILE is a prototxt then")
    form.add_argument("--csv", action="store_true", help="with --flops: as CSV, without totals")
    group.add_argument("--plot", metavar="FILE.png", help="with --flops: draw them along the net as well")
    group.add_argument(
        "--input-shape",
        metavar="[NAME=]N,C,H,W",
        type=arguments.shape,
        action="append",
        help="with --flops: other than the prototxt's",
    )
    parser.set_defaults(run=run, misused=parser.error)


def run(given: argparse.Namespace) -> int:
    if given.flops:
        return _count(given)
    if given.csv or given.plot or given.input_shape:
        given.misused("--csv, --plot and --input-shape go with --flops")
    described = _described(given)
    if given.json:
        print(json.dumps(described))
    elif described["format"] == "prototxt":
        rows = [_wired_row(layer) for layer in described["layers"]]
        _print_table(("layer", "type", "bottoms", "tops", "output"), rows, numbers=0)
        print(f"{one_line(described['name']) or 'prototxt'}: {arguments.plural(len(rows), 'layer')}")
    elif "layers" in described:
        rows = [_layer_row(layer) for layer in described["layers"]]
        _print_table(("layer", "type", "dtype", "shapes", "bytes"), rows)
        print(
            f"{one_line(described['name'])}: {arguments.plural(len(rows), 'layer')}, {described['bytes']} bytes of blobs"
        )
        for path in described["linked_to"]:
            print(one_line(f"linked to {path}"))
    else:
        tensors = described["tensors"]
        rows = [(t["name"], t["dtype"], _dims(t["shape"]), t["layout"], str(t["bytes"])) for t in tensors]
        _print_table(("tensor", "dtype", "shape", "layout", "bytes"), rows)
        print(f"{_origin(described)}: {arguments.plural(len(rows), 'tensor')}, {described['bytes']} bytes")
        unread = described["unread"]
        print("".join(f"{one_line(remark)}\n" for remark in unread[:MOST]), end="")
        if len(unread) > MOST:
            print(f"and {len(unread) - MOST} more")
    return 0


def _count(given: argparse.Namespace) -> int:
    """--flops: what each layer costs, and all of them."""
    if not is_prototxt(given.file):
        advice = "give the net's description, which convert writes beside a model"
        raise FormatError("is no prototxt", file=given.file, advice=advice)

    def takes() -> str:
        return f"the net takes {', '.join(read_prototxt(given.file).inputs)}"

    found = costs(given.file, arguments.shapes(given.input_shape, takes) if given.input_shape else None)
    if given.plot:
        from ..counting.plots import plot

        picture = Layout.of([Literal(plot(found, Path(given.file).name))])
        publish([File(given.plot, picture)], [open_source(given.file)])
    totals = {name: sum(getattr(cost, name) for cost in found) for name in COUNTED}
    if given.json:
        print(json.dumps({"format": "prototxt", **totals, "layers": [asdict(cost) for cost in found]}))
    elif given.csv:
        csv.writer(sys.stdout, lineterminator="\n").writerows(
            [("layer", "type", "output", *COUNTED), *map(_cost_row, found)]
        )
    else:
        rows = [*map(_cost_row, found), ("total", "", "", *map(str, totals.values()))]
        _print_table(("layer", "type", "output", "multiply-adds", "parameters", "activation bytes"), rows, numbers=3)
    return 0


def _described(given: argparse.Namespace) -> dict[str, Any]:
    if is_prototxt(given.file):
        return _prototxt(given.file)
    return (
        _model(open_model(given.file, sources=None), given.file)
        if is_model(given.file)
        else _weights(open_weights(given.file, given.key))
    )


def _weights(weights: Weights) -> dict[str, Any]:
    readable = [tensor for tensor in weights.tensors.values() if not isinstance(tensor, Unreadable)]
    tensors = [
        {
            "name": tensor.name,
            "dtype": tensor.dtype.name,
            "shape": tensor.shape,
            "strides": tensor.strides,
            "layout": "contiguous" if tensor.is_contiguous else "strided",
            "bytes": tensor.nbytes,
            "file": tensor.extent.source.name,
            "offset": tensor.extent.offset,
        }
        for tensor in readable
    ]
    total = sum(tensor.nbytes for tensor in readable)
    found = {"format": weights.format, "key": weights.key, "class": weights.module, "bytes": total}
    return {**found, "tensors": tensors, "unread": [*weights.remarks]}


def _origin(described: dict[str, Any]) -> str:
    kind = "the module" if described["class"] else "state dict"
    of = f" (a {described['class']})" if described["class"] else ""
    key = f" {described['key']}" if described["key"] else ""
    return one_line(described["format"] + (f", {kind}{key}{of}" if key or of else ""))


def _model(net: Net, file: str) -> dict[str, Any]:
    layers = [
        {
            "name": layer.name,
            "type": layer.type,
            "bottoms": layer.bottoms,
            "tops": layer.tops,
            "blobs": [{"dtype": b.dtype.name, "shape": b.shape, "bytes": b.values.size} for b in layer.blobs],
            "bytes": sum(blob.values.size for blob in layer.blobs),
        }
        for layer in net.layers
    ]
    options = record.decode(net.record)
    return {
        "format": "caffemodel",
        "name": net.name,
        "bytes": net.payload,
        "linked_to": [source.name for source in net.sources if source.name != file],
        "options": asdict(options) if options else None,
        "layers": layers,
    }


def _prototxt(file: str) -> dict[str, Any]:
    """Layers with the shapes of their tops, or null for all if one of the layers cannot be made sense of."""
    from ..net.inference import infer

    net = read_prototxt(file)
    shapes: list[Any] = [None] * len(net.layers)
    try:
        shapes = [step.tops for step in infer(net)]
    except NetError as error:
        error.file = file
        say(f"{error}; shapes are left out")
    layers = [
        {"name": layer.name, "type": layer.type, "bottoms": layer.bottoms, "tops": layer.tops, "shapes": made}
        for layer, made in zip(net.layers, shapes, strict=True)
    ]
    return {"format": "prototxt", "name": net.name, "layers": layers}


def _wired_row(layer: dict[str, Any]) -> tuple[str, ...]:
    shapes = "unknown" if layer["shapes"] is None else " ".join(map(_dims, layer["shapes"]))
    return layer["name"], layer["type"], " ".join(layer["bottoms"]), " ".join(layer["tops"]), shapes


def _cost_row(cost: Cost) -> tuple[str, ...]:
    return (
        one_line(cost.layer),
        one_line(cost.type),
        " ".join(map(_dims, cost.shapes)),
        *(str(getattr(cost, name)) for name in COUNTED),
    )


def _layer_row(layer: dict[str, Any]) -> tuple[str, ...]:
    dtypes = "/".join(dict.fromkeys(blob["dtype"] for blob in layer["blobs"]))
    shapes = " ".join(_dims(blob["shape"]) for blob in layer["blobs"])
    return layer["name"], layer["type"], dtypes, shapes, str(layer["bytes"])


def _dims(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _print_table(header: Sequence[str], rows: Sequence[Sequence[str]], numbers: int = 1) -> None:
    """Columns as wide as what they hold; the last ones, so many `numbers`, to the right."""
    lines = [[one_line(cell) for cell in row] for row in (header, *rows)]
    widths = [min(60, max(map(len, column))) for column in zip(*lines, strict=True)]  # one long name must not pad all
    for line in lines:
        print("  ".join(_padded(line, widths, numbers)).rstrip())


def _padded(line: Sequence[str], widths: Sequence[int], numbers: int) -> Iterator[str]:
    for index, (text, width) in enumerate(zip(line, widths, strict=True)):
        yield text.rjust(width) if index >= len(line) - numbers else text.ljust(width)
