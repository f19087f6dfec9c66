"""The generated schema loads under every protobuf that setup.cfg allows, in both of its implementations."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import CACHE, ROOT

CODE = """
import google.protobuf
from streamexport.caffe import caffe_pb2
layer = caffe_pb2.LayerParameter(name="n", pooling_param={"pool": "AVE", "round_mode": "FLOOR"}, crop_param={"offset": [0]})
assert caffe_pb2.LayerParameter.FromString(layer.SerializeToString()) == layer
print(google.protobuf.__version__, layer.SerializeToString(deterministic=True).hex())
"""


def installed(version: str) -> Path:
    target = CACHE / f"protobuf-{version}"
    if not target.exists():
        work = target.with_suffix(f".{os.getpid()}")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", work, f"protobuf=={version}"]
        if subprocess.run(pip, capture_output=True).returncode:
            pytest.skip(f"no package registry: pip cannot install protobuf {version}")
        work.rename(target)
    return target


@pytest.mark.parametrize("implementation", ["upb", "python"])
@pytest.mark.parametrize("version", ["4.21.12", "4.25.9", "5.29.6", "6.33.6", "7.36.2"])
def test_the_schema_loads_under(version, implementation):
    paths = (str(installed(version)), str(ROOT))
    environment = {"PYTHONPATH": os.pathsep.join(paths), "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": implementation}
    done = subprocess.run(
        [sys.executable, "-c", CODE], env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [version, "0a016eca070408016801820902100 0".replace(" ", "")]
