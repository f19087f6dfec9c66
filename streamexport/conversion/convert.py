"""Checkpoints, or Caffe models, to model files: what `plan` says, moved to where it belongs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from ..payload.pieces import Layout, Literal
from ..sources import Path
from ..transfer import files
from ..transfer.files import File
from ..transfer.moving import Progress
from .options import DEFAULTS, Options
from .plan import Plan, described, plan


def convert(
    inputs: Sequence[Path],
    output: Path,
    options: Options = DEFAULTS,
    *,
    form: str | None = None,
    prototxt: Path | None = None,
    max_file_size: int | None = None,
    align: int = 0,
    force: bool = False,
    progress: Progress = lambda _: None,
    planned: Progress = lambda _: None,
) -> Plan:
    """Converts checkpoints, or Caffe models, to a Caffe model. All files appear, complete and synced, or none.

    Parameters
    ----------
    inputs, options, form, max_file_size, align : see `plan`; parts are called NAME-00001-of-00003.caffemodel
    output : the model file, a directory for it, "-" for standard output, or the URL of an object in a store: s3://BUCKET/KEY
    prototxt : where the description goes; by default beside the output, and nowhere for "-" or where a model is the input
    force : whether objects that are in a store already may be replaced; files are replaced in any case
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
    made = plan(inputs, output, options, form=form, max_file_size=max_file_size, align=align)
    where = made.target.description if prototxt is None and made.prototxt is not None else prototxt
    description = None
    if where is not None:
        made = made if made.prototxt is not None else replace(made, prototxt=described(made))
        description = File(os.fspath(where), Layout.of([Literal((made.prototxt or "").encode())]))
    model = [File(name, layout, made.align) for name, layout in made.parts]
    planned(made.size + (description.layout.size if description is not None else 0))
    older = partial(made.target.older, len(model))
    replaced = len([*older()])
    files.publish(made.target.in_order(model, description), made.sources, progress, older, force=force)
    notes = (f"{replaced} older parts are gone",) if replaced else ()
    return replace(made, notes=(*made.notes, *notes))
