"""Official checkpoints, downloaded to where torch.hub keeps them, so that nobody fetches one twice."""

from __future__ import annotations

import os

from ..errors import OutputError
from ..families import official
from ..payload.pieces import Extent, Layout
from ..sources import open_source
from ..transfer import files
from ..transfer.files import File
from ..transfer.moving import Progress
from ..transfer.staging import speaking_of


def fetch(
    net: str,
    *,
    check_hash: bool = False,
    progress: Progress = lambda _: None,
    planned: Progress = lambda _: None,
) -> str:
    """Downloads the official checkpoint of a built-in net, unless it is there; where it is.

    It appears, whole and synced, once its SHA-256 has been found to begin as its name says. What is cut off is gone on with.

    Parameters
    ----------
    net : a built-in net
    check_hash : whether the SHA-256 of one that is there already is looked at, too; torch does not
    progress : told of every so many bytes fetched
    planned : told before of how many there are

    Raises
    ------
    NetError : there is no such net, or nobody published weights of it
    SourceError : it cannot be had, or has another SHA-256
    OutputError : there is no room for it, or nothing can be written there
    """
    url = official.url(net)
    path = cached(url)
    digest = official.digest(os.path.basename(path))
    assert digest is not None
    if os.path.exists(path):
        if check_hash:
            files.check_digests({open_source(path): digest})
        return path
    source = open_source(url)
    planned(source.size)
    whole = File(path, Layout((Extent(source, 0, source.size),)))
    try:
        with speaking_of(path):
            os.makedirs(os.path.dirname(path), exist_ok=True)
        files.publish([whole], (), progress, digests={source: digest}, resume=True)
    except OutputError as error:
        error.advice = error.advice or "set TORCH_HOME to a directory that can be written to"
        raise
    return path


def cached(url: str) -> str:
    """Where torch.hub keeps the file behind a URL, whether or not it is there. OutputError if a directory is."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.path.expanduser(os.environ.get("TORCH_HOME") or os.path.join(cache, "torch"))
    path = os.path.join(home, "hub", "checkpoints", os.path.basename(url))
    if os.path.isdir(path):
        raise OutputError("is a directory, where torch keeps a checkpoint", file=path, advice="move it away")
    return path
