"""A fault of ours is called ours, with its place, apart from what torch cannot compute and what Caffe cannot express."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import streamexport
from streamexport import Options, cli
from streamexport.cli import nets as nets_command
from streamexport.errors import Error, FaultError, NetError
from streamexport.tracing.operators.registry import OPERATORS


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 4, 1), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.conv(x))


class Singular(Net):
    """Its weights are an inverse, which torch cannot compute where they are zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.zeros(4, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) * torch.linalg.inv(self.matrix).sum(1).view(4, 1, 1)


def convert(directory, kind: str) -> None:
    made = {"Net": Net, "Singular": Singular}[kind]()
    torch.save(made.state_dict(), directory / "c.pth")
    options = Options(net=f"{__file__}:{kind}", input_shape=(1, 3, 5, 6))
    streamexport.convert([directory / "c.pth"], directory / "m.caffemodel", options)


def test_a_fault_in_an_operator_says_which_where_and_how_to_go_on(tmp_path, monkeypatch):
    def broken(*_: object) -> None:
        raise IndexError("tuple index out of range")

    monkeypatch.setitem(OPERATORS, "relu", broken)
    with pytest.raises(FaultError) as fault:
        convert(tmp_path, "Net")
    said = str(fault.value)
    assert "aten.relu (in act at test_faults.py:22): IndexError at walk.py:" in said
    assert ": tuple index out of range; this is a fault of streamexport's: please report it" in said
    assert "STREAMEXPORT_DEBUG=1" in said
    assert said.endswith("everything up to conv can: `end=conv`")
    assert isinstance(fault.value.__cause__, IndexError)


def test_arguments_that_nobody_expects_are_a_refusal(tmp_path, monkeypatch):
    monkeypatch.setitem(OPERATORS, "relu", lambda net: net)
    with pytest.raises(NetError, match="cannot be converted: aten.relu .* has arguments that are not known here"):
        convert(tmp_path, "Net")


def test_what_torch_cannot_compute_is_a_refusal_in_torchs_words(tmp_path):
    with pytest.raises(NetError, match="takes what torch cannot compute, .*: .*singular"):
        convert(tmp_path, "Singular")


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (KeyError("x"), "KeyError at __init__.py"),
        (RecursionError("maximum recursion depth exceeded"), "RecursionError"),
        (AssertionError(), "AssertionError"),
        (MemoryError(), "there is not enough memory"),
        (ImportError("cannot import name 'x'"), "ImportError"),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), "this needs torch, which is not installed"),
    ],
)
@pytest.mark.parametrize("debug", ["", "1"])
def test_no_exception_leaves_the_command_line(monkeypatch, capsys, raised, said, debug):
    def run(_: object) -> int:
        raise raised

    monkeypatch.setattr(nets_command, "run", run)
    monkeypatch.setenv("STREAMEXPORT_DEBUG", debug)
    assert cli.main(["nets"]) == 1
    *before, line = capsys.readouterr().err.splitlines()
    assert line.startswith(f"streamexport: {said}")
    assert bool(before) == bool(debug)
    assert ("fault of streamexport's" in line) == (type(raised) not in (MemoryError, ModuleNotFoundError))


def test_debugging_shows_where_a_refusal_came_from(monkeypatch, capsys):
    def run(_: object) -> int:
        raise Error("no")

    monkeypatch.setattr(nets_command, "run", run)
    monkeypatch.setenv("STREAMEXPORT_DEBUG", "1")
    assert cli.main(["nets"]) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err
