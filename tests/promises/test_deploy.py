"""The commands of docs/deploy.md, run as they stand there: other toolchains compute what torch computes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import ROOT
from tests.shared.reference import reference

GUIDE = (ROOT / "docs" / "deploy.md").read_text()
BLOCK = re.compile(r"(?:<!-- test: (\w+) -->\n)?^```(sh|python)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
TOLERANCE = {"caffe": 1e-5, "opencv": 1e-5, "openvino": 1e-5, "mnn": 5e-5, "onnx": 1e-5}  # of the largest logit
CANNOT_FETCH = 75


def blocks(toolchain: str) -> list[tuple[str, str]]:
    """Language and text of the blocks for one toolchain, in order."""
    return [(language, text) for name, language, text in BLOCK.findall(GUIDE) if name == toolchain]


def interpreter(toolchain: str) -> str:
    """The Python in which the blocks for a toolchain run, made if need be. Skips if pip cannot fetch the packages."""
    if toolchain == "opencv":
        return sys.executable
    command = ["tools/build_pycaffe.sh"] if toolchain == "caffe" else ["tools/toolchains.sh", toolchain]
    made = subprocess.run(["bash", *command], cwd=ROOT, capture_output=True, text=True)
    if made.returncode == CANNOT_FETCH:
        pytest.skip(f"pip cannot fetch {toolchain}: {made.stderr.strip().splitlines()[-1]}")
    assert made.returncode == 0, made.stderr
    return made.stdout.splitlines()[-1]


def run(command: list[str], directory: Path) -> None:
    own = Path(sys.executable).parent  # where the command `streamexport` is
    environment = {**os.environ, "PATH": f"{own}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"


def photograph(path: Path) -> torch.Tensor:
    """Writes an image and returns what torch's nets are given for it."""
    import cv2

    coarse = np.random.default_rng(0).integers(0, 256, (28, 28, 3), np.uint8)
    bgr = cv2.resize(coarse, (224, 224), interpolation=cv2.INTER_CUBIC)
    assert cv2.imwrite(str(path), bgr)
    rgb = bgr[:, :, ::-1] / 255
    normalised = (rgb - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    return torch.from_numpy(normalised.transpose(2, 0, 1)[None].astype("f4"))


@pytest.mark.toolchain
@pytest.mark.parametrize("toolchain", [pytest.param("caffe", marks=pytest.mark.caffe), *list(TOLERANCE)[1:]])
def test_the_guides_commands_give_torchs_logits(tmp_path, checkpoint, toolchain):
    python = interpreter(toolchain)
    weights = checkpoint("resnet18")
    (tmp_path / "resnet18.pth").symlink_to(weights)
    (tmp_path / "tools").symlink_to(ROOT / "tools")
    image = photograph(tmp_path / "image.png")
    for language, text in blocks(toolchain):
        if language == "sh":
            run(["bash", "-euo", "pipefail", "-c", text], tmp_path)
        else:
            run([python, "-c", f"{text}\nimport numpy\nnumpy.save('logits.npy', logits)"], tmp_path)
    expected = reference(torch.load(weights), image).numpy()
    found = np.load(tmp_path / "logits.npy")
    assert found.shape[1:] == expected.shape[1:]
    assert np.abs(found - expected).max() <= TOLERANCE[toolchain] * np.abs(expected).max()


def test_every_block_of_the_guide_is_run():
    found = {name: "" for name, _, _ in BLOCK.findall(GUIDE)}
    assert list(found) == list(TOLERANCE)
    assert all([language for language, _ in blocks(name)] == ["sh", "python"] for name in TOLERANCE)


def test_the_guide_states_the_tolerances_of_these_tests():
    rows = re.findall(r"^\| [^|,]*?(Caffe|OpenCV|OpenVINO|MNN|ONNX)\b[^|,]*\|.*\| (\S+) \|$", GUIDE, re.MULTILINE)
    assert {name.lower(): float(bound) for name, bound in rows} == TOLERANCE
