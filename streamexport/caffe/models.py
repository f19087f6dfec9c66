"""Caffe models as nets: `open_model` opens a file, `open_models` several that are parts of one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from ..errors import FormatError, NetError, judging
from ..net.graph import Layer, Net
from ..payload.pieces import Source
from ..sources import Path, open_source
from ..sources.index import shards
from ..sources.signatures import CHECKPOINTS, kind_of, refusal, split
from .caffemodel import reading as caffemodel
from .hdf5 import reading as hdf5


def open_model(path: Path, sources: Sequence[Path] | None = ()) -> Net:
    """Opens a Caffe model, a binary caffemodel or HDF5, as a `Net`: parameters unread, blobs as extents.

    Reads headers only.

    Parameters
    ----------
    path : the file
    sources : the checkpoints that a linked model may point into; None to list one without: it is not followed then, and
        cannot be rendered

    Raises
    ------
    SourceError : it cannot be read, or lies in a checkpoint that is not among the sources
    FormatError : it is something else, or malformed
    """
    source = open_source(path)
    kind = kind_of(source)
    if kind in CHECKPOINTS:
        raise FormatError("is a checkpoint, not a Caffe model", file=source.name, advice="convert it first")
    if kind == "hdf5":
        files = None if sources is None else list(_files(sources))
        with judging(source.name):
            return hdf5.read(source, files)
    if kind == "caffemodel":
        with judging(source.name):
            return caffemodel.read(source)
    raise refusal(source, "is neither a binary caffemodel nor HDF5")


def open_models(paths: Sequence[Path], sources: Sequence[Path] = ()) -> Net:
    """The net whose parts the model files are; an empty one where there are none.

    Linked models may point into the sources, and into checkpoints that are named among the models. A file's layers stay as
    they are, also where several have one name or none; those of several files are matched by name. Raises NetError if they
    are parts of several runs, or a layer with blobs stands in two files; and what `open_model` raises.
    """
    layers: list[Layer] = []
    models, checkpoints = split(paths)
    opened = [open_model(path, (*checkpoints, *sources)) for path in models]
    _refuse_mixture(opened, models)
    for net, path in zip(opened, models, strict=True):
        known = {layer.name: index for index, layer in enumerate(layers) if layer.name}
        for layer in net.layers:
            index = known.get(layer.name)
            if index is None:
                layers.append(layer)
            elif layer.blobs and layers[index].blobs:
                advice = "give only files that are parts of one model"
                raise NetError(
                    "stands in the model twice", file=os.fspath(path), tensor=f"layer {layer.name}", advice=advice
                )
            elif layer.blobs:
                layers[index] = layer
    return opened[0].with_layers(tuple(layers)) if opened else Net("", ())


def _refuse_mixture(opened: Sequence[Net], paths: Sequence[Path]) -> None:
    """NetError for parts that do not come from one run: what one says of its making, all of them have to say."""
    for net, path in zip(opened, paths, strict=True):
        if net.record != opened[0].record and b'"limit"' in net.record + opened[0].record:
            what = f"is of another run than {os.fspath(paths[0])}, or of another model"
            raise NetError(what, file=os.fspath(path), advice="give the parts of one run, or convert again")


def _files(checkpoints: Sequence[Path]) -> Iterator[Source]:
    """The files of checkpoints: those that are named, and the shards of an index."""
    for path in checkpoints:
        source = open_source(path)
        yield source
        if source.size and kind_of(source) == "index":
            yield from shards(source).values()
