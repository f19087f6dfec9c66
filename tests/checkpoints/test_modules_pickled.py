"""Whole modules and TorchScript archives: torch pickles them, their own state_dict() says what is in them."""

from __future__ import annotations

import copy
import json
import pickle
import struct
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from streamexport.checkpoints import open_weights
from streamexport.errors import FormatError
from streamexport.families import find
from tests.checkpoints.test_readers_torch import FORMATS, assert_same, save
from tests.conftest import assert_refused, run_cli
from tests.promises.test_promises import measured


class Net(nn.Module):
    """With all that a state dict has and has not."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU()), nn.Identity()])
        self.named = nn.ModuleDict({"a": nn.Linear(8, 2)})
        self.tied = self.named["a"]
        self.alone = nn.Parameter(torch.randn(3))
        self.absent = None
        self.register_parameter("none", None)
        self.register_buffer("kept", torch.randn(2, 3).t())
        self.register_buffer("passing", torch.randn(5), persistent=False)
        self.loose = torch.randn(4)  # an attribute, which no state dict has

    def forward(self, x):
        x = self.bn(self.conv(x))
        for block in self.blocks:
            x = block(x)
        return self.named["a"](x.mean((2, 3))) + self.loose[0]


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Net().eval()


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("nest", "key"),
    [
        (lambda net: net, ""),
        (lambda net: nn.DataParallel(net), ""),
        (lambda net: {"epoch": 3, "model": net, "optimizer": None}, "model"),
        (lambda net: {"model": copy.deepcopy(net).half(), "ema": copy.deepcopy(net).half()}, "model"),
        (lambda net: {"best": [0, {"net": net}]}, "best.1.net"),
    ],
)
def test_a_pickled_module_is_its_state_dict(tmp_path, net, form, nest, key):
    weights = open_weights(save(nest(net), tmp_path / "c", form))
    expected = net.state_dict()
    if any(tensor.dtype.name == "float16" for tensor in weights.tensors.values()):
        expected = copy.deepcopy(net).half().state_dict()
    assert_same(weights, expected)
    assert weights.key == key
    assert weights.module in (f"{__name__}.Net", "torch.nn.parallel.data_parallel.DataParallel")


def modules():
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield "weight norm of old", nn.utils.weight_norm(nn.Linear(3, 4))
        yield "spectral norm", nn.utils.spectral_norm(nn.Linear(3, 4))
    yield "lists of parameters", nn.ParameterList([torch.randn(2), torch.randn(3)])
    yield "recurrent", nn.LSTM(2, 3)
    yield "averaged", torch.optim.swa_utils.AveragedModel(nn.Linear(2, 2))
    yield "traced by fx", torch.fx.symbolic_trace(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.BatchNorm1d(3)))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(("kind", "module"), list(modules()))
def test_modules_of_every_make(tmp_path, form, kind, module):
    weights = open_weights(save(module, tmp_path / "c", form))
    expected = module.state_dict()
    assert sorted(weights.tensors) == sorted(expected)
    for name, tensor in weights.tensors.items():
        assert tensor.shape == tuple(expected[name].shape)


class Old:
    pass


def test_a_module_of_torch_before_0_4_with_its_source_code(tmp_path):
    """Its class is a persistent id with the file and the text that define it, its parameters are calls of Parameter."""

    class Storage:
        pass

    class Tensor:
        def __reduce__(self):
            return torch._utils._rebuild_tensor, (Storage(), 1, (2,), (1,))

    class Parameter:
        def __reduce__(self):
            return nn.Parameter, (Tensor(),), (True, False, None)

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            if isinstance(value, Storage):
                return ("storage", torch.FloatStorage, "0", "cpu", 3, None)
            return ("module", nn.Linear, "linear.py", "import canary") if value is Old else None

    module = Old()
    module.__dict__ |= {"_parameters": {"w": Parameter()}, "_buffers": {}, "_modules": {}, "training": False}
    path = save({}, tmp_path / "old.pth", "legacy")
    head = path.read_bytes()
    with path.open("wb") as file:
        file.write(head[: head.index(b"\x80\x02}", 40)])  # magic, protocol, system information
        Pickler(file, 2).dump(module)
        pickle.dump(["0"], file, 2)
        file.write(struct.pack("<q", 3) + np.arange(3, dtype="<f4").tobytes())
    weights = open_weights(path)
    assert_same(weights, {"w": torch.tensor([1.0, 2.0])})
    assert weights.module == "torch.nn.modules.linear.Linear"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("make", ["script", "trace"])
def test_a_torchscript_archive_is_its_attributes(tmp_path, net, make):
    """Which of the tensors are in the state dict stands in its code only, which is not read: loose ones come, too."""
    script = torch.jit.script(net) if make == "script" else torch.jit.trace(net, torch.randn(1, 3, 8, 8))
    torch.jit.save(script, tmp_path / "s.pt")
    weights = open_weights(tmp_path / "s.pt")
    expected = {**script.state_dict(), "loose": net.loose, "passing": net.passing}
    assert expected.keys() - {"loose", "passing"} <= weights.tensors.keys() <= expected.keys()
    named = {name: expected[name] for name in weights.tensors}
    assert_same(weights, named)
    assert weights.module.startswith("__torch__.")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_frozen_torchscript_has_no_names_for_its_weights(tmp_path, net):
    torch.jit.save(torch.jit.freeze(torch.jit.script(net)), tmp_path / "s.pt")
    with pytest.raises(FormatError, match=r"s.pt: is frozen TorchScript.*; save the module before torch.jit.freeze"):
        open_weights(tmp_path / "s.pt")


def test_inspect_names_the_class(tmp_path, net):
    path = save({"model": net}, tmp_path / "c.pt", "zip")
    done = run_cli("inspect", path)
    size = sum(tensor.nbytes for tensor in net.state_dict().values())
    assert done.stdout.splitlines()[-1] == f"torch zip, the module model (a {__name__}.Net): 14 tensors, {size} bytes"
    assert f'"class": "{__name__}.Net"' in run_cli("inspect", path, "--json").stdout


def test_what_a_quantised_layer_packs_is_named(tmp_path):
    packed = torch.ao.nn.quantized.Linear(3, 4)
    path = save(nn.Sequential(nn.Conv2d(3, 4, 1), packed), tmp_path / "c", "zip")
    assert [tensor["name"] for tensor in json.loads(run_cli("inspect", path, "--json").stdout)["tensors"]] == [
        "0.weight",
        "0.bias",
    ]
    line = assert_refused("convert", path, "-o", tmp_path / "m.caffemodel")
    assert "no built-in net has tensors like these (0.weight, 0.bias" in line
    assert "1._packed_params._packed_params holds the weights of a quantised layer (at byte" in line


def test_a_module_of_3_gb_takes_no_memory_and_no_torch(tmp_path):
    """ResNeXt-101 32x48d as a whole module; its storages are holes in the file."""
    if not hasattr(torch.serialization, "skip_data"):
        pytest.skip("this torch cannot leave holes in a checkpoint")
    from streamexport.families import torch_resnet

    with torch.device("meta"):
        module = torch_resnet.module(find("resnext101_32x48d_wsl"))
    with torch.serialization.skip_data():
        torch.save({"model": module.to_empty(device="cpu")}, tmp_path / "c.pth")
    assert (tmp_path / "c.pth").stat().st_size > 3.3e9
    for command in (("inspect",), ("convert", "-o", tmp_path / "m.h5", "--format", "linked", "--quiet")):
        peak, heavy = measured(command[0], tmp_path / "c.pth", *command[1:])
        assert peak < 64 << 10
        assert "torch" not in heavy
