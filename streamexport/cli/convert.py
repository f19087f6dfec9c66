"""streamexport convert: checkpoints to Caffe models."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from .. import families
from ..caffe.formats import FORMATS
from ..conversion.convert import convert
from ..conversion.fetch import cached
from ..conversion.plan import Plan, plan
from ..conversion.targets import STDOUT
from ..errors import NetError, OutputError, one_line
from ..families import official
from ..sources import Path, open_source
from . import arguments
from .fetch import fetched
from .saying import say, shown


def register(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Converts a PyTorch checkpoint (legacy, zip, safetensors or a sharded set's index.json) to a Caffe model."
    )
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="CHECKPOINT",
        help="a file, or parts of one; or Caffe models, and what they are linked to; by default the official one of --net",
    )
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument(
        "-o",
        "--output",
        metavar="OUTPUT",
        help="the model file, or s3://BUCKET/KEY; DIR/ for a name after the net; - for stdout",
    )
    target.add_argument(
        "--save-root", metavar="DIR", help="make DIR and write NET.caffemodel, or .h5, and NET.prototxt there"
    )
    arguments.add_options(parser)
    parser.add_argument(
        "--format",
        choices=[form.name for form in FORMATS],
        help="by default what OUTPUT's suffix says: HDF5 for .h5; linked: HDF5 of links",
    )
    parser.add_argument("--prototxt", metavar="FILE", help="where the description goes (default: beside the output)")
    parser.add_argument(
        "--max-file-size",
        metavar="SIZE",
        type=arguments.size,
        help="cut into files of at most SIZE: bytes, 512MiB, or `caffe` for what stock Caffe loads",
    )
    parser.add_argument(
        "--align",
        metavar="BYTES",
        type=arguments.size,
        default=0,
        help="pad a caffemodel so that XFS and btrfs can share its blocks, of so many bytes, with the checkpoint: 4096",
    )
    parser.add_argument(
        "--force", action="store_true", help="replace objects that are in a store already, as files are"
    )
    arguments.add_check_hash(parser)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="keep what is cut off, and go on where an earlier run was that did so, too",
    )
    parser.add_argument(
        "--stream",
        action="store_true",
        help="where no CHECKPOINT is given, convert the official one as it comes, and keep no copy",
    )
    parser.add_argument(
        "--dask",
        metavar="ADDRESS",
        help="have the workers of this Dask scheduler write it, tcp://HOST:8786; `local` for workers on this machine",
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would be written, and who can load it")
    parser.add_argument("--quiet", action="store_true", help="say nothing unless it fails")
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    options = arguments.chosen(given)
    if given.save_root and options.net == families.AUTO:
        raise NetError("--save-root names files after the net", advice="name it with --net")
    output = given.output if given.output is not None else os.path.join(given.save_root, "")
    if output == STDOUT and sys.stdout.isatty() and not given.dry_run:
        raise OutputError("standard output is a terminal", advice="redirect it, or name a file with -o")
    inputs, check_hash = checkpoints(given, options.net)
    files: dict[str, Any] = {"form": given.format, "max_file_size": given.max_file_size, "align": given.align}
    if given.dry_run:
        _print_plan(plan(inputs, output, options, **files))
        return 0
    check_hash = check_hash or (given.stream and plan(inputs, output, options, **files).passes_whole)
    if given.save_root:
        os.makedirs(given.save_root, exist_ok=True)
    start = time.monotonic()
    with arguments.progress(0, "converting", given.quiet) as progress:
        made = convert(
            inputs,
            output,
            options,
            **files,
            prototxt=given.prototxt,
            force=given.force,
            check_hash=check_hash,
            resume=given.resume,
            dask=given.dask,
            progress=progress,
            planned=progress.expect,
        )
    given.is_done = True  # should somebody interrupt what is still to be said
    if not given.quiet:
        for note in made.notes:
            say(note)
        first, *others = (name if name != STDOUT else "standard output" for name, _ in made.parts)
        names = first + (f" and {arguments.plural(len(others), 'more part')}" if others else "")
        line = f"{names}: {arguments.speed(made.size, time.monotonic() - start)}"
        say(line)
        if given.stream and not check_hash:
            say(
                "its SHA-256 was not looked at, which --check-hash does: not all of the checkpoint was fetched in its order"
            )
    return 0


def checkpoints(given: argparse.Namespace, net: str) -> tuple[Sequence[Path], bool]:
    """What is to be converted, by default the net's official checkpoint, and whether its hash is still to be looked at."""
    if given.inputs and given.stream:
        what = "--stream converts the official checkpoint, and another one is given"
        raise NetError(what, advice="leave out either; a URL is never copied")
    if given.inputs:
        return given.inputs, given.check_hash
    if net == families.AUTO:
        advice = (
            "name the file that torch.save wrote, or a net, whose official checkpoint is fetched then: `net=resnet50`"
        )
        raise NetError("no checkpoint is given", advice=advice)
    url = official.url(net)
    if given.stream or (given.dry_run and not os.path.exists(cached(url))):
        return [open_source(url)], given.check_hash
    return [fetched(net, given.check_hash, given.quiet)], False


def _print_plan(made: Plan) -> None:
    for layer in made.net.layers:
        shapes = " ".join("x".join(map(str, blob.shape)) for blob in layer.blobs)
        size = sum(blob.values.size for blob in layer.blobs)
        print(f"{one_line(layer.name):<40} {one_line(layer.type):<14} {size:>12}  {shapes}".rstrip())
    for name, layout in made.parts:
        print(f"{one_line(name)}: {layout.size} bytes, {arguments.plural(len(layout.pieces), 'piece')}")
    for note in made.notes:
        print(shown(note))
