"""What workers of a Dask cluster write is what one process writes, whoever of them dies; or one line and nothing."""

from __future__ import annotations

import os
from collections.abc import Callable

import dask
import pytest
from distributed import Client, LocalCluster

import streamexport
from streamexport import Extent, File, Layout, Literal
from streamexport.cluster import tasks, workers
from streamexport.errors import ClusterError, OutputError, SourceChangedError
from streamexport.sources import open_source
from streamexport.transfer.files import publish
from tests.cluster.pieces import Deadly
from tests.conftest import assert_refused, run_cli

SIZE = 5_500_001


@pytest.fixture
def layout(source) -> Layout:
    return Layout.of([Literal(b"head"), Extent(open_source(source), 0, SIZE), Literal(b"tail")])


def whole(content: bytes) -> bytes:
    return b"head" + content + b"tail"


@pytest.mark.parametrize("output", ["m.caffemodel", "m.caffemodel.h5"])
@pytest.mark.parametrize("options", [{}, {"dtype": "float16", "fold_batchnorm": True}], ids=["raw", "computed"])
def test_a_conversion_has_the_bytes_of_one_process(checkpoint, client, tmp_path, monkeypatch, output, options):
    weights = checkpoint("resnet18")
    monkeypatch.chdir(weights.parent)
    counted, expected = [], []
    words = {"end": "layer3", **options}
    made = streamexport.convert(
        [weights.name], tmp_path / output, streamexport.Options(**words), dask=client,
        progress=counted.append, planned=expected.append,
    )  # fmt: skip
    (tmp_path / "alone").mkdir()
    streamexport.convert([weights], tmp_path / "alone" / output, streamexport.Options(**words))
    for name in (output, "m.prototxt"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["alone", output, "m.prototxt"])
    assert made.size > 4 << 20
    assert [sum(counted)] == expected
    assert len(counted) > 5


def test_parts_of_a_model_are_written_by_workers_too(checkpoint, client, tmp_path):
    for where, cluster in (("one", None), ("two", client)):
        (tmp_path / where).mkdir()
        output = tmp_path / where / "m.caffemodel"
        options = streamexport.Options(end="layer3")
        streamexport.convert([checkpoint("resnet18")], output, options, max_file_size=6 << 20, dask=cluster)
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / where).iterdir()} for where in ("one", "two"))
    assert len(one) > 2
    assert one == two


def test_a_worker_that_is_killed_in_mid_part_is_replaced(client, layout, content, tmp_path):
    mark = tmp_path / "killed"
    deadly = Layout((Deadly(layout, mark),))
    with workers.workers(client) as mover:
        publish([File(str(tmp_path / "out"), deadly)], mover=mover)
    assert mark.exists()
    assert (tmp_path / "out").read_bytes() == whole(content)


def test_a_part_that_kills_every_worker_is_an_error(client, layout, tmp_path):
    with workers.workers(client) as mover, pytest.raises(ClusterError, match="has ended several workers"):
        publish([File(str(tmp_path / "out"), Layout((Deadly(layout, None),)))], mover=mover)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_a_source_that_changed_gives_no_file(client, layout, source, tmp_path):
    os.utime(source, (1, 1))
    with workers.workers(client) as mover, pytest.raises(SourceChangedError, match="source: changed while it was read"):
        publish([File(str(tmp_path / "out"), layout)], mover=mover)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_a_file_that_was_there_stays_until_the_new_one_is_whole(client, layout, content, tmp_path):
    (tmp_path / "out").write_bytes(b"older")
    seen = []
    with workers.workers(client) as mover:
        publish(
            [File(str(tmp_path / "out"), layout)],
            progress=lambda _: seen.append((tmp_path / "out").read_bytes()),
            mover=mover,
        )
    assert {*seen} == {b"older"}
    assert (tmp_path / "out").read_bytes() == whole(content)


def in_threads(count: int) -> LocalCluster:
    return LocalCluster(n_workers=count, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0")


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (lambda cluster: cluster.scale(0), "no worker is left; start some, and run again"),
        (lambda cluster: cluster.close(), "the scheduler is gone; start it"),
    ],
    ids=["workers", "scheduler"],
)
def test_a_cluster_that_goes_away_is_an_error(
    layout, tmp_path, monkeypatch, end: Callable[[LocalCluster], object], said
):
    monkeypatch.setattr(workers, "PATIENCE", 0.5)
    monkeypatch.setattr(workers, "LOOKED", 0.1)
    monkeypatch.setattr(workers, "AHEAD", 1)
    with (
        in_threads(1) as cluster,
        Client(cluster) as client,
        workers.workers(client) as mover,
        pytest.raises(ClusterError) as caught,
    ):
        publish([File(str(tmp_path / "out"), layout)], progress=lambda _: end(cluster), mover=mover)
    assert said in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_a_cluster_without_workers_is_an_error(monkeypatch):
    monkeypatch.setattr(workers, "PATIENCE", 0.2)
    with (
        in_threads(0) as cluster,
        Client(cluster) as client,
        pytest.raises(ClusterError, match="the cluster has no workers"),
        workers.workers(client),
    ):
        pass


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense", "tcp://127.0.0.1:port"])
def test_a_scheduler_that_does_not_answer(address):
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "0.2s"}),
        pytest.raises(ClusterError, match=f"no scheduler answers at {address}: "),
        workers.workers(address),
    ):
        pass


def test_another_version_is_refused(client, layout, tmp_path, monkeypatch):
    with pytest.raises(ClusterError, match=r"tcp://.* has streamexport \d.*, this is 0.0; install the same version"):
        monkeypatch.setattr(workers, "__version__", "0.0")
        with workers.workers(client):
            pass
    with pytest.raises(ClusterError, match=r"a worker has streamexport \d.*, this is 0.0; install the same version"):
        publish([File(str(tmp_path / "out"), layout)], mover=workers.Workers(client))  # one that came later
    assert tasks.SAME == "install the same version everywhere"


def test_what_one_process_writes_is_refused(checkpoint, client):
    for output in ("-", "/dev/null"):
        with pytest.raises(OutputError, match="is written by one process; leave out `dask=`, or name a file"):
            streamexport.convert([checkpoint("resnet18")], output, dask=client)
    with pytest.raises(OutputError, match="is gone on with by one process; leave out `dask=`"):
        streamexport.convert([checkpoint("resnet18")], "m.caffemodel", dask=client, resume=True)


def test_the_command_with_workers_of_its_own(checkpoint, tmp_path):
    words = ("convert", checkpoint("resnet18"), "--end", "layer3", "-o")
    done = run_cli(*words, tmp_path / "m.caffemodel", "--dask", "local", env={**os.environ})
    assert done.returncode == 0, done.stderr
    assert "m.caffemodel: " in done.stderr.splitlines()[-1]
    assert run_cli(*words, tmp_path / "one.caffemodel").returncode == 0
    assert (tmp_path / "m.caffemodel").read_bytes() == (tmp_path / "one.caffemodel").read_bytes()
    environment = {**os.environ, "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "0.2s"}
    line = assert_refused(*words, tmp_path / "n.caffemodel", "--dask", "tcp://127.0.0.1:1", env=environment)
    assert "no scheduler answers at tcp://127.0.0.1:1: " in line
    assert "standard output" not in assert_refused(*words, "/dev/null", "--dask", "local", env=environment)
