"""What ViT-B/16 takes while it runs, in Caffe and OpenCV beside torch: time, memory, and how far it is from torch in double.

bash tools/zoo.sh makes the venv; its python benchmarks/running.py [MODEL]             torchvision's MODEL, two minutes

Each form has a process of its own, on one thread, and they take turns. Seconds are the processor's, which others that run
meanwhile lengthen less than the clock's. Memory is what a process grows by in its first pass, with the model loaded: what
layers make, and what an engine sets up for itself, as OpenCV's copies of kernels.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROUNDS = 9
FORMS = {
    "Caffe": ("caffe", "bvlc", ()),
    "Caffe, --in-place": ("caffe", "bvlc", ("--in-place",)),
    "OpenCV": ("opencv", "opencv", ()),
}
"""Who runs it, the dialect, and other options."""
ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")} | {"GLOG_minloglevel": "2"}


# What runs in processes of its own


def serve(engine: str, model: str, work: Path) -> None:
    """Writes what the first pass makes; for every line that comes in, says the seconds and the growth of one more."""
    import numpy as np

    x = np.load(work / "truth.npz")["x"]
    compute = {"caffe": by_caffe, "opencv": by_opencv, "torch": by_torch}[engine](model, work)
    before = resident()
    made = compute(x)
    growth = resident() - before
    np.save(work / "answer.npy", made)
    for _ in sys.stdin:
        start = time.process_time()
        compute(x)
        print(time.process_time() - start, growth, flush=True)


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def by_caffe(model: str, work: Path) -> Callable[[Any], Any]:
    import caffe

    net = caffe.Net(str(work / f"{model}.prototxt"), str(work / f"{model}.caffemodel"), caffe.TEST)

    def compute(x: Any) -> Any:
        net.blobs["data"].data[...] = x
        (made,) = net.forward().values()
        return made

    return compute


def by_opencv(model: str, work: Path) -> Callable[[Any], Any]:
    import cv2

    cv2.setNumThreads(1)
    net = cv2.dnn.readNetFromCaffe(str(work / f"{model}.prototxt"), str(work / f"{model}.caffemodel"))

    def compute(x: Any) -> Any:
        net.setInput(x)
        return net.forward()

    return compute


def by_torch(model: str, work: Path) -> Callable[[Any], Any]:
    import torch
    from torchvision import models

    torch.set_num_threads(1)
    net = models.get_model(model).eval()
    net.load_state_dict(torch.load(work / "c.pth"))

    def compute(x: Any) -> Any:
        with torch.inference_mode():
            return net(torch.from_numpy(x)).numpy()

    return compute


# What asks them


def make(name: str, work: Path) -> None:
    """Writes c.pth, and truth.npz: the input, and what torch makes of it in double."""
    import numpy as np
    import torch
    from torchvision import models

    torch.manual_seed(0)
    net, x = models.get_model(name).eval(), torch.randn(1, 3, 224, 224)
    for value in net.parameters():
        if not value.any():  # heads of zeros
            torch.nn.init.normal_(value, std=0.02)
    torch.save(net.state_dict(), work / "c.pth")
    with torch.inference_mode():
        np.savez(work / "truth.npz", x=x.numpy(), y=net.double()(x.double()).numpy())


def asked(processes: dict[str, subprocess.Popen[str]]) -> dict[str, list[list[float]]]:
    """In turns: seconds and growth."""
    found: dict[str, list[list[float]]] = {form: [] for form in processes}
    for _ in range(ROUNDS):
        for form, process in processes.items():
            assert process.stdin and process.stdout
            process.stdin.write("\n")
            process.stdin.flush()
            found[form].append([float(word) for word in process.stdout.readline().split()])
    return found


def main(name: str) -> None:
    import bench
    import numpy as np

    with bench.workspace(4 << 30) as work:
        make(name, work)
        truth = np.load(work / "truth.npz")["y"]
        processes = {}
        given = {"torch": ("torch", "", ()), **FORMS}
        errors = {}
        for number, (form, (engine, dialect, options)) in enumerate(given.items()):
            python = os.environ["STREAMEXPORT_CAFFE_PYTHON"] if engine == "caffe" else sys.executable
            model = f"m{number}" if dialect else name
            if dialect:
                net = ("--net", f"torchvision.models:{name}", "--dialect", dialect, "--no-softmax", *options)
                bench.streamexport("convert", work / "c.pth", "-o", work / f"{model}.caffemodel", *net)
            command = (python, __file__, "--serve", engine, model, str(work))
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            processes[form] = subprocess.Popen(command, env={**os.environ, **ONE_THREAD}, **pipes)
            asked({form: processes[form]})  # until it is ready
            errors[form] = np.abs(np.load(work / "answer.npy") - truth).max() / np.abs(truth).max()
        found = asked(processes)
        for process in processes.values():
            process.communicate()
    rows = []
    one = statistics.median(seconds for seconds, _ in found["torch"])
    for form, passes in found.items():
        seconds = [pass_[0] for pass_ in passes]
        median = statistics.median(seconds)
        growth = f"{passes[0][1] / 2**20:.0f}"
        rows.append(
            (form, f"{median:.3f}", f"{min(seconds):.3f}", f"{median / one:.2f}", growth, f"{errors[form]:.1e}")
        )
    heads = ("", "seconds, median", "least", "of torch's", "MiB that a pass adds", "error")
    bench.print_table(f"{name}, one image on one thread", heads, rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], sys.argv[3], Path(sys.argv[4]))
    else:
        main(*sys.argv[1:] or ["vit_b_16"])
