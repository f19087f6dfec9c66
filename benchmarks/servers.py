"""Real servers on loopback, in directories of their own: nginx from Debian's packages, and one that speaks S3."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HELD = 64 << 20
"""Bytes per second of a connection that is held to as much as a store gives one."""
LATE = 0.05
"""Seconds before each answer of a server that is far away."""

CONFIGURATION = """
{user}
load_module {modules}/ngx_http_echo_module.so;
daemon off;
pid {work}/pid;
error_log {work}/error.log;
worker_processes 2;
events {{ worker_connections 256; }}
http {{
    log_format asked '$server_port $request_method $status $body_bytes_sent "$http_range"';
    access_log {work}/access.log asked;
    client_body_temp_path {work}/body;
    proxy_temp_path {work}/proxy;
    fastcgi_temp_path {work}/fastcgi;
    uwsgi_temp_path {work}/uwsgi;
    scgi_temp_path {work}/scgi;
    root {root};
    sendfile on;
    server {{ listen 127.0.0.1:{fast}; }}
    server {{ listen 127.0.0.1:{held}; limit_rate {rate}; }}
    server {{
        listen 127.0.0.1:{late};
        limit_rate {rate};
        location / {{ echo_sleep {seconds}; echo_exec @file; }}
        location @file {{ }}
    }}
}}
"""


@dataclass(frozen=True)
class Nginx:
    """A server of one directory's files.

    Attributes
    ----------
    fast, held, late : its addresses; the second gives each answer HELD bytes per second, the third LATE before that, too
    log : of what it was asked
    """

    fast: str
    held: str
    late: str
    log: Path

    def requests(self) -> Sequence[str]:
        """What it was asked until now: port, method, status, bytes sent, range."""
        time.sleep(0.1)  # it writes the line after the answer
        return self.log.read_text().splitlines()


@contextlib.contextmanager
def nginx(work: Path, root: Path) -> Iterator[Nginx]:
    """Serves the files in `root`; `work` is for the server itself."""
    home = _unpacked(work / "packages", "nginx", "nginx-common", "libnginx-mod-http-echo")
    fast, held, late = ports = _free_ports(3)
    log = work / "access.log"
    configuration = work / "nginx.conf"
    user = "user root;" if os.getuid() == 0 else ""
    names = {"modules": home / "usr/lib/nginx/modules", "work": work, "root": root, "rate": HELD, "seconds": LATE}
    configuration.write_text(CONFIGURATION.format(user=user, fast=fast, held=held, late=late, **names))
    with _running([home / "usr/sbin/nginx", "-p", work, "-e", work / "error.log", "-c", configuration], ports):
        yield Nginx(*(f"http://127.0.0.1:{port}" for port in ports), log=log)


@dataclass(frozen=True)
class S3:
    """A server that speaks S3: what it is, and the environment that leads there."""

    name: str
    environment: Mapping[str, str]


@contextlib.contextmanager
def s3(work: Path, bucket: str) -> Iterator[S3]:
    """With one bucket: s3rver from npm, which keeps files in `work`; where npm has none, moto, which keeps all in memory."""
    (port,) = _free_ports(1)
    directory = work / "objects"
    directory.mkdir(parents=True)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    npm = shutil.which("npm")
    if npm and not subprocess.call([npm, "install", "--prefix", work, "s3rver@3.7.1"], **quiet):  # type: ignore[call-overload]
        binary = work / "node_modules/.bin/s3rver"
        command: list[object] = [
            binary,
            "-d",
            directory,
            "-a",
            "127.0.0.1",
            "-p",
            port,
            "-s",
            "--allow-mismatched-signatures",
        ]
        command += ["--no-vhost-buckets", "--configure-bucket", bucket]
        name = "s3rver"
    else:
        command, name = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", port], "moto"
    keys = {"AWS_ACCESS_KEY_ID": "S3RVER", "AWS_SECRET_ACCESS_KEY": "S3RVER", "AWS_DEFAULT_REGION": "us-east-1"}
    environment = keys | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ALLOW_HTTP": "true"}
    with _running(command, (port,)):
        if name == "moto":
            subprocess.run(["curl", "-sfX", "PUT", f"{environment['AWS_ENDPOINT_URL']}/{bucket}"], check=True, **quiet)  # type: ignore[call-overload]
        yield S3(name, environment)


def _unpacked(directory: Path, *packages: str) -> Path:
    """Debian packages as they unpack; nothing is installed and nothing started."""
    directory.mkdir()
    try:
        subprocess.run(["apt-get", "download", "-q", *packages], cwd=directory, check=True, capture_output=True)
        for package in directory.glob("*.deb"):
            subprocess.run(["dpkg", "-x", package, directory], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"{' '.join(packages)} cannot be had from Debian ({error}): apt-get update?") from None
    return directory


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def _running(command: Sequence[object], ports: Sequence[int]) -> Iterator[None]:
    """A server for the time of the block, which begins when it listens."""
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as server:
        try:
            for port in ports:
                _await(server, port)
            yield
        finally:
            server.terminate()


def _await(server: subprocess.Popen[bytes], port: int) -> None:
    for _ in range(300):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        if server.poll() is not None:
            break
        time.sleep(0.1)
    server.terminate()
    assert server.stderr is not None
    said = re.sub(rb"\s+", b" ", server.stderr.read()).decode(errors="replace")
    raise SystemExit(f"{server.args!r} does not listen: {said[-500:]}")
