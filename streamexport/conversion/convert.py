"""Checkpoints, or Caffe models, to model files: what `plan` says, moved to where it belongs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from .. import identity, outputs, transfer
from ..errors import Error, OutputError
from ..extents import Layout, Literal
from ..files import STDOUT as STDOUT_DESCRIPTOR
from ..files import File, is_stdout, publish
from ..readers import open_model
from ..transfer import Progress
from .options import DEFAULTS, Options
from .plan import Path, Plan, described, plan

STDOUT = "-"


def convert(
    inputs: Sequence[Path],
    output: Path,
    options: Options = DEFAULTS,
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
        made = replace(made, prototxt=described(made))
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
