"""Asks Caffe itself what nets compute, in the interpreter that STREAMEXPORT_CAFFE_PYTHON names, where `import caffe` works.

Run as a script it is that interpreter's side: each directory that it is given holds net.prototxt, perhaps net.caffemodel,
and inputs.npz; it adds tops.npz, all blobs of the net by name, and outputs.txt, the names of those that `forward` returns.
Caffe aborts its process where it refuses a net, so each net has a forked process to itself, and there is no tops.npz.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

PYTHON = os.environ.get("STREAMEXPORT_CAFFE_PYTHON")


def require() -> None:
    """Skips the test where there is no Caffe."""
    import pytest

    if not PYTHON:
        pytest.skip("no Caffe: STREAMEXPORT_CAFFE_PYTHON does not name an interpreter that has it")


def judge(*directories: Path) -> list[dict[str, np.ndarray] | None]:
    """What Caffe computes of each net: blobs by name, or None where it refuses."""
    require()
    environment = {**os.environ, "GLOG_minloglevel": "4", "PYTHONPATH": ""}
    subprocess.run([PYTHON, __file__, *map(str, directories)], check=True, env=environment, stderr=subprocess.DEVNULL)
    return [_loaded(directory / "tops.npz") for directory in directories]


def departures(cases: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with each case that Caffe refuses, or computes otherwise than the case `assert_agrees` to."""
    departed = {}
    for (name, case), tops in zip(
        cases.items(), judge(*(case.prototxt.parent for case in cases.values())), strict=True
    ):
        if tops is None:
            departed[name] = "refused"
            continue
        try:
            case.assert_agrees([tops[output] for output in case.outputs])
        except AssertionError as error:
            departed[name] = str(error)
    return departed


def _loaded(path: Path) -> dict[str, np.ndarray] | None:
    return dict(np.load(path)) if path.exists() else None


def _run(directory: Path) -> None:
    import caffe

    model = directory / "net.caffemodel"
    net = caffe.Net(str(directory / "net.prototxt"), *([str(model)] if model.exists() else []), caffe.TEST)
    for name, values in np.load(directory / "inputs.npz").items():
        net.blobs[name].reshape(*values.shape)
        net.blobs[name].data[...] = values
    (directory / "outputs.txt").write_text("\n".join(net.forward()))
    np.savez(directory / "part.npz", **{name: blob.data for name, blob in net.blobs.items()})
    (directory / "part.npz").rename(directory / "tops.npz")


def _main() -> None:
    import caffe  # noqa: F401 # once, before the forks

    for directory in map(Path, sys.argv[1:]):
        child = os.fork()
        if not child:
            _run(directory)
            os._exit(0)
        os.waitpid(child, 0)


if __name__ == "__main__":
    _main()
