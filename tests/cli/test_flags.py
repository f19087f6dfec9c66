"""The library speaks of options, the command line of flags, and each option of the one is a flag of the other."""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import torch

import streamexport
from streamexport.caffe.formats import CAFFEMODEL
from streamexport.cli import COMMANDS
from streamexport.conversion.consumers import FORK_LIMIT
from streamexport.conversion.flags import FLAGS, VALUES, as_flags
from streamexport.errors import NetError
from tests.conftest import assert_refused, run_cli

PACKAGE = Path(streamexport.__file__).parent
SPOKEN = [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent.name != "cli" and path.name != "flags.py"]


def texts(path: Path) -> Iterator[str]:
    """The strings of a module, without its docstrings."""
    tree = ast.parse(path.read_text())
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "?" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone:
            yield node.value


@pytest.mark.parametrize("path", SPOKEN, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_library_names_no_flag(path):
    assert not [text for text in texts(path) if re.search(r"(^|[\s('\"])(--[a-z]|-o\b)", text)]


def test_every_option_that_a_message_names_is_a_flag_of_a_command():
    named = {option for path in SPOKEN for text in texts(path) for option in re.findall(r"`(\w+)=", text)}
    assert named == set(FLAGS)
    flags = set()
    for module, _ in COMMANDS.values():
        parser = argparse.ArgumentParser()
        import_module(f"streamexport.cli.{module}").register(parser)
        flags |= {flag for action in parser._actions for flag in action.option_strings}
    assert set(FLAGS.values()) <= flags


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("choose with `key=`: a, b", "choose with --key: a, b"),
        ("say so: `net=a.py:B`", "say so: --net a.py:B"),
        ("`end=a` `end=b`", "--end a --end b"),
        ("use HDF5 (`output=N.h5`) or `max_file_size=2147483646`", "use HDF5 (-o N.h5) or --max-file-size caffe"),
        ("`input_shape=` and `fold_input_scale=`", "--input-shape and --fold-input-scale"),
        ("torch says `size=3`, see `streamexport nets` = `x`", "torch says `size=3`, see `streamexport nets` = `x`"),
    ],
)
def test_an_option_as_a_flag(said, shown):
    assert as_flags(said) == shown


def test_the_sizes_that_have_names():
    assert list(map(int, VALUES)) == [CAFFEMODEL.limit, FORK_LIMIT]


def test_a_refusal_in_both_languages(tmp_path):
    path = tmp_path / "c.pth"
    torch.save({"a": {"w": torch.ones(1)}, "b": {"w": torch.zeros(1)}}, path)
    with pytest.raises(NetError, match="choose with `key=`: a .*, b "):
        streamexport.open_weights(path)
    assert "choose with --key: a (" in assert_refused("inspect", path)


def test_a_prototxt_speaks_to_whoever_types_it(tmp_path, checkpoint):
    made = streamexport.convert([checkpoint("resnet18")], tmp_path / "m.caffemodel")
    assert any("if `eps=`, `mean=`, `std=` do not say otherwise" in note for note in made.notes)
    text = (tmp_path / "m.prototxt").read_text()
    done = run_cli("convert", checkpoint("resnet18"), "-o", tmp_path / "other.caffemodel")
    assert "taken for granted, if --eps, --mean, --std do not say otherwise" in done.stderr
    assert "taken for granted, if --eps, --mean, --std do not say otherwise" in text
    assert (tmp_path / "other.prototxt").read_text() == text
