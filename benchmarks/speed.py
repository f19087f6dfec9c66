"""Speed beside the programs that do nothing but copy, alternating with them; medians.

python benchmarks/speed.py             about ten minutes, 15 GB of disk; the part on XFS needs root and mkfs.xfs
"""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import bench

PAIRS = 7
SINK = ("sh", "-c", "cat > /dev/null")


def seconds(command: Callable[[], object]) -> float:
    start = time.monotonic()
    command()
    return time.monotonic() - start


def alternate(
    title: str, peer: str, run_peer: Callable[[], object], run_ours: Callable[[], object], *outputs: Path
) -> None:
    """Times both in turn, settled before each, and prints medians and their ratio.

    Outputs are removed before, so that neither replaces a file: cp would truncate its own first, while we keep the old one
    until the new one is complete.
    """
    times: dict[str, list[float]] = {peer: [], "streamexport": []}
    for _ in range(PAIRS):
        for name, command in ((peer, run_peer), ("streamexport", run_ours)):
            for output in outputs:
                output.unlink(missing_ok=True)
            bench.settle()
            times[name].append(seconds(command))
    medians = {name: statistics.median(values) for name, values in times.items()}
    rows = [(name, f"{medians[name]:.2f}", " ".join(f"{t:.2f}" for t in values)) for name, values in times.items()]
    rows.append(("ratio", f"{medians['streamexport'] / medians[peer]:.2f}", ""))
    bench.print_table(title, ("", "median, s", "runs, s"), rows)


def file(work: Path, checkpoint: Path) -> None:
    copy, model = work / "copy", work / "m.caffemodel"

    def cp() -> None:
        subprocess.run(["cp", checkpoint, copy], check=True)
        subprocess.run(["sync", copy], check=True)

    def ours() -> None:
        bench.streamexport("convert", checkpoint, "-o", model)

    alternate("32x48d to a file, both synced", "cp + sync", cp, ours, copy, model)
    model.unlink()


def pipe(checkpoint: Path) -> None:
    def through(command: list[object]) -> None:
        with subprocess.Popen(SINK, stdin=subprocess.PIPE) as sink:
            subprocess.run(list(map(str, command)), stdout=sink.stdin, check=True)
            assert sink.stdin is not None
            sink.stdin.close()

    ours = [bench.PYTHON, "-m", "streamexport", "convert", checkpoint, "-o", "-", "--quiet"]
    cat = f"cat CHECKPOINT | {SINK[-1]}"
    alternate("32x48d to a pipe", cat, lambda: through(["cat", checkpoint]), lambda: through(ours))


def half(checkpoint: Path) -> None:
    size, times = checkpoint.stat().st_size, []
    for _ in range(3):
        done = bench.streamexport("convert", checkpoint, "-o", "/dev/null", "--dtype", "float16")
        times.append((done.seconds, done.peak))
    rows = [(f"{t:.2f}", f"{size / 2**30 / t:.2f}", f"{peak:.1f}") for t, peak in times]
    bench.print_table("32x48d as float16 to /dev/null", ("s", "GiB/s read", "peak MiB"), rows)


@contextlib.contextmanager
def xfs(work: Path, size: int) -> Iterator[Path | None]:
    """A loop-mounted XFS; None where it cannot be had."""
    image, mounted = work / "xfs.image", work / "xfs"
    mounted.mkdir()
    with image.open("wb") as made:
        made.truncate(size)
    try:
        subprocess.run(["mkfs.xfs", "-q", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, mounted], check=True)
    except (OSError, subprocess.CalledProcessError):
        yield None
        return
    try:
        yield mounted
    finally:
        subprocess.run(["umount", mounted], check=True)
        image.unlink()


def clone(work: Path, checkpoint: Path) -> None:
    with xfs(work, 8 << 30) as mounted:
        if mounted is None:
            print("\nNo XFS can be mounted here (it needs root and mkfs.xfs): cloning is left out.")
            return
        shutil.copy(checkpoint, mounted / "c.pth")
        rows = []
        for number in range(3):
            os.sync()
            before = os.statvfs(mounted).f_bfree
            done = bench.streamexport("convert", mounted / "c.pth", "-o", mounted / f"m{number}.caffemodel")
            os.sync()
            taken = (before - os.statvfs(mounted).f_bfree) * os.statvfs(mounted).f_frsize
            said = done.stderr.rsplit(" bytes in ", 1)[1].split(" s ")[0]
            rows.append((said, f"{done.seconds:.2f}", f"{taken:,}", f"{taken / checkpoint.stat().st_size:.2%}"))
        header = ("s, conversion", "s, whole command", "new disk, bytes", "of the checkpoint")
        bench.print_table("32x48d on XFS, blocks shared", header, rows)


def start_up() -> None:
    times = [bench.streamexport("--help").seconds for _ in range(9)]
    bench.print_table(
        "streamexport --help", ("median, s", "fastest, s"), [(f"{statistics.median(times):.3f}", f"{min(times):.3f}")]
    )


if __name__ == "__main__":
    with bench.workspace(20 << 30) as directory:
        made = bench.make_checkpoint(directory / "c.pth", bench.WSL[-1])
        start_up()
        half(made)
        pipe(made)
        file(directory, made)
        clone(directory, made)
