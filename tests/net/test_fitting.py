"""Which tensors of a checkpoint become a net: whichever dict they stand in, whatever stands before or beside them."""

from __future__ import annotations

import collections
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from streamexport import families
from streamexport.checkpoints import open_weights
from streamexport.conversion.bound import bind
from streamexport.conversion.options import Options
from streamexport.errors import NetError
from streamexport.families.resnet import RESNETS
from streamexport.net import fitting
from tests.conftest import ROOT, assert_refused, run_cli
from tests.families.test_nets import tensors
from tests.payload.test_extents import rendered


class Small(nn.Module):
    """For --net."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.bn1(self.conv1(x)).mean((2, 3)))


class Tied(nn.Module):
    """For --net: one convolution by two names."""

    def __init__(self) -> None:
        super().__init__()
        self.a = self.b = nn.Conv2d(3, 3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x))


class Wrapped(nn.Module):
    """For --net: a net that has a part called `module`."""

    def __init__(self) -> None:
        super().__init__()
        self.module = Small()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.module(x)


State = dict[str, torch.Tensor]


def state(seed: int = 0) -> State:
    torch.manual_seed(seed)
    net = Small()
    net.bn1.running_mean.normal_()
    return net.state_dict()


def before(prefix: str, values: State, **more: object) -> dict[str, Any]:
    return {**{prefix + name: value for name, value in values.items()}, **more}


def options(net: str = "Small", **more: Any) -> Options:
    return Options(net=f"{__file__}:{net}", input_shape=(1, 3, 8, 8), **more)


def notes_of(path: Path, values: State, chosen: Options) -> str:
    """What is said of a net that has to hold these values."""
    bound = bind([path], chosen)
    found = {origin: blob for layer in bound.net.layers for blob in layer.blobs for origin in blob.origin}
    assert found.keys() == {name for name in values if not name.endswith(fitting.COUNTER)}
    for name, blob in found.items():
        assert rendered(blob.values) == values[name].numpy().tobytes(), name
    return "\n".join(bound.net.notes)


ADAM = {"state": {0: {"step": 3, "exp_avg": torch.randn(4, 3, 3, 3), "exp_avg_sq": torch.randn(4, 3, 3, 3)}}}
CHECKPOINTS: dict[str, tuple[Callable[[State], Any], str]] = {
    "best accuracy of one element": (
        lambda s: {"state_dict": s, "best_acc1": torch.tensor([69.7]), "optimizer": ADAM},
        "state dict 'state_dict'",
    ),
    "random state": (lambda s: {"sd": s, "torch_rng": torch.get_rng_state()}, "state dict 'sd'"),
    "class weights": (lambda s: {"model": s, "class_weights": torch.rand(1000)}, "state dict 'model'"),
    "another net beside it": (lambda s: {"state_dict": {"w": torch.rand(9)}, "ours": s}, "state dict 'ours'"),
    "an average": (
        lambda s: {"model": s, "ema": state(1)},
        "state dict 'model' of the checkpoint; 'ema' would fit, too",
    ),
    "the same under names that tell nothing": (lambda s: {"a": s, "b": s}, "state dict 'a' of the checkpoint$"),
    "the same twice": (lambda s: {"model": s, "ema": s}, "state dict 'model' of the checkpoint"),
    "averaged, and counted": (
        lambda s: {"model_ema": before("module.", s, n_averaged=torch.tensor(3))},
        "'module.' is taken off the checkpoint's names\nleft out, no part of .*: n_averaged",
    ),
    "Lightning": (
        lambda s: {
            "state_dict": before("model.", s, **{"criterion.weight": torch.rand(5)}),
            "optimizer_states": [ADAM],
        },
        "'model.' is taken off the checkpoint's names\nleft out, no part of .*: criterion.weight",
    ),
    "mmcv": (lambda s: {"state_dict": before("backbone.", s)}, "'backbone.' is taken off"),
    "compiled": (lambda s: before("_orig_mod.", s), "'_orig_mod.' is taken off"),
    "compiled and parallel": (lambda s: before("module._orig_mod.", s), "'module._orig_mod.' is taken off"),
    "twice": (lambda s: before("module.module.", s), "'module.module.' is taken off"),
    "two prefixes": (lambda s: before("model.module.", s), "'model.module.' is taken off"),
    "any name": (lambda s: before("net.", s), "'net.' is taken off"),
    "MoCo": (
        lambda s: before("module.encoder_q.", s, queue=torch.rand(4, 9)),
        "'module.encoder_q.' is taken off.*\nleft out, no part of .*: queue",
    ),
    "a wrapped part": (
        lambda s: {name.replace("bn1.", "bn1.module."): value for name, value in s.items()},
        "what wrappers add is taken off the checkpoint's names: bn1.weight is bn1.module.weight there",
    ),
    "student and teacher of one wrapper": (
        lambda s: {**before("net.", s), **before("copy.", s)},
        "'copy.' is taken off the checkpoint's names\nleft out",
    ),
    "profiled": (
        lambda s: {**s, "total_ops": torch.zeros(1).double(), "fc.total_params": torch.zeros(1).double()},
        "left out, no part of .*: total_ops, fc.total_params",
    ),
    "a head that is gone": (lambda s: {**s, "aux.weight": torch.rand(3, 3)}, "left out, no part of .*: aux.weight"),
    "old": (lambda s: {name: value for name, value in s.items() if "num_batches" not in name}, "net .*, traced"),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_a_traced_net_finds_its_tensors(tmp_path, case):
    make, note = CHECKPOINTS[case]
    values = state()
    torch.save(make(values), tmp_path / "c.pth")
    found = notes_of(tmp_path / "c.pth", values, options())
    assert re.search(note, found), found
    assert ("left out" in found) == ("left out" in note)
    assert ("taken off" in found) == ("taken off" in note)
    assert "float64" not in found  # what is left out is not rounded


def test_of_several_that_fit_the_user_chooses(tmp_path):
    path = tmp_path / "c.pth"
    torch.save({name: {"state_dict": state(seed)} for seed, name in enumerate(("generator", "other"))}, path)
    size = sum(value.numel() * value.itemsize for value in state().values())
    with pytest.raises(NetError) as refused:
        bind([path], options())
    assert f"holds several state dicts; choose with `key=`: generator.state_dict (8 tensors, {size} bytes)" in str(
        refused.value
    )
    notes_of(path, state(1), options(key="other.state_dict"))
    torch.save(before("module.encoder_q.", state()) | before("module.encoder_k.", state(1)), path)
    with pytest.raises(
        NetError, match=r"under several prefixes; choose with `prefix=`: 'encoder_k.' \(8 .*'encoder_q.' \(8"
    ):
        bind([path], options())
    for prefix in ("encoder_k.", "encoder_k", "module.encoder_k."):
        assert "left out" not in notes_of(path, state(1), options(prefix=prefix))
    with pytest.raises(NetError, match="has no tensors under 'nothing.'; names begin with encoder_q., encoder_k."):
        bind([path], options(prefix="nothing"))
    torch.save(state(), path)
    with pytest.raises(NetError, match="has no tensors under 'module.'"):
        bind([path], options(prefix="module."))


def test_a_prefix_is_said_on_the_command_line_and_recorded(tmp_path):
    torch.save(before("student.", state()) | before("teacher.", state(1)), tmp_path / "c.pth")
    net = ("--net", f"{__file__}:Small")
    where = ("-o", tmp_path / "m.caffemodel", "--input-shape", "1,3,8,8")
    assert "choose with --prefix" in assert_refused("convert", tmp_path / "c.pth", *net, *where)
    done = run_cli("convert", tmp_path / "c.pth", *net, *where, "--prefix", "teacher.")
    assert done.returncode == 0, done.stderr
    assert "the same" in run_cli("verify", tmp_path / "c.pth", tmp_path / "m.caffemodel", *net, "--forward").stderr
    done = run_cli("verify", tmp_path / "c.pth", tmp_path / "m.caffemodel", *net, "--prefix", "student.")
    assert "difference" in done.stderr


def test_what_is_missing_or_has_another_shape_is_an_error_under_a_prefix_too(tmp_path):
    values = before("model.", state(), **{"head.weight": torch.rand(2)})
    del values["model.bn1.bias"]
    values["model.fc.weight"] = torch.rand(5, 4)
    torch.save(values, tmp_path / "c.pth")
    with pytest.raises(NetError, match=r"does not fit .*: fc.weight is \[5, 4\], not \[3, 4\], bn1.bias is missing"):
        bind([tmp_path / "c.pth"], options())


def test_a_net_may_have_parts_that_are_called_like_wrappers(tmp_path):
    own = Wrapped().state_dict()
    for name, values in (("as it is", own), ("without", {name.removeprefix("module."): v for name, v in own.items()})):
        torch.save(values, tmp_path / name)
        notes_of(tmp_path / name, own, options("Wrapped"))
    torch.save(own | {name.removeprefix("module."): value + 1 for name, value in own.items()}, tmp_path / "both")
    notes_of(tmp_path / "both", own, options("Wrapped"))


def test_of_tied_names_a_checkpoint_may_keep_one(tmp_path):
    values = Tied().state_dict()
    kept = {name: value for name, value in values.items() if name.startswith("b.")}
    save_file(kept, tmp_path / "c.safetensors")
    bound = bind([tmp_path / "c.safetensors"], options("Tied"))
    assert (
        "one tensor in the module, by one name in the checkpoint: a.weight is b.weight, a.bias is b.bias"
        in bound.net.notes
    )
    layers = [layer for layer in bound.net.layers if layer.blobs]
    assert [rendered(layer.blobs[0].values) for layer in layers] == [values["a.weight"].numpy().tobytes()] * 2


def test_a_tensor_and_its_transpose_in_one_storage_are_two(tmp_path):
    weight = torch.rand(3, 3, 3, 3)
    values = {
        "a.weight": weight,
        "b.weight": weight.transpose(0, 1),
        "a.bias": torch.zeros(3),
        "b.bias": torch.zeros(3),
    }
    torch.save(values, tmp_path / "c.pth")
    with pytest.raises(NetError, match="b.weight is not a.weight, which are one tensor in the module"):
        bind([tmp_path / "c.pth"], options("Tied"))


def test_inspect_finds_the_state_dict_without_a_net(tmp_path):
    path = tmp_path / "c.pth"
    for loose in ({"best_acc1": torch.tensor([69.7])}, {"rng": torch.get_rng_state()}, {"weights": torch.rand(3)}):
        torch.save({"epoch": 1, "sd": before("module.", state()), "optimizer": ADAM, **loose}, path)
        found = open_weights(path)
        assert (found.key, list(found.tensors)) == ("sd", list(state()))


def test_a_key_is_no_path_into_safetensors(tmp_path):
    save_file(before("vision.", state()), tmp_path / "c.safetensors")
    line = assert_refused("inspect", tmp_path / "c.safetensors", "--key", "vision")
    assert "has no state dict 'vision': safetensors hold one" in line
    assert "--prefix" in line
    notes_of(tmp_path / "c.safetensors", state(), options(prefix="vision"))


# Nets that are built in


def under(prefix: str, net: str = "resnet18", **more: tuple[int, ...]):
    held = {prefix + name: tensor for name, tensor in tensors(RESNETS[net]).items()}
    for name, shape in more.items():
        tensor = next(tensor for tensor in held.values() if tensor.shape == shape)
        held[name] = replace(tensor, name=name)
    return held


@pytest.mark.parametrize(
    "prefix", ["module.", "model.", "_orig_mod.", "module.encoder_q.", "backbone.", "module.module.", "backbone.body."]
)
def test_a_built_in_net_is_recognised_under_a_prefix(prefix):
    for name in (families.AUTO, "resnet18"):
        net = families.bind(under(prefix), name)
        assert net.name == "resnet18"
        assert f"{prefix!r} is taken off the checkpoint's names" in net.notes


def test_a_built_in_net_whose_parts_were_wrapped():
    """As DistributedDataParallel and torch.compile leave names where a part was given to them."""
    held = {
        name.replace("layer1.", "layer1.module.").replace("layer2.0.", "layer2.0._orig_mod."): tensor
        for name, tensor in tensors(RESNETS["resnet18"]).items()
    }
    net = families.bind(held)
    assert net.name == "resnet18"
    assert any("layer1.0.conv1.weight is layer1.module.0.conv1.weight there" in note for note in net.notes)


def test_counters_beside_a_built_in_net_are_left_out_and_named():
    net = families.bind(under("", total_ops=(), **{"layer1.0.total_params": ()}))
    assert "left out, no part of resnet18: total_ops, layer1.0.total_params" in net.notes
    with pytest.raises(NetError, match="holds more: total_ops"):
        families.bind(under("", total_ops=(64,)))  # no counter


def test_what_stands_beside_a_prefix_is_not_dropped_unless_the_user_says_so():
    held = under("backbone.", **{"head.weight": (64,)})
    with pytest.raises(NetError, match=r"looks like resnet18, but holds more: head.weight; .*`net=resnet18`"):
        families.bind(held)
    net = families.bind(held, "resnet18")
    assert "left out, no part of resnet18: head.weight" in net.notes
    assert families.Under("backbone", families.architecture()).bind(held, None).net.name == "resnet18"


def test_two_built_in_nets_in_one_dict_are_told_apart_by_prefix():
    held = under("a.") | under("b.", "resnet34")
    assert families.Under("b", families.architecture()).bind(held, None).net.name == "resnet34"
    assert families.bind(held, "resnet34").name == "resnet34"
    with pytest.raises(NetError, match=r"a built-in net under several prefixes; choose with `prefix=`: 'a.' .*, 'b.'"):
        families.bind(held)


def test_the_dict_that_is_a_built_in_net_is_found(tmp_path, checkpoint):
    net = torch.load(checkpoint("resnet18"))
    other = collections.OrderedDict((f"x{i}.weight", torch.rand(2)) for i in range(1000))
    torch.save({"state_dict": other, "student": before("model.", net), "best": torch.rand(1)}, tmp_path / "c.pth")
    bound = bind([tmp_path / "c.pth"], Options())
    assert bound.net.name == "resnet18"
    assert "state dict 'student' of the checkpoint" in bound.net.notes


# Several files


def test_verify_takes_a_model_of_several_checkpoints(tmp_path):
    values = state()
    torch.save({name: value for name, value in values.items() if "fc" not in name}, tmp_path / "body.pth")
    torch.save({name: value for name, value in values.items() if "fc" in name}, tmp_path / "head.pth")
    files, model = [tmp_path / "body.pth", tmp_path / "head.pth"], tmp_path / "m.caffemodel"
    net = ("--net", f"{__file__}:Small")
    done = run_cli("convert", *files, *net, "--input-shape", "1,3,8,8", "-o", model)
    assert done.returncode == 0, done.stderr
    for order in ([*files, model], [files[0], model, files[1]]):
        done = run_cli("verify", *order, *net, "--forward")
        assert done.returncode == 0, done.stderr
    assert "fc.weight is missing" in assert_refused("verify", files[0], model, *net)
    assert "is a model, and so are the others" in assert_refused("verify", model, model, *net)
    assert run_cli("verify", model).returncode == 2


LOGGING = """
import sys
import torch
sys.path.append({tests!r})
from tests.net import test_fitting
def log(what):
    with open({log!r}, "a") as file:
        print(what, file=file)
log("imported")
class Small(test_fitting.Small):
    def __init__(self):
        super().__init__()
        log(f"built on {{self.fc.weight.device}}")
    def forward(self, x):
        log(f"run on {{x.device}}")
        return super().forward(x)
"""


def test_a_net_is_imported_and_traced_once_and_built_once_more_for_torch(tmp_path):
    net, log = tmp_path / "net.py", tmp_path / "log"
    net.write_text(LOGGING.format(tests=str(ROOT), log=str(log)))
    torch.save(state(), tmp_path / "c.pth")
    where = ("--net", f"{net}:Small", "--input-shape", "1,3,8,8")
    traced = ["imported", "built on meta", "run on meta"]
    done = run_cli("convert", tmp_path / "c.pth", *where, "-o", tmp_path / "m.caffemodel")
    assert log.read_text().splitlines() == traced, done.stderr
    log.unlink()
    done = run_cli("verify", tmp_path / "c.pth", tmp_path / "m.caffemodel", *where, "--forward")
    assert done.returncode == 0, done.stderr
    assert log.read_text().splitlines() == [*traced, "built on cpu", "run on cpu"]


OPENING = """
import collections, sys
from streamexport.cli import main
opened = collections.Counter()
sys.addaudithook(lambda event, arguments: event == "open" and opened.update([str(arguments[0])]))
status = main(sys.argv[1:])
print(*(opened[path] for path in sys.argv[1:] if path.endswith((".pth", ".caffemodel"))))
sys.exit(status)
"""


def test_each_file_is_opened_once(tmp_path):
    torch.save(state(), tmp_path / "c.pth")
    net = ("--net", f"{__file__}:Small", "--input-shape", "1,3,8,8")
    files = tmp_path / "c.pth", tmp_path / "m.caffemodel"
    for command in (("convert", files[0], *net, "-o", tmp_path / "m"), ("verify", *files, *net, "--forward")):
        run_cli("convert", files[0], *net, "-o", files[1])
        done = subprocess.run([sys.executable, "-c", OPENING, *map(str, command)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert set(done.stdout.split()) == {"1"}
