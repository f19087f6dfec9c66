"""The whole way, and the command line: what is written, what is said, what is refused."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import streamexport
from streamexport.caffe import caffe_pb2
from tests.conftest import assert_refused, run_cli

CLASSIC = ("--names", "classic")


def parsed(path: Path) -> caffe_pb2.NetParameter:
    return caffe_pb2.NetParameter.FromString(path.read_bytes())


def convert(checkpoint: Path, out: Path, *options: object) -> str:
    done = run_cli("convert", checkpoint, "-o", out, *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    return done.stderr


@pytest.mark.parametrize("form", ["legacy", "zip"])
def test_every_blob_has_torch_s_numbers(tmp_path, checkpoint, form):
    path = checkpoint("resnet18", "--format", form)
    out = tmp_path / "m.caffemodel"
    said = convert(path, out)
    assert re.search(r"net resnet18: recognised", said)
    assert "input: RGB, pixels 0..1, minus mean [0.485, 0.456, 0.406], divided by" in said
    assert "runs in Caffe, its forks, OpenCV 4\n" in said
    assert re.search(rf"m.caffemodel: {out.stat().st_size} bytes in .* s \(.* GiB/s\), peak memory .* MiB", said)
    state = torch.load(path)
    layers = {layer.name: layer for layer in parsed(out).layer}
    bound = 0
    for name, tensor in state.items():
        module, _, part = name.rpartition(".")
        index = {"weight": 0, "bias": 1, "running_mean": 0, "running_var": 1}.get(part)
        if index is None:
            continue
        scaled = module + ".scale" in layers and part in ("weight", "bias")
        blob = layers[module + ".scale" if scaled else module].blobs[index]
        assert list(blob.shape.dim) == list(tensor.shape)
        np.testing.assert_array_equal(np.array(blob.data, "f4"), tensor.numpy().reshape(-1))
        bound += 1
    assert bound == sum(len(layer.blobs) for layer in layers.values()) - 20  # BatchNorm's constant third blob
    assert all(list(layer.blobs[2].data) == [1] for layer in layers.values() if layer.type == "BatchNorm")


def test_odd_tensors_convert_to_the_same_model(tmp_path, checkpoint):
    """Views, transposes, shared storages, parameters, half floats: the same numbers, so the same bytes."""
    state = torch.load(checkpoint("resnet18"))
    state = {
        name: tensor.bfloat16().float() if tensor.is_floating_point() else tensor for name, tensor in state.items()
    }
    odd = dict(state)
    odd["fc.weight"] = state["fc.weight"].t().contiguous().t()
    odd["conv1.weight"] = state["conv1.weight"].contiguous(memory_format=torch.channels_last)
    odd["bn1.weight"], odd["bn1.bias"] = torch.stack([state["bn1.weight"], state["bn1.bias"]]).unbind()
    odd["layer2.0.conv1.weight"] = state["layer2.0.conv1.weight"].bfloat16()
    odd["layer2.1.conv1.weight"] = state["layer2.1.conv1.weight"].double()
    odd["layer3.0.conv1.weight"] = torch.nn.Parameter(state["layer3.0.conv1.weight"])
    models = []
    for name, held in (("even", state), ("odd", odd)):
        torch.save({"state_dict": {f"module.{n}": t for n, t in held.items()}}, tmp_path / f"{name}.pth")
        said = convert(tmp_path / f"{name}.pth", tmp_path / f"{name}.caffemodel")
        models.append(parsed(tmp_path / f"{name}.caffemodel"))
        assert ("1 tensors are float64" in said) == (name == "odd")
        assert "state dict 'state_dict'" in said
    for model in models:
        model.ClearField("streamexport_record")
    assert models[0] == models[1]


def test_the_prototxt_stands_beside_the_model_and_says_what_it_is(tmp_path, checkpoint):
    path = checkpoint("resnet18")
    convert(path, tmp_path / "m.caffemodel", "--input-shape", "2,3,97,111")
    text = (tmp_path / "m.prototxt").read_text()
    comment = [line for line in text.splitlines() if line.startswith("#")]
    assert text.startswith("# resnet18, made by streamexport")
    assert any(path.name in line and str(path.stat().st_size) in line for line in comment)
    assert any("RGB" in line and "0.485" in line and "0.229" in line for line in comment)
    assert any("taken for granted" in line for line in comment)
    record = next(line for line in comment if "record: " in line)
    assert json.loads(record.split("record: ")[1])["options"]["input_shape"] == [2, 3, 97, 111]
    assert re.search(r"dim: 2\s+dim: 3\s+dim: 97\s+dim: 111", text)


def test_the_same_inputs_and_options_give_the_same_bytes_wherever(tmp_path, checkpoint):
    source = checkpoint("resnet18")
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        (tmp_path / place / source.name).write_bytes(source.read_bytes())
        convert(tmp_path / place / source.name, tmp_path / place / "m.caffemodel")
    piped = subprocess.run(
        [sys.executable, "-m", "streamexport", "convert", str(tmp_path / "a" / source.name), "-o", "-"],
        capture_output=True,
    )
    assert (tmp_path / "a" / "m.caffemodel").read_bytes() == (tmp_path / "b" / "m.caffemodel").read_bytes()
    assert piped.stdout == (tmp_path / "a" / "m.caffemodel").read_bytes()
    assert (tmp_path / "a" / "m.prototxt").read_text() == (tmp_path / "b" / "m.prototxt").read_text()


def test_standard_output_has_a_prototxt_only_where_one_is_named(tmp_path, checkpoint):
    with (tmp_path / "piped").open("wb") as out:
        done = run_cli("convert", checkpoint("resnet18"), "-o", "-", stdout=out, capture_output=False, cwd=tmp_path)
    assert done.returncode == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["piped"]
    with (tmp_path / "piped").open("wb") as out:
        arguments = ("convert", checkpoint("resnet18"), "-o", "-", "--prototxt", "p.prototxt", "--quiet")
        done = run_cli(*arguments, stdout=out, stderr=subprocess.PIPE, capture_output=False, cwd=tmp_path)
    assert done.stderr == ""
    assert (tmp_path / "p.prototxt").read_text().startswith("# resnet18")
    assert parsed(tmp_path / "piped").name == "resnet18"


def test_a_pipe_that_closes_is_status_141_without_a_word(checkpoint):
    command = [sys.executable, "-m", "streamexport", "convert", str(checkpoint("resnet18")), "-o", "-"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.read(100)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141


def test_an_interrupt_is_status_130_and_leaves_nothing(tmp_path, checkpoint):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    command = [sys.executable, "-m", "streamexport", "convert", str(checkpoint("resnet18")), "-o", str(fifo)]

    def hear_interrupts() -> None:
        """What is started in the background ignores them, and passes that on."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=hear_interrupts) as process:
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        assert select.select([reader], [], [], 60)[0]  # the writer has begun, and soon waits for room in the pipe
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
        os.close(reader)
        assert process.stderr.read() == "streamexport: interrupted; outputs are what they were\n"
    assert [p.name for p in tmp_path.iterdir()] == ["fifo"]


def test_parts_are_valid_alone_no_larger_than_asked_and_the_whole_together(tmp_path, checkpoint):
    path, limit = checkpoint("resnet18"), 12_000_000
    convert(path, tmp_path / "whole.caffemodel")
    convert(path, tmp_path / "m.caffemodel", "--max-file-size", limit)
    parts = sorted(tmp_path.glob("m-*"))
    assert [part.name for part in parts] == [
        f"m-{n:05}-of-{len(parts):05}.caffemodel" for n in range(1, len(parts) + 1)
    ]
    assert len(parts) > 3
    assert not (tmp_path / "m.caffemodel").exists()
    assert (tmp_path / "m.prototxt").read_text() == (tmp_path / "whole.prototxt").read_text()
    assert all(part.stat().st_size <= limit for part in parts)
    layers = [layer for part in parts for layer in parsed(part).layer]
    assert layers == list(parsed(tmp_path / "whole.caffemodel").layer)
    assert run_cli("verify", path, *parts).returncode == 0


def test_parts_of_another_count_go_away_as_theirs_appear(tmp_path, checkpoint):
    path = checkpoint("resnet18")
    convert(path, tmp_path / "m.caffemodel")
    before = convert(path, tmp_path / "m.caffemodel", "--max-file-size", "12MB")
    assert "older parts" not in before
    older = sorted(tmp_path.glob("m-*"))
    assert len(older) > 4
    convert(path, tmp_path / "m.caffemodel", "--max-file-size", "12MB")
    assert sorted(tmp_path.glob("m-*")) == older
    assert f"{len(older)} older parts are gone" in convert(path, tmp_path / "m.caffemodel", "--max-file-size", "20MB")
    parts = sorted(tmp_path.glob("m-*"))
    assert not set(parts) & set(older)
    assert run_cli("verify", path, *parts).returncode == 0
    assert (tmp_path / "m.caffemodel").exists()  # whole, and no part of any
    streamexport.convert([tmp_path / "m.caffemodel"], tmp_path / "m.caffemodel.h5", max_file_size=12_000_000)
    streamexport.convert([tmp_path / "m.caffemodel"], tmp_path / "m.caffemodel.h5", max_file_size=20_000_000)
    assert len(list(tmp_path.glob("m-*.h5"))) == len(parts) == len(list(tmp_path.glob("m-*.caffemodel")))


@pytest.mark.parametrize("content", [b"", b"somebody's notes", caffe_pb2.NetParameter(name="m").SerializeToString()])
def test_what_is_only_called_like_a_part_stays_and_is_an_error(tmp_path, checkpoint, content):
    strange = tmp_path / "m-00001-of-00002.caffemodel"
    strange.write_bytes(content)
    arguments = ("convert", checkpoint("resnet18"), "-o", tmp_path / "m.caffemodel", "--max-file-size", "12MB")
    assert f"{strange}: is called like a part of this model" in assert_refused(*arguments)
    assert [p.name for p in tmp_path.iterdir()] == [strange.name]
    assert strange.read_bytes() == content


def test_a_model_that_fits_is_one_file_with_its_own_name(tmp_path, checkpoint):
    convert(checkpoint("resnet18"), tmp_path / "m.caffemodel", "--max-file-size", "caffe")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.caffemodel", "m.prototxt"]


def test_a_layer_that_does_not_fit_alone_is_named(tmp_path, checkpoint):
    line = assert_refused("convert", checkpoint("resnet18"), "-o", tmp_path / "m.caffemodel", "--max-file-size", "5MB")
    assert re.search(r"layer layer4.0.conv2: needs a file of \d+ bytes, the limit is 5000000", line)


def test_float16_is_numpy_s_and_an_overflow_is_named(tmp_path, checkpoint):
    path = checkpoint("resnet18")
    said = convert(path, tmp_path / "m.caffemodel", "--dtype", "float16")
    assert "stock Caffe aborts on it" in said
    state = torch.load(path)
    layer = next(layer for layer in parsed(tmp_path / "m.caffemodel").layer if layer.name == "layer4.0.conv1")
    assert layer.blobs[0].raw_data == state["layer4.0.conv1.weight"].numpy().astype("f2").tobytes()
    state["layer4.0.conv1.weight"][3, 2, 1, 0] = 1e5
    torch.save(state, tmp_path / "large.pth")
    line = assert_refused("convert", tmp_path / "large.pth", "-o", tmp_path / "m.caffemodel", "--dtype", "float16")
    assert re.search(r"layer4.0.conv1.weight: element \d+ is 100000, too large for float16; keep it in float32", line)


def test_save_root_writes_the_older_converter_s_names(tmp_path, checkpoint):
    path = checkpoint("resnext101_32x8d_wsl")
    done = run_cli("convert", "--net", "resnext-101-32x8d", "--save-root", tmp_path / "new" / "dir", path)
    assert done.returncode == 0, done.stderr
    names = sorted(p.name for p in (tmp_path / "new" / "dir").iterdir())
    assert names == ["resnext-101-32x8d.caffemodel", "resnext-101-32x8d.prototxt"]


def test_several_checkpoints_are_parts_of_one_model(tmp_path, checkpoint):
    state = torch.load(checkpoint("resnet18"))
    names = list(state)
    torch.save({name: state[name] for name in names[:50]}, tmp_path / "a.pth")
    torch.save({name: state[name] for name in names[50:]}, tmp_path / "b.pth")
    assert run_cli("convert", tmp_path / "a.pth", tmp_path / "b.pth", "-o", tmp_path / "m.caffemodel").returncode == 0
    convert(checkpoint("resnet18"), tmp_path / "whole.caffemodel")
    assert list(parsed(tmp_path / "m.caffemodel").layer) == list(parsed(tmp_path / "whole.caffemodel").layer)
    assert run_cli("verify", checkpoint("resnet18"), tmp_path / "m.caffemodel").returncode == 0
    line = assert_refused("convert", tmp_path / "a.pth", checkpoint("resnet18"), "-o", tmp_path / "m.caffemodel")
    assert "conv1.weight: stands in" in line


def test_dry_run_prints_the_plan_and_writes_nothing(tmp_path, checkpoint):
    arguments = (
        "convert",
        checkpoint("resnet18"),
        "-o",
        tmp_path / "m.caffemodel",
        "--max-file-size",
        "20MB",
        "--dry-run",
    )
    done = run_cli(*arguments)
    assert done.returncode == 0
    assert list(tmp_path.iterdir()) == []
    assert re.search(r"^layer4.1.conv2 +Convolution +9437184  512x512x3x3$", done.stdout, re.M)
    assert re.search(r"m-00003-of-00003.caffemodel: \d+ bytes", done.stdout)


def test_end_and_no_softmax_reach_both_files(tmp_path, checkpoint):
    convert(checkpoint("resnet18"), tmp_path / "m.caffemodel", "--end", "layer2", *CLASSIC)
    assert parsed(tmp_path / "m.caffemodel").layer[-1].name == "relu9"
    assert (tmp_path / "m.prototxt").read_text().count("layer {") == len(parsed(tmp_path / "m.caffemodel").layer)


# Verify


def test_verify_finds_one_flipped_bit_and_says_where(tmp_path, checkpoint):
    path, out = checkpoint("resnet18"), tmp_path / "m.caffemodel"
    convert(path, out, *CLASSIC)
    done = run_cli("verify", path, out)
    assert done.returncode == 0
    assert f"{sum(len(layer.blobs) for layer in parsed(out).layer)} blobs the same" in done.stderr
    weight = torch.load(path)["layer3.0.conv2.weight"].numpy().tobytes()
    data = bytearray(out.read_bytes())
    at = data.index(weight) + 4 * 1000 + 2
    data[at] ^= 1
    out.write_bytes(data)
    done = run_cli("verify", path, out)
    assert done.returncode == 1
    assert done.stdout == "layer conv12, blob 0 (layer3.0.conv2.weight): differs from element 1000 on\n"
    assert len(done.stderr.splitlines()) == 1


def test_verify_names_what_is_missing_extra_or_twice(tmp_path, checkpoint):
    path, out = checkpoint("resnet18"), tmp_path / "m.caffemodel"
    convert(path, out)
    model = parsed(out)
    extra = model.layer.add(name="extra", type="Bias")
    extra.blobs.add(shape={"dim": [1]}, data=[1])
    del model.layer[2:4]
    model.layer[-2].blobs.add(shape={"dim": [1]}, data=[1])
    out.write_bytes(model.SerializeToString())
    problems = run_cli("verify", path, out).stdout.splitlines()
    assert "layer bn1: missing from the model" in problems
    assert "layer bn1.scale: missing from the model" in problems
    assert "layer extra: nothing in the checkpoint makes it" in problems
    assert "layer prob: has 1 blobs, not 0" in problems
    model.layer.add().CopyFrom(model.layer[1])
    out.write_bytes(model.SerializeToString())
    assert "layer conv1: stands in the model twice" in assert_refused("verify", path, out)


def test_verify_says_when_parts_are_missing(tmp_path, checkpoint):
    path = checkpoint("resnet18")
    convert(path, tmp_path / "m.caffemodel", "--max-file-size", "20MB")
    done = run_cli("verify", path, *sorted(tmp_path.glob("m-*"))[:-1])
    assert done.returncode == 1
    assert "layer fc: missing from the model" in done.stdout


def test_verify_takes_options_from_the_model_and_lets_them_be_overridden(tmp_path, checkpoint):
    path, out = checkpoint("resnet18"), tmp_path / "m.caffemodel"
    convert(path, out, *CLASSIC, "--dtype", "float16", "--end", "layer3")
    assert run_cli("verify", path, out).returncode == 0
    done = run_cli("verify", path, out, "--names", "torch")
    assert done.returncode == 1
    assert "layer conv1: missing" not in done.stdout  # called so in both styles
    assert "layer layer1.0.conv1: missing from the model" in done.stdout
    model = parsed(out)
    model.ClearField("streamexport_record")
    out.write_bytes(model.SerializeToString())
    report = streamexport.verify([path], [out], streamexport.Options(names="classic", dtype="float16", end="layer3"))
    assert report.problems == ()
    assert "has no record of how it was made" in assert_refused("verify", path, out)


def test_verify_reports_nan_by_name(tmp_path, checkpoint):
    state = torch.load(checkpoint("resnet18"))
    state["layer1.0.bn1.bias"][3] = float("nan")
    torch.save(state, tmp_path / "nan.pth")
    convert(tmp_path / "nan.pth", tmp_path / "m.caffemodel")
    done = run_cli("verify", tmp_path / "nan.pth", tmp_path / "m.caffemodel")
    assert done.returncode == 0
    assert "(layer1.0.bn1.bias): holds NaN or infinity" in done.stderr


# Inspect, nets, usage


def test_inspect_lists_tensors_and_layers_for_people_and_programs(tmp_path, checkpoint):
    path, out = checkpoint("resnet18"), tmp_path / "m.caffemodel"
    convert(path, out)
    table = run_cli("inspect", path).stdout
    assert re.search(r"^layer4.0.downsample.0.weight +float32 +512x256x1x1 +contiguous +524288$", table, re.M)
    assert (
        table.splitlines()[-1] == f"torch legacy: 122 tensors, {sum(t.nbytes for t in torch.load(path).values())} bytes"
    )
    described = json.loads(run_cli("inspect", path, "--json").stdout)
    for tensor in described["tensors"]:
        data = Path(tensor["file"]).read_bytes()[tensor["offset"] :][: tensor["bytes"]]
        assert data == torch.load(path)[tensor["name"]].numpy().tobytes()
        break
    table = run_cli("inspect", out).stdout
    assert re.search(r"^bn1 +BatchNorm +float32 +64 64 1 +516$", table, re.M)
    described = json.loads(run_cli("inspect", out, "--json").stdout)
    assert [layer["name"] for layer in described["layers"]] == [layer.name for layer in parsed(out).layer]
    assert described["options"]["net"] == "auto"


def test_nets_lists_them():
    listed = run_cli("nets").stdout
    assert re.search(r"^resnext101_32x48d_wsl +828411176 parameters +https://.*32x48-3e41cc8a.pth$", listed, re.M)
    assert len(listed.splitlines()) == 14


@pytest.mark.parametrize(
    "arguments", [[], ["convert"], ["convert", "x", "-o", "y", "--max-file-size", "big"], ["inspect"]]
)
def test_wrong_usage_is_status_2(arguments):
    assert run_cli(*arguments).returncode == 2


def test_version():
    assert run_cli("--version").stdout == f"streamexport {streamexport.__version__}\n"


def refusals(tmp_path: Path) -> dict[str, tuple[Path, str]]:
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "noise").write_bytes(b"noise" * 100)
    (tmp_path / "hdf5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    (tmp_path / "line\nbreak").write_bytes(b"noise")
    return {
        "missing": (tmp_path / "missing", "No such file"),
        "directory": (tmp_path, "is a directory"),
        "empty": (tmp_path / "empty", "is empty"),
        "noise": (tmp_path / "noise", "is not a torch checkpoint"),
        "a model": (tmp_path / "hdf5", "malformed HDF5"),
        "device": (Path("/dev/zero"), "not a regular file"),
        "control characters": (tmp_path / "line\nbreak", r"line\nbreak: is not"),
    }


@pytest.mark.parametrize("case", ["missing", "directory", "empty", "noise", "a model", "device", "control characters"])
def test_bad_input_is_one_line_that_names_the_file(tmp_path, case):
    path, message = refusals(tmp_path)[case]
    (tmp_path / "m.caffemodel").write_text("old")
    line = assert_refused("convert", path, "-o", tmp_path / "m.caffemodel")
    assert message in line
    assert (tmp_path / "m.caffemodel").read_text() == "old"


def test_a_truncated_checkpoint_leaves_the_old_output(tmp_path, checkpoint):
    data = checkpoint("resnet18").read_bytes()
    (tmp_path / "cut.pth").write_bytes(data[:-1])
    (tmp_path / "m.caffemodel").write_text("old")
    line = assert_refused("convert", tmp_path / "cut.pth", "-o", tmp_path / "m.caffemodel")
    assert re.search(r"cut.pth: storage \d+ needs \d+ bytes, \d+ are left \(at byte \d+\); fetch it again", line)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cut.pth", "m.caffemodel"]
    assert (tmp_path / "m.caffemodel").read_text() == "old"
