"""What streamexport promises whatever the model: bounded memory, few imports, no execution."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from streamexport.cli import COMMANDS
from tests.conftest import ROOT

# Starts the command like `python -m streamexport`, and prints peak memory and what it imported when it ends.
MEASURED = """
import sys
from streamexport.cli import main
try:
    status = main(sys.argv[1:])
except SystemExit as end:  # --help ends so
    status = end.code
from streamexport.cli.arguments import peak_memory
large = "torch numpy h5py fsspec tqdm obstore boto3 botocore distributed dask"
heavy = [name for name in large.split() if name in sys.modules]
print(status, peak_memory() >> 10, *heavy)
"""


def measured(*arguments: object) -> tuple[int, list[str]]:
    """Peak resident memory in KiB of a fresh process, and the large packages that it imported."""
    done = subprocess.run([sys.executable, "-c", MEASURED, *map(str, arguments)], capture_output=True, text=True)
    status, peak, *heavy = done.stdout.splitlines()[-1].split()
    assert status == "0", done.stderr
    return int(peak), heavy


def test_float32_needs_none_of_the_large_packages(checkpoint):
    assert measured("convert", checkpoint("resnet18"), "-o", "/dev/null")[1] == []


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_needs_none_of_them(command):
    assert measured(*command.split(), "--help")[1] == []


def test_memory_does_not_depend_on_the_size_of_the_model(tmp_path, checkpoint):
    small, _ = measured("convert", checkpoint("resnet18"), "-o", tmp_path / "s.caffemodel", "--quiet")
    large = tmp_path / "large.pth"
    tool = ROOT / "tools" / "make_checkpoint.py"
    subprocess.run([sys.executable, tool, "--sparse", "--bytes", "5GB", large], check=True)
    assert large.stat().st_size > 1 << 32
    held, _ = measured("inspect", large)
    peak, _ = measured("convert", large, "-o", "/dev/null", "--quiet")
    assert peak < 32 << 10
    assert peak - small < 4 << 10
    assert held < 64 << 10


@pytest.mark.parametrize("kind", ["transposed", "half", "double"])
def test_memory_does_not_depend_on_the_largest_tensor_on_the_odd_paths(tmp_path, checkpoint, kind):
    """A classifier of 80 MB, stored in a way that has to be computed."""
    state = torch.load(checkpoint("resnet18"))
    peaks = []
    for classes in (1000, 40_000):
        state["fc.bias"] = torch.zeros(classes)
        weight = torch.ones(512, classes).t() if kind == "transposed" else torch.ones(classes, 512)
        state["fc.weight"] = {"half": weight.half(), "double": weight.double()}.get(kind, weight)
        torch.save(state, tmp_path / "c.pth")
        dtype = "float16" if kind == "double" else "float32"
        peak, heavy = measured("convert", tmp_path / "c.pth", "-o", tmp_path / "m.caffemodel", "--dtype", dtype)
        assert heavy == ["numpy"]
        peaks.append(peak)
    assert peaks[1] - peaks[0] < 4 << 10
    assert peaks[1] < 64 << 10


def test_the_package_imports_no_large_package_at_its_top():
    """A module is loaded by every command; what it needs of torch, numpy or h5py it imports where it is needed.

    All that computes, and `families/torch_resnet.py`, needs torch: these are imported themselves where they are needed.
    """
    for path in ROOT.joinpath("streamexport").rglob("*.py"):
        text = path.read_text()
        if path.name in ("compute.py", "recurrences.py", "task.py", "torch_resnet.py"):
            continue
        assert not re.search(r"^(?:import|from) .*\b(compute|recurrences|task|torch_resnet)\b", text, re.M), path
        tops = re.findall(r"^(?:import|from) (\w+)", text, re.M)
        large = {
            "torch",
            "numpy",
            "h5py",
            "fsspec",
            "tqdm",
            "caffe",
            "obstore",
            "boto3",
            "botocore",
            "distributed",
            "dask",
        }
        assert not large & set(tops), path


BYTES = {"errors", "payload", "sources"}
ROOMS = {
    "errors": set(),
    "payload": {"errors"},
    "sources": {"errors", "payload"},
    "net": {"errors", "payload"},
    "transfer": {*BYTES, "_version"},
    "checkpoints": BYTES,
    "caffe": {*BYTES, "net"},
    "passes": {"errors", "payload", "net"},
    "tracing": {"errors", "payload", "net"},
    "families": {"errors", "payload", "net", "tracing"},
    "running": {*BYTES, "net", "caffe", "tracing"},
    "cluster": {*BYTES, "transfer", "_version"},
    "conversion": {
        *BYTES,
        "net",
        "transfer",
        "cluster",
        "checkpoints",
        "caffe",
        "passes",
        "tracing",
        "families",
        "_version",
    },
    "checking": {*BYTES, "net", "transfer", "caffe", "running", "conversion"},
    "evaluation": {*BYTES, "net", "caffe", "running"},
    "counting": {"errors", "net", "caffe"},
}
"""Whom a room may import, besides itself. The command line, and what starts it, may import all."""


def test_rooms_import_only_whom_they_may():
    package = ROOT / "streamexport"
    rooms = {path.relative_to(package).parts[0].removesuffix(".py") for path in package.rglob("*.py")}
    assert rooms == {*ROOMS, "cli", "starting", "__init__", "__main__", "_version"}
    for room, allowed in ROOMS.items():
        for path in [package / "errors.py"] if room == "errors" else (package / room).rglob("*.py"):
            found = set(imported_rooms(path, package)) - {room}
            assert found <= allowed, (path, found - allowed)


def imported_rooms(path: Path, package: Path) -> Iterator[str]:
    """The rooms that a module imports from, `from .. import x` included."""
    parents = path.relative_to(package).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        assert not isinstance(node, ast.Import) or not any(name.name.startswith("streamexport") for name in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level or not (node.module or "").startswith("streamexport")
            if node.level:
                whole = [*parents[: len(parents) + 1 - node.level], *(node.module.split(".") if node.module else [])]
                yield from [whole[0]] if whole else [name.name for name in node.names]


def test_the_seeded_checkpoint_is_one_that_torch_loads(checkpoint):
    legacy, packed = (
        torch.load(checkpoint("resnet18")),
        torch.load(checkpoint("resnet18", "--format", "zip"), mmap=True),
    )
    assert list(legacy) == list(packed)
    assert all(torch.equal(legacy[name], packed[name]) for name in legacy)
    assert legacy["bn1.num_batches_tracked"].dtype == torch.int64
    weight = legacy["layer4.0.conv1.weight"]
    assert abs(float(weight.std()) / (2 / np.prod(weight.shape[1:])) ** 0.5 - 1) < 0.01
    assert 0.5 <= float(legacy["bn1.weight"].min()) < float(legacy["bn1.weight"].max()) <= 1.5
    assert float(legacy["layer1.1.bn2.weight"].max()) <= 0.375
    other = torch.load(checkpoint("resnet18", "--seed", "1"))
    assert not torch.equal(legacy["conv1.weight"], other["conv1.weight"])
