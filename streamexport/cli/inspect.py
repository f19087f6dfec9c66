"""streamexport inspect: what a checkpoint or a Caffe model holds."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from ..convert import recorded
from ..errors import one_line
from ..nets.graph import Net
from ..readers import Weights, is_model, open_model, open_weights
from . import arguments


def register(commands: Any) -> None:
    parser = commands.add_parser(
        "inspect",
        help="tensors of a checkpoint, layers of a model",
        description="Lists what a checkpoint or a Caffe model holds.",
    )
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--key", metavar="PATH", help="the state dict inside the checkpoint, where there are several")
    parser.add_argument("--json", action="store_true", help="for programs, on one line")
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    described = (
        _model(open_model(given.file)) if is_model(given.file) else _weights(open_weights(given.file, given.key))
    )
    if given.json:
        print(json.dumps(described))
    elif "layers" in described:
        rows = [_layer_row(layer) for layer in described["layers"]]
        _print_table(("layer", "type", "dtype", "shapes", "bytes"), rows)
        print(
            f"{one_line(described['name'])}: {arguments.plural(len(rows), 'layer')}, {described['bytes']} bytes of blobs"
        )
    else:
        tensors = described["tensors"]
        rows = [(t["name"], t["dtype"], _dims(t["shape"]), t["layout"], str(t["bytes"])) for t in tensors]
        _print_table(("tensor", "dtype", "shape", "layout", "bytes"), rows)
        key = f", state dict {one_line(described['key'])}" if described["key"] else ""
        print(f"{described['format']}{key}: {arguments.plural(len(rows), 'tensor')}, {described['bytes']} bytes")
    return 0


def _weights(weights: Weights) -> dict[str, Any]:
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
        for tensor in weights.tensors.values()
    ]
    total = sum(tensor.nbytes for tensor in weights.tensors.values())
    return {"format": weights.format, "key": weights.key, "bytes": total, "tensors": tensors}


def _model(net: Net) -> dict[str, Any]:
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
    options = recorded(net.record)
    made_with = asdict(options) if options else None
    return {"format": "caffemodel", "name": net.name, "bytes": net.payload, "options": made_with, "layers": layers}


def _layer_row(layer: dict[str, Any]) -> tuple[str, ...]:
    dtypes = "/".join(dict.fromkeys(blob["dtype"] for blob in layer["blobs"]))
    shapes = " ".join(_dims(blob["shape"]) for blob in layer["blobs"])
    return layer["name"], layer["type"], dtypes, shapes, str(layer["bytes"])


def _dims(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as what they hold; the last one, of numbers, to the right."""
    lines = [[one_line(cell) for cell in row] for row in (header, *rows)]
    widths = [min(60, max(map(len, column))) for column in zip(*lines, strict=True)]  # one long name must not pad all
    for line in lines:
        print("  ".join(_padded(line, widths)).rstrip())


def _padded(line: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    *texts, number = zip(line, widths, strict=True)
    for text, width in texts:
        yield text.ljust(width)
    yield number[0].rjust(number[1])
