"""Peak memory against the size of the model: one line, flat. And the same in a cage of 64 MiB, beside cp.

python benchmarks/memory.py             about five minutes, 8 GB of disk
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import bench

INPUTS = 10240
CAGE = 64 << 20
ROUNDS = 3


def peaks(work: Path) -> None:
    rows = []
    for net in bench.WSL:
        checkpoint = bench.make_checkpoint(work / "c.pth", net)
        for model in (work / "m.caffemodel", work / "m.h5"):
            done = bench.streamexport("convert", checkpoint, "-o", model)
            rows.append((net, f"{checkpoint.stat().st_size:,}", model.name, f"{done.peak:.1f}", f"{done.seconds:.1f}"))
            model.unlink()
    huge = bench.make_checkpoint(work / "huge.pth", "--sparse", "--bytes", "100GB")
    tensors = len(bench.streamexport("inspect", huge).stdout.splitlines()) - 2
    done = bench.streamexport("convert", huge, "-o", "/dev/null")
    what = f"as deep as 100 GB ({tensors} tensors)"
    rows.append((what, f"{huge.stat().st_size:,}", "/dev/null", f"{done.peak:.1f}", f"{done.seconds:.1f}"))
    bench.print_table("Peak memory (VmHWM)", ("net", "checkpoint, bytes", "to", "MiB", "seconds"), rows)


def computed(work: Path) -> None:
    """A weight that is normalised as it is written, traced by torch."""
    module, rows = Path(__file__).parent / "normalised_module.py", []
    for outputs in (16, 10240):
        checkpoint, model = work / "c.pth", work / "m.caffemodel"
        bench.run((bench.PYTHON, module, outputs, checkpoint))
        net = ("--net", f"{module}:build", "--net-args", json.dumps({"rows": outputs}), "--no-softmax")
        done = bench.streamexport("convert", checkpoint, "-o", model, *net, "--input-shape", f"1,{INPUTS}")
        rows.append(
            (f"{outputs} x {INPUTS}", f"{checkpoint.stat().st_size:,}", f"{done.peak:.1f}", f"{done.seconds:.1f}")
        )
    title = "Peak memory (VmHWM) where a weight is computed: weight_norm, traced"
    bench.print_table(title, ("weight", "checkpoint, bytes", "MiB", "seconds"), rows)


def caged(work: Path) -> None:
    checkpoint, out = bench.make_checkpoint(work / "c.pth", bench.WSL[-1]), work / "out.caffemodel"
    convert = (bench.PYTHON, "-m", "streamexport", "convert", checkpoint, "-o", out)
    copy = ("sh", "-c", 'cp "$1" "$2" && sync "$2"', "sh", checkpoint, out)
    times: dict[str, list[float]] = {"cp": [], "streamexport": []}
    with bench.cage(CAGE) as enter:
        if enter is None:
            print("\nNo memory cgroup can be made here (it needs root): the cage is left out.")
            return
        for _ in range(ROUNDS):
            for name, command in (("cp", copy), ("streamexport", convert)):
                bench.settle()
                done = bench.run(command, enter)
                if done.status:
                    raise RuntimeError(f"{name} in the cage: status {done.status} {done.stderr}")
                times[name].append(done.seconds)
                out.unlink()
    medians = {name: statistics.median(values) for name, values in times.items()}
    rows = [(name, f"{medians[name]:.2f}", " ".join(f"{t:.2f}" for t in values)) for name, values in times.items()]
    rows.append(("ratio", f"{medians['streamexport'] / medians['cp']:.2f}", ""))
    bench.print_table("32x48d in a cage of 64 MiB, page cache included, synced", ("", "median, s", "runs, s"), rows)


if __name__ == "__main__":
    with bench.workspace(12 << 30) as directory:
        peaks(directory)
        computed(directory)
        caged(directory)
