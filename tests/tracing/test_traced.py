"""Traced modules: torch runs the module, other programs run what it became, and the numbers agree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch.export import ExportedProgram
from torch.utils._pytree import tree_leaves

import streamexport
from streamexport import Options, families, passes
from streamexport.caffe import caffe_pb2
from streamexport.checking.parity import parity
from streamexport.checkpoints import open_weights
from streamexport.families.torch_resnet import module
from streamexport.tracing import walk as traced
from tests.conftest import ROOT, assert_refused, run_cli
from tests.conversion.test_consumers import opencv_logits
from tests.payload.test_extents import rendered
from tests.shared import caffe_judge, traced_modules
from tests.shared.traced_modules import MODULES

FILE = ROOT / "tests" / "shared" / "traced_modules.py"
TOLERANCE = 1e-5  # of the largest number
CAFFE_S = {
    "behind groups",
    "behind sums",
    "names that are taken",
    "small images",
    "taken by what is computed",
    "volumes, transposed",
    "volumes, transposed, batch of two",
}
"""Modules whose words in dialect ssd are Caffe's alone."""


@contextmanager
def traced_once(name: str) -> Iterator[None]:
    """A module's graph is the same whatever the options: torch is asked for it once, which is most of a conversion."""
    export = traced.export

    def remembered(made: torch.nn.Module, *arguments: Any) -> ExportedProgram:
        key = name, *(value.device.type for value in made.parameters())
        if key not in PROGRAMS:
            PROGRAMS[key] = export(made, *arguments)
        return PROGRAMS[key]

    with patch.object(traced, "export", remembered):
        yield


PROGRAMS: dict[tuple[str, ...], ExportedProgram] = {}


class Converted:
    """A module of the table: what torch computes, and the net that it became, in a directory."""

    def __init__(self, directory: Path, name: str, **options: object) -> None:
        directory.mkdir(exist_ok=True)
        made = traced_modules.seeded(name)
        checkpoint = directory / "c.pth"
        torch.save(made.state_dict(), checkpoint)
        self.shape = traced_modules.shape(name)
        self.image = np.random.default_rng(1).standard_normal(self.shape).astype("f4")
        with torch.no_grad():
            answer = made(torch.from_numpy(self.image.copy()))
        self.expected = [np.atleast_1d(leaf.numpy()) for leaf in tree_leaves(answer)]
        self.prototxt, self.model = directory / "net.prototxt", directory / "net.caffemodel"
        self.options = Options(
            net=f"{FILE}:build", net_args=json.dumps({"name": name}), input_shape=self.shape, **options
        )
        with traced_once(name):
            self.plan = streamexport.convert([checkpoint], self.model, self.options)
        self.outputs = self.plan.net.outputs
        assert len(self.outputs) == len(self.expected)
        np.savez(directory / "inputs.npz", data=self.image)

    def assert_agrees(self, answers: list[np.ndarray], tolerance: float = TOLERANCE) -> None:
        for found, expected in zip(answers, self.expected, strict=True):
            assert found.shape == expected.shape
            assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()

    def stream(self) -> list[np.ndarray]:
        made = streamexport.forward(self.prototxt, [self.model], self.image, self.outputs)
        return [made[name] for name in self.outputs]


@pytest.mark.parametrize("name", MODULES)
def test_opencv_and_stream_compute_what_torch_computes(tmp_path, name):
    for dialect in ("portable", "ssd"):
        made = Converted(tmp_path / dialect, name, dialect=dialect)
        made.assert_agrees(made.stream())
        if dialect == "ssd" and name in CAFFE_S:
            assert any(note.startswith("OpenCV 4 lacks") for note in made.plan.notes)
            continue
        found = [opencv_logits(made.prototxt, made.model, made.image, output) for output in made.outputs]
        made.assert_agrees([a.reshape(b.shape) for a, b in zip(found, made.expected, strict=True)])


@pytest.mark.parametrize(
    "name", ["relu6", "max pool", "convnext", "residual", "rows", "split", "repeated", "several outputs"]
)
@pytest.mark.parametrize(
    "options",
    [{"dialect": "bvlc"}, {"in_place": True}, {"fold_batchnorm": True}, {"names": "classic", "in_place": True}],
)
def test_other_options_compute_the_same(tmp_path, name, options):
    made = Converted(tmp_path, name, **options)
    made.assert_agrees(made.stream())


@pytest.mark.caffe
def test_caffe_computes_what_torch_computes(tmp_path):
    made = {
        f"{dialect} {name}": Converted(
            tmp_path / f"{dialect}{number}", name, dialect=dialect, in_place=dialect == "ssd"
        )
        for number, name in enumerate(MODULES)
        for dialect in ("portable", "ssd")
    }
    assert not caffe_judge.departures(made)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_constant_beside_activations_is_exact_whatever_they_are(tmp_path, value):
    made = Converted(tmp_path, "constants beside activations")
    made.image[:] = value
    for answer in (made.stream()[0], opencv_logits(made.prototxt, made.model, made.image, made.outputs[0])):
        assert (answer.reshape(8, 9, 12)[4:] == 1).all()


def test_gelu_is_close_enough_over_all_that_it_changes(tmp_path):
    made = traced_modules.seeded("gelu")
    for value in made.parameters():
        value.data = torch.eye(4).view(4, 4, 1, 1) if value.ndim == 4 else torch.zeros(4)
    torch.save(made.state_dict(), tmp_path / "c.pth")
    image = np.linspace(-12, 12, 4 * 9 * 12, dtype="f4").reshape(1, 4, 9, 12)
    options = Options(net=f"{FILE}:build", net_args='{"name": "gelu"}', input_shape=image.shape)
    streamexport.convert([tmp_path / "c.pth"], tmp_path / "m.caffemodel", options)
    (found,) = streamexport.forward(tmp_path / "m.prototxt", [tmp_path / "m.caffemodel"], image).values()
    assert np.abs(found - torch.nn.functional.gelu(torch.from_numpy(image)).numpy()).max() < 4e-6


# The nets that are built in


def resnet(name: str) -> torch.nn.Module:
    """For --net."""
    return module(families.find(name))


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d"])
def test_tracing_a_resnet_gives_the_net_that_is_built_in(checkpoint, name):
    tensors = open_weights(checkpoint(name)).tensors
    found = families.bind(tensors, f"{__file__}:resnet", (1, 3, 224, 224), json.dumps({"name": name}))
    expected = passes.outputs.without_softmax(families.bind(tensors, name))
    assert len(found.layers) == len(expected.layers)
    for ours, theirs in zip(found.layers, expected.layers, strict=True):
        for part in ("name", "operation", "bottoms", "tops", "origin"):
            assert getattr(ours, part) == getattr(theirs, part), (ours.name, part)
        for blob, other in zip(ours.blobs, theirs.blobs, strict=True):
            assert (blob.shape, blob.origin) == (other.shape, other.origin)
            assert rendered(blob.values) == rendered(other.values)


def test_the_largest_net_is_traced_without_its_weights(tmp_path):
    """3.3 GB of weights, none of which is read: the checkpoint's storages are holes."""
    path = tmp_path / "c.pth"
    tool = ROOT / "tools" / "make_checkpoint.py"
    subprocess.run([sys.executable, tool, "resnext101_32x48d_wsl", path, "--sparse"], check=True)
    net, arguments = f"{__file__}:resnet", '{"name": "resnext101_32x48d_wsl"}'
    done = run_cli("convert", path, "--net", net, "--net-args", arguments, "-o", "/dev/null", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Convolution") == 104


# Bad input


def write_module(directory: Path, body: str) -> str:
    """A FILE.py with a class M around the body, and a checkpoint c.pth beside it that fits the convolution in it."""
    text = "import torch\nfrom torch import nn\nfrom torch.nn import functional as F\n\nclass M(nn.Module):\n"
    text += "    def __init__(self, classes=4):\n        super().__init__()\n        self.conv = nn.Conv2d(3, classes, 1)\n\n"
    text += "    def forward(self, x):\n" + "".join(f"        {line}\n" for line in body.splitlines())
    (directory / "model.py").write_text(text)
    torch.save({"conv.weight": torch.ones(4, 3, 1, 1), "conv.bias": torch.zeros(4)}, directory / "c.pth")
    return f"{directory}/model.py:M"


def refused(directory: Path, net: str, *options: object) -> str:
    line = assert_refused("convert", directory / "c.pth", "--net", net, "-o", directory / "m.caffemodel", *options)
    assert not (directory / "m.caffemodel").exists()
    assert not (directory / "m.prototxt").exists()
    return line


@pytest.mark.parametrize(
    ("net", "message"),
    [
        ("nowhere.models:M", "nowhere.models cannot be imported: ModuleNotFoundError"),
        ("{0}/other.py:M", "other.py: no such file"),
        ("{0}/model.py:MM", "has no callable 'MM'; did you mean M?"),
        ("{0}/model.py:F.relu", "cannot be built: TypeError"),
        ("{0}/model.py:torch.Size", "builds a Size, not a torch.nn.Module"),
        ("{0}/broken.py:M", "broken.py cannot be imported: SyntaxError"),
        ("{0}/exits.py:M", "exits.py cannot be imported: SystemExit"),
        (
            "{0}/other_modules.py:scripted",
            "cannot be built: RuntimeError: requires_grad_ is not supported on ScriptModules",
        ),
        ("{0}/other_modules.py:lazy", "cannot be built: ValueError: Attempted to use an uninitialized parameter"),
    ],
)
def test_a_callable_that_builds_nothing_is_refused(tmp_path, net, message):
    write_module(tmp_path, "return self.conv(x)")
    (tmp_path / "broken.py").write_text("def")
    (tmp_path / "exits.py").write_text("import sys\nsys.exit()")
    (tmp_path / "other_modules.py").write_text(
        "from torch import jit, nn\nlazy = lambda: nn.LazyConv2d(4, 1)\nscripted = lambda: jit.script(nn.Conv2d(3, 4, 1))"
    )
    assert message in refused(tmp_path, net.format(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("{", "--net-args is not JSON"),
        ("[1]", "--net-args is no JSON object"),
        ('{"colours": 1}', "cannot be built: TypeError"),
        ('{"classes": 5}', "conv.weight is [4, 3, 1, 1], not [5, 3, 1, 1]"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(tmp_path, arguments, message):
    net = write_module(tmp_path, "return self.conv(x)")
    assert message in refused(tmp_path, net, "--net-args", arguments)


def test_a_checkpoint_that_does_not_fit_is_refused_with_what_looks_alike(tmp_path):
    net = write_module(tmp_path, "return self.conv(x)")
    torch.save({"conv.weights": torch.ones(4, 3, 1, 1), "conv.bias": torch.zeros(4)}, tmp_path / "c.pth")
    line = refused(tmp_path, net)
    assert "conv.weight is missing (there is conv.weights)" in line
    assert "conv.weights is not expected" in line


@pytest.mark.parametrize("value", [1.0, 2.0])
def test_a_tensor_with_two_names_is_one(tmp_path, value):
    net = write_module(tmp_path, "return self.conv(x)")
    model = tmp_path / "model.py"
    model.write_text(
        model.read_text().replace("\n\n    def forward", "\n        self.other = self.conv\n\n    def forward")
    )
    weights, bias = torch.ones(4, 3, 1, 1), torch.zeros(4)
    state = {
        "conv.weight": weights,
        "conv.bias": bias,
        "other.weight": torch.full_like(weights, value),
        "other.bias": bias,
    }
    torch.save(state, tmp_path / "c.pth")
    if value == 1:
        done = run_cli("convert", tmp_path / "c.pth", "--net", net, "-o", tmp_path / "m.caffemodel")
        assert done.returncode == 0, done.stderr
    else:
        assert "other.weight is not conv.weight, which are one tensor in the module" in refused(tmp_path, net)


def test_all_operators_that_cannot_be_expressed_are_listed_in_one_go(tmp_path):
    net = write_module(tmp_path, "x = self.conv(x).sin()\nx = x.cumprod(1)\nreturn x.mode(1)[0].sin()")
    line = refused(tmp_path, net)
    assert "aten.sin (2 times, first in the net itself at model.py:11)" in line
    assert "aten.cumprod (in the net itself at model.py:12)" in line
    assert "aten.mode (in the net itself at model.py:13) is not known here" in line


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return self.conv(x) if x.sum() > 0 else x", "cannot be traced"),
        ("return self.conv(x)[:, :int(x.max())]", "cannot be traced"),
        ("return self.conv(x).sum(1, dtype=torch.int64)", "rounds an activation, to torch.int64"),
        ("return self.conv(x) + 1j", "changes the type of an activation to torch.complex64"),
        ("return self.conv(x)[:, 3:1]", "takes nothing at all"),
        ("return self.conv(x) / 0", "divides by zero"),
        (
            "return F.conv2d(x, self.conv(x)[:, :3, :3, :3])",
            "as a weight what depends on the input",
        ),
        ("return self.conv(x)[:, torch.tensor([-9, 0])]", "-9"),
        (
            "return self.conv(x).fmod(2)",
            "aten.fmod.Scalar (in the net itself at model.py:11) is not known here",
        ),
        ("return torch.take_along_dim(self.conv(x), torch.tensor([[[[9]]]]), 1)", "picks places 9 to 9 of 4"),
        ("return F.dropout(self.conv(x), 0.5)", "drops values at random"),
        ("return self.conv(x) + torch.rand(4, 1, 1)", "aten.rand (in the net itself at model.py:11) is not known here"),
        ("return torch.linalg.matrix_norm(self.conv(x), 'nuc')", "a norm of order nuc"),
        ("return F.scaled_dot_product_attention(x, x, x, dropout_p=0.5)", "drops values at random"),
        (
            "m = torch.ones(224, 224).tril(-1).bool()\nreturn F.scaled_dot_product_attention(x, x, x, m)",
            "hides all keys",
        ),
        ("return F.interpolate(self.conv(x)[:, :, :9, :9], scale_factor=2.05)", "which torch does in two ways"),
        ("self.conv.weight.mul_(2)\nreturn self.conv(x)", "conv.weight is from then on"),
        ("with torch.autocast('cpu'):\n    return self.conv(x)", "changes the type of an activation to torch.bfloat16"),
        ("raise SystemExit", "cannot be traced with an input of [1, 3, 224, 224]: SystemExit"),
        ("return []", "its module returns no tensor"),
        ("return self.conv(x).double()", "changes the type of an activation to torch.float64"),
        ("return self.conv(x).cummax(1)[0]", "aten.cummax (in the net itself at model.py:11) is not known here"),
        ("return x", "an output (of the net) is the input itself"),
        ("return self.conv.weight + 1", "an output (of the net) is a constant"),
        ("return F.adaptive_max_pool2d(self.conv(x), 5, True)[1]", "uses the indices"),
        ("return F.max_pool2d(self.conv(x), 2, return_indices=True)[1]", "uses the indices"),
        (
            "return F.max_pool2d(self.conv(x)[:, :, :2], (2, 1), 1, (1, 0), dilation=3)",
            "has windows that see nothing but padding",
        ),
        ("return self.conv(x, 1)", "cannot be traced with an input of [1, 3, 224, 224]: TypeError"),
        ("return self.conv(x[:, :2])", "cannot be traced with an input of [1, 3, 224, 224]: RuntimeError"),
    ],
)
def test_what_cannot_be_traced_or_expressed_is_refused(tmp_path, body, message):
    assert message in refused(tmp_path, write_module(tmp_path, body))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "return self.conv(torch.autograd.Variable(x.data))",
            "it takes elements out of torch's sight, as x.data, Variable",
        ),
        ("return self.conv(torch.from_numpy(x.numpy()))", "it takes elements out of torch's sight"),
        ("return self.conv(x) if x.mean().item() > 0 else x", "its control flow or its shapes depend on values"),
        ("return self.conv(x)[x.mean((1, 2, 3)) > 0]", "its control flow or its shapes depend on values"),
        ("return self.conv(x) + torch.zeros(1).cuda()", "it asks for a GPU; take the device from the input"),
    ],
)
def test_what_torch_says_of_itself_is_said_of_the_module(tmp_path, body, message):
    line = refused(tmp_path, write_module(tmp_path, body))
    assert message in line
    assert "github" not in line


def test_a_module_of_several_inputs_is_refused_where_one_is_given(tmp_path):
    net = write_module(tmp_path, "return self.conv(x)")
    model = tmp_path / "model.py"
    model.write_text(model.read_text().replace("def forward(self, x)", "def forward(self, x, y)"))
    line = refused(tmp_path, net)
    assert f"{net} takes x, y: missing a required argument: 'y'; --input-shape is given for each tensor" in line


def repository(root: Path) -> None:
    """As many are laid out: packages without a setup, which import each other from the root, and relatively."""
    body = (
        "class Model(nn.Module):\n    def __init__(self):\n        super().__init__()\n        self.conv = conv()\n\n"
    )
    body += (
        "    def forward(self, x):\n        from utils.scaling import scaled\n\n        return scaled(self.conv(x))\n"
    )
    files = {
        "models/__init__.py": "",
        "models/common.py": "from torch import nn\n\n\ndef conv():\n    return nn.Conv2d(3, 4, 1)\n",
        "models/yolo.py": "from models.common import *\n\n\n" + body,
        "models/heads/__init__.py": body.replace("class", "from ..common import conv, nn\n\n\nclass"),
        "models/heads/rel.py": "from ..common import conv, nn\n\n\n" + body,
        "utils/scaling.py": "def scaled(x):\n    return x * 2\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    torch.save({"conv.weight": torch.ones(4, 3, 1, 1), "conv.bias": torch.zeros(4)}, root / "c.pth")


@pytest.mark.parametrize(
    ("here", "net"),
    [
        ("repository", "models/yolo.py:Model"),
        ("repository", "models/heads/rel.py:Model"),
        ("repository", "models/heads/__init__.py:Model"),
        ("repository", "models.yolo:Model"),
        (".", "repository/models/yolo.py:Model"),
        ("repository/models", "yolo.py:Model"),
    ],
)
def test_a_file_in_a_package_is_imported_as_its_module(tmp_path, here, net):
    repository(tmp_path / "repository")
    where = ("--net", net, "--input-shape", "1,3,4,4", "-o", tmp_path / "m.caffemodel")
    done = run_cli("convert", tmp_path / "repository" / "c.pth", *where, cwd=tmp_path / here)
    assert done.returncode == 0, done.stderr


def test_a_package_of_another_repository_is_not_taken_for_the_one_that_is_named(tmp_path):
    for name in ("one", "two"):
        repository(tmp_path / name)
    code = "import sys\nfrom streamexport.tracing.modules import find\nfor net in sys.argv[1:]: find(net, None)"
    nets = [f"{tmp_path}/{name}/models/yolo.py:Model" for name in ("one", "one", "two")]
    done = subprocess.run([sys.executable, "-c", code, *nets], capture_output=True, text=True)
    assert (
        f"{tmp_path}/two/models/yolo.py: is module models.yolo, of which another one is imported already" in done.stderr
    )


def test_a_file_without_a_callable_is_refused_with_what_to_say(tmp_path):
    write_module(tmp_path, "return self.conv(x)")
    line = refused(tmp_path, f"{tmp_path}/model.py")
    assert "names a file; say which class or function in it builds the module: --net" in line


@pytest.mark.parametrize("shape", ["0,3,5,5", "1,3,100000,100000"])
def test_an_input_that_no_blob_holds_is_refused(tmp_path, shape):
    net = write_module(tmp_path, "return self.conv(x)")
    assert "takes no input of" in refused(tmp_path, net, "--input-shape", shape)


def test_a_file_may_be_called_like_a_module_that_torch_imports(tmp_path):
    net = write_module(tmp_path, "return self.conv(x)").replace("model.py", "inspect.py")
    (tmp_path / "model.py").rename(tmp_path / "inspect.py")
    fresh = dict(os.environ)
    done = run_cli("convert", tmp_path / "c.pth", "--net", net, "-o", tmp_path / "m.caffemodel", env=fresh)
    assert done.returncode == 0, done.stderr


def test_a_permutation_is_for_those_that_have_the_layer(tmp_path):
    net = write_module(tmp_path, "return self.conv(x).permute(0, 2, 3, 1)")
    done = run_cli("convert", tmp_path / "c.pth", "--net", net, "-o", tmp_path / "m.caffemodel", "--dialect", "opencv")
    assert done.returncode == 0, done.stderr
    image = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype("f4")
    found = opencv_logits(tmp_path / "m.prototxt", tmp_path / "m.caffemodel", image, "permute")
    np.testing.assert_allclose(found[0], image[0].sum(0)[..., None].repeat(4, -1), atol=1e-5)


@pytest.mark.parametrize("body", ["return self.conv(x) + torch.ones(4, 1, 1)", "return self.conv(x) * float(len(x))"])
def test_a_module_that_fails_on_the_meta_device_is_built_otherwise(tmp_path, body):
    net = write_module(tmp_path, body)
    done = run_cli("convert", tmp_path / "c.pth", "--net", net, "-o", tmp_path / "m.caffemodel")
    assert done.returncode == 0, done.stderr
    assert ("built on the CPU, without weights" in done.stderr) == ("ones" in body)


# verify --forward


@pytest.fixture
def residual(tmp_path) -> Callable[..., tuple[object, ...]]:
    made = Converted(tmp_path, "residual")
    return lambda *options: ("verify", tmp_path / "c.pth", made.model, "--net", f"{FILE}:build", "--forward", *options)


def test_verify_says_how_far_each_layer_is_from_torch(residual):
    done = run_cli(*residual("--layers"))
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == ["conv1", "bn.scale", "relu1", "conv2", "relu2", "relu3", "relu3"]
    assert all(float(row[-1]) < 1e-6 for row in rows)
    assert "7 layers as torch computes them, relu3 within" in done.stderr


def test_verify_asks_opencv(residual):
    assert "; opencv," in run_cli(*residual("--engine", "opencv")).stderr


def test_verify_compares_the_calls_that_are_made(tmp_path):
    made = Converted(tmp_path, "input changed")
    assert parity([tmp_path / "c.pth"], [made.model], options=made.options).departed is None


def test_leaving_out_the_softmax_leaves_the_other_outputs(tmp_path):
    net = write_module(tmp_path, "y = self.conv(x)\nreturn y.relu(), y.softmax(1)")
    options = ("--net", net, "--no-softmax", "--input-shape", "1,3,5,6")
    done = run_cli("convert", tmp_path / "c.pth", "-o", tmp_path / "m.caffemodel", *options)
    assert "outputs, in torch's order" in done.stderr
    image = np.random.default_rng(0).standard_normal((1, 3, 5, 6)).astype("f4")
    found = opencv_logits(tmp_path / "m.prototxt", tmp_path / "m.caffemodel", image, "relu")
    np.testing.assert_allclose(found[0], np.maximum(image[0].sum(0)[None].repeat(4, 0), 0), atol=1e-5)
    done = run_cli("verify", tmp_path / "c.pth", tmp_path / "m.caffemodel", "--net", net, "--forward")
    assert done.returncode == 0, done.stderr


@pytest.mark.caffe
def test_verify_asks_caffe(residual):
    assert "; caffe," in run_cli(*residual("--engine", "caffe")).stderr


def test_verify_names_the_first_layer_that_departs(tmp_path, residual):
    prototxt = tmp_path / "net.prototxt"
    prototxt.write_text(prototxt.read_text().replace("pad: 1", "pad: 0", 1).replace("pad: 1", "pad: 2", 1))
    line = assert_refused(*residual())
    assert "layer conv1, conv1 in torch: departs from torch" in line


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--fold-batchnorm", "--input-order", "bgr", "--fold-input-scale"),
        ("--in-place", "--names", "classic", "--dtype", "float16"),
    ],
)
def test_verify_runs_the_nets_that_are_built_in(tmp_path, checkpoint, options):
    path = checkpoint("resnet18")
    assert run_cli("convert", path, "-o", tmp_path / "m.caffemodel", *options).returncode == 0
    done = run_cli("verify", path, tmp_path / "m.caffemodel", "--forward")
    assert done.returncode == 0, done.stderr
    assert " layers as torch computes them" in done.stderr


@pytest.mark.parametrize("options", [(), ("--forward",), ("--names", "classic")])
def test_a_model_cannot_choose_the_code_that_verify_runs(tmp_path, options):
    made = Converted(tmp_path, "residual")
    (tmp_path / "evil.py").write_text("import pathlib\npathlib.Path(__file__).with_name('ran').touch()")
    model = caffe_pb2.NetParameter.FromString(made.model.read_bytes())
    record = json.loads(model.streamexport_record)
    record["options"]["net"] = f"{tmp_path}/evil.py:build"
    model.streamexport_record = json.dumps(record).encode()
    made.model.write_bytes(model.SerializeToString())
    line = assert_refused("verify", tmp_path / "c.pth", made.model, *options)
    assert "which is code, and no file may choose what is run" in line
    assert not (tmp_path / "ran").exists()


def test_verify_needs_the_prototxt(tmp_path, residual):
    (tmp_path / "net.prototxt").unlink()
    assert "net.prototxt" in assert_refused(*residual())
