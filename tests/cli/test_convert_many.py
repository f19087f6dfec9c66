"""convert-many: each row is what `convert` would make, what is there is passed over, and one that fails stops no other."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import streamexport
from streamexport.caffe import caffe_pb2
from streamexport.cli import main
from tests.conftest import assert_refused, run_cli

toml = pytest.mark.skipif(sys.version_info < (3, 11), reason="TOML takes Python 3.11")


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A directory with three models, a.caffemodel to c.caffemodel, each with values of its own."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate("abc"):
        model(tmp_path / f"{name}.caffemodel", number)
    return tmp_path


def model(path: Path, value: float) -> None:
    net = caffe_pb2.NetParameter(name=path.stem)
    for layer in ("first", "second"):
        net.layer.add(name=layer, type="InnerProduct").blobs.add(shape={"dim": [20, 50]}, data=[value] * 1000)
    path.write_bytes(net.SerializeToString())


@pytest.fixture
def many(here, capsys) -> Callable[..., tuple[int, list[dict[str, object]], list[str]]]:
    """Runs the command on a list; its status, what it says of each row, and its lines on standard error."""

    def run(text: str, *words: str, name: str = "list.csv") -> tuple[int, list[dict[str, object]], list[str]]:
        (here / name).write_text(text)
        status = main(["convert-many", name, *words])
        said = capsys.readouterr()
        return status, [json.loads(line) for line in said.out.splitlines()], said.err.splitlines()

    return run


def statuses(results: list[dict[str, object]]) -> list[object]:
    return [result["status"] for result in results]


CSV = """input,output,dtype,max-file-size
a.caffemodel,a.h5,,
b.caffemodel,b.h5,float16,
c.caffemodel,c-new.caffemodel,,5000
"""


def test_each_row_is_what_convert_makes(many, here):
    status, results, errors = many(CSV)
    assert (status, errors) == (0, [])
    assert statuses(results) == ["converted"] * 3
    assert [(result["row"], result["inputs"], result["output"]) for result in results] == [
        (1, ["a.caffemodel"], "a.h5"),
        (2, ["b.caffemodel"], "b.h5"),
        (3, ["c.caffemodel"], "c-new.caffemodel"),
    ]
    streamexport.convert(["a.caffemodel"], "x.h5")
    streamexport.convert(["b.caffemodel"], "y.h5", streamexport.Options(dtype="float16"))
    assert (here / "a.h5").read_bytes() == (here / "x.h5").read_bytes()
    assert (here / "b.h5").read_bytes() == (here / "y.h5").read_bytes()
    parts = [f"c-new-0000{part}-of-00002.caffemodel" for part in (1, 2)]
    assert results[2]["files"] == {name: (here / name).stat().st_size for name in parts}


def test_what_is_there_is_passed_over_and_what_is_not_of_this_is_made_anew(many, here):
    many(CSV)
    times = {path: path.stat().st_mtime_ns for path in here.iterdir() if path.suffix != ".csv"}
    _, results, _ = many(CSV)
    assert statuses(results) == ["skipped"] * 3
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    model(here / "a.caffemodel", 7)  # other weights
    (here / "c-new-00002-of-00002.caffemodel").unlink()
    _, results, _ = many(CSV.replace("float16", "float32"))  # and another option
    assert statuses(results) == ["converted"] * 3
    assert statuses(many(CSV.replace("float16", "float32"))[1]) == ["skipped"] * 3
    with (here / "a.h5").open("ab") as file:
        file.write(b"x")
    assert statuses(many(CSV.replace("float16", "float32"))[1]) == ["converted", "skipped", "skipped"]


def test_a_checkpoint_and_its_prototxt(many, here):
    (here / "net.py").write_text(
        "import torch\n\n\ndef net():\n    return torch.nn.Sequential(torch.nn.Linear(4, 3))\n"
    )
    torch.save({"0.weight": torch.ones(3, 4), "0.bias": torch.ones(3)}, here / "w.pth")
    text = 'input,output,net,input-shape\nw.pth,w.caffemodel,net.py:net,"1,4"\n'
    assert statuses(many(text)[1]) == ["converted"]
    assert statuses(many(text)[1]) == ["skipped"]
    (here / "w.prototxt").unlink()
    assert statuses(many(text)[1]) == ["converted"]
    (here / "w.prototxt").write_text("another's")
    assert statuses(many(text)[1]) == ["converted"]
    assert (here / "w.prototxt").read_text().startswith("# ")


def test_one_that_fails_stops_no_other(many, here):
    text = "input,output\nnone.caffemodel,n.h5\na.caffemodel,a.h5\nb.caffemodel,none/b.h5\nc.caffemodel,c.h5\n"
    status, results, errors = many(text)
    assert status == 1
    assert statuses(results) == ["failed", "converted", "failed", "converted"]
    assert results[0]["error"] == "none.caffemodel: cannot be opened: No such file or directory"
    assert errors[0] == "streamexport: row 1: none.caffemodel: cannot be opened: No such file or directory"
    assert "its directory does not exist" in errors[1]
    assert errors[2] == "streamexport: list.csv: 2 of 4 conversions failed"
    assert not (here / "n.h5").exists()
    model(here / "none.caffemodel", 3)
    (here / "none").mkdir()
    assert statuses(many(text)[1]) == ["converted", "skipped", "converted", "skipped"]


def test_a_fault_of_ours_stops_no_other(many, monkeypatch):
    from streamexport.cli import convert_many

    def broken(inputs, *rest, **options):
        raise KeyError("a") if inputs == ["a.caffemodel"] else MemoryError

    monkeypatch.setattr(convert_many, "convert", broken)
    _, results, _ = many("input,output\na.caffemodel,a.h5\nb.caffemodel,b.h5\n")
    assert "fault of streamexport" in results[0]["error"]
    assert results[1]["error"] == "there is not enough memory for this"


TOML = """
[[convert]]
input = "a.caffemodel"
output = "a.h5"
dtype = "float16"

[[convert]]
input = ["b-00001-of-00002.caffemodel", "b-00002-of-00002.caffemodel"]
output = "whole.h5"
max_file_size = 1_000_000
force = true
"""


@toml
def test_a_list_in_toml(many, here):
    streamexport.convert(["b.caffemodel"], "b.caffemodel", max_file_size=5000)
    status, results, _ = many(TOML, name="list.toml")
    assert (status, statuses(results)) == (0, ["converted", "converted"])
    assert [len(result["inputs"]) for result in results] == [1, 2]
    assert statuses(many(TOML, name="list.toml")[1]) == ["skipped", "skipped"]


def test_several_inputs_in_csv_are_several_columns(many, here):
    streamexport.convert(["b.caffemodel"], "b.caffemodel", max_file_size=5000)
    parts = "b-00001-of-00002.caffemodel,b-00002-of-00002.caffemodel"
    assert statuses(many(f"input,input,output\n{parts},whole.h5\n\na.caffemodel,,a.h5\n")[1]) == ["converted"] * 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "list.csv: lists no conversion; "),
        ("input,output\n", "lists no conversion"),
        ("input,output\na.caffemodel\n", "row 1: it has no output, a file, a directory or a URL"),
        ("input,output\na.caffemodel,-\n", "row 1: it has no output"),
        ("input,output\na.caffemodel,x.h5\nb.caffemodel,./x.h5\n", "rows 1 and 2 have one output, /"),
        ("input,output,prototxt\na.pth,x.h5,p\nb.pth,y.h5,p\n", "rows 1 and 2 have one output, /"),
        ("input,output\na.pth,s3://b/x.h5\nb.pth,s3://b/x.h5\n", "rows 1 and 2 have one output, s3://b/x.h5"),
        ("input,output,colour\na.caffemodel,x.h5,red\n", "row 1: there is no 'colour'; known are input, output, "),
        ("input,output,dask\na.caffemodel,x.h5,local\n", "row 1: there is no 'dask'; known are input"),
        ("input,output,dtype\na.caffemodel,x.h5,int8\n", "row 1: argument --dtype: invalid choice: 'int8'"),
        ("input,output,in-place\na.caffemodel,x.h5,maybe\n", "row 1: in-place is 'maybe', not true or false"),
        ("input,output\na.caffemodel,x.h5,more\n", "line 2 has more cells than there are columns"),
        ('input,output\n"a.caffemodel,x.h5\n', "list.csv: is no CSV: "),
    ],
)
def test_lists_that_are_none(many, here, text, said):
    status, results, errors = many(text)
    assert (status, results, len(errors)) == (1, [], 1)
    assert said in errors[0]
    assert not list(here.glob("*.h5"))


@toml
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "lists no conversion"),
        ("[[model]]\n", "list.toml: has 'model', where there are only tables [[convert]]"),
        ("convert = 3\n", "has 'convert' that is no table, where there are only tables [[convert]]"),
        ("[[convert]\n", "list.toml: is no TOML: "),
        ('[[convert]]\ninput = "a"\noutput = {x = 1}\n', "row 1: output is neither a text nor a number"),
    ],
)
def test_toml_that_is_no_list(many, text, said):
    status, results, errors = many(text, name="list.toml")
    assert (status, results, len(errors)) == (1, [], 1)
    assert said in errors[0]


def test_a_list_that_is_not_there(here):
    assert (
        assert_refused("convert-many", "none.csv")
        == "streamexport: none.csv: cannot be read: No such file or directory"
    )


def test_to_a_store_and_not_again(many, s3):
    text = "input,output\na.caffemodel,s3://models/a.h5\nb.caffemodel,s3://models/b.h5\n"
    s3.put_object(Bucket="models", Key="b.h5", Body=b"somebody's")
    status, results, _ = many(text)
    assert (status, statuses(results)) == (1, ["converted", "failed"])
    assert "s3://models/b.h5: is there already" in results[1]["error"]
    assert statuses(many(text)[1]) == ["skipped", "failed"]
    forced = text.replace("output\n", "output,force\n").replace("b.h5", "b.h5,true")
    assert statuses(many(forced)[1]) == ["skipped", "converted"]


def test_on_a_cluster_of_this_machine(here):
    (here / "list.csv").write_text(CSV)
    done = run_cli("convert-many", "list.csv", "--dask", "local", cwd=here)
    assert (done.returncode, done.stderr) == (0, "")
    assert statuses([json.loads(line) for line in done.stdout.splitlines()]) == ["converted"] * 3
