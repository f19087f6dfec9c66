"""Operators against ATen's schemas: every name is an operator's, every function's arguments are those of all its overloads."""

from __future__ import annotations

from inspect import Parameter, signature
from typing import Any

import pytest
import torch
from test_faults import convert

from streamexport.errors import NetError
from streamexport.nets.operators.registry import OPERATORS


def schema_of(name: str) -> torch.FunctionSchema:
    packet, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, packet), overload or "default")._schema


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
    function = OPERATORS["relu"]
    monkeypatch.delitem(OPERATORS, "relu")
    monkeypatch.setitem(OPERATORS, "relu.another", function)
    with pytest.raises(NetError, match=r"what Caffe cannot compute: aten.relu \(in act .*\) is not known here"):
        convert(tmp_path, "Net")
    monkeypatch.setitem(OPERATORS, "relu", function)
    convert(tmp_path, "Net")
