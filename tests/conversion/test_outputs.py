"""Names that come out of files: they are never paths, and what reaches a terminal cannot steer it."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
import torch
from google.protobuf import text_format

import streamexport
from streamexport.caffe import caffe_pb2
from streamexport.cli import main
from streamexport.conversion.names import component, older_parts, part_names
from streamexport.errors import OutputError
from tests.conftest import ROOT, assert_refused, run_cli

ATTACKS = ROOT / "tests" / "shared" / "attacks"
STEERING = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""What moves a terminal's cursor, or turns the order of what it shows."""

SMALL = """
from torch import nn
class Small(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 2, 1))
"""

HOSTILE = ("\x1b[31mRED\r", "a\x9b2Jb", "evil\u202egnp.exe", "two\nlines", "tab\there", "nul\0nul")


def everything_in(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def model(path: Path, name: str, layer: str = "fc") -> Path:
    net = caffe_pb2.NetParameter(name=name)
    net.layer.add(name=layer, type="InnerProduct", bottom=["data"], top=[layer]).blobs.add(
        shape={"dim": [1]}, data=[1.0]
    )
    path.write_bytes(net.SerializeToString())
    return path


@pytest.mark.parametrize("slash", ["/", ""])
@pytest.mark.parametrize("attack", ["rel", "over", "nul", "abs"])
def test_a_net_s_own_name_never_leads_out_of_the_output_s_directory(tmp_path, attack, slash):
    (tmp_path / "out").mkdir()
    (tmp_path / "victim.caffemodel").write_bytes(b"precious")
    if attack == "abs":
        hostile = model(tmp_path / "abs.caffemodel", str(tmp_path / "ABSOLUTE"))
    else:
        hostile = ATTACKS / f"{attack}.caffemodel"
    before = everything_in(tmp_path)
    line = assert_refused("convert", hostile, "-o", f"{tmp_path}/out{slash}")
    assert "is no file's; name the file: -o DIR/NAME.caffemodel" in line
    with pytest.raises(OutputError, match="is no file's"):
        streamexport.convert([hostile], f"{tmp_path}/out{slash}")
    with pytest.raises(OutputError, match="is no file's"):
        streamexport.plan([hostile], f"{tmp_path}/out{slash}")
    assert everything_in(tmp_path) == before
    streamexport.convert([hostile], tmp_path / "out" / "named.caffemodel")  # the way that the advice shows
    assert everything_in(tmp_path).keys() == before.keys() | {"out/named.caffemodel"}


@pytest.mark.parametrize("name", ["resnet50", "ResNet 50", "v1.5", "网络", "x" * 200, "a:b", "~"])
def test_names_that_are_a_file_s(name):
    assert component(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        ".hidden",
        "-rf",
        "a/b",
        "/",
        "x" * 201,
        "网" * 67,
        " ",
        "a ",
        "\udcff",
        "\u202e",
        "\u2028",
        *HOSTILE,
    ],
)
def test_names_that_are_no_file_s(name):
    with pytest.raises(OutputError, match="is no file's") as refused:
        component(name)
    assert str(refused.value).isprintable()


def test_a_callable_s_path_is_no_output_s(tmp_path, checkpoint):
    """A traced net in a directory is called as its class, wherever that is defined."""
    (tmp_path / "nets").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "nets" / "net.py").write_text(SMALL)
    torch.save({"0.weight": torch.ones(2, 3, 1, 1), "0.bias": torch.ones(2)}, tmp_path / "w.pth")
    net = f"{tmp_path}/nets/net.py:Small"
    done = run_cli("convert", tmp_path / "w.pth", "--net", net, "--input-shape", "1,3,4,4", "-o", f"{tmp_path}/out/")
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["Small.caffemodel", "Small.prototxt"]
    assert [p.name for p in (tmp_path / "nets").iterdir() if p.suffix != "" and p.name != "__pycache__"] == ["net.py"]


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_steers_a_terminal(tmp_path, name, capsys):
    net = caffe_pb2.NetParameter(name=name)
    net.layer.add(name="in", type="Input", top=["data"]).input_param.shape.add(dim=[1, 3, 8, 8])
    net.layer.add(name=name, type="ReLU", bottom=["data"], top=[name])
    (tmp_path / "net.prototxt").write_text(text_format.MessageToString(net))
    hostile = model(tmp_path / "m.caffemodel", name, name)
    prototxt = tmp_path / "net.prototxt"
    for arguments in (
        ("inspect", prototxt),
        ("inspect", prototxt, "--json"),
        ("inspect", prototxt, "--flops"),
        ("inspect", prototxt, "--flops", "--csv"),
        ("inspect", hostile),
        ("convert", hostile, "-o", tmp_path / "out.caffemodel", "--dry-run"),
        ("convert", hostile, "-o", tmp_path),
        ("convert", hostile, "-o", tmp_path / "out.caffemodel", "--prototxt", tmp_path / "out.prototxt"),
        ("verify", hostile, hostile),
    ):
        assert main([str(argument) for argument in arguments]) in (0, 1)
        said = capsys.readouterr()
        assert said.out or said.err
        assert not STEERING.search(said.out + said.err), arguments
    text = (tmp_path / "out.prototxt").read_text()
    assert not STEERING.search(text)
    assert text_format.Parse(text, caffe_pb2.NetParameter()).layer[0].name == name  # and yet it is the same name
    main(["inspect", str(prototxt), "--flops", "--csv"])
    assert [len(row) for row in csv.reader(io.StringIO(capsys.readouterr().out))] == [6, 6, 6]
    main(["inspect", str(prototxt), "--json"])
    assert json.loads(capsys.readouterr().out)["layers"][1]["name"] == name


def test_the_log_s_escape_sequence_is_shown_as_what_it_is(capsys):
    for extra in ((), ("--csv",), ("--json",)):
        assert main(["inspect", str(ATTACKS / "esc.prototxt"), "--flops", *extra]) == 0
        said = capsys.readouterr().out
        assert "RED" in said
        assert not STEERING.search(said)


def test_class_labels_do_not_steer_a_terminal(tmp_path, capsys):
    from streamexport.cli.evaluate import _print_top
    from streamexport.evaluation.evaluate import Guess, Prediction

    _print_top(Prediction("image\x1b]0;title\x07.png", (Guess(0, "cat\x1b[2J\u202e", 0.5),)), is_named=True)
    assert not STEERING.search(capsys.readouterr().out)


def test_a_record_without_a_net_is_none(checkpoint):
    line = assert_refused("verify", checkpoint("resnet18"), ATTACKS / "netnull.caffemodel")
    assert "has no record of how it was made" in line


def test_parts_and_those_of_other_counts(tmp_path):
    path = str(tmp_path / "m.v2.caffemodel.h5")
    assert list(part_names(path, 1)) == [path]
    assert [Path(name).name for name in part_names(path, 2)] == [
        "m.v2-00001-of-00002.caffemodel.h5",
        "m.v2-00002-of-00002.caffemodel.h5",
    ]
    for name in (*part_names(path, 2), *part_names(path, 3), path, f"{tmp_path}/m-00001-of-00003.caffemodel.h5"):
        Path(name).touch()
    assert list(older_parts(path, 2)) == list(part_names(path, 3))
    assert list(older_parts(path, 1)) == sorted([*part_names(path, 2), *part_names(path, 3)])
    assert list(older_parts(str(tmp_path / "none" / "m.caffemodel"), 1)) == []
