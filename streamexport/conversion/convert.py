"""Checkpoints, or Caffe models, to model files: what `plan` says, moved to where it belongs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from ..errors import FormatError, OutputError
from ..families import official
from ..payload.pieces import Layout, Literal, Source
from ..sources import Path, stores
from ..transfer import files
from ..transfer.files import File
from ..transfer.movers import HERE, Mover
from ..transfer.moving import Progress
from .options import DEFAULTS, Options
from .plan import Plan, described, plan
from .targets import Special, Stored, Target

if TYPE_CHECKING:
    from distributed import Client


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
    check_hash: bool = False,
    resume: bool = False,
    dask: str | Client | None = None,
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
    check_hash : whether the SHA-256 of each input has to begin as its name says, `-3e41cc8a.pth`; it comes with the bytes if
        they are fetched from end to end, and else all of the file is read for it
    resume : whether what is cut off is kept beside the output, and gone on with by the next run that resumes
    dask : whose workers render it, in parts: the address of a scheduler, a client of one, or "local" for workers on this
        machine. They have to reach the input, and the output's directory, under the same names, or write to s3://
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
    if dask is not None:
        inputs = [path if isinstance(path, Source) or stores.is_url(path) else os.path.abspath(path) for path in inputs]
    made = plan(inputs, output, options, form=form, max_file_size=max_file_size, align=align)
    model, description, text = files_of(made, prototxt)
    digests = _digests(made.sources) if check_hash else {}
    planned(made.size + (description.layout.size if description is not None else 0))
    older = partial(made.target.older, len(model))
    replaced = len([*older()])
    in_order = made.target.in_order(model, description)
    with _mover(dask, made.target, resume) as mover:
        remarks = files.publish(in_order, made.sources, progress, older, digests, resume, force=force, mover=mover)
    gone = [f"{replaced} older parts are gone"] if replaced else []
    retries = [f"{source.retries} retries: {source.name}" for source in made.sources if source.retries]
    return replace(made, prototxt=text, notes=(*made.notes, *gone, *remarks, *retries))


def files_of(made: Plan, prototxt: Path | None) -> tuple[list[File], File | None, str | None]:
    """The files of a model, that of its description, and what stands in it; None if there is none."""
    model = [File(name, layout, made.align) for name, layout in made.parts]
    where = made.target.description if prototxt is None and made.prototxt is not None else prototxt
    if where is None:
        return model, None, made.prototxt
    text = made.prototxt if made.prototxt is not None else described(made)
    return model, File(os.fspath(where), Layout.of([Literal(text.encode())])), text


def _mover(dask: str | Client | None, target: Target, resume: bool) -> AbstractContextManager[Mover]:
    """Who moves the bytes. OutputError where only this process can."""
    if dask is None and resume and isinstance(target, Stored):
        from ..transfer.continuing import Continuing

        return nullcontext(Continuing())
    if dask is None:
        return nullcontext(HERE)
    if isinstance(target, Special) or resume:
        what = "is gone on with by one process" if resume else "is written by one process"
        raise OutputError(what, file=target.path, advice="leave out `dask=`, or name a file")
    from ..cluster.workers import workers

    return workers(dask)


def _digests(sources: Sequence[Source]) -> dict[Source, str]:
    """How the SHA-256 of each begins, by its name. FormatError if that says nothing."""
    found = {source: official.digest(os.path.basename(source.name)) for source in sources}
    for source, digest in found.items():
        if digest is None:
            what = "has a name that says nothing of its SHA-256, as -3e41cc8a.pth would"
            raise FormatError(what, file=source.name, advice="leave out `check_hash=`")
    return {source: digest for source, digest in found.items() if digest}
