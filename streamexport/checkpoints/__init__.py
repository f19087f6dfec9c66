"""Checkpoints as tables of where the bytes are, one module per format: `open_weights` opens one, `open_checkpoints` several.

They look at the content, never at the suffix.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..errors import FormatError, NetError, judging
from ..payload.pieces import Source
from ..payload.tensors import Tensor
from ..sources import Path, open_source
from ..sources.index import shards, weight_map
from ..sources.signatures import MODELS, kind_of, refusal
from . import numpy_files, plain_pickle, safetensors, state_dict, torch_legacy, torch_objects, torch_zip
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


def _open(source: Source, key: str | None, fits: Fits | None = None, is_shard: bool = False) -> Weights:
    kind = kind_of(source)
    if kind in _PICKLED:
        return _open_pickled(kind, source, key, fits)
    if kind == "safetensors":
        if key:
            advice = "leave out `key=`; `prefix=` takes the tensors under a prefix"
            raise NetError(f"has no state dict {key!r}: safetensors hold one", file=source.name, advice=advice)
        with judging(source.name):
            return Weights(safetensors.read(source), kind, "", (source,))
    if kind == "index" and not is_shard:
        return _open_sharded(source, key)
    if kind in MODELS:
        raise FormatError("is a Caffe model, not a checkpoint", file=source.name)
    raise refusal(source, "is not a torch checkpoint, safetensors, numpy's .npz or a pickle, nor an index.json")


def _open_pickled(kind: str, source: Source, key: str | None, fits: Fits | None) -> Weights:
    with judging(source.name):
        root, extents = _PICKLED[kind].read(source)
        candidates = state_dict.candidates(root, source.name)
    chosen, rivals = choose(candidates, key, fits, source.name)
    tensors = {tensor: place(tensor, view, extents, source.name) for tensor, view in chosen.views.items()}
    for unread, record in chosen.others.items():
        is_called_like_a_tensor = "." in unread and not chosen.module
        if torch_objects.is_tensor(record) or is_called_like_a_tensor:
            tensors[unread] = torch_objects.stand_in(unread, record, source.name)
    found = tuple(rival.key for rival in rivals)
    return Weights(tensors, kind, chosen.key, (source,), found, chosen.module, chosen.others)


def _open_sharded(index: Source, key: str | None) -> Weights:
    files = weight_map(index)
    opened = {file: _open(source, key, is_shard=True) for file, source in shards(index).items()}
    for name, file in files.items():
        if name not in opened[file].tensors:
            raise FormatError("is not in the file that the index names", file=index.name, tensor=name)
    tensors = {name: opened[file].tensors[name] for name, file in files.items()}
    return Weights(tensors, "sharded", "", (index, *(shard.sources[0] for shard in opened.values())))


def _without_module(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Takes off the `module.` that DataParallel puts before every name."""
    prefix = "module."
    if not all(name.startswith(prefix) for name in tensors):
        return tensors
    bare = (replace(tensor, name=name.removeprefix(prefix)) for name, tensor in tensors.items())
    return {tensor.name: tensor for tensor in bare}
