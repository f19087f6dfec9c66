"""Files as tables of where the bytes are, one module per format.

`open_weights` opens checkpoints as tensors, `open_model` Caffe models as a `Net`, `open_models` several that are parts of
one. They look at the content, never at the suffix.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..errors import FormatError, NetError, judging
from ..extents import Source
from ..nets.graph import Layer, Net
from ..sources import Path, open_source
from ..tensors import Tensor
from . import (
    caffemodel,
    hdf5,
    numpy_files,
    plain_pickle,
    safetensors,
    state_dict,
    strangers,
    torch_legacy,
    torch_objects,
    torch_zip,
)
from .choosing import Fits, choose
from .records import Record
from .storages import place

_PICKLED = {"torch legacy": torch_legacy, "numpy": numpy_files, "torch zip": torch_zip, "pickle": plain_pickle}


@dataclass(frozen=True)
class Weights:
    """An opened checkpoint.

    Attributes
    ----------
    tensors : by state-dict name
    format : "torch legacy", "torch zip", "numpy", "pickle", "safetensors" or "sharded"
    key : path of the state dict inside the file, "" if it is the whole of it
    sources : the files that hold it
    rivals : paths of other state dicts in it that are the net's as well
    module : the class of the pickled module that it was taken out of, "" where it is a dict
    unread : what stands in it by name and is no plain data, or a tensor that cannot be read
    """

    tensors: Mapping[str, Tensor]
    format: str
    key: str
    sources: tuple[Source, ...]
    rivals: tuple[str, ...] = ()
    module: str = ""
    unread: Mapping[str, Record] = field(default_factory=dict)

    @property
    def remarks(self) -> Iterator[str]:
        """What each of those is, and what to do about it."""
        for name, record in self.unread.items():
            what, advice = torch_objects.described(record)
            yield f"{name} {what} (at byte {record.offset}): {advice}"


def open_weights(path: Path, key: str | None = None) -> Weights:
    """Opens a checkpoint: torch's legacy stream, torch's zip or TorchScript, numpy's arrays, a pickle, safetensors, or the
    `*.index.json` of a sharded set.

    Reads headers only, and executes nothing. A `module.` that all names share is taken off.

    Parameters
    ----------
    path : the file
    key : which state dict inside it, as a dotted path; by default it is found

    Raises
    ------
    SourceError : it cannot be read
    FormatError : it is none of these, or malformed
    TensorError : a tensor reaches outside its storage
    NetError : it holds no state dict, or several
    """
    weights = _open(open_source(path), key)
    return replace(weights, tensors=_without_module(weights.tensors))


def open_checkpoints(paths: Sequence[Path], key: str | None = None, fits: Fits | None = None) -> Weights:
    """Checkpoints that are parts of one model, as one, with the names that stand in them.

    Parameters
    ----------
    paths, key : see `open_weights`
    fits : whether tensors are those of the net that is looked for: that state dict of a single file is taken

    Raises what `open_weights` raises, and NetError if a tensor stands in two of them.
    """
    first, *others = (_open(open_source(path), key, fits if len(paths) == 1 else None) for path in paths)
    tensors = dict(first.tensors)
    for weights in others:
        for name, tensor in weights.tensors.items():
            if name in tensors:
                both = f"stands in {tensors[name].extent.source.name} and {tensor.extent.source.name}"
                raise NetError(both, tensor=name, advice="give only files that are parts of one model")
            tensors[name] = tensor
    sources = (*first.sources, *(source for weights in others for source in weights.sources))
    unread = {name: record for weights in (*others, first) for name, record in weights.unread.items()}
    return replace(first, tensors=tensors, sources=sources, unread=unread)


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
    head = _head(source)
    if _is_checkpoint(head):
        raise FormatError("is a checkpoint, not a Caffe model", file=source.name, advice="convert it first")
    strangers.refuse(head, source.name)
    if hdf5.recognises(head):
        files = None if sources is None else list(_files(sources))
        with judging(source.name):
            return hdf5.read(source, files)
    if caffemodel.recognises(head):
        with judging(source.name):
            return caffemodel.read(source)
    raise FormatError("is neither a binary caffemodel nor HDF5", file=source.name, offset=0)


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


def split(paths: Sequence[Path]) -> tuple[list[Source], list[Source]]:
    """Models, and the checkpoints that are named beside them; what is neither, or alone, counts as a model."""
    named = [open_source(path) for path in paths]
    checkpoints = [source for source in named if _is_checkpoint(_head(source))] if len(named) > 1 else []
    models = [source for source in named if source not in checkpoints]
    return (models, checkpoints) if models else (named, [])


def _files(checkpoints: Sequence[Path]) -> Iterator[Source]:
    """The files of checkpoints: those that are named, and the shards of an index."""
    for path in checkpoints:
        source = open_source(path)
        yield source
        if source.size and _head(source).lstrip()[:1] == b"{":
            yield from open_weights(path).sources


def is_model(path: Path) -> bool:
    """Whether a file looks like a Caffe model rather than a checkpoint."""
    head = _head(open_source(path))
    is_other = _is_checkpoint(head) or strangers.described(head) is not None
    return not is_other and (hdf5.recognises(head) or caffemodel.recognises(head))


def _is_checkpoint(head: bytes) -> bool:
    return head.lstrip()[:1] == b"{" or any(m.recognises(head) for m in (*_PICKLED.values(), safetensors))


def _head(source: Source) -> bytes:
    if not source.size:
        raise FormatError("is empty", file=source.name)
    return source.read(0, min(source.size, 512))


def _open(source: Source, key: str | None, fits: Fits | None = None, is_shard: bool = False) -> Weights:
    head = _head(source)
    for name, module in _PICKLED.items():
        if module.recognises(head):
            with judging(source.name):
                root, extents = module.read(source)
                candidates = state_dict.candidates(root, source.name)
            chosen, rivals = choose(candidates, key, fits, source.name)
            tensors = {tensor: place(tensor, view, extents, source.name) for tensor, view in chosen.views.items()}
            for unread, record in chosen.others.items():
                if torch_objects.is_tensor(record) or (
                    "." in unread and not chosen.module
                ):  # it is called like a tensor
                    tensors[unread] = torch_objects.stand_in(unread, record, source.name)
            found = tuple(rival.key for rival in rivals)
            return Weights(tensors, name, chosen.key, (source,), found, chosen.module, chosen.others)
    if safetensors.recognises(head):
        if key:
            advice = "leave out `key=`; `prefix=` takes the tensors under a prefix"
            raise NetError(f"has no state dict {key!r}: safetensors hold one", file=source.name, advice=advice)
        with judging(source.name):
            return Weights(safetensors.read(source), "safetensors", "", (source,))
    if head.lstrip()[:1] == b"{" and not is_shard:
        return _open_sharded(source, key)
    strangers.refuse(head, source.name)
    if hdf5.recognises(head) or caffemodel.recognises(head):
        raise FormatError("is a Caffe model, not a checkpoint", file=source.name)
    what = "is not a torch checkpoint, safetensors, numpy's .npz or a pickle, nor an index.json"
    raise FormatError(what, file=source.name, offset=0)


def _open_sharded(index: Source, key: str | None) -> Weights:
    if index.size > safetensors.JSON_LIMIT:
        raise FormatError(f"is JSON of {index.size} bytes, too large for an index", file=index.name)
    with judging(index.name):
        weight_map = safetensors.parse_json(index.read(0, index.size), index.name).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise FormatError("is JSON, but no index of a sharded checkpoint (no weight_map)", file=index.name)
    shards: dict[str, Weights] = {}
    for file in dict.fromkeys(weight_map.values()):
        if os.path.basename(file) != file or file in (os.curdir, os.pardir):
            raise FormatError(f"names {file!r}, which is not a file beside it", file=index.name)
        shards[file] = _open(open_source(os.path.join(os.path.dirname(index.name), file)), key, is_shard=True)
    for name, file in weight_map.items():
        if name not in shards[file].tensors:
            raise FormatError("is not in the file that the index names", file=index.name, tensor=name)
    tensors = {name: shards[file].tensors[name] for name, file in weight_map.items()}
    return Weights(tensors, "sharded", "", (index, *(shard.sources[0] for shard in shards.values())))


def _without_module(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Takes off the `module.` that DataParallel puts before every name."""
    prefix = "module."
    if not all(name.startswith(prefix) for name in tensors):
        return tensors
    bare = (replace(tensor, name=name.removeprefix(prefix)) for name, tensor in tensors.items())
    return {tensor.name: tensor for tensor in bare}
