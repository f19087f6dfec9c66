"""The usual way of converting (load the checkpoint, build the whole message, serialise it), beside ours.

python benchmarks/peers.py             needs torch; about five minutes, 12 GB of disk, and root for the cage
"""

from __future__ import annotations

import sys
from pathlib import Path

import bench

CAGE = 16 << 30


def usual_way(checkpoint: str, output: str) -> None:
    """What converters do, reduced to what costs: every tensor in memory, then in a message, then in one string."""
    import torch

    from streamexport.caffe.caffe_pb2 import NetParameter
    from streamexport.cli.arguments import peak_memory

    net = NetParameter(name="net")
    for name, tensor in torch.load(checkpoint, map_location="cpu").items():
        layer = net.layer.add(name=name, type="Parameter")
        layer.blobs.add(shape={"dim": tensor.shape}).data.extend(tensor.float().numpy().reshape(-1))
    Path(output).write_bytes(net.SerializeToString())
    print(f"peak memory {peak_memory() / 2**20:.1f} MiB")


def side_by_side(work: Path) -> None:
    checkpoint = bench.make_checkpoint(work / "c.pth", bench.WSL[0])
    usual = bench.run((bench.PYTHON, __file__, checkpoint, work / "usual.caffemodel"))
    ours = bench.streamexport("convert", checkpoint, "-o", work / "ours.caffemodel")
    rows = [
        (name, f"{r.seconds:.1f}", f"{r.peak:.0f}") for name, r in (("the usual way", usual), ("streamexport", ours))
    ]
    bench.print_table("32x8d (356 MB)", ("", "s", "peak MiB"), rows)


def the_large_one(work: Path) -> None:
    checkpoint = bench.make_checkpoint(work / "c.pth", bench.WSL[-1])
    with bench.cage(CAGE) as enter:
        where = "inside a cage of 16 GiB" if enter else "without a cage (it needs root)"
        usual = bench.run((bench.PYTHON, __file__, checkpoint, work / "usual.caffemodel"), enter or "")
        ours = bench.run(
            (bench.PYTHON, "-m", "streamexport", "convert", checkpoint, "-o", work / "ours.caffemodel"), enter or ""
        )
    last = (usual.stderr.strip().splitlines() or ["killed"])[-1]
    end = f"{usual.peak:.0f} MiB" if not usual.status else f"status {usual.status}: {last}"
    rows = [
        ("the usual way", f"{usual.seconds:.1f}", end),
        ("streamexport", f"{ours.seconds:.1f}", f"{ours.peak:.0f} MiB"),
    ]
    bench.print_table(f"32x48d (3.3 GB) {where}", ("", "s", "how it ended"), rows)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        usual_way(sys.argv[1], sys.argv[2])
    else:
        with bench.workspace(14 << 30) as directory:
            side_by_side(directory)
            the_large_one(directory)
