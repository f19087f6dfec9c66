"""streamexport fetch: official checkpoints, into torch's cache."""

from __future__ import annotations

import argparse
import time

from ..conversion.fetch import fetch
from ..families import official
from . import arguments
from .saying import say


def register(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Downloads the official checkpoint of a built-in net to where torch.hub keeps them ($TORCH_HOME, by default"
        " ~/.cache/torch), unless it is there, and prints its path."
    )
    parser.add_argument("net", metavar="NET", help="a built-in net (`streamexport nets`)")
    arguments.add_check_hash(parser)
    parser.add_argument("--quiet", action="store_true", help="print nothing but the path unless it fails")
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    print(fetched(given.net, given.check_hash, given.quiet))
    return 0


def fetched(net: str, check_hash: bool, is_quiet: bool) -> str:
    """The path of a net's official checkpoint, which is fetched while people watch."""
    start, sizes = time.monotonic(), list[int]()
    with arguments.progress(0, "fetching", is_quiet) as progress:

        def planned(size: int) -> None:
            if not is_quiet:
                say(f"fetching {official.url(net)}, {size} bytes")
            sizes.append(size)
            progress.expect(size)

        path = fetch(net, check_hash=check_hash, progress=progress, planned=planned)
    if sizes and not is_quiet:
        say(f"{path}: {arguments.speed(sizes[0], time.monotonic() - start)}")
    return path
