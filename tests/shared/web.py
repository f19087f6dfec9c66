"""A web server of the tests' own, on loopback, that gives bytes by range and goes wrong as it is told.

    with serving(data, first(2, status(503)), weak_etag) as server:
        ... server.url, server.requests

A fault changes the answer to a request before it is sent. `first` and `after` say to which requests it happens.
"""

from __future__ import annotations

import os
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from urllib.parse import urlsplit

MODIFIED = "Wed, 25 Nov 2026 08:00:00 GMT"
HALF = 0.5


@dataclass(frozen=True)
class Request:
    """What a client asked for; the names of headers in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]


@dataclass
class Answer:
    """What a request is answered with: first as it should be, then as the faults leave it."""

    request: Request
    data: bytes | None
    """The whole file; None if none has this name."""
    etag: str | None = '"one"'
    modified: str | None = MODIFIED
    ranges: bool = True
    status: int | None = None
    """Instead of the file, if it is given."""
    shown: Callable[[int, int, int], str] = "bytes {}-{}/{}".format
    """Content-Range of the first byte, the last byte and the file's size."""
    headers: dict[str, str | None] = field(default_factory=dict)
    """These are set, or left out if they are None, whatever is true."""
    share: float = 1
    """How much of the body is sent before the end."""
    pieces: int = 1
    pause: float = 0
    """The body is sent in so many pieces, with so many seconds before each."""
    end: str = "keep"
    """What becomes of the connection: keep, close, reset, stall."""

    def made(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body."""
        status, headers, body = self._file() if self.status is None else (self.status, {}, b"")
        headers["Content-Length"] = str(len(body))
        changed = {**headers, **self.headers}
        return status, {name: value for name, value in changed.items() if value is not None}, body

    def _file(self) -> tuple[int, dict[str, str], bytes]:
        if self.data is None:
            return 404, {}, b"there is no such file"
        asked, size = self.request.headers, len(self.data)
        known = {"ETag": self.etag, "Last-Modified": self.modified, "Accept-Ranges": "bytes" if self.ranges else None}
        headers = {name: value for name, value in known.items() if value}
        match = asked.get("if-match")
        if match not in (None, "*") and (match != self.etag or match.startswith("W/")):
            return 412, headers, b""
        if asked.get("if-unmodified-since", self.modified) != self.modified:
            return 412, headers, b""
        if "range" not in asked or not self.ranges:
            return 200, headers, self.data
        low, high = asked["range"].removeprefix("bytes=").split("-")
        start = int(low) if low else max(size - int(high), 0)
        stop = min(int(high) + 1, size) if low and high else size
        if start >= stop:
            return 416, {"Content-Range": f"bytes */{size}"}, b""
        return 206, {**headers, "Content-Range": self.shown(start, stop - 1, size)}, self.data[start:stop]


Fault = Callable[[Answer], None]


def first(times: int, fault: Fault) -> Fault:
    """A fault of the first requests only."""
    number = count()
    return lambda answer: fault(answer) if next(number) < times else None


def after(times: int, fault: Fault) -> Fault:
    """A fault of all requests but the first."""
    number = count()
    return lambda answer: fault(answer) if next(number) >= times else None


def changed(**fields: object) -> Fault:
    """Any other answer: its fields."""

    def change(answer: Answer) -> None:
        for name, value in fields.items():
            assert hasattr(answer, name)
            setattr(answer, name, value)

    return change


def header(name: str, value: str | None) -> Fault:
    """A header as it is given, or left out."""
    return lambda answer: answer.headers.update({name: value})


def status(code: int, **headers: str) -> Fault:
    """No file but a status; `retry_after="1"` is a header."""

    def change(answer: Answer) -> None:
        answer.status = code
        answer.headers.update({name.replace("_", "-"): value for name, value in headers.items()})

    return change


def redirect(location: str | None) -> Fault:
    """Whoever is not there is sent there, the same query behind it; None: nowhere."""

    def change(answer: Answer) -> None:
        path, _, query = answer.request.target.partition("?")
        if location != path:
            to = f"{location}?{query}" if query else location
            status(302)(answer)
            answer.headers["Location"] = to if location else None

    return change


def loop(answer: Answer) -> None:
    """A redirect to itself."""
    status(302, location=answer.request.target)(answer)


def needs(name: str, value: str) -> Fault:
    """401 without this header."""
    return lambda answer: None if answer.request.headers.get(name.lower()) == value else status(401)(answer)


def signed(query: str) -> Fault:
    """403 to another query."""
    return lambda answer: None if urlsplit(answer.request.target).query == query else status(403)(answer)


def no_head(code: int) -> Fault:
    """HEAD is refused, as where the URL is signed for GET."""
    return lambda answer: status(code)(answer) if answer.request.method == "HEAD" else None


def grown(answer: Answer) -> None:
    """A file that is longer than it was; the validators still agree."""
    answer.data = (answer.data or b"") + b"more"


reset = changed(share=HALF, end="reset")
cut = changed(share=HALF, end="close")
stall = changed(share=HALF, end="stall")
silence = changed(share=0, end="stall")
closed_between = changed(end="close")
no_ranges = changed(ranges=False)
no_etag = changed(etag=None)
no_validators = changed(etag=None, modified=None)
weak_etag = changed(etag='W/"one"')
another_etag = changed(etag='"two"')
gzipped = header("Content-Encoding", "gzip")
shifted = changed(shown=lambda low, high, size: f"bytes {low + 1}-{high + 1}/{size}")
of_another_total = changed(shown=lambda low, high, size: f"bytes {low}-{high}/{size + 1}")
wider = changed(shown=lambda low, high, size: f"bytes {low}-{high + 1}/{size}")
no_content_length = changed(headers={"Content-Length": None}, end="close")


def drip(pieces: int, pause: float) -> Fault:
    """Bytes all the time, but few: each answer takes `pieces * pause` seconds."""
    return changed(pieces=pieces, pause=pause)


class Server(ThreadingHTTPServer):
    """A running server. `requests` are those that came, in this order, whatever became of them."""

    daemon_threads = True
    block_on_close = True
    request_queue_size = 128

    def __init__(self, files: Mapping[str, bytes], faults: tuple[Fault, ...], tls: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.faults, self.tls = files, faults, tls
        self.requests: list[Request] = []
        self.closing = threading.Event()
        self.errors: list[BaseException] = []
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()

    @property
    def url(self) -> str:
        """Of the only file, or the first."""
        return self.at(next(iter(self.files)))

    def at(self, name: str) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.server_port}/{name}"

    def answer(self, request: Request) -> Answer:
        with self._lock:
            self.requests.append(request)
            answer = Answer(request, self.files.get(os.path.basename(urlsplit(request.target).path)))
            for fault in self.faults:
                fault(answer)
            return answer

    def finish_request(self, request: socket.socket, client_address: object) -> None:  # type: ignore[override]
        try:
            if self.tls:
                request = self.tls.wrap_socket(request, server_side=True)
            self._connections.add(request)
            super().finish_request(request, client_address)  # type: ignore[arg-type]
        except OSError:
            pass  # clients may go away
        except Exception as error:
            self.errors.append(error)
        finally:
            self._connections.discard(request)
            request.close()

    def close(self) -> None:
        self.closing.set()
        self.shutdown()
        for connection in tuple(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.server.answer(Request(self.command, self.path, headers))
        status, sent, body = answer.made()
        self.send_response_only(status)
        for name, value in sent.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        body = memoryview(body)[: int(len(body) * answer.share)]
        step = -(-len(body) // answer.pieces) or 1
        for at in range(0, len(body), step):
            if answer.pause and self.server.closing.wait(answer.pause):
                break
            self.wfile.write(body[at : at + step])
        self._end(answer.end)

    do_HEAD = do_CONNECT = do_GET  # noqa: N815

    def _end(self, how: str) -> None:
        if how == "stall":
            self.server.closing.wait()
        if how == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.rfile.close()
            self.connection.close()  # nothing else holds it: it is reset
        self.close_connection |= how != "keep"

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(data: bytes | Mapping[str, bytes], *faults: Fault, tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    """Serves a file, called net.pth, or several, whatever the folder that is asked for."""
    server = Server(data if isinstance(data, Mapping) else {"net.pth": data}, faults, tls)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join()
    if server.errors:
        raise server.errors[0]
