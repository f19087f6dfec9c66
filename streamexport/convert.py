"""The whole way from checkpoints to model files: reader, net, passes, writer, transfer.

`plan` goes as far as the layouts: it reads headers, and knows every byte that will be written and where it comes from.
`convert` moves them. What was asked for is recorded in the model as JSON, so that `verify` can plan the same again.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from . import __version__, nets, passes, transfer
from .caffe.prototxt import prototxt
from .errors import NetError, OutputError, one_line
from .extents import Layout, Literal, Source
from .nets.graph import Net
from .passes import dialects, naming, precision
from .readers import Weights, open_weights
from .sources.local import LocalFile
from .transfer import File, Progress
from .writers import caffemodel

STDOUT = "-"
FORK_LIMIT = 512 << 20
"""Bytes of the largest file that some forks of Caffe load, those of the SSD family among them."""

READERS = {"bvlc": "BVLC master", "opencv": "OpenCV", "ssd": "Caffes of the SSD family"}


@dataclass(frozen=True)
class Options:
    """What a model depends on besides its checkpoint. Recorded in the model.

    Attributes
    ----------
    net : a built-in net, or "auto"
    key : which state dict of the checkpoint, as a dotted path; None to find it
    dialect : whose Caffe the prototxt is for: portable, bvlc, opencv or ssd
    names : of layers: torch or classic
    dtype : of the weights of convolutions and inner products: float32 or float16
    end : the layer or module to end with, by torch's name; None for the whole net
    softmax : whether a classifier ends with `prob`
    input_shape : batch, channels, height, width; None for 1, what the weights say, 224, 224
    """

    net: str = nets.AUTO
    key: str | None = None
    dialect: str = "portable"
    names: str = "torch"
    dtype: str = "float32"
    end: str | None = None
    softmax: bool = True
    input_shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for what, value, known in (
            ("dialect", self.dialect, dialects.DIALECTS),
            ("style of names", self.names, naming.STYLES),
            ("dtype", self.dtype, precision.STORED),
        ):
            if value not in known:
                raise NetError(f"there is no {what} {value!r}", advice=f"choose from {', '.join(known)}")


@dataclass(frozen=True)
class Plan:
    """A conversion up to its last byte, before the first one moves.

    Attributes
    ----------
    net : what is written, named and cut
    prototxt : its text
    parts : name and layout of each model file
    sources : what is read
    notes : what the user should know: what was recognised, left out, or limits who can read the result
    align : the block size at which payload can be cloned, 0 if it cannot
    """

    net: Net
    prototxt: str
    parts: tuple[tuple[str, Layout], ...]
    sources: tuple[Source, ...]
    notes: tuple[str, ...]
    align: int = 0

    @property
    def size(self) -> int:
        """Bytes of all model files."""
        return sum(layout.size for _, layout in self.parts)


def bind(checkpoints: Sequence[str | os.PathLike[str]], options: Options) -> tuple[Net, tuple[Source, ...]]:
    """The net of one checkpoint, or of several that are parts of one, after all passes; and the files it stands in.

    Raises what `open_weights` raises, and NetError where tensors, net and options do not fit.
    """
    opened = [open_weights(path, options.key) for path in checkpoints]
    weights = _joined(opened)
    net = nets.bind(weights.tensors, options.net, options.input_shape)
    notes = list(net.notes)
    doubles = sum(tensor.dtype.name == "float64" for tensor in weights.tensors.values())
    if doubles:
        notes.append(f"{doubles} tensors are float64 and rounded to float32")
    if weights.key:
        notes.append(f"state dict {weights.key!r} of the checkpoint")
    net = passes.apply(
        net,
        dialect=options.dialect,
        end=options.end,
        softmax=options.softmax,
        dtype=options.dtype,
        names=options.names,
    )
    return replace(net, notes=tuple(notes)), weights.sources


def plan(
    checkpoints: Sequence[str | os.PathLike[str]],
    name: str,
    options: Options = Options(),  # frozen
    *,
    max_file_size: int | None = None,
    align: int = 0,
) -> Plan:
    """Everything about a conversion but the moving of bytes.

    Parameters
    ----------
    checkpoints : files that together hold one state dict
    name : of the model file to be; parts are numbered after its stem
    options : what to make
    max_file_size : cut into parts of at most so many bytes, at layer boundaries
    align : modulus at which offsets of payload agree with the source's, see `transfer.clone_alignment`
    """
    net, sources = bind(checkpoints, options)
    record = _record(options, sources, align)
    divided = [net] if max_file_size is None else caffemodel.split(net, max_file_size, record)
    layouts = [caffemodel.layout(part, record, align) for part in divided]
    names = [name] if max_file_size is None else list(_part_names(name, len(layouts)))
    notes = (*net.notes, *_consumers(options, layouts))
    text = _text(net, options, sources, notes, record)
    return Plan(net, text, tuple(zip(names, layouts, strict=True)), sources, notes, align)


def convert(
    checkpoints: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    options: Options = Options(),  # frozen
    *,
    prototxt: str | os.PathLike[str] | None = None,
    max_file_size: int | None = None,
    clone: bool = True,
    progress: Progress = lambda _: None,
) -> Plan:
    """Converts checkpoints to a Caffe model. All files appear, complete and synced, or none.

    Parameters
    ----------
    checkpoints : one file, or several that are parts of one model
    output : the model file; "-" for standard output. With `max_file_size` parts are called NAME-00001-of-00003.caffemodel
    options : what to make
    prototxt : where the description goes; by default beside the output, and nowhere for "-"
    max_file_size : bytes at most in each file
    clone : share blocks with the checkpoint where the file system can
    progress : told of every so many bytes moved

    Returns
    -------
    Plan : what was written

    Raises
    ------
    Error : see `errors`
    BrokenPipeError : the reader of a pipe went away
    """
    target = os.fspath(output)
    if target.endswith(".h5"):
        raise OutputError("HDF5 cannot be written yet", file=target, advice="name it .caffemodel")
    if target == STDOUT and max_file_size is not None:
        raise OutputError("standard output takes one file, not several parts", advice="leave out --max-file-size")
    align = _alignment(checkpoints, target, options) if clone and max_file_size is None else 0
    made = plan(checkpoints, target, options, max_file_size=max_file_size, align=align)
    if target == STDOUT:
        transfer.stream(made.parts[0][1], sys.stdout.fileno(), progress)
        if prototxt is not None:
            transfer.publish([_description(prototxt, made)], made.sources)
        return made
    if prototxt is None and not _is_special(target):
        prototxt = stem(target) + ".prototxt"
    files = [File(path, layout, align) for path, layout in made.parts]
    if prototxt is not None:
        files.insert(0, _description(prototxt, made))
    _refuse_mixture(target, [file.path for file in files], max_file_size)
    transfer.publish(files, made.sources, progress)
    return made


def stem(path: str) -> str:
    """A model's path without the suffix of its format."""
    for suffix in (".caffemodel.h5", ".caffemodel", ".h5"):
        if path.endswith(suffix):
            return path.removesuffix(suffix)
    return os.path.splitext(path)[0]


def _joined(opened: Sequence[Weights]) -> Weights:
    """Several checkpoints as one. NetError if a tensor stands in two of them."""
    first, *others = opened
    tensors = dict(first.tensors)
    for weights in others:
        for name, tensor in weights.tensors.items():
            if name in tensors:
                both = f"stands in {tensors[name].extent.source.name} and {tensor.extent.source.name}"
                raise NetError(both, tensor=name, advice="give only files that are parts of one model")
            tensors[name] = tensor
    return replace(first, tensors=tensors, sources=tuple(source for weights in opened for source in weights.sources))


def _record(options: Options, sources: Sequence[Source], align: int) -> bytes:
    """What `verify` needs to plan again. Of the sources only what stays the same wherever they lie."""
    identities = [{"name": os.path.basename(source.name), "size": source.size} for source in sources]
    record = {"streamexport": __version__, "options": asdict(options), "align": align, "sources": identities}
    return json.dumps(record, sort_keys=True).encode()


def recorded(record: bytes) -> Options | None:
    """The options that a model was made with; None if it does not say."""
    try:
        fields = json.loads(record)["options"]
        shape = fields.pop("input_shape")
        return Options(**fields, input_shape=tuple(shape) if shape else None)
    except (ValueError, KeyError, TypeError, NetError):
        return None


def _text(net: Net, options: Options, sources: Sequence[Source], notes: Sequence[str], record: bytes) -> str:
    lines = [f"{net.name}, made by streamexport {__version__}"]
    lines += [f"from {os.path.basename(source.name)}, {source.size} bytes" for source in sources]
    lines.append(f"dialect {options.dialect}, names {options.names}, weights {options.dtype}")
    if net.preprocessing:
        lines.append(f"input: {net.preprocessing}")
    lines += notes
    lines.append(f"record: {record.decode()}")
    return prototxt(net, "\n".join(one_line(line) for line in lines))


def _description(path: str | os.PathLike[str], made: Plan) -> File:
    return File(os.fspath(path), Layout.of([Literal(made.prototxt.encode())]))


def _consumers(options: Options, layouts: Sequence[Layout]) -> Iterator[str]:
    """Who cannot load what is written as it is, and what to do about it."""
    largest = max(layout.size for layout in layouts)
    if options.dtype == "float16":
        yield "float16: read by OpenCV and NVIDIA's Caffe; stock Caffe aborts on it"
    if largest > caffemodel.CAFFE_LIMIT:
        yield (
            f"{largest} bytes in one file: stock Caffe and OpenCV stop at {caffemodel.CAFFE_LIMIT};"
            " for them use --max-file-size caffe, and load the parts one after the other"
        )
    elif largest > FORK_LIMIT:
        yield f"some forks of Caffe stop at {FORK_LIMIT} bytes a file; for them use --max-file-size 512MiB"
    if options.dialect != "portable":
        yield f"dialect {options.dialect}: the prototxt is for {READERS[options.dialect]} only"


def _alignment(checkpoints: Sequence[str | os.PathLike[str]], target: str, options: Options) -> int:
    if target == STDOUT or options.dtype != "float32" or _is_special(target):
        return 0
    directory = os.path.dirname(os.path.realpath(target))
    return transfer.clone_alignment([LocalFile.at(path) for path in checkpoints], directory)


def _is_special(path: str) -> bool:
    return os.path.exists(path) and not os.path.isfile(path)


def _part_names(name: str, count: int) -> Iterator[str]:
    """`x.caffemodel` for one part, else `x-00001-of-00003.caffemodel` and so on."""
    if count == 1:
        yield name
        return
    base = stem(name)
    for index in range(1, count + 1):
        yield f"{base}-{index:05}-of-{count:05}{name.removeprefix(base)}"


def _refuse_mixture(target: str, written: Sequence[str], max_file_size: int | None) -> None:
    """OutputError if parts of an older run would stand among those of this one."""
    if max_file_size is None:
        return
    base, names = Path(stem(target)), {Path(path).name for path in written}
    pattern = re.compile(re.escape(base.name) + r"-\d{5}-of-\d{5}" + re.escape(target.removeprefix(stem(target))))
    if base.parent.is_dir():
        for found in sorted(path.name for path in base.parent.iterdir()):
            if pattern.fullmatch(found) and found not in names:
                where = str(base.parent / found)
                raise OutputError("is a part of an older model of that name", file=where, advice="remove it first")
