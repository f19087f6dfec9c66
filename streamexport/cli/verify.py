"""streamexport verify: models against the checkpoint that they were made from, its numbers and what it computes."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from ..caffe.models import open_model
from ..checking.parity import Difference, parity
from ..checking.verify import verify
from ..conversion import record
from ..conversion.bound import bind
from ..conversion.options import Options
from ..errors import AbsentError, EngineError, NetError, VerifyError, one_line
from ..net.fitting import Bound
from ..payload.pieces import Source
from ..running.engines import CAFFE_PYTHON, ENGINES
from ..sources import open_source
from ..sources.signatures import is_model
from . import arguments
from .saying import say

ALL = "all"
"""Every engine that is there, one after the other."""


def register(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Plans the conversion again, as the model records it, and compares every blob bit for bit."
        " Options override the record."
    )
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="the checkpoint, or several that are parts of one, and the model file, or all of its parts",
    )
    arguments.add_options(parser)
    group = parser.add_argument_group("what it computes")
    group.add_argument("--forward", action="store_true", help="run it, and torch's own module, on the same input")
    group.add_argument("--layers", action="store_true", help="print how far each layer is from torch")
    group.add_argument(
        "--engine", choices=(*ENGINES, ALL), default="stream", help="who computes (default: stream, our own)"
    )
    group.add_argument(
        "--caffe-python", metavar="PATH", help=f"a Python that can import Caffe (default: what {CAFFE_PYTHON} names)"
    )
    group.add_argument("--prototxt", metavar="FILE", help="the model's description (default: the one beside it)")
    parser.add_argument("--quiet", action="store_true", help="say nothing unless it fails")
    parser.set_defaults(run=run, misused=parser.error)


def run(given: argparse.Namespace) -> int:
    if len(given.files) < 2:
        given.misused("a checkpoint and a model are required")
    checkpoints, models = _told_apart(given.files)
    model = open_model(models[0], checkpoints)
    recorded = record.decode(model.record)
    options = arguments.chosen(given, recorded)
    if recorded is not None or ("net" not in vars(given) and options == Options()):
        record.trusted(model, models[0], vars(given))  # refuses what the model must not say, or does not say at all
    start = time.monotonic()
    total = sum(model.size for model in models)
    with arguments.progress(total, "verifying", given.quiet) as progress:
        bound = bind(checkpoints, options)
        report = verify(checkpoints, models, options, progress, bound)
    for problem in report.problems:
        print(one_line(problem))
    if report.problems:
        found = arguments.plural(len(report.problems), "difference")
        raise VerifyError(f"{found} to {_named(checkpoints)}", file=_named(models), advice="convert it again")
    for name in report.not_finite:
        say(f"{name}: holds NaN or infinity, as the checkpoint does")
    same = arguments.plural(report.blobs, "blob")
    lines = [f"{same} the same: {arguments.speed(report.bytes, time.monotonic() - start)}"]
    failed: list[str] = []
    if given.forward and given.engine == ALL:
        for engine in ENGINES:
            try:
                lines.append(_compared(given, engine, checkpoints, models, options, bound))
            except AbsentError as absent:
                lines.append(f"{engine} was not asked: {absent}")
            except (EngineError, VerifyError) as error:
                failed.append(f"{engine}: {error}")
    elif given.forward:
        lines.append(_compared(given, given.engine, checkpoints, models, options, bound))
    for line in () if given.quiet else lines:
        say(line)
    if failed:
        raise VerifyError("; ".join(failed))
    return 0


def _told_apart(files: Sequence[str]) -> tuple[list[Source], list[Source]]:
    """Checkpoints and models, each looked at once. What is neither counts as a model that is refused by who reads it."""
    named = [open_source(file) for file in files]
    models = [source for source in named if is_model(source)] or named[1:]
    checkpoints = [source for source in named if source not in models]
    if not checkpoints:
        raise NetError("is a model, and so are the others", file=files[0], advice="name what they were made from, too")
    return checkpoints, models


def _named(sources: Sequence[Source]) -> str:
    return ", ".join(source.name for source in sources)


def _compared(
    given: argparse.Namespace,
    engine: str,
    checkpoints: Sequence[Source],
    models: Sequence[Source],
    options: Options,
    bound: Bound,
) -> str:
    """Says how far the model's numbers are from torch's. VerifyError if that is more than rounding."""
    start = time.monotonic()
    found = parity(checkpoints, models, given.prototxt, options, engine, given.caffe_python, bound)
    if given.layers:
        for difference in found.differences:
            print(_row(difference))
    if found.departed is not None:
        what = (
            f"departs from torch by {found.departed.relative:.1e} of its largest value ({found.departed.largest:.3g})"
        )
        where = f"layer {found.departed.layer}, {found.departed.torch} in torch"
        advice = "its blobs are right, and so are the layers before it; --layers prints all of them"
        raise VerifyError(what, file=_named(models), tensor=where, advice=advice)
    last = found.differences[-1]
    unjudged = f"; {', '.join(found.unjudged)} not compared: no module's result" if found.unjudged else ""
    return (
        f"{arguments.plural(len(found.differences), 'layer')} as torch computes them, {last.blob} within {last.largest:.2g},"
        f" {last.relative:.1e} of its largest value{unjudged}; {found.engine}, {time.monotonic() - start:.1f} s,"
        f" peak memory {arguments.peak_memory() / 2**20:.1f} MiB"
    )


def _row(difference: Difference) -> str:
    end = "" if difference.holds else "  departs"
    name = one_line(f"{difference.blob:<40} {difference.torch:<40}")
    return f"{name} {difference.largest:>10.2e} {difference.relative:>10.2e}{end}"
