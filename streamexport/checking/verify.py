"""Whether model files hold what their checkpoint makes: plan the same conversion again, compare blob by blob."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..caffe import identity
from ..caffe.models import open_models
from ..conversion import names, record
from ..conversion.bound import bind
from ..conversion.options import Options
from ..errors import NetError
from ..net.fitting import Bound
from ..net.graph import Blob, Layer
from ..payload.pieces import BUFFER, Piece
from ..payload.tensors import DType
from ..sources import Path
from ..transfer.moving import Progress


@dataclass(frozen=True)
class Report:
    """What a comparison found.

    Attributes
    ----------
    blobs, bytes : how much was compared
    problems : what differs, is missing or is there without reason, one line each; empty if all is well
    not_finite : blobs that hold NaN or infinity, in the checkpoint already
    """

    blobs: int
    bytes: int
    problems: tuple[str, ...]
    not_finite: tuple[str, ...]


def verify(
    checkpoints: Sequence[Path],
    models: Sequence[Path],
    options: Options | None = None,
    progress: Progress = lambda _: None,
    bound: Bound | None = None,
) -> Report:
    """Compares every blob of model files with the checkpoint, bit for bit, a buffer at a time.

    A prototxt that lies beside them has to come from the same run.

    Parameters
    ----------
    checkpoints : what the models were made from
    models : all parts of one model
    options : what it was made with; by default what the first file says
    progress : told of every so many bytes compared
    bound : what `bind` makes of checkpoints and options, where somebody has it already

    Raises
    ------
    NetError : no options are given, and the model has none recorded, or names code that would be run; or a layer stands in
        it twice
    Error : a file cannot be read, see `errors`
    """
    model = open_models(models, checkpoints)
    options = options or record.trusted(model, models[0])
    bound = bound or bind(checkpoints, options)
    found = {layer.name: layer for layer in sorted(model.layers, key=lambda layer: bool(layer.blobs))}
    times = Counter(layer.name for layer in model.layers if layer.blobs)
    if twice := [name for name, count in times.items() if count > 1]:
        raise NetError("stands in the model twice", file=os.fspath(models[0]), tensor=f"layer {twice[0]}")
    problems = []
    comparison = _Comparison(progress)
    for layer in bound.net.layers:
        other = found.pop(layer.name, None)
        if layer.blobs and other is None:
            problems.append(f"layer {layer.name}: missing from the model")
        elif other is not None:
            problems += comparison.layer(layer, other)
    problems += [f"layer {layer.name}: nothing in the checkpoint makes it" for layer in found.values() if layer.blobs]
    description = names.description(os.fspath(models[0]))
    if os.path.isfile(description) and not identity.is_of_one_run(description, model):
        problems.append(f"{description}: is of another run than the model")
    for source in dict.fromkeys((*bound.sources, *model.sources)):
        source.check()
    return Report(comparison.blobs, comparison.bytes, tuple(problems), tuple(comparison.not_finite))


class _Comparison:
    def __init__(self, progress: Progress) -> None:
        self.progress, self.blobs, self.bytes = progress, 0, 0
        self.not_finite: list[str] = []

    def layer(self, planned: Layer, found: Layer) -> Iterator[str]:
        if found.type and planned.type != found.type:  # HDF5 of other programs does not say
            yield f"layer {planned.name}: is a {found.type}, not a {planned.type}"
        if len(planned.blobs) != len(found.blobs):
            yield f"layer {planned.name}: has {len(found.blobs)} blobs, not {len(planned.blobs)}"
        for index, (blob, other) in enumerate(zip(planned.blobs, found.blobs, strict=False)):
            name = f"layer {planned.name}, blob {index} ({', '.join(blob.origin) or 'constant'})"
            self.blobs += 1
            self.bytes += blob.values.size
            if (blob.shape, blob.dtype) != (other.shape, other.dtype):
                yield f"{name}: is {_kind(other)}, not {_kind(blob)}"
            elif (at := self.first_difference(name, blob, other.values)) is not None:
                yield f"{name}: differs from element {at} on"

    def first_difference(self, name: str, blob: Blob, other: Piece) -> int | None:
        size, dtype = blob.values.size, blob.dtype
        for start in range(0, size, BUFFER):
            stop = min(start + BUFFER, size)
            ours, theirs = _rendered(blob.values, start, stop), _rendered(other, start, stop)
            if ours != theirs:
                at = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
                return (start + at) // dtype.itemsize
            if self.not_finite[-1:] != [name] and not _is_finite(ours, dtype):
                self.not_finite.append(name)
            self.progress(stop - start)
        return None


def _rendered(piece: Piece, start: int, stop: int) -> bytearray:
    data = bytearray(stop - start)
    piece.render(start, stop, memoryview(data))
    return data


def _is_finite(data: bytearray, dtype: DType) -> bool:
    import numpy as np

    return bool(np.isfinite(np.frombuffer(data, dtype.code)).all())


def _kind(blob: Blob) -> str:
    return f"{blob.dtype.name} {'x'.join(map(str, blob.shape)) or 'scalar'}"
