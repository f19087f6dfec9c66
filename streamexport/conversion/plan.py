"""A conversion up to its last byte: headers are read, nothing is written.

What was asked for is recorded in the model, so that `verify` can plan the same again.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .. import families
from .._version import __version__
from ..caffe import formats, identity
from ..caffe.formats import Format
from ..caffe.models import open_models
from ..caffe.prototxt import prototxt as prototxt_text
from ..errors import NetError, OutputError, one_line
from ..net.graph import Net
from ..passes import precision
from ..payload.pieces import Layout, Source
from ..sources import Path, open_source
from ..sources.signatures import is_model, split
from ..tracing import modules
from . import record, targets
from .bound import bind
from .consumers import Written, runs_in, types
from .flags import as_flags
from .options import DEFAULTS, Options
from .targets import Target


@dataclass(frozen=True)
class Plan:
    """A conversion up to its last byte, before the first one moves.

    Attributes
    ----------
    net : what is written, named and cut
    target : where it goes
    format : caffemodel, hdf5 or linked
    prototxt : its text; None for a model whose layers are not known
    parts : path and layout of each model file
    sources : what is read
    notes : what the user should know: what was recognised, left out, or limits who can read the result
    align : modulus at which offsets of payload agree with the checkpoint's, 0 if they need not
    """

    net: Net
    target: Target
    format: str
    prototxt: str | None
    parts: tuple[tuple[str, Layout], ...]
    sources: tuple[Source, ...]
    notes: tuple[str, ...]
    align: int = 0

    @property
    def path(self) -> str:
        """The model file; where it is cut into parts, what these are numbered after."""
        return self.target.path

    @property
    def size(self) -> int:
        """Bytes of all model files."""
        return sum(layout.size for _, layout in self.parts)

    @property
    def passes_whole(self) -> bool:
        """Whether the only input is fetched from end to end, so that its SHA-256 costs no request more."""
        from ..transfer.fetching import is_scattered

        return self.target.at_offsets and len(self.parts) == 1 and is_scattered(self.parts[0][1])


def plan(
    inputs: Sequence[Path],
    output: Path,
    options: Options = DEFAULTS,
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
    place = targets.at(output, max_file_size is not None)
    given = [open_source(path) for path in inputs]
    if any(map(is_model, given)):
        net, sources = _transcoded(given, options)
        made, text = net.record, None
    else:
        bound = bind(given, options)
        net, sources = bound.net, bound.sources
        made = record.encode(net, options, sources, align)
        text = _text(net, options, sources, made)
    made = identity.of_part(net, made, max_file_size, __version__)
    chosen, layouts = _laid_out(net, made, (formats.named(form),) if form else place.formats, max_file_size, align)
    is_named = options.net == families.AUTO or modules.is_named(options.net)  # else the user has said what it is called
    target = place.target((net.name or pathlib.Path(given[0]).stem) if is_named else options.net, chosen)
    if align and (chosen.aligned is None or max_file_size is not None):
        raise OutputError("only a caffemodel in one file can be aligned", file=target.path, advice="leave out `align=`")
    target.refuse(chosen, align)
    parts = tuple(zip(target.names(len(layouts)), layouts, strict=True))
    left_to_caller = [_expected(net)] if net.preprocessing else []
    sizes = [layout.size for layout in layouts]
    written = Written(options.dialect, chosen, options.dtype == "float16", sizes, types(net.layers))
    readers = runs_in(written) if text is not None else ()  # of a model's own net nothing is known
    notes = (*net.notes, *left_to_caller, *readers)
    return Plan(net, target, chosen.name, text, parts, sources, notes, align)


def _laid_out(
    net: Net, record: bytes, candidates: Sequence[Format], limit: int | None, align: int
) -> tuple[Format, list[Layout]]:
    """The first of the formats in which stock Caffe loads the net's file, else the last; and the file, or its parts."""
    *first, last = candidates
    for form in first:
        layouts = form.layouts(net, record, limit=limit, align=align)
        if limit is not None or form.holds(layouts[0].size):
            return form, layouts
    return last, last.layouts(net, record, limit=limit, align=align)


def _transcoded(models: Sequence[Source], options: Options) -> tuple[Net, tuple[Source, ...]]:
    """Caffe models as one net, in another precision if that is asked for; other options are for checkpoints."""
    if options != Options(dtype=options.dtype):
        raise NetError("a Caffe model can be given another format, `dtype=` or `max_file_size=`, and nothing else")
    net = open_models(models)
    files, checkpoints = split(models)
    if checkpoints and set(net.sources) <= set(files):
        raise NetError("checkpoints and Caffe models cannot be parts of one model", advice="unless one is linked to it")
    if options.dtype is not None:
        net = precision.store(net, options.dtype)
        net = replace(net, record=record.with_dtype(net.record, options.dtype))
    return net, tuple(models)


def _text(net: Net, options: Options, sources: Sequence[Source], made: bytes) -> str:
    lines = [f"{net.name}, made by streamexport {__version__}"]
    lines += [f"from {os.path.basename(source.name)}, {source.size} bytes" for source in sources]
    lines.append(f"dialect {options.dialect}, names {options.names}, weights {options.dtype or 'float32'}")
    if net.preprocessing:
        lines.append(_expected(net))
    lines += map(as_flags, net.notes)
    lines.append(f"record: {made.decode()}")
    return prototxt_text(net, "\n".join(one_line(line) for line in lines))


def _expected(net: Net) -> str:
    name = f" {net.image[0]}" if len(net.inputs) > 1 else ""
    return f"input{name}: {net.preprocessing}"


def described(made: Plan) -> str:
    if all(layer.blobs and not layer.tops for layer in made.net.layers):
        raise NetError("HDF5 models hold no description of the net", advice="use the prototxt that came with it")
    names = ", ".join(os.path.basename(source.name) for source in made.sources)
    lines = [f"taken from {names} by streamexport {__version__}"]
    if identity.read(made.net.record):
        lines.append(f"record: {made.net.record.decode()}")
    return prototxt_text(made.net, "\n".join(map(one_line, lines)))
