"""URLs and the stores behind them, through obstore: who holds an object, and what is said when that fails.

    http, https      any server that answers ranges
    s3, gs, az       bucket (container) and key; credentials and end points by the environment, as the stores' own tools take
    memory           held by this process

Nothing of a URL but scheme, host and path is ever shown or recorded: its query may be a signature, its user a password.
"""

from __future__ import annotations

import os
import re
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from ..errors import Error, OutputError, SourceError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

SCHEMES = ("http", "https", "s3", "gs", "az", "memory")
WRITTEN = ("s3", "gs", "az", "memory")
"""Of these, what takes objects."""
RETRIES = 10
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")

STALLED = timedelta(seconds=30)
"""How long a server may send nothing."""
LONGEST_ANSWER = timedelta(minutes=10)
"""How long one answer may take: 8 MiB, at 14 kB/s."""


@dataclass(frozen=True)
class Place:
    """An object, whether or not it exists: its store, its key in it, and its name for people."""

    store: ObjectStore
    key: str
    name: str


def is_url(name: str | os.PathLike[str]) -> bool:
    """Whether a name is a URL's rather than a path."""
    return _URL.match(os.fspath(name)) is not None


def shown(url: str) -> str:
    """A URL without what may be secret in it."""
    scheme, _, rest = url.partition("://")
    host, slash, path = re.split(r"[?#]", rest)[0].partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def beside(url: str, file: str) -> str:
    """The URL of another object under the same path; a query, which may be what lets one in, stays."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=parts.path.rpartition("/")[0] + "/" + file))


def to_write(url: str) -> Place:
    """What a URL names that an object can be written to. OutputError if that is nothing.

    obstore sends requests again by itself then: nobody else knows which of an upload's may be.
    """
    scheme = url.partition("://")[0].lower()
    if scheme not in WRITTEN:
        advice = f"what can be written to: {', '.join(WRITTEN)}, and files"
        raise OutputError(f"there is nothing here that writes to {scheme}://", file=shown(url), advice=advice)
    return at(url, OutputError, retries=RETRIES)


def at(url: str, kind: type[Error] = SourceError, retries: int = 0) -> Place:
    """What a URL names; nobody is asked yet. An error of `kind` if it can be nothing's name."""
    name = shown(url)
    try:
        parts = urlsplit(url)
        _ = parts.port  # ValueError if it is no number
    except ValueError:
        raise _nameless(name, kind) from None
    if parts.scheme not in SCHEMES:
        what = f"there is nothing here that reads {parts.scheme}://"
        raise kind(what, file=name, advice=f"what can be read: {', '.join(SCHEMES)}")
    key = unquote(parts.path.rpartition("/")[2] if parts.scheme.startswith("http") else parts.path.lstrip("/"))
    if not {"", ".", ".."}.isdisjoint(key.split("/")) or (parts.scheme != "memory" and not parts.hostname):
        raise _nameless(name, kind)
    with speaking_of(name, kind):
        return Place(_store(_of_store(parts), retries), key, name)


def _nameless(name: str, kind: type[Error]) -> Error:
    advice = "name one, as in s3://bucket/model.pth; no part of it may be empty, . or .."
    return kind("is no object's name", file=name, advice=advice)


def _of_store(parts: SplitResult) -> str:
    """The part of a URL that says which store it is."""
    if not parts.scheme.startswith("http"):
        return f"{parts.scheme}://{parts.netloc if parts.scheme != 'memory' else ''}"
    return urlunsplit(parts._replace(path=parts.path.rpartition("/")[0], fragment=""))


@cache
def _memory() -> ObjectStore:
    from obstore.store import MemoryStore

    return MemoryStore()


@cache
def _store(url: str, retries: int) -> ObjectStore:
    """One for all objects of a store, since it holds the connections."""
    from obstore import store as stores

    scheme, _, name = url.partition("://")
    if scheme == "memory":
        return _memory()
    settings: dict[str, Any] = {
        "client_options": {
            "timeout": LONGEST_ANSWER,
            "read_timeout": STALLED,
            "connect_timeout": timedelta(seconds=5),
            "allow_http": scheme == "http" or _endpoint().startswith("http:"),
        },
        "retry_config": {"max_retries": retries},  # of reads none: that is done where it can be counted
    }
    if scheme.startswith("http"):
        settings["client_options"]["default_headers"] = _authorization(urlsplit(url))
        return stores.HTTPStore(url, **settings)
    if scheme == "s3":
        return stores.S3Store(name, **settings)
    return stores.GCSStore(name, **settings) if scheme == "gs" else stores.AzureStore(name, **settings)


def _authorization(parts: SplitResult) -> dict[str, str]:
    """What says who a URL's user is: obstore leaves that out, and redirects to other hosts leave this out."""
    if parts.username is None:
        return {}
    word = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"Authorization": f"Basic {b64encode(word.encode()).decode()}"}


def _endpoint() -> str:
    return (
        os.environ.get("AWS_ENDPOINT_URL_S3")
        or os.environ.get("AWS_ENDPOINT_URL")
        or os.environ.get("AWS_ENDPOINT", "")
    )


@contextmanager
def speaking_of(name: str, kind: type[Error] = SourceError) -> Iterator[None]:
    """Makes one line, and an error of `kind`, of what obstore says about the object of that name."""
    from obstore.exceptions import BaseError

    try:
        yield
    except (BaseError, OSError) as error:  # its writers raise what Python's files do
        if isinstance(error, Error):
            raise
        what, advice = said(error, name)
        raise kind(what, file=name, advice=advice) from None


def said(error: Exception, name: str) -> tuple[str, str | None]:
    """What obstore's error says of the object, without the URL that may stand in it, and what to do about it."""
    text = _without_urls(error)
    for clue, what, advice in (*_CLUES, *_PASSING):
        if re.search(clue, text):
            return what, advice(name) if callable(advice) else advice
    if status := re.search(r"status code: (\d{3}[A-Za-z ]*)", text):
        is_denied = status[1][:3] in ("401", "403") and not name.startswith("http")
        return f"the server answers {status[1].strip()}", _DENIED if is_denied else _ADVICE.get(status[1][:3])
    first = text.split("\n\nDebug source")[0].splitlines()[0]
    return f"cannot be had: {first.rpartition(' - ')[2].removeprefix('HTTP error: ')}", None


def _without_urls(error: Exception) -> str:
    text = re.sub(r"\w+://\S*(latest/api|computeMetadata|metadata/identity)\S*", "the metadata service", str(error))
    return re.sub(r"\w+://\S+", "the server", text)


def is_passing(error: Exception) -> bool:
    """Whether what obstore's error says may be over when the same is asked again."""
    from obstore.exceptions import GenericError

    text = _without_urls(error)
    if not isinstance(error, GenericError) or any(re.search(clue, text) for clue, *_ in _CLUES):
        return False
    status = re.search(r"status code: (\d{3})", text)
    return status is None or status[1] in ("408", "429") or status[1][0] == "5"


def is_busy(error: Exception) -> bool:
    """Whether the server says that it is asked for too much."""
    return re.search(r"status code: (429|503)", _without_urls(error)) is not None


def is_unreachable(error: Exception) -> bool:
    """Whether nobody answered at all: at the first request, the name is wrong rather than the net slow."""
    return re.search(r"dns error|Connection refused|ConnectionRefused", _without_urls(error)) is not None


def _credentials(name: str) -> str:
    wanted = {
        "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true for what is public",
        "gs": "GOOGLE_APPLICATION_CREDENTIALS, or GOOGLE_SKIP_SIGNATURE=true for what is public",
        "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or AZURE_SKIP_SIGNATURE=true for what is public",
    }
    return f"set {wanted.get(name.partition('://')[0], 'credentials')} in the environment"


_EXPIRED = "it may have expired, or need credentials: ask for a new link"
_DENIED = "look at the credentials in the environment, and at what they are allowed"
_ADVICE = {
    "401": _EXPIRED,
    "403": _EXPIRED,
    "404": "look for another name",
    "410": "look for another name",
    "416": "it is empty, or smaller than it was",
}
_CLUES: tuple[tuple[str, str, Any], ...] = (
    (
        r"the metadata service|token request|Account must be specified",
        "no credentials are there",
        _credentials,
    ),
    (r"NoSuchBucket|ContainerNotFound|specified bucket does not exist", "its bucket does not exist", "make it first"),
    (r"Range request not supported", "the server does not send ranges, but the whole", "fetch the file and name it"),
    (r"Requested \d+\.\.\d+, got", "the server sends another range than was asked for", "fetch the file and name it"),
    (
        r"error: (Content-\w+ [Hh]eader|Failed to parse value|Invalid last modified|Received header)",
        "the server's answer lacks a header that tells what it is, or has it malformed",
        "fetch the file and name it",
    ),
    (
        r"InvalidCertificate\(|CertificateError|UnknownIssuer",
        "its server's certificate is not to be trusted",
        "see SSL_CERT_FILE",
    ),
    (
        r"InvalidMessage\(|AlertReceived\(|PeerIncompatible\(",
        "its server does not speak TLS as it has to",
        "is it http://?",
    ),
    (r"hyper::Error\(\s*(UnexpectedMessage|Parse)", "what answers there does not speak HTTP", "look at the port"),
    (r"following redirect|without LOCATION", "the server sends from one place to the next, and to none", None),
    (r"dns error|failed to lookup", "its host is not known", "look at the name"),
)
"""What tells in obstore's text that asking again is no use: a clue, what it is, what to do about it."""
_PASSING = (
    (r"kind: Timeout", "its server does not answer, or stops in the middle of an answer", "try again later"),
    (r"kind: Interrupted", "its server breaks off in the middle of its answers", "try again later"),
    (r"kind: ConnectionRefused", "its host takes no connections there", "look at the host and its port"),
    (r"kind: Connect,", "its host cannot be reached", "look at the name, and at HTTPS_PROXY where there is a proxy"),
)
"""The same of what may be over when the same is asked again."""
