"""streamexport verify: models against the checkpoint that they were made from."""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import Any

from ..convert import Options, recorded
from ..errors import VerifyError, one_line
from ..readers import open_model
from ..verify import verify
from . import arguments


def register(commands: Any) -> None:
    parser = commands.add_parser(
        "verify",
        help="every blob of a model against its checkpoint, bit for bit",
        description="Plans the conversion again, as the model records it, and compares every blob bit for bit."
        " Options override the record.",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT")
    parser.add_argument("models", nargs="+", metavar="MODEL", help="the model file, or all of its parts")
    arguments.add_options(parser)
    parser.add_argument("--quiet", action="store_true", help="say nothing unless it fails")
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    record = recorded(open_model(given.models[0]).record)
    chosen = arguments.chosen(given, record)
    options = None if record is None and chosen == Options() else chosen  # nothing known: the library says so
    start = time.monotonic()
    total = sum(os.stat(path).st_size for path in given.models)
    with arguments.progress(total, "verifying", given.quiet) as progress:
        report = verify([given.checkpoint], given.models, options, progress)
    for problem in report.problems:
        print(one_line(problem))
    if report.problems:
        found = arguments.plural(len(report.problems), "difference")
        raise VerifyError(f"{found} to {given.checkpoint}", file=", ".join(given.models), advice="convert it again")
    for name in report.not_finite:
        print(f"streamexport: {one_line(name)}: holds NaN or infinity, as the checkpoint does", file=sys.stderr)
    if not given.quiet:
        same = f"{arguments.plural(report.blobs, 'blob')} the same"
        print(f"streamexport: {same}: {arguments.speed(report.bytes, time.monotonic() - start)}", file=sys.stderr)
    return 0
