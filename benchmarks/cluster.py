"""Workers of a Dask cluster on this machine beside one process, what the scheduler costs, and what 64 workers would take.

python benchmarks/cluster.py                       some minutes, 3 GB of disk
python benchmarks/cluster.py PART ... --rounds 3   one part or several, medians of fewer rounds

The simulation is no measurement: its assumptions are printed with it.
"""

from __future__ import annotations

import argparse
import hashlib
import heapq
import os
import random
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import bench

import streamexport
from streamexport.cli.arguments import peak_memory
from streamexport.cluster import workers
from streamexport.payload.pieces import Layout, Literal

NET = bench.WSL[1]
PARTS = 10_000


def beside(rounds: int) -> None:
    """32x16d to a synced file by one process, and by 1 and 2 workers, in turn; the bytes are compared."""
    with bench.workspace(3 << 30) as work, workers.local(1) as one, workers.local(2) as two:
        checkpoint = bench.make_checkpoint(work / "c.pth", NET)
        clusters: dict[str, Any] = {"one process": None, "1 worker": one, "2 workers": two}
        times: dict[str, list[float]] = {name: [] for name in clusters}
        digests = set()
        for _ in range(rounds):
            for name, client in clusters.items():
                output = work / "m.caffemodel"
                bench.settle()

                def convert(client: Any = client, output: Path = output) -> None:
                    streamexport.convert([checkpoint], output, dask=client)

                times[name].append(bench.seconds(convert))
                with output.open("rb") as file:
                    digests.add(hashlib.file_digest(file, "sha256").hexdigest())
                output.unlink()
        assert len(digests) == 1, "the bytes differ"
        peaks = [peak >> 20 for client in (one, two) for peak in client.run(peak_memory).values()]
    rows = [(name, *_spread(taken)) for name, taken in times.items()]
    bench.print_table(
        "32x16d, 777 MB, to a synced file; the same bytes", ("who writes", "median s", "from", "to"), rows
    )
    print(f"\nPeak memory of the workers: {', '.join(map(str, peaks))} MiB.")


def cost(rounds: int) -> None:
    """What the scheduler takes for parts in which nothing is done."""

    def nothing(layout: Layout, version: str, number: int) -> int:
        return number

    layout, rows = Layout.of([Literal(b"")]), []
    for count in (1, 2):
        with workers.local(count) as client:
            mover = workers.Workers(client)

            def run(mover: workers.Workers = mover) -> None:
                done = mover._results(nothing, layout, ((number,) for number in range(PARTS)))
                assert sum(done) == PARTS * (PARTS - 1) // 2

            taken = [bench.seconds(run) for _ in range(rounds)]
            rows.append((count, *_spread(taken), round(1000 * statistics.median(taken) / PARTS, 2)))
    bench.print_table(f"{PARTS} empty parts", ("workers", "median s", "from", "to", "ms a part"), rows)


@dataclass(frozen=True)
class Fleet:
    """What is assumed of workers and of what they convert. Sizes in bytes, rates in bytes a second, times in seconds."""

    workers: int = 64
    size: int = 10 * 10**12
    model: int = 3_317_099_277
    """Of each model: that of 32x48d."""
    at_once: int = 1
    """Models that are converted at the same time."""
    rate: float = 200 << 20
    """Of a worker, from a store to a store: four ranges at a time, each held to 64 MiB/s, while the last part is sent."""
    scatter: float = 0.2
    """A part takes so much more or less, at most."""
    scheduler: float = 0.009
    """For each part, one after the other; see the measurement."""
    planning: float = 1.0
    """For each model, by the one process that runs the command, one after the other: headers, the prototxt, completion."""
    deaths: float = 1 / 3600
    """Of a worker in a second; its part is lost, and it is back after a while."""
    restart: float = 30.0


def simulated(fleet: Fleet, seed: int = 0) -> tuple[float, float]:
    """Seconds until the last part is there, and the share of them that workers work for."""
    chance = random.Random(seed)
    free = [0.0] * fleet.workers
    planner = scheduler = worked = end = 0.0
    slots = [0.0] * fleet.at_once
    for _ in range(max(1, fleet.size // fleet.model)):
        planner = max(planner, heapq.heappop(slots)) + fleet.planning
        last = planner
        for size in _parts(fleet.model):
            while True:
                scheduler = max(scheduler, min(planner, free[0])) + fleet.scheduler
                start = max(heapq.heappop(free), planner, scheduler)
                took = size / fleet.rate * chance.uniform(1 - fleet.scatter, 1 + fleet.scatter)
                died = chance.expovariate(fleet.deaths)
                if died > took:
                    break
                heapq.heappush(free, start + died + fleet.restart)
            worked += took
            heapq.heappush(free, start + took)
            last = max(last, start + took)
        heapq.heappush(slots, last)
        end = max(end, last)
    return end, worked / end / fleet.workers


def _parts(size: int) -> Iterator[int]:
    part = max(workers.PART, -(-size // 10_000))
    for start in range(0, size, part):
        yield min(part, size - start)


def simulation(_: int) -> None:
    """10 TB on 64 workers: as one object, and as 32x48d a few thousand times."""
    fleet = Fleet()
    ways = {
        "one object": replace(fleet, model=fleet.size),
        "models of 3.3 GB, one after the other (`convert-many`)": fleet,
        "four at a time": replace(fleet, at_once=4),
        "sixteen at a time": replace(fleet, at_once=16),
    }
    rows = []
    for name, way in ways.items():
        seconds, share = simulated(way)
        rows.append((name, round(seconds / 3600, 2), f"{share:.0%}"))
    bench.print_table("Simulated: 10 TB, 64 workers", ("what", "hours", "of them workers work"), rows)
    assumed = ", ".join(f"{name} {value:g}" for name, value in vars(fleet).items())
    print(f"\nAssumed: {assumed}. The store takes and gives whatever is asked.")


def _spread(taken: list[float]) -> tuple[float, float, float]:
    return round(statistics.median(taken), 2), round(min(taken), 2), round(max(taken), 2)


RUNS = {"beside": beside, "cost": cost, "simulation": simulation}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(RUNS)}; all by default")
    parser.add_argument("--rounds", type=int, default=bench.PAIRS)
    options = parser.parse_args()
    if unknown := set(options.parts) - set(RUNS):
        parser.error(f"there is no {', '.join(unknown)}")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for part in options.parts or RUNS:
        RUNS[part](options.rounds)


if __name__ == "__main__":
    main()
