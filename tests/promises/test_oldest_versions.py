"""The oldest versions that setup.cfg allows are enough: tests of what rests on each of them run with all of them at once.

numpy 1.23 is too old: it rounds what is too large for a dtype to infinity without a word.
"""

from __future__ import annotations

import configparser
import hashlib
import os
import re
import subprocess
import sys

import pytest

from tests.conftest import CACHE, ROOT

SELECTION = (
    "payload/test_tensors.py",
    "payload/test_strides.py::test_every_view_has_the_elements_that_torch_says",
    "payload/test_pieces.py::test_any_range_is_that_of_the_whole",
    "payload/test_pieces.py::test_another_process_renders_the_same_bytes",
    "caffe/test_caffemodel.py",
    "caffe/test_hdf5.py::test_h5py_finds_every_blob_where_caffe_looks_for_it[zip-hdf5]",
    "caffe/test_hdf5.py::test_half_floats_halve_the_file",
    "evaluation/test_evaluate.py::test_by_default_an_image_becomes_what_torchvision_makes_of_it",
    "evaluation/test_evaluate.py::test_a_whole_image_can_be_squeezed_and_its_middle_cut_out",
    "evaluation/test_evaluate.py::test_images_of_any_mode_are_read",
    "evaluation/test_evaluate.py::test_every_image_counts_as_progress",
    "counting/test_costs.py::test_a_plot_is_a_png_of_what_was_counted",
)
NEWER = "tests/caffe/test_caffemodel.py::test_our_schema_lives_beside_caffe_s_own_in_one_process"
"""Calls what came into protobuf later."""

VERSIONS = """
from importlib.metadata import version
import sys
for name in sys.argv[1:]:
    print(name, version(name))
"""


def oldest() -> dict[str, str]:
    """What the package and its extras need, but torch, each in the oldest version that is allowed."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = config["options.extras_require"]
    lines = (config["options"]["install_requires"] + extras["eval"] + extras["plot"]).split()
    found = dict(re.fullmatch(r"([\w-]+)>=([\d.]+)(?:,<\d+)?", line).groups() for line in lines)
    assert {"h5py", "numpy", "protobuf", "tqdm", "pillow", "matplotlib"} <= found.keys()
    return found


@pytest.fixture(scope="module")
def old() -> dict[str, str]:
    """An environment in which they come first."""
    wanted = [f"{name}=={version}" for name, version in oldest().items()]
    target = CACHE / f"oldest-{hashlib.sha256(' '.join(wanted).encode()).hexdigest()[:12]}"
    if not target.exists():
        work = target.with_suffix(f".{os.getpid()}")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", work, *wanted]
        done = subprocess.run(pip, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no package registry: pip cannot install {' '.join(wanted)}: {done.stderr[-300:]}")
        work.rename(target)
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(target), str(ROOT)))}


def test_the_environment_has_them(old):
    done = subprocess.run([sys.executable, "-c", VERSIONS, *oldest()], env=old, capture_output=True, text=True)
    found = dict(line.split() for line in done.stdout.splitlines())
    assert found.keys() == oldest().keys()
    for name, version in oldest().items():
        assert re.fullmatch(rf"{re.escape(version)}(\.0)*", found[name]), (name, found[name])


def test_what_rests_on_them_passes(old):
    tests = [str(ROOT / "tests" / name) for name in SELECTION]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, "--deselect", NEWER]
    done = subprocess.run(command, cwd=ROOT, env=old, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.search(r"\d{3} passed", done.stdout)
