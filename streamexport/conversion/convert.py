"""The whole way from checkpoints, or Caffe models, to model files: reader, net, passes, writer, transfer.

`plan` goes as far as the layouts: it reads headers, and knows every byte that will be written and where it comes from.
`convert` moves them. What was asked for is recorded in the model as JSON, so that `verify` can plan the same again.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

from .. import __version__, identity, nets, outputs, passes, transfer, writers
from ..caffe.prototxt import prototxt as prototxt_text
from ..errors import Error, FaultError, NetError, OutputError, one_line
from ..extents import Layout, Literal, Source
from ..files import STDOUT as STDOUT_DESCRIPTOR
from ..files import File, is_stdout, publish
from ..nets import modules
from ..nets.fitting import Bound, listed
from ..nets.graph import Net
from ..nets.resnet import EPSILON
from ..passes import dialects, folding, naming, precision, preprocessing
from ..readers import is_model, open_checkpoints, open_model, open_models, split
from ..sources.local import LocalFile
from ..transfer import Progress
from ..writers import format_of
from ..writers.caffemodel import CAFFE_LIMIT
from .consumers import Written, runs_in

Path = str | os.PathLike[str]

STDOUT = "-"


@dataclass(frozen=True)
class Options:
    """What a model depends on besides its checkpoint. Recorded in the model.

    Attributes
    ----------
    net : a built-in net, "auto", or what builds a PyTorch module: MODULE:CALLABLE or FILE.py:CALLABLE
    net_args : its arguments, as a JSON object
    key : which state dict of the checkpoint, as a dotted path; None to find it
    prefix : what stands before the names of the net's tensors; None to find it
    dialect : whose Caffe the prototxt is for: portable, bvlc, opencv or ssd
    names : of layers: torch or classic
    dtype : of the weights of convolutions and inner products: float32 or float16; None for float32 from checkpoints, and
        for what is stored where a Caffe model is the input
    fold_batchnorm : whether BatchNorm and Scale are merged into the convolutions before them
    input_order : of the input's channels: rgb or bgr
    fold_input_scale : whether the first convolution takes in the scaling of the input, for pixels 0…255 less their mean
    end : the layers or modules to end with, by torch's names; none for the whole net
    softmax : whether outputs that are a softmax stay one
    in_place : whether layers write over their bottoms where they may
    input_shape : batch, channels, height, width; None for 1, what the weights say, 224, 224
    mean, std : what is subtracted from the input's channels, from 0 to 1, and what they are divided by, as torchvision's
        Normalize has them; None for ImageNet's in built-in nets of three channels, and else for what nobody knows
    eps : epsilon of BatchNorm in built-in nets; None for 1e-5
    """

    net: str = nets.AUTO
    net_args: str | None = None
    key: str | None = None
    prefix: str | None = None
    dialect: str = "portable"
    names: str = "torch"
    dtype: str | None = None
    fold_batchnorm: bool = False
    input_order: str = "rgb"
    fold_input_scale: bool = False
    end: tuple[str, ...] = ()
    softmax: bool = True
    in_place: bool = False
    input_shape: tuple[int, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    eps: float | None = None

    def __post_init__(self) -> None:
        end = (self.end,) if isinstance(self.end, str) else tuple(self.end)  # a single name is one, not its letters
        object.__setattr__(self, "end", end)
        for what, value, known in (
            ("dialect", self.dialect, dialects.DIALECTS),
            ("style of names", self.names, naming.STYLES),
            ("dtype", self.dtype, (None, *precision.STORED)),
            ("order of channels", self.input_order, folding.ORDERS),
        ):
            if value not in known:
                choices = ", ".join(str(choice) for choice in known if choice)
                raise NetError(f"there is no {what} {value!r}", advice=f"choose from {choices}")


@dataclass(frozen=True)
class Plan:
    """A conversion up to its last byte, before the first one moves.

    Attributes
    ----------
    net : what is written, named and cut
    path : the model file; where it is cut into parts, what these are numbered after
    format : caffemodel, hdf5 or linked
    prototxt : its text; None for a model whose layers are not known
    parts : path and layout of each model file
    sources : what is read
    notes : what the user should know: what was recognised, left out, or limits who can read the result
    align : modulus at which offsets of payload agree with the checkpoint's, 0 if they need not
    """

    net: Net
    path: str
    format: str
    prototxt: str | None
    parts: tuple[tuple[str, Layout], ...]
    sources: tuple[Source, ...]
    notes: tuple[str, ...]
    align: int = 0

    @property
    def size(self) -> int:
        """Bytes of all model files."""
        return sum(layout.size for _, layout in self.parts)


def bind(checkpoints: Sequence[Path], options: Options) -> Bound:
    """The net of one checkpoint, or of several that are parts of one, after all passes; and what it was made of.

    Raises what `open_weights` raises, and NetError where tensors, net and options do not fit.
    """
    refusal = partial(dialects.refusal, dialect=options.dialect)
    architecture = nets.architecture(options.net, options.net_args, options.eps, options.end, refusal)
    if options.prefix is not None:
        architecture = nets.Under(options.prefix, architecture)
    weights = open_checkpoints(checkpoints, options.key, architecture.fits)
    try:
        bound = architecture.bind(weights.tensors, options.input_shape)
    except Error as error:
        error.file = error.file or weights.sources[0].name
        if isinstance(error, NetError) and weights.unread:
            error.advice = "; ".join(filter(None, (error.advice, listed([*weights.remarks], 3))))
        raise
    net = preprocessing.expect(bound.net, options.mean, options.std)
    expects = net.preprocessing
    notes = [*_taken_for_granted(bound.net, options)]
    doubles = sum(tensor.dtype.name == "float64" for tensor in bound.tensors.values())
    if doubles:
        notes.append(f"{doubles} tensors are float64 and rounded to float32")
    if weights.key:
        others = f"; {', '.join(map(repr, weights.rivals))} would fit, too: --key" if weights.rivals else ""
        notes.append(f"state dict {weights.key!r} of the checkpoint{others}")
    net = passes.apply(
        net,
        _ranks_of,
        dialect=options.dialect,
        fold_batchnorm=options.fold_batchnorm,
        input_order=options.input_order,
        fold_input_scale=options.fold_input_scale,
        end=() if modules.is_named(options.net) else options.end,  # a traced one ends there already
        softmax=options.softmax,
        dtype=options.dtype or "float32",
        in_place=options.in_place,
        names=options.names,
    )
    _check_shapes(net)
    if len(net.outputs) > 1:
        order = "the order of --end" if options.end else "torch's order"
        notes.insert(0, f"outputs, in {order}: {', '.join(net.outputs)}")
    without = [top for top, softmax in zip(net.ends, net.left_out, strict=False) if not softmax]
    if without:
        notes.append(f"no softmax, and therefore left as they are: {', '.join(without)}")
    net = replace(net, notes=(*net.notes, *notes))
    return replace(bound, net=net, sources=weights.sources, expects=expects)


def _taken_for_granted(net: Net, options: Options) -> Iterator[str]:
    """What no checkpoint says of a built-in net."""
    if modules.is_named(options.net):
        return
    granted = {"--eps": f"epsilon {EPSILON} in BatchNorm"} if options.eps is None else {}
    if net.preprocessing is not None:
        granted |= {"--mean": "ImageNet's mean"} if options.mean is None else {}
        granted |= {"--std": "ImageNet's deviation"} if options.std is None else {}
    if granted:
        yield f"taken for granted, if {', '.join(granted)} do not say otherwise: {', '.join(granted.values())}"


def _ranks_of(net: Net) -> Mapping[str, int]:
    from ..caffe.semantics import ranks_of  # few nets ask for them

    return ranks_of(net)


def _check_shapes(net: Net) -> None:
    """Holds shapes that torch says against those that Caffe will make of the layers."""
    if not any(layer.shapes for layer in net.layers):
        return
    from ..caffe.semantics import steps_of

    for step, layer in zip(steps_of(net), net.layers, strict=True):
        blobs = tuple(blob.shape for blob in layer.blobs)
        if (layer.shapes and step.meaning.tops != layer.shapes) or step.meaning.blobs != blobs:
            what = f"makes {step.meaning.tops} of {step.bottoms} with {blobs}, not {layer.shapes}"
            raise FaultError(what, tensor=f"layer {layer.name}")


def plan(
    inputs: Sequence[Path],
    output: Path,
    options: Options = Options(),  # frozen
    *,
    form: str | None = None,
    max_file_size: int | None = None,
    align: int = 0,
) -> Plan:
    """Everything about a conversion but the moving of bytes.

    Parameters
    ----------
    inputs : checkpoints that together hold one state dict, or Caffe models that are parts of one, with the checkpoints that
        they are linked to
    output : the model file to be, whose parts are numbered after its stem; or a directory, for files called like the net
    options : what to make; for Caffe models only `dtype`, None to leave it as it is
    form : caffemodel, hdf5 or linked; by default what the output's suffix says, and in a directory hdf5 where stock Caffe
        could not load a caffemodel
    max_file_size : cut into parts of at most so many bytes, at layer boundaries
    align : pad a caffemodel so that offsets of large blobs agree with the checkpoint's modulo so many bytes: file systems
        that share blocks of that size then clone them
    """
    if any(is_model(path) for path in inputs):
        net, sources = _transcoded(inputs, options)
        record, text = net.record, None
    else:
        bound = bind(inputs, options)
        net, sources = bound.net, bound.sources
        record = _record(net, options, sources, align)
        text = _text(net, options, sources, record)
    path = os.fspath(output)
    if not path:
        raise OutputError("the output has no name")
    in_directory = path.endswith("/") or os.path.isdir(path)
    chosen = form or ("caffemodel" if in_directory else format_of(path))
    record = identity.of_part(net, record, max_file_size, __version__)
    layouts = writers.layouts(net, chosen, record, limit=max_file_size, align=align)
    if in_directory:
        if form is None and max_file_size is None and layouts[0].size > CAFFE_LIMIT:
            chosen = "hdf5"
            layouts = writers.layouts(net, chosen, record)
        is_named = options.net == nets.AUTO or modules.is_named(options.net)  # else the user has said what it is called
        name = (net.name or pathlib.Path(inputs[0]).stem) if is_named else options.net
        path = outputs.in_directory(path, name, chosen)
    if align and (chosen != "caffemodel" or max_file_size is not None):
        raise OutputError("only a caffemodel in one file can be aligned", file=path, advice="leave out --align")
    parts = tuple(zip(outputs.part_names(path, len(layouts)), layouts, strict=True))
    left_to_caller = [f"input: {net.preprocessing}"] if net.preprocessing else []
    sizes, types = [layout.size for layout in layouts], {layer.type for layer in net.layers}
    written = Written(options.dialect, chosen, options.dtype == "float16", sizes, types)
    readers = runs_in(written) if text is not None else ()  # of a model's own net nothing is known
    notes = (*net.notes, *left_to_caller, *readers)
    return Plan(net, path, chosen, text, parts, sources, notes, align)


def convert(
    inputs: Sequence[Path],
    output: Path,
    options: Options = Options(),  # frozen
    *,
    form: str | None = None,
    prototxt: Path | None = None,
    max_file_size: int | None = None,
    align: int = 0,
    progress: Progress = lambda _: None,
    planned: Progress = lambda _: None,
) -> Plan:
    """Converts checkpoints, or Caffe models, to a Caffe model. All files appear, complete and synced, or none.

    Parameters
    ----------
    inputs, options, form, max_file_size, align : see `plan`; parts are called NAME-00001-of-00003.caffemodel
    output : the model file, a directory for it, or "-" for standard output
    prototxt : where the description goes; by default beside the output, and nowhere for "-" or where a model is the input
    progress : told of every so many bytes moved
    planned : told before of how many there are

    Returns
    -------
    Plan : what was written

    Raises
    ------
    Error : see `errors`
    BrokenPipeError : the reader of a pipe went away
    """
    target = os.fspath(output)
    if is_stdout(target):
        target = output = STDOUT
    if target == STDOUT and max_file_size is not None:
        raise OutputError("standard output takes one file, not several parts", advice="leave out --max-file-size")
    made = plan(inputs, output, options, form=form, max_file_size=max_file_size, align=align)
    if prototxt is not None and made.prototxt is None:
        made = replace(made, prototxt=_text_of_model(made))
    if target == STDOUT:
        planned(made.size)
        transfer.stream(made.parts[0][1], STDOUT_DESCRIPTOR, progress)
        if prototxt is not None:
            publish([_description(prototxt, made)], made.sources)
        return made
    if prototxt is None and made.prototxt is not None and not _is_special(made.path):
        prototxt = outputs.stem(made.path) + ".prototxt"
    files = [File(name, layout, made.align) for name, layout in made.parts]
    if prototxt is not None:
        files.insert(0, _description(prototxt, made))
    planned(sum(file.layout.size for file in files))
    obsolete = partial(_older_parts, made) if max_file_size is not None else tuple
    replaced = len(list(obsolete()))
    publish(files, made.sources, progress, obsolete)
    return replace(made, notes=(*made.notes, f"{replaced} older parts are gone")) if replaced else made


def _transcoded(models: Sequence[Path], options: Options) -> tuple[Net, tuple[Source, ...]]:
    """Caffe models as one net, in another precision if that is asked for; other options are for checkpoints."""
    if options != Options(dtype=options.dtype):
        raise NetError("a Caffe model can be given another format, --dtype or --max-file-size, and nothing else")
    net = open_models(models)
    files, checkpoints = split(models)
    if checkpoints and {source.name for source in net.sources} <= set(files):
        raise NetError("checkpoints and Caffe models cannot be parts of one model", advice="unless one is linked to it")
    if options.dtype is not None:
        net = precision.store(net, options.dtype)
        made_with = recorded(net.record)
        if made_with is not None:
            whole = json.loads(net.record)
            whole["options"]["dtype"] = options.dtype
            net = replace(net, record=identity.encoded(whole))
    return net, tuple(LocalFile.at(path) for path in models)


def _record(net: Net, options: Options, sources: Sequence[Source], align: int) -> bytes:
    """What `verify` needs to plan again. Of the sources only what stays the same wherever they lie."""
    identities = [{"name": os.path.basename(source.name), "size": source.size} for source in sources]
    made = {"streamexport": __version__, "options": asdict(options), "align": align, "sources": identities}
    return identity.encoded({**made, **identity.of(net)})


def made_with(model: Net, file: Path) -> Options:
    """The options that a model says it was made with, to be used without being asked for.

    NetError if it does not say; or if it names a callable: a file must not choose which code is run.
    """
    options = recorded(model.record)
    if options is None:
        advice = "say how it was made: --net, --names, --dtype, ..."
        raise NetError("has no record of how it was made", file=os.fspath(file), advice=advice)
    if modules.is_named(options.net):
        what = f"was made with --net {options.net}, which is code, and no file may choose what is run"
        raise NetError(what, file=os.fspath(file), advice=f"if you know that code, say so: --net {options.net}")
    return options


LISTS = {"end": (str,), "input_shape": (int,), "mean": (int, float), "std": (int, float)}
TYPES = {
    **dict.fromkeys(("softmax", "fold_batchnorm", "fold_input_scale", "in_place"), bool),
    **dict.fromkeys(LISTS, tuple),
    "eps": float,
}
"""Of the options in a record: of what lists are, and of what type others than strings."""


def recorded(record: bytes) -> Options | None:
    """The options that a model was made with; None if it does not say, or says what no version of ours would."""
    try:
        fields = json.loads(record.decode())["options"]
        end = fields.get("end")
        fields["end"] = [end] if isinstance(end, str) else end or []  # older ones hold a single name, or null
        if type(fields["net"]) is not str:
            return None
        for name, kinds in LISTS.items():
            if fields.get(name) is not None:
                if not all(type(number) in kinds for number in fields[name]):
                    return None
                fields[name] = tuple(fields[name])
        if any(type(value) is not TYPES.get(name, str) for name, value in fields.items() if value is not None):
            return None
        return Options(**fields)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _text(net: Net, options: Options, sources: Sequence[Source], record: bytes) -> str:
    lines = [f"{net.name}, made by streamexport {__version__}"]
    lines += [f"from {os.path.basename(source.name)}, {source.size} bytes" for source in sources]
    lines.append(f"dialect {options.dialect}, names {options.names}, weights {options.dtype or 'float32'}")
    if net.preprocessing:
        lines.append(f"input: {net.preprocessing}")
    lines += net.notes
    lines.append(f"record: {record.decode()}")
    return prototxt_text(net, "\n".join(one_line(line) for line in lines))


def _text_of_model(made: Plan) -> str:
    if all(layer.blobs and not layer.tops for layer in made.net.layers):
        raise NetError("HDF5 models hold no description of the net", advice="use the prototxt that came with it")
    names = ", ".join(os.path.basename(source.name) for source in made.sources)
    lines = [f"taken from {names} by streamexport {__version__}"]
    if identity.read(made.net.record):
        lines.append(f"record: {made.net.record.decode()}")
    return prototxt_text(made.net, "\n".join(map(one_line, lines)))


def _description(path: Path, made: Plan) -> File:
    assert made.prototxt is not None
    return File(os.fspath(path), Layout.of([Literal(made.prototxt.encode())]))


def _is_special(path: str) -> bool:
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


def _older_parts(made: Plan) -> Iterator[str]:
    """Parts of an older run that would stand among those of this one. OutputError for what is only called like them."""
    for path in outputs.older_parts(made.path, len(made.parts)):
        try:
            is_ours = bool(identity.read(open_model(path, sources=None).record))
        except Error:
            is_ours = False
        if not is_ours:
            advice = "move it away, or write to another name"
            raise OutputError("is called like a part of this model, and no part of ours", file=path, advice=advice)
        yield path
