"""Workers of a Dask cluster as those who move bytes.

    client.submit(itself, layout)        the layout, once; who needs it asks whoever has it
    client.submit(write, layout, ...)    a part: some for each worker at a time, so that the scheduler has little to hold

Dask gives the part of a worker that died to another one. What it does not do is done here: it waits for ever where no worker
is left, and does not mind that one has another version of the code.
"""

from __future__ import annotations

import logging
import os
import queue
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar, cast

from .._version import __version__
from ..errors import ClusterError, OutputError, reason
from ..payload.pieces import Layout, Source
from ..sources.stores import Place
from ..transfer import movers, moving, s3
from ..transfer.movers import HERE, Mover
from ..transfer.moving import Progress
from ..transfer.staging import Staged
from . import tasks

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from distributed import Client, Future

LOCAL = "local"
"""A cluster of this machine, for the time of a run."""

PART = 64 << 20
"""Bytes of a part: the scheduler takes some milliseconds for each, a worker a tenth of a second."""

AHEAD = 4
"""Parts for each worker that the scheduler knows of, so that none waits."""

PATIENCE = 60.0
"""Seconds without any worker after which nobody is waited for: one that is restarted takes a few."""

LOOKED = 2.0
"""Seconds without news after which it is looked who is left."""

Result = TypeVar("Result")


@contextmanager
def workers(dask: str | Client) -> Iterator[Workers]:
    """Those of a cluster: "local", the address of a scheduler, or a client of one, which stays open.

    ClusterError if there are none, or not with this version of streamexport.
    """
    with ExitStack() as stack:
        if isinstance(dask, str):
            stack.enter_context(_quiet())
            dask = stack.enter_context(_client(dask))
        _refuse_others(dask)
        yield Workers(dask)


class Workers(Mover):
    """Who renders the parts of what is large; what is small is moved by this process."""

    by_name = True

    def __init__(self, client: Client) -> None:
        self.client = client

    def write(
        self, layout: Layout, file: Staged, align: int, progress: Progress, hashed: Container[Source]
    ) -> Mapping[Source, str]:
        if layout.size <= movers.PART:
            return HERE.write(layout, file, align, progress, hashed)
        moving.reserve(file.descriptor, layout.size)
        path = os.path.join(file.directory.path, cast(str, file.temporary))
        parts = ((path, start, min(start + PART, layout.size)) for start in range(0, layout.size, PART))
        for size in self._results(tasks.write, layout, parts):
            progress(size)
        os.fsync(file.descriptor)
        return {}

    @contextmanager
    def upload(self, layout: Layout, place: Place, force: bool, progress: Progress) -> Iterator[Callable[[], object]]:
        if layout.size <= movers.PART:
            with HERE.upload(layout, place, force, progress) as complete:
                yield complete
            return
        if not place.name.startswith("s3://"):
            advice = "leave out `dask=`, or write to s3://, or to a file system that all of them have"
            raise OutputError(
                "is in a store that several workers cannot write one object to", file=place.name, advice=advice
            )
        size = max(PART, movers.part_size(layout.size))
        upload = s3.begin(place)
        try:
            starts = enumerate(range(0, layout.size, size), 1)
            parts = ((s3.Part(upload, number, start, min(start + size, layout.size)),) for number, start in starts)
            sent = []
            for part in self._results(tasks.upload, layout, parts):
                sent.append(part)
                progress(part.size)
            yield lambda: s3.complete(upload, sent, force)
        except BaseException:
            s3.abort(upload)
            raise

    def _results(
        self, task: Callable[..., Result], layout: Layout, parts: Iterable[tuple[Any, ...]]
    ) -> Iterator[Result]:
        """What tasks say of the parts of a layout, as they are done."""
        done: queue.SimpleQueue[Future] = queue.SimpleQueue()
        left, asked, looked = iter(parts), set[Any](), 0.0
        with _speaking_of_dask():
            shared = self.client.submit(tasks.itself, layout, pure=False)
        try:
            while True:
                if time.monotonic() - looked > LOOKED:
                    ahead, looked = AHEAD * max(1, _count(self.client)), time.monotonic()
                if len(asked) <= ahead // 2 and (
                    batch := [*islice(left, ahead - len(asked))]
                ):  # several cost little more
                    with _speaking_of_dask():
                        repeated = ([one] * len(batch) for one in (shared, __version__))
                        futures = self.client.map(task, *repeated, *zip(*batch, strict=True), pure=False)
                    asked |= {*futures}
                    for future in futures:
                        future.add_done_callback(done.put)
                if not asked:
                    return
                ready = [self._next(done)]
                while not done.empty():
                    ready.append(done.get())
                asked -= {*ready}
                with _speaking_of_dask():
                    results = self.client.gather(ready)
                yield from results
        finally:
            self.client.cancel([shared, *asked])

    def _next(self, done: queue.SimpleQueue[Future]) -> Future:
        """The next part that is done. ClusterError if nobody is left to do one."""
        seen = time.monotonic()
        while True:
            try:
                return done.get(timeout=LOOKED)
            except queue.Empty:
                if _count(self.client):
                    seen = time.monotonic()
                elif time.monotonic() - seen > PATIENCE:
                    raise ClusterError("no worker is left", advice="start some, and run again") from None


def _count(client: Client) -> int:
    """How many workers there are."""
    with _speaking_of_dask():
        return len(client.nthreads())


@contextmanager
def local(count: int) -> Iterator[Client]:
    """A cluster of so many processes on this machine, for the time of the block."""
    from distributed import Client, LocalCluster

    quiet = {"silence_logs": logging.CRITICAL, "dashboard_address": "127.0.0.1:0"}  # the usual port may be another's
    with LocalCluster(n_workers=count, threads_per_worker=1, **quiet) as cluster, Client(cluster) as client:
        yield client


def _client(address: str) -> AbstractContextManager[Client]:
    from distributed import Client

    if address == LOCAL:
        return local(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    try:
        return cast("AbstractContextManager[Client]", Client(address))
    except (OSError, ValueError) as error:  # also what is no address
        advice = "name the scheduler as it calls itself, tcp://HOST:8786, or say local"
        raise ClusterError(f"no scheduler answers at {address}: {reason(error)}", advice=advice) from None


def _refuse_others(client: Client) -> None:
    """ClusterError unless there are workers, and all of them have this version. One that comes later says so itself."""

    def version() -> str | None:  # this travels as code: who lacks the module is asked, too
        from importlib import import_module

        try:
            return str(import_module("streamexport").__version__)
        except ImportError:
            return None

    with _speaking_of_dask():
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError:
            raise ClusterError("the cluster has no workers", advice="start some, and run again") from None
        found = client.run(version)
    for worker, other in found.items():
        if other != __version__:
            what = (
                f"worker {worker} has {f'streamexport {other}' if other else 'no streamexport'}, this is {__version__}"
            )
            raise ClusterError(what, advice=tasks.SAME)


@contextmanager
def _speaking_of_dask() -> Iterator[None]:
    """Makes a ClusterError of what Dask says of itself; what a task raised comes through."""
    from asyncio import CancelledError

    from distributed import KilledWorker
    from distributed.client import ClosedClientError
    from distributed.comm import CommClosedError

    try:
        yield
    except KilledWorker:
        advice = "look at their logs: memory may be short; a part takes some 128 MiB"
        raise ClusterError("a part has ended several workers, one after the other", advice=advice) from None
    except (CancelledError, ClosedClientError, CommClosedError):
        raise ClusterError("the scheduler is gone", advice="start it, and run again") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Dask's own log is silent for the time of the block: it would say in many lines what is said here in one."""
    logger = logging.getLogger("distributed")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
