"""What `import streamexport` gives: derived from the modules that define it, so that nothing is forgotten."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path
from types import FunctionType

import pytest

import streamexport
from streamexport import errors

BESIDE = {
    "caffe.caffemodel.writing": "file_overhead layer_field layer_size",
    "caffe.models": "open_models",
    "checkpoints": "open_checkpoints",
    "conversion.fetch": "cached",
    "conversion.convert": "files_of",
    "conversion.plan": "described",
    "evaluation.evaluate": "ClassNames Interface class_names interface",
    "evaluation.images": "check_exist read_image read_lines",
    "net.graph": "InexpressibleError Preprocessing computed written",
    "payload.pieces": "check_range",
    "payload.tensors": "Cast Computed Shaped Stored Strided boxes contiguous_strides rounded_to_half span",
    "running.forward": "PreparedNet by_name held_by parameters",
    "transfer.files": "check_digests is_stdout",
    "transfer.moving": "refuse_own_input reserve shares_blocks spans write write_range",
}
"""What the package's own modules take from these, and nobody else: decided name by name."""


def defined(module: str) -> set[str]:
    """The public classes and functions that a module defines."""
    found = importlib.import_module(f"streamexport.{module}")
    return {
        name
        for name, value in vars(found).items()
        if not name.startswith("_")
        and isinstance(value, type | FunctionType)
        and value.__module__ == f"streamexport.{module}"
    }


@pytest.mark.parametrize("module", sorted({*streamexport._PLACES} - {"errors"}))
def test_what_a_module_defines_is_exported_or_known_not_to_be(module):
    assert defined(module) == {*streamexport._PLACES[module].split(), *BESIDE.get(module, "").split()}


def test_type_checkers_see_what_runs():
    (block,) = (node for node in ast.parse(Path(streamexport.__file__).read_text()).body if isinstance(node, ast.If))
    seen = {(node.module, alias.name, alias.asname) for node in block.body for alias in node.names}
    assert seen == {(module, name, name) for name, module in streamexport._MODULES.items()}
    assert streamexport.__all__ == sorted(streamexport._MODULES)
    assert {*streamexport.__all__} <= {*dir(streamexport)}


@pytest.mark.parametrize("name", streamexport.__all__)
def test_an_exported_name_is_that_of_its_module_and_says_what_it_is(name):
    value = getattr(streamexport, name)
    assert value is getattr(importlib.import_module(f"streamexport.{streamexport._MODULES[name]}"), name)
    assert inspect.getdoc(value)


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="module 'streamexport' has no attribute 'converted'"):
        streamexport.converted  # noqa: B018


@pytest.mark.parametrize(
    "error", sorted(defined("errors") - {"absent", "judging", "missing", "need", "one_line", "reason"})
)
def test_an_error_says_when_it_is_raised_and_stands_in_the_tree(error):
    found = getattr(errors, error)
    assert issubclass(found, errors.Error)
    assert vars(found)["__doc__"]
    assert f" {error} " in errors.__doc__
