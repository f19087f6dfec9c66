"""The numbers that agree: torch's logits beside those of Caffe, OpenCV and our own engine, in every form that is written.

python benchmarks/parity.py [NET...]     needs torch, OpenCV and a Caffe (STREAMEXPORT_CAFFE_PYTHON); about half an hour;
                                         for the largest net 7 GB of disk and 13 GB of memory

Nets have seeded weights and see one seeded image of 224x224. A difference is the largest one among the logits, in parts of
the largest logit. Exit status 1 if one is beyond its bound.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import bench
import numpy as np

sys.path.insert(0, str(bench.ROOT / "tests"))

from reference import reference

from streamexport.caffe.caffemodel.writing import CAFFE_LIMIT
from streamexport.conversion.consumers import FORK_LIMIT
from streamexport.errors import EngineError
from streamexport.running.engines import open_engine

NETS = ("resnet18", "resnet50", *bench.WSL)
ENGINES = {"stream": "stream", "caffe": "Caffe", "opencv": "OpenCV"}
PART = 500 << 20
"""Bytes of the largest part: what the fork of Caffe loads, and a little less."""
MEMORY = 4
"""Times the checkpoint's size that Caffe and OpenCV get: the file, the message and the net live at one time."""
NOTES = """
Differences are parts of the largest logit. Caffe is a fork of the SSD family, which takes the dialects `portable` and
`ssd`, and no binary file above 512 MiB: larger nets reach it as HDF5 and in parts (`copy_from`). OpenCV takes no HDF5, no
parts, and no file above 2 GiB. `bvlc` is for BVLC's Caffe, and judged by our own engine. `-`: not made for that one.
"""


@dataclass(frozen=True)
class Form:
    """A way to write a net: the file, options of `convert`, the largest difference allowed, and who is to read it."""

    name: str
    file: str
    options: tuple[str, ...]
    bound: float
    engines: tuple[str, ...]


BINARY, HDF5 = "m.caffemodel", "m.caffemodel.h5"
EVERYBODY = tuple(ENGINES)
FORMS = (
    Form("caffemodel, portable", BINARY, (), 1e-5, EVERYBODY),
    Form("caffemodel, ssd", BINARY, ("--dialect", "ssd"), 1e-5, EVERYBODY),
    Form("caffemodel, opencv", BINARY, ("--dialect", "opencv"), 1e-5, ("stream", "opencv")),
    Form("caffemodel, bvlc", BINARY, ("--dialect", "bvlc"), 1e-5, ("stream",)),
    Form("caffemodel, folded", BINARY, ("--fold-batchnorm",), 1e-4, EVERYBODY),
    Form("caffemodel, float16", BINARY, ("--dtype", "float16"), 2e-3, ("stream", "opencv")),
    Form("caffemodel in parts", BINARY, ("--max-file-size",), 1e-5, ("stream", "caffe")),
    Form("HDF5, portable", HDF5, (), 1e-5, ("stream", "caffe")),
    Form("HDF5, ssd", HDF5, ("--dialect", "ssd"), 1e-5, ("stream", "caffe")),
    Form("HDF5, linked", HDF5, ("--format", "linked"), 1e-5, ("stream", "caffe")),
    Form("HDF5, folded", HDF5, ("--fold-batchnorm",), 1e-4, ("stream", "caffe")),
    Form("HDF5, float16", HDF5, ("--dtype", "float16"), 2e-3, ("stream", "caffe")),
)


def main(nets: Sequence[str]) -> int:
    import cv2
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    machine = f"{os.cpu_count()} cores, {round(memory / 2**30)} GiB"
    print(f"torch {torch.__version__}, OpenCV {cv2.__version__}; {machine}.\n{NOTES}", flush=True)
    holds = [holds for net in nets for holds in table(net)]
    return 0 if all(holds) else 1


def table(net: str) -> list[bool]:
    """Prints the table of a net; whether each of its rows holds."""
    image = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype("f4")
    with bench.workspace(8 << 30) as work:
        checkpoint = bench.make_checkpoint(work / "c.pth", "--format", "zip", net)  # which torch can map
        expected = torch_logits(checkpoint, image)
        rows = [row(form, checkpoint, image, expected) for form in FORMS]
        title = f"{net}, checkpoint of {checkpoint.stat().st_size:,} bytes"
    bench.print_table(title, ("form", *ENGINES.values(), "bound", "holds"), rows)
    return [row[-1] == "yes" for row in rows]


def torch_logits(checkpoint: Path, image: np.ndarray) -> np.ndarray:
    import torch

    state = torch.load(checkpoint, mmap=True, weights_only=True)
    return reference(state, torch.from_numpy(image)).numpy()


def row(form: Form, checkpoint: Path, image: np.ndarray, expected: np.ndarray) -> tuple[str, ...]:
    work = checkpoint.parent / "made"
    work.mkdir()
    size = checkpoint.stat().st_size
    options = [*form.options, *([str(min(PART, size // 3))] if "--max-file-size" in form.options else [])]
    bench.streamexport("convert", checkpoint, "-o", work / form.file, *options, "--quiet")
    models = sorted(path for path in work.iterdir() if path.suffix != ".prototxt")
    cells, holds = [], True
    for engine in ENGINES:
        obstacle = next(obstacles(form, engine, models, size), None)
        if obstacle:
            cells.append(obstacle)
            continue
        try:
            with open_engine(engine, work / "m.prototxt", [*models, checkpoint], ["fc"]) as compute:
                logits = compute(image)["fc"]
        except EngineError as error:
            print(f"{form.name}: {error}", file=sys.stderr)
            cells.append("gives up")
            holds = False
            continue
        difference = float(np.abs(logits - expected).max() / np.abs(expected).max())
        cells.append(f"{difference:.1e}")
        holds = holds and difference <= form.bound
    for path in work.iterdir():
        path.unlink()
    work.rmdir()
    return form.name, *cells, f"{form.bound:.0e}", "yes" if holds else "NO"


def obstacles(form: Form, engine: str, models: Sequence[Path], size: int) -> Iterator[str]:
    """Why an engine is not asked."""
    if engine not in form.engines:
        yield "-"
    elif engine == "stream":
        return
    limit = FORK_LIMIT if engine == "caffe" else CAFFE_LIMIT
    if form.file == BINARY and max(model.stat().st_size for model in models) > limit:
        yield "above 512 MiB" if engine == "caffe" else "above 2 GiB"
    if free_memory() < MEMORY * size:
        yield f"needs {MEMORY * size / 1e9:.0f} GB of memory"


def free_memory() -> int:
    """Bytes that can be had without swapping."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or NETS))
