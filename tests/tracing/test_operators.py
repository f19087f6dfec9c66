"""Operators against ATen's schemas: every name is an operator's, every function's arguments are those of all its overloads."""

from __future__ import annotations

from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import pytest
import torch

import streamexport
from streamexport import Options
from streamexport.errors import NetError
from streamexport.tracing.calls import kept_whole
from streamexport.tracing.operators.registry import OPERATORS
from tests.conftest import assert_refused, run_cli
from tests.tracing.test_faults import Net, convert


def schema_of(name: str) -> torch.FunctionSchema:
    library, _, function = name.rpartition("::")
    packet, _, overload = function.partition(".")
    with kept_whole():  # which makes ours known
        return getattr(getattr(getattr(torch.ops, library or "aten"), packet), overload or "default")._schema


def same(ours: Any, theirs: Any) -> bool:
    """Whether defaults are alike: sizes for each dimension or one for all, padding that is none by its name."""
    theirs = 0 if theirs == "valid" else theirs
    if isinstance(ours, (list, tuple)) or isinstance(theirs, (list, tuple)):
        ours, theirs = ({*(value if isinstance(value, (list, tuple)) else [value])} for value in (ours, theirs))
    return ours == theirs


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_arguments_are_named_and_ordered_as_aten_s(name):
    schema = schema_of(name)
    _, *ours = signature(OPERATORS[name]).parameters.values()
    takes_more = {parameter.kind for parameter in ours} & {Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD}
    by_place = [p for p in ours if p.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.POSITIONAL_ONLY)]
    by_name = {p.name: p for p in ours if p.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)}
    given = [argument for argument in schema.arguments if not argument.kwarg_only]
    matched = list(zip(by_place, given, strict=False))
    for parameter, argument in matched:
        assert parameter.name == ("x" if argument.name in ("self", "input") else argument.name)
    matched += [(by_name[a.name], a) for a in schema.arguments if a.kwarg_only and a.name in by_name]
    for parameter, argument in matched:
        assert argument.has_default_value() <= (parameter.default is not Parameter.empty)
        if argument.has_default_value():
            assert same(parameter.default, argument.default_value), parameter.name
    for argument in given[len(by_place) :]:
        assert Parameter.VAR_POSITIONAL in takes_more or argument.has_default_value()
    for argument in schema.arguments:
        if argument.kwarg_only and argument.name not in by_name:
            assert Parameter.VAR_KEYWORD in takes_more or argument.has_default_value()
    for parameter in by_place[len(given) :]:
        assert parameter.default is not Parameter.empty


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_operators_make_tensors_and_change_none(name):
    schema = schema_of(name)
    assert not any(argument.is_out for argument in schema.arguments)
    assert all("Tensor" in str(result.type) for result in schema.returns)


def test_an_overload_that_nobody_registered_is_refused(tmp_path, monkeypatch):
    function = OPERATORS["conv2d"]
    monkeypatch.delitem(OPERATORS, "conv2d")
    monkeypatch.setitem(OPERATORS, "conv2d.another", function)
    with pytest.raises(NetError, match=r"cannot be converted: aten.conv2d \(in .*\) is not known here"):
        convert(tmp_path, "Net")
    monkeypatch.setitem(OPERATORS, "conv2d", function)
    convert(tmp_path, "Net")


# The user's own

HEAD = "from streamexport.net.operations import ReLU\nfrom streamexport.tracing.operators import UnsupportedError, operator\n"
LEAKY = "def own(scope, x):\n    return scope.pointwise(ReLU(0.25), x)\n"


def with_own(directory: Path, text: str) -> streamexport.Plan:
    """The net of test_faults, a convolution and a relu, planned with a file of operators."""
    torch.save(Net().state_dict(), directory / "c.pth")
    (directory / "own.py").write_text(HEAD + text)
    options = Options(
        net=f"{Path(__file__).parent}/test_faults.py:Net",
        operators=str(directory / "own.py"),
        input_shape=(1, 3, 5, 6),
    )
    return streamexport.plan([directory / "c.pth"], directory / "m.caffemodel", options)


def test_an_operator_of_the_users_takes_the_place_of_ours_for_that_conversion_alone(tmp_path):
    ours = OPERATORS["relu"]
    for _ in range(2):
        made = with_own(tmp_path, "@operator('relu', override=True)\n" + LEAKY)
        assert "negative_slope: 0.25" in made.prototxt
    assert OPERATORS["relu"] is ours


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("@operator('relu')\n" + LEAKY, "operator relu is expressed already; override=True puts this in its place"),
        ("@operator('reluu')\n" + LEAKY, "torch has no operator reluu"),
        ("@operator('mine::relu')\n" + LEAKY, "torch has no operator mine::relu"),
        ("@operator('lerp')\n" + LEAKY, "torch has no operator lerp; its overloads are Scalar"),
        ("", "registers no operator"),
        ("def", "cannot be imported: SyntaxError"),
        (
            "@operator('relu', override=True)\ndef own(scope):\n    pass\n",
            "arguments that the operator of yours does not take",
        ),
        ("@operator('aten.relu')\n" + LEAKY, r"operator aten.relu is ATen's, .*; call it relu$"),
        ("@operator('aten::lerp.Scalar')\n" + LEAKY, r"; call it lerp.Scalar$"),
        (
            "@operator('relu', override=True)\ndef own(scope, x):\n    return None\n",
            "aten.relu.default is expressed by NoneType, not by a value",
        ),
        (
            "@operator('relu', override=True)\ndef own(scope, x):\n    return [x, x]\n",
            "aten.relu.default is expressed by list, not by a value",
        ),
        (
            "@operator('relu', override=True)\ndef own(scope, x):\n    return scope.eltwise('FOO', x, x)\n",
            "its method is 'FOO', it has to be one of PROD, SUM, MAX",
        ),
        (
            "@operator('relu', override=True)\ndef own(scope, x):\n    return 1 / 0\n",
            "of yours fails: ZeroDivisionError",
        ),
        (
            "@operator('relu', override=True)\ndef own(scope, x):\n    raise UnsupportedError('is hard')\n",
            r"cannot be converted: aten.relu \(in act at test_faults.py:\d+\) is hard",
        ),
        (
            "@operator('relu', override=True)\ndef own(scope, x):\n    return scope.reshaped(x, (1, 120))\n",
            r"aten.relu.default makes \[1, 120\] here, \[1, 4, 5, 6\] in torch",
        ),
    ],
)
def test_a_file_of_operators_that_does_not_do_is_refused(tmp_path, text, message):
    with pytest.raises(NetError, match=message):
        with_own(tmp_path, text)


def test_a_file_of_operators_is_one_of_python_s(tmp_path):
    torch.save(Net().state_dict(), tmp_path / "c.pth")
    (tmp_path / "own.txt").write_text(HEAD)
    options = Options(net=f"{Path(__file__).parent}/test_faults.py:Net", operators=str(tmp_path / "own.txt"))
    with pytest.raises(NetError, match=r"own.txt: is no file of Python's; name a .py"):
        streamexport.plan([tmp_path / "c.pth"], tmp_path / "m.caffemodel", options)


def test_operators_are_for_nets_that_are_traced(tmp_path, checkpoint):
    options = Options(operators="own.py")
    with pytest.raises(NetError, match="operators are for nets that are traced"):
        streamexport.plan([checkpoint("resnet18")], tmp_path / "m.caffemodel", options)
    with pytest.raises(NetError, match=r"nowhere.py: no such file"):
        streamexport.plan(
            [checkpoint("resnet18")], tmp_path / "m.caffemodel", Options(net="torch.nn:Module", operators="nowhere.py")
        )


def test_a_model_cannot_choose_the_operators_that_verify_runs(tmp_path):
    with_own(tmp_path, "@operator('relu', override=True)\n" + LEAKY)
    net, own = f"{Path(__file__).parent}/test_faults.py:Net", tmp_path / "own.py"
    files = (tmp_path / "c.pth", tmp_path / "m.caffemodel")
    options = ("--net", net, "--operators", own)
    done = run_cli("convert", files[0], "-o", files[1], "--input-shape", "1,3,5,6", *options)
    assert done.returncode == 0, done.stderr
    own.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n" + own.read_text())
    line = assert_refused("verify", *files, "--net", net, "--forward")
    assert f"was made with --operators {own}, which is code, and no file may choose what is run" in line
    assert not (tmp_path / "ran").exists()
    assert run_cli("verify", *files, *options).returncode == 0
    assert (tmp_path / "ran").exists()
