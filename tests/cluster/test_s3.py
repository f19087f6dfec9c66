"""An object whose parts come from several workers: the bytes that one process would have sent, or nothing at all."""

from __future__ import annotations

import hashlib
import os

import pytest

import streamexport
from streamexport import Extent, File, Layout, Literal
from streamexport.cluster import workers
from streamexport.errors import ClusterError, OutputError, SourceChangedError
from streamexport.sources import open_source
from streamexport.transfer import s3 as uploads
from streamexport.transfer.files import publish
from tests.cluster.pieces import Deadly

SIZE = 17_000_001
"""Three parts, and a shorter one: none but the last may be of less than 5 MiB."""
KEY = "s3://models/nets/m.caffemodel"


@pytest.fixture(autouse=True)
def parts(monkeypatch) -> None:
    monkeypatch.setattr(workers, "PART", 5 << 20)
    monkeypatch.setattr("streamexport.transfer.movers.part_size", lambda size: 5 << 20)


@pytest.fixture
def layout(source) -> Layout:
    return Layout.of([Literal(b"head"), Extent(open_source(source), 0, SIZE)])


def held(store) -> dict[str, str]:
    """The digests of what is in the bucket. No upload may be left that nobody completes."""
    assert "Uploads" not in store.list_multipart_uploads(Bucket="models")
    keys = [found["Key"] for found in store.list_objects_v2(Bucket="models").get("Contents", [])]
    return {key: sha256(store.get_object(Bucket="models", Key=key)["Body"].read()) for key in keys}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_an_object_has_the_bytes_of_the_layout(client, s3, layout, content):
    counted = []
    with workers.workers(client) as mover:
        publish([File(KEY, layout)], progress=counted.append, mover=mover)
    assert held(s3) == {"nets/m.caffemodel": sha256(b"head" + content)}
    assert (sum(counted), len(counted)) == (SIZE + 4, 4)
    assert s3.head_object(Bucket="models", Key="nets/m.caffemodel", PartNumber=1)["PartsCount"] == 4


def test_a_worker_that_is_killed_in_mid_part_is_replaced(client, s3, layout, content, tmp_path):
    with workers.workers(client) as mover:
        publish([File(KEY, Layout((Deadly(layout, tmp_path / "killed"),)))], mover=mover)
    assert (tmp_path / "killed").exists()
    assert held(s3) == {"nets/m.caffemodel": sha256(b"head" + content)}


def test_nothing_is_left_of_an_upload_whose_workers_all_die(client, s3, layout):
    with workers.workers(client) as mover, pytest.raises(ClusterError, match="has ended several workers"):
        publish([File(KEY, Layout((Deadly(layout, None),)))], mover=mover)
    assert held(s3) == {}


def test_a_source_that_changed_meanwhile_completes_nothing(client, s3, layout, source):
    with workers.workers(client) as mover, pytest.raises(SourceChangedError):
        publish([File(KEY, layout)], progress=lambda _: os.utime(source, (1, 1)), mover=mover)
    assert held(s3) == {}


def test_a_key_that_is_taken_meanwhile_stays_taken(client, s3, layout, monkeypatch):
    def take(_: int) -> None:
        s3.put_object(Bucket="models", Key="nets/m.caffemodel", Body=b"somebody's")

    monkeypatch.setattr("streamexport.transfer.uploading.size_of", lambda place: None)  # the store itself refuses it
    with workers.workers(client) as mover, pytest.raises(OutputError, match=f"{KEY}: .*PreconditionFailed"):
        publish([File(KEY, layout)], progress=take, mover=mover)
    assert held(s3) == {"nets/m.caffemodel": sha256(b"somebody's")}


def test_a_bucket_that_went_away_is_named(client, s3, layout, monkeypatch):
    monkeypatch.setattr("streamexport.transfer.uploading.size_of", lambda place: None)
    with workers.workers(client) as mover, pytest.raises(OutputError, match="s3://nobody/m: .*NoSuchBucket"):
        publish([File("s3://nobody/m", layout)], mover=mover)


def test_what_is_aborted_or_completed_already_can_be_aborted_again(s3):
    from streamexport.sources import stores

    upload = uploads.begin(stores.to_write(KEY))
    uploads.abort(upload)
    uploads.abort(upload)
    assert held(s3) == {}


def test_other_stores_are_refused(client, layout):
    with (
        workers.workers(client) as mover,
        pytest.raises(OutputError, match="memory:///m: is in a store that several workers"),
    ):
        publish([File("memory:///m", layout)], mover=mover)


def test_a_conversion(client, s3, checkpoint, tmp_path):
    options = streamexport.Options(end="layer3")
    streamexport.convert([checkpoint("resnet18")], KEY, options, dask=client)
    streamexport.convert([checkpoint("resnet18")], tmp_path / "m.caffemodel", options)
    assert held(s3) == {f"nets/{path.name}": sha256(path.read_bytes()) for path in tmp_path.iterdir()}
    with pytest.raises(OutputError, match="is there already"):
        streamexport.convert([checkpoint("resnet18")], KEY, options, dask=client)
    streamexport.convert([checkpoint("resnet18")], KEY, options, dask=client, force=True)


def test_a_worker_without_credentials_says_so(client, s3, layout):
    client.run(keep, "OTHER")
    try:
        said = "has no credentials for it; set AWS_ACCESS_KEY_ID"
        with workers.workers(client) as mover, pytest.raises(OutputError, match=said):
            publish([File(KEY, layout)], mover=mover)
    finally:
        client.run(keep, "AWS_ACCESS_KEY_ID")
    assert held(s3) == {}


def keep(name: str) -> None:
    """Has a worker hold its key under this name, and ask for it anew."""
    held = [os.environ.pop(known) for known in ("AWS_ACCESS_KEY_ID", "OTHER") if known in os.environ]
    os.environ[name] = held[0]
    uploads._client.cache_clear()
