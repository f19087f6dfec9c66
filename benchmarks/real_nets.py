"""Trained nets of every kind, out of packages, in Caffe, OpenCV and streamexport beside torch: the table of docs/real_nets.md.

STREAMEXPORT_CAFFE_PYTHON=... python benchmarks/real_nets.py            packages of 150 MB are fetched, once

Whatever is shown is what the net is made for, see `tests/shared/trained.py`. A figure is the largest difference in any output,
by the largest number in that.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import bench
import numpy as np

sys.path.insert(0, str(bench.ROOT))
import streamexport
from streamexport.running.engines import CAFFE_PYTHON, open_engine
from tests.conftest import fetched
from tests.shared import trained

WRITTEN = {
    "portable": ("stream", "caffe", "opencv"),
    "ssd": ("caffe",),
    "opencv": ("opencv",),
}
"""Who is asked, by dialect."""


def errors(name: str, directory: Path) -> tuple[int, list[str]]:
    """Parameters of a net, and how far each engine is from torch."""
    net = trained.TRAINED[name]
    given = net.given(fetched)
    module = net.module(name, fetched)
    expected = trained.returned(module, given)
    found = []
    for dialect, engines in WRITTEN.items():
        model = directory / f"{name}-{dialect}.caffemodel"
        made = streamexport.convert([fetched(*net.weights)], model, net.options(name, dialect, fetched)).net
        for engine in engines:
            with open_engine(engine, model.with_suffix(".prototxt"), [model], made.outputs) as compute:
                tops = compute(dict(zip(made.inputs, given, strict=True)))
            found.append(f"{_error([tops[output] for output in made.outputs], expected):.1e}")
    return sum(parameter.numel() for parameter in module.parameters()), found


def _error(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    pairs = zip(found, expected, strict=True)
    return max(float(np.abs(a.reshape(b.shape) - b).max() / np.abs(b).max()) for a, b in pairs)


def main() -> None:
    if not os.environ.get(CAFFE_PYTHON):
        sys.exit(f"{CAFFE_PYTHON} has to name a Python that can import Caffe")
    asked = [f"`{dialect}`, {engine}" for dialect, engines in WRITTEN.items() for engine in engines]
    print(f"| net | parameters | {' | '.join(asked)} |")
    print(f"|---|---|{'---|' * len(asked)}")
    with tempfile.TemporaryDirectory() as directory:
        for name in trained.TRAINED:
            parameters, found = errors(name, Path(directory))
            print(f"| {name} | {parameters:,} | {' | '.join(found)} |", flush=True)


if __name__ == "__main__":
    main()
