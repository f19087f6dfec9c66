"""A Dask cluster of two processes on this machine, for a module of tests, which know the tests' S3 server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from distributed import Client

from streamexport.cluster import workers
from tests.conftest import lead_to_s3


@pytest.fixture(scope="module")
def client(s3_server) -> Iterator[Client]:
    with pytest.MonkeyPatch.context() as environment:
        lead_to_s3(s3_server, environment)
        with workers.local(2) as client:
            client.cluster.scheduler.allowed_failures = 1
            yield client


@pytest.fixture(scope="module")
def content(request) -> bytes:
    """As many bytes as a module of tests says."""
    return np.random.default_rng(0).bytes(request.module.SIZE)


@pytest.fixture
def source(tmp_path, content) -> Path:
    (tmp_path / "source").write_bytes(content)
    return tmp_path / "source"


@pytest.fixture(autouse=True)
def many_parts(monkeypatch) -> None:
    """Of 1 MiB: what is small enough for a test has many of them."""
    monkeypatch.setattr(workers, "PART", 1 << 20)
    monkeypatch.setattr("streamexport.transfer.movers.PART", 64 << 10)
