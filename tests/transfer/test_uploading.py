"""Objects in stores: whole or not there, several of them too, and nothing left of an upload that failed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import obstore
import pytest
import torch

import streamexport
from streamexport import Extent, File, Layout, Literal
from streamexport.caffe import caffe_pb2
from streamexport.errors import OutputError, SourceChangedError
from streamexport.sources import open_source, stores
from streamexport.transfer import uploading
from streamexport.transfer.movers import MOST_PARTS, PART, Here, part_size
from tests.conftest import ROOT, assert_refused, run_cli
from tests.shared.web import serving, status

SIZE = 2 * PART + 500_000
"""Two parts and a shorter one."""


@pytest.fixture(scope="module")
def content() -> bytes:
    return np.random.default_rng(0).bytes(SIZE)


@pytest.fixture
def path(tmp_path, content) -> Path:
    path = tmp_path / "source"
    path.write_bytes(content)
    return path


@pytest.fixture
def layout(path) -> Layout:
    return Layout.of([Extent(open_source(path), 0, SIZE)])


def held(s3) -> dict[str, bytes]:
    """What is in the bucket. No upload may be left that nobody completes."""
    assert "Uploads" not in s3.list_multipart_uploads(Bucket="models")
    keys = [found["Key"] for found in s3.list_objects_v2(Bucket="models").get("Contents", [])]
    return {key: s3.get_object(Bucket="models", Key=key)["Body"].read() for key in keys}


def model(tmp_path: Path, name: str = "tiny", size: int = 1000) -> Path:
    """A Caffe model of two layers: it takes no tracing to convert."""
    net = caffe_pb2.NetParameter(name=name)
    for layer in ("first", "second"):
        net.layer.add(name=layer, type="InnerProduct").blobs.add(shape={"dim": [size]}, data=[1.5] * size)
    (tmp_path / "in.caffemodel").write_bytes(net.SerializeToString())
    return tmp_path / "in.caffemodel"


NET = """
import torch


class Two(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.Linear(10, 100), torch.nn.Linear(100, 10))
"""


@pytest.fixture
def checkpoint(tmp_path) -> tuple[Path, streamexport.Options]:
    """Weights of a module of two layers of 4 KB each, and how they are converted."""
    (tmp_path / "net.py").write_text(NET)
    values = {f"{index}.{name}": torch.ones(shape) for index, name, shape in SHAPES}
    torch.save(values, tmp_path / "c.pth")
    return tmp_path / "c.pth", streamexport.Options(net=f"{tmp_path}/net.py:Two", input_shape=(1, 10))


SHAPES = ((0, "weight", (100, 10)), (0, "bias", 100), (1, "weight", (10, 100)), (1, "bias", 10))


@pytest.mark.parametrize("size", [0, 1, PART, PART + 1, SIZE])
def test_an_object_is_what_the_layout_is(layout, content, s3, size):
    counted = []
    taken = Layout.of(
        [Literal(content[:2]), Extent(layout.sources[0], 2, size - 2)] if size > 2 else [Literal(content[:size])]
    )
    streamexport.publish([File("s3://models/a b/c%d", taken)], progress=counted.append)
    assert held(s3) == {"a b/c%d": content[:size]}
    assert sum(counted) == size


def test_several_are_there_in_their_order(layout, content, s3):
    seen: list[tuple[str, set[str]]] = []

    class Watching(Here):
        def upload(self, layout, place, *rest):
            seen.append((place.key, {*held(s3)}))
            return super().upload(layout, place, *rest)

    small = Layout.of([Literal(b"small")])
    files = [File("s3://models/one", layout), File("s3://models/two", small), File("s3://models/three", layout)]
    streamexport.publish(files, mover=Watching())
    assert seen == [("one", set()), ("two", {"one"}), ("three", {"one", "two"})]
    assert held(s3) == {"one": content, "two": b"small", "three": content}


@pytest.mark.parametrize("size", [1000, SIZE])
def test_what_is_there_stays_unless_it_is_forced(layout, content, s3, size):
    s3.put_object(Bucket="models", Key="key", Body=b"older")
    files = [File("s3://models/new", layout), File("s3://models/key", Layout.of([layout.pieces[0].part(0, size)]))]
    with pytest.raises(
        OutputError, match="^s3://models/key: is there already; write to another name, or say `force=`$"
    ):
        streamexport.publish(files, progress=lambda _: pytest.fail("it was looked at too late"))
    assert held(s3) == {"key": b"older"}
    streamexport.publish(files, force=True)
    assert held(s3) == {"key": content[:size], "new": content}


@pytest.mark.parametrize("size", [1000, SIZE])
def test_a_key_that_is_taken_meanwhile_stays_taken(layout, s3, size):
    layout = Layout.of([layout.pieces[0].part(0, size)])

    def take(_: int) -> None:
        s3.put_object(Bucket="models", Key="key", Body=b"somebody's")

    with pytest.raises(OutputError, match="is there already"):
        streamexport.publish([File("s3://models/key", layout)], progress=take)
    assert held(s3) == {"key": b"somebody's"}


def test_the_store_itself_refuses_a_small_object_whose_key_is_taken_at_the_last_moment(s3, monkeypatch):
    s3.put_object(Bucket="models", Key="key", Body=b"somebody's")
    monkeypatch.setattr(uploading, "size_of", lambda place: None)
    with pytest.raises(OutputError, match="s3://models/key: "):
        streamexport.publish([File("s3://models/key", Layout.of([Literal(b"ours")]))])
    assert held(s3) == {"key": b"somebody's"}


class Failing:
    """A piece that fails behind the first two parts."""

    size, sources = SIZE, ()

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def reads(self, start: int, stop: int) -> tuple[()]:
        return ()

    def render(self, start: int, stop: int, into: memoryview) -> None:
        if stop > 2 * PART:
            raise self.error


@pytest.mark.parametrize("error", [SourceChangedError("changed"), KeyboardInterrupt(), MemoryError()])
def test_nothing_is_left_of_an_upload_that_fails_nor_of_those_before_it(layout, s3, error):
    files = [File("s3://models/one", layout), File("s3://models/two", Layout((Failing(error),)))]
    with pytest.raises(type(error)):
        streamexport.publish(files)
    assert held(s3) == {}


def test_a_source_that_changed_completes_nothing(layout, path, s3):
    with pytest.raises(SourceChangedError):
        streamexport.publish([File("s3://models/key", layout)], progress=lambda _: os.utime(path, (1, 1)))
    assert held(s3) == {}


def test_an_older_object_survives_an_upload_that_fails(s3):
    s3.put_object(Bucket="models", Key="key", Body=b"older")
    with pytest.raises(KeyError):
        streamexport.publish([File("s3://models/key", Layout((Failing(KeyError()),)))], force=True)
    assert held(s3) == {"key": b"older"}


def test_an_object_of_another_size_than_was_sent_is_an_error(layout, s3, monkeypatch):
    sizes = iter([None, None, 5])
    monkeypatch.setattr(uploading, "size_of", lambda place: next(sizes))
    with pytest.raises(OutputError, match=f"s3://models/key: {SIZE} bytes were sent, the store has 5"):
        streamexport.publish([File("s3://models/key", layout)])
    assert held(s3) == {}


def test_what_cannot_be_deleted_again_is_named(layout, s3, monkeypatch):
    monkeypatch.setattr(uploading, "_deleted", lambda place: False)
    files = [File("s3://models/one", layout), File("s3://models/two", Layout((Failing(OSError("gone")),)))]
    with pytest.raises(
        OutputError, match="gone; what this run wrote could not be deleted again: s3://models/one; delete it"
    ):
        streamexport.publish(files)


def test_files_and_objects_appear_together(layout, content, s3, tmp_path):
    small = Layout.of([Literal(b"small")])
    streamexport.publish([File(str(tmp_path / "file"), small), File("s3://models/key", layout)])
    assert (held(s3), (tmp_path / "file").read_bytes()) == ({"key": content}, b"small")
    other = [File(str(tmp_path / "file"), layout), File("s3://models/other", Layout((Failing(OSError("gone")),)))]
    with pytest.raises(OSError, match="gone"):
        streamexport.publish(other)
    assert (held(s3), (tmp_path / "file").read_bytes()) == ({"key": content}, b"small")

    def fail() -> Iterator[str]:
        assert held(s3).keys() == {"key", "other"}
        raise OutputError("cannot be renamed")
        yield ""

    with pytest.raises(OutputError, match="cannot be renamed"):
        streamexport.publish([File(str(tmp_path / "file"), small), File("s3://models/other", layout)], obsolete=fail)
    assert held(s3) == {"key": content}
    assert sorted(found.name for found in tmp_path.iterdir()) == ["file", "source"]


@pytest.mark.parametrize("size", [1, PART * MOST_PARTS, PART * MOST_PARTS + 1, 100 * 10**9, 5 * 2**40])
def test_parts_are_never_more_than_a_store_takes(size):
    part = part_size(size)
    assert part % 2**20 == 0
    assert part >= PART
    assert -(-size // part) <= MOST_PARTS
    assert part == PART or (part - 2**20) * MOST_PARTS < size


def test_parts_are_as_large_as_they_are_said_to_be(layout, content, s3, monkeypatch):
    monkeypatch.setattr("streamexport.transfer.movers.MOST_PARTS", 2)
    streamexport.publish([File("s3://models/key", layout)])
    assert held(s3) == {"key": content}
    found = s3.head_object(Bucket="models", Key="key", PartNumber=1)
    assert (found["PartsCount"], found["ContentLength"]) == (2, 9 << 20)


def test_memory_takes_objects_too(layout, content):
    import obstore

    streamexport.publish([File("memory:///uploaded/key", layout)])
    place = stores.to_write("memory:///uploaded/key")
    assert bytes(obstore.get(place.store, place.key).bytes()) == content
    with pytest.raises(OutputError, match="is there already"):
        streamexport.publish([File("memory:///uploaded/key", layout)])
    streamexport.publish([File("memory:///uploaded/key", Layout.of([Literal(b"new")]))], force=True)
    assert bytes(obstore.get(place.store, place.key).bytes()) == b"new"


def test_a_model_and_its_prototxt(checkpoint, s3, tmp_path):
    weights, options = checkpoint
    made = streamexport.convert([weights], "s3://models/nets/m.caffemodel", options)
    streamexport.convert([weights], tmp_path / "m.caffemodel", options)
    found = held(s3)
    assert found == {f"nets/m.{end}": (tmp_path / f"m.{end}").read_bytes() for end in ("prototxt", "caffemodel")}
    assert made.path == "s3://models/nets/m.caffemodel"
    streamexport.convert([weights], "s3://models/again/", options)
    assert {*held(s3)} - {*found} == {"again/Two.caffemodel", "again/Two.prototxt"}


@pytest.mark.parametrize(
    ("output", "prototxt"), [("s3://models/m.h5", "local.prototxt"), ("m.h5", "s3://models/x.prototxt")]
)
def test_a_prototxt_elsewhere_than_its_model(checkpoint, s3, tmp_path, monkeypatch, output, prototxt):
    monkeypatch.chdir(tmp_path)
    weights, options = checkpoint
    made = streamexport.convert([weights], output, options, prototxt=prototxt)
    everything = {**held(s3), **{path.name: path.read_bytes() for path in tmp_path.iterdir()}}
    assert everything.keys() == {"c.pth", "net.py", output.rpartition("/")[2], prototxt.rpartition("/")[2]}
    assert everything[prototxt.rpartition("/")[2]].decode() == made.prototxt


def test_a_model_in_parts_is_numbered_objects_the_prototxt_last_but_one(checkpoint, s3, monkeypatch):
    order, upload = [], Here.upload

    def noted(self, layout, place, *rest):
        order.append(place.key)
        return upload(self, layout, place, *rest)

    monkeypatch.setattr(Here, "upload", noted)
    weights, options = checkpoint
    streamexport.convert([weights], "s3://models/m.caffemodel", options, max_file_size=7000)
    assert order == ["m-00001-of-00002.caffemodel", "m.prototxt", "m-00002-of-00002.caffemodel"]
    parts = held(s3)
    assert sorted(order) == list(parts)
    found = [caffe_pb2.NetParameter.FromString(parts[key]).layer for key in order[::2]]
    assert [[layer.name for layer in layers if layer.blobs] for layers in found] == [["0"], ["1"]]


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (
            "ftp://host/m",
            "ftp://host/m: there is nothing here that writes to ftp://; what can be written to: s3, gs, az, memory, and files",
        ),
        ("https://host/m", "there is nothing here that writes to https://"),
        ("s3://models", "s3://models: is no object's name"),
        ("s3:///m", "is no object's name"),
        ("s3://models/a//m", "is no object's name"),
        ("s3://[x/m", "is no object's name"),
        ("s3://nobody/m", "s3://nobody/m: its bucket does not exist; make it first"),
        ("s3://nobody/", "s3://nobody/tiny.caffemodel: its bucket does not exist; make it first"),
    ],
)
def test_what_can_be_no_output(s3, tmp_path, output, said):
    with pytest.raises(OutputError) as caught:
        streamexport.convert([model(tmp_path)], output)
    assert said in str(caught.value)


def test_a_bucket_that_does_not_exist_is_named_for_large_objects_too(layout, s3):
    with pytest.raises(OutputError, match="^s3://nobody/m: its bucket does not exist; make it first$"):
        streamexport.publish([File("s3://nobody/m", layout)])
    assert [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]] == ["models"]


def test_what_makes_no_sense_in_a_store(s3, tmp_path):
    weights = model(tmp_path)
    with pytest.raises(OutputError, match="s3://models/m.h5: an object in a store cannot be linked to files; "):
        streamexport.convert([weights], "s3://models/m.h5", form="linked")
    with pytest.raises(OutputError, match="shares no blocks with the checkpoint; leave out `align=`"):
        streamexport.convert([weights], "s3://models/m.caffemodel", align=4096)
    assert held(s3) == {}


def test_two_outputs_of_one_name(s3):
    with pytest.raises(OutputError, match="^s3://models/m: is the name of two outputs; give each its own$"):
        streamexport.publish([File("s3://models/m", Layout.of([Literal(data)])) for data in (b"one", b"two")])
    assert held(s3) == {}


def test_missing_credentials_are_named(tmp_path, s3):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment |= {"AWS_METADATA_ENDPOINT": "http://127.0.0.1:1", "AWS_DEFAULT_REGION": "us-east-1"}
    line = assert_refused("convert", model(tmp_path), "-o", "s3://models/m.caffemodel", env=environment)
    assert "AWS_ACCESS_KEY_ID" in line


def test_what_credentials_do_not_allow_is_said(layout, s3, monkeypatch):
    with serving(b"", status(403)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url.rpartition("/")[0])
        advice = "look at the credentials in the environment, and at what they are allowed"
        with pytest.raises(OutputError, match=f"s3://forbidden/m: the server answers 403 Forbidden; {advice}"):
            streamexport.publish([File("s3://forbidden/m", layout)])


def test_the_command_uploads_and_refuses_what_is_there(s3, tmp_path):
    arguments = ("convert", model(tmp_path), "-o", "s3://models/m.caffemodel")
    environment = {**os.environ}
    done = run_cli(*arguments, env=environment)
    assert done.returncode == 0, done.stderr
    assert "s3://models/m.caffemodel: " in done.stderr.splitlines()[-1]
    first = held(s3)["m.caffemodel"]
    assert caffe_pb2.NetParameter.FromString(first).layer[1].blobs[0].data[:2] == [1.5, 1.5]
    line = assert_refused(*arguments, env=environment)
    assert line.endswith("s3://models/m.caffemodel: is there already; write to another name, or say --force")
    assert run_cli(*arguments, "--force", env=environment).returncode == 0
    assert held(s3) == {"m.caffemodel": first}


def test_nothing_is_left_of_a_command_that_is_told_to_end(s3, tmp_path):
    tool = (ROOT / "tools" / "make_checkpoint.py", "--sparse", "--bytes", "1GB", "resnet18", tmp_path / "c.pth")
    subprocess.run([sys.executable, *tool], check=True)
    words = ("-m", "streamexport", "convert", tmp_path / "c.pth", "-o", "s3://models/m.caffemodel")
    with subprocess.Popen([sys.executable, *words], stderr=subprocess.PIPE, text=True) as running:
        while "Uploads" not in s3.list_multipart_uploads(Bucket="models") and running.poll() is None:
            time.sleep(0.02)
        running.terminate()
        assert running.stderr is not None
        said = running.stderr.read()
    assert (running.returncode, said) == (143, "streamexport: interrupted; outputs are what they were\n")
    assert held(s3) == {}


PEAK = """
import sys
from streamexport.cli import main
from streamexport.cli.arguments import peak_memory
assert main(sys.argv[1:]) == 0
print(peak_memory() >> 20)
"""


def test_memory_does_not_depend_on_the_size_of_what_is_uploaded(s3, tmp_path):
    peaks = []
    for wanted in ("60MB", "200MB"):
        tool = (ROOT / "tools" / "make_checkpoint.py", "--sparse", "--bytes", wanted, "resnet18", tmp_path / "c.pth")
        subprocess.run([sys.executable, *tool], check=True)
        words = ("convert", tmp_path / "c.pth", "-o", "s3://models/m.caffemodel", "--force")
        done = subprocess.run([sys.executable, "-c", PEAK, *words], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout))
    assert s3.head_object(Bucket="models", Key="m.caffemodel")["ContentLength"] > 200_000_000
    assert peaks[1] - peaks[0] < 16
    assert peaks[1] < 96


def test_the_error_that_ended_an_upload_is_told_even_if_it_cannot_be_aborted(s3, layout, monkeypatch):
    """obstore's writers raise what Python's files do, and not every store that speaks S3 can abort."""

    class Failing:
        def write(self, data: bytes) -> None:
            raise OSError("the first error")

        def __exit__(self, *_: object) -> None:
            raise OSError("405 Method Not Allowed")

    monkeypatch.setattr(obstore, "open_writer", lambda *_, **__: Failing())
    with pytest.raises(OutputError, match=r"^s3://models/m: cannot be had: the first error$"):
        streamexport.publish([File("s3://models/m", layout)])
