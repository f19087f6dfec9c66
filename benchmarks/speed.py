"""Speed: beside the programs that do nothing but copy, alternating with them; and of what is computed. Medians.

python benchmarks/speed.py             about a quarter of an hour, 15 GB of disk
python benchmarks/speed.py PART ...    one part or several; `clone` needs root and mkfs.xfs, `forward` and `traced` torch
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import shutil
import statistics
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import bench

from streamexport.payload.pieces import BUFFER, Extent, Piece
from streamexport.payload.tensors import FLOAT32, Tensor
from streamexport.sources.local import LocalFile

RUNS = 5
SINK = ("sh", "-c", "cat > /dev/null")
FORWARD = """
import sys
import numpy
import streamexport
from streamexport.cli.arguments import peak_memory
image = numpy.random.default_rng(0).standard_normal((1, 3, 224, 224))
streamexport.forward(sys.argv[1], sys.argv[2:], image)
print(f"peak memory {peak_memory() / 2**20:.1f} MiB")
"""


def file(work: Path, checkpoint: Path) -> None:
    beside_cp("32x48d to a file, both synced", work, checkpoint, work / "m.caffemodel")


def hdf5(work: Path, checkpoint: Path) -> None:
    beside_cp("32x48d to HDF5, both synced", work, checkpoint, work / "m.h5")


def beside_cp(title: str, work: Path, checkpoint: Path, model: Path) -> None:
    copy = work / "copy"

    def cp() -> None:
        subprocess.run(["cp", checkpoint, copy], check=True)
        subprocess.run(["sync", copy], check=True)

    def ours() -> None:
        bench.streamexport("convert", checkpoint, "-o", model)

    bench.alternate(title, "cp + sync", cp, ours, copy, model)
    copy.unlink(missing_ok=True)
    model.unlink()


def pipe(work: Path, checkpoint: Path) -> None:
    def through(command: list[object]) -> None:
        with subprocess.Popen(SINK, stdin=subprocess.PIPE) as sink:
            subprocess.run(list(map(str, command)), stdout=sink.stdin, check=True)
            assert sink.stdin is not None
            sink.stdin.close()

    ours = [bench.PYTHON, "-m", "streamexport", "convert", checkpoint, "-o", "-", "--quiet"]
    cat = f"cat CHECKPOINT | {SINK[-1]}"
    bench.alternate("32x48d to a pipe", cat, lambda: through(["cat", checkpoint]), lambda: through(ours))


def computed(work: Path, checkpoint: Path) -> None:
    fold, half = ("--fold-batchnorm",), ("--dtype", "float16")
    rows = []
    for options in (fold, half, fold + half):
        runs = [bench.streamexport("convert", checkpoint, "-o", "/dev/null", *options) for _ in range(RUNS)]
        median, single = median_and_runs(runs)
        rate = checkpoint.stat().st_size / 2**30 / float(median)
        rows.append((" ".join(options), median, f"{rate:.2f}", highest(runs), single))
    header = ("", "median, s", "GiB/s read", "peak MiB", "runs, s")
    bench.print_table("32x48d, computed, to /dev/null: the whole command", header, rows)


VIEWS = {
    "contiguous": ((4096, 25088), (25088, 1)),
    "every other element": ((1 << 24,), (2,)),
    "every other element of rows of 65,536": ((1024, 32768), (65536, 2)),
    "(25088, 4096) transposed": ((4096, 25088), (1, 4096)),
    "(4096, 25088) transposed": ((25088, 4096), (1, 25088)),
    "(2048, 1000) transposed": ((1000, 2048), (1, 1000)),
    "a convolution's first two axes exchanged": ((512, 512, 3, 3), (9, 9 * 512, 3, 1)),
    "a convolution's weights, channels last": ((512, 512, 3, 3), (9 * 512, 1, 3 * 512, 512)),
    "a column expanded": ((4096, 4096), (1, 0)),
}
"""Shapes and strides of float32 tensors."""


def strided(work: Path, checkpoint: Path) -> None:
    """Views of the checkpoint's first bytes, a buffer at a time."""
    source, rates = LocalFile.at(checkpoint), {}
    for name, (shape, strides) in VIEWS.items():
        view = Tensor.in_storage("view", FLOAT32, shape, strides, Extent(source, 0, source.size)).as_float32()
        median = statistics.median(bench.seconds(functools.partial(render, view)) for _ in range(RUNS))
        rates[name] = view.size / 2**30 / median
    rows = [(name, f"{rate:.2f}", f"{rates['contiguous'] / rate:.1f}") for name, rate in rates.items()]
    bench.print_table("Strided tensors, from the page cache into a buffer", ("", "GiB/s", "times slower"), rows)


def render(piece: Piece) -> None:
    into = memoryview(bytearray(BUFFER))
    for start in range(0, piece.size, BUFFER):
        stop = min(start + BUFFER, piece.size)
        piece.render(start, stop, into[: stop - start])


def linked(work: Path, checkpoint: Path) -> None:
    model = work / "m.h5"
    runs = [bench.streamexport("convert", checkpoint, "-o", model, "--format", "linked") for _ in range(RUNS)]
    median, single = median_and_runs(runs)
    header = ("median, s", "bytes", "peak MiB", "runs, s")
    row = (median, f"{model.stat().st_size:,}", highest(runs), single)
    bench.print_table("32x48d linked: the whole command", header, [row])
    model.unlink()


def forward(work: Path, checkpoint: Path) -> None:
    model = work / "m.caffemodel"
    bench.streamexport("convert", checkpoint, "-o", model)
    runs = [bench.run((bench.PYTHON, "-c", FORWARD, model.with_suffix(".prototxt"), model)) for _ in range(RUNS)]
    median, single = median_and_runs(runs)
    header = ("median, s", "peak MiB", "runs, s")
    bench.print_table("32x48d forward, 224x224: the whole process", header, [(median, highest(runs), single)])
    model.unlink()


def traced(work: Path, checkpoint: Path) -> None:
    """The architecture from a PyTorch module, its numbers beside torch's; both need torch."""
    net = ("--net", "benchmarks/resnet_module.py:resnet", "--net-args", json.dumps({"name": bench.WSL[-1]}))
    model = work / "m.h5"
    converted = [bench.streamexport("convert", checkpoint, *net, "-o", "/dev/null") for _ in range(RUNS)]
    bench.streamexport("convert", checkpoint, *net, "-o", model, "--format", "linked")
    verified = bench.streamexport("verify", checkpoint, model, *net, "--forward")
    rows = [
        ("convert --net MODULE", *median_and_runs(converted), highest(converted)),
        ("verify --forward", *median_and_runs([verified]), highest([verified])),
    ]
    bench.print_table("32x48d as a traced module", ("", "median, s", "runs, s", "peak MiB"), rows)
    print(verified.stderr)


def median_and_runs(runs: Sequence[bench.Run]) -> tuple[str, str]:
    times = [run.seconds for run in runs]
    return f"{statistics.median(times):.2f}", " ".join(f"{t:.2f}" for t in times)


def highest(runs: Sequence[bench.Run]) -> str:
    return f"{max(run.peak for run in runs):.1f}"


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
            out = mounted / f"m{number}.caffemodel"
            done = bench.streamexport("convert", mounted / "c.pth", "-o", out, "--align", 4096)
            os.sync()
            taken = (before - os.statvfs(mounted).f_bfree) * os.statvfs(mounted).f_frsize
            said = done.stderr.rsplit(" bytes in ", 1)[1].split(" s ")[0]
            rows.append((said, f"{done.seconds:.2f}", f"{taken:,}", f"{taken / checkpoint.stat().st_size:.2%}"))
        header = ("s, conversion", "s, whole command", "new disk, bytes", "of the checkpoint")
        bench.print_table("32x48d on XFS, --align 4096, blocks shared", header, rows)


def start_up(work: Path, checkpoint: Path) -> None:
    times = [bench.streamexport("--help").seconds for _ in range(9)]
    bench.print_table(
        "streamexport --help", ("median, s", "fastest, s"), [(f"{statistics.median(times):.3f}", f"{min(times):.3f}")]
    )


PARTS = {
    part.__name__: part for part in (start_up, computed, strided, linked, pipe, file, hdf5, clone, forward, traced)
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"all, or some of: {', '.join(PARTS)}")
    chosen = parser.parse_args().parts or list(PARTS)
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"there is no part {', '.join(unknown)}")
    with bench.workspace(20 << 30) as directory:
        made = bench.make_checkpoint(directory / "c.pth", bench.WSL[-1])
        for name in chosen:
            PARTS[name](directory, made)
