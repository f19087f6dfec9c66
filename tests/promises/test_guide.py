"""The commands of docs/tracing.md, run as they stand there."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import streamexport
from tests.conftest import ROOT
from tests.promises.test_deploy import run

GUIDE = (ROOT / "docs" / "tracing.md").read_text()
BLOCKS = dict(re.findall(r"^<!-- (\S+) -->\n```(?:sh|python)\n(.*?)^```$", GUIDE, re.DOTALL | re.MULTILINE))


@pytest.fixture
def gated(tmp_path, monkeypatch) -> torch.nn.Module:
    """The guide's module with weights, in the current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "gated", raising=False)
    (tmp_path / "gated.py").write_text(BLOCKS["gated.py"])
    torch.manual_seed(0)
    made = importlib.import_module("gated").Gated(width=24).eval()
    torch.save(made.state_dict(), "gated.pth")
    return made


def test_every_block_of_the_guide_is_run():
    assert list(BLOCKS) == [
        "gated.py",
        "run",
        "posed.py",
        "posed",
        "fed",
        "refused",
        "blended.py",
        "operators.py",
        "own",
    ]
    assert len(BLOCKS) == GUIDE.count("\n```") / 2


def test_the_guides_commands_convert_a_module_that_computes_what_torch_does_at_other_sizes_too(gated):
    run(["bash", "-euo", "pipefail", "-c", BLOCKS["run"]], Path())
    for size in ((64, 64), (80, 48)):
        image = np.random.default_rng(0).standard_normal((1, 3, *size)).astype("f4")
        with torch.no_grad():
            expected = gated(torch.from_numpy(image)).numpy()
        found = streamexport.forward("gated.prototxt", ["gated.caffemodel"], image)["fc"]
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.usefixtures("gated")
def test_the_guides_own_operators_are_what_torch_computes():
    for name in ("blended.py", "operators.py"):
        Path(name).write_text(BLOCKS[name])
    run(["bash", "-euo", "pipefail", "-c", BLOCKS["own"]], Path())  # verify says if it departs


@pytest.mark.usefixtures("gated")
def test_what_the_guide_says_is_refused_is_refused_so():
    command = BLOCKS["refused"].replace("streamexport", f"{sys.executable} -m streamexport", 1)
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == 1
    assert f"\n    {done.stderr}" in GUIDE


def test_the_guides_module_of_two_inputs_computes_in_opencv_what_torch_does(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("posed.py").write_text(BLOCKS["posed.py"])
    made = importlib.import_module("posed").Posed().eval()
    torch.save(made.state_dict(), "posed.pth")
    run(["bash", "-euo", "pipefail", "-c", BLOCKS["posed"]], Path())
    image, pose = torch.randn(1, 3, 32, 32), torch.randn(1, 6)
    scope = {"cv2": pytest.importorskip("cv2"), "image": image.numpy(), "pose": pose.numpy()}
    exec(BLOCKS["fed"], scope)
    with torch.no_grad():
        np.testing.assert_allclose(scope["net"].forward(), made(image, pose, 0.5).numpy(), atol=1e-5)
