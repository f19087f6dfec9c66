"""Recognition and binding of the ResNets, and the passes over them."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from streamexport import families, passes
from streamexport.caffe.prototxt import prototxt
from streamexport.errors import NetError
from streamexport.families.resnet import RESNETS, ResNet
from streamexport.net.operations import InnerProduct
from streamexport.payload.pieces import Extent, Source
from streamexport.payload.tensors import DTYPES, Tensor, contiguous_strides, span
from tests.payload.test_extents import rendered


class Nowhere(Source):
    """A source of a size that nobody reads."""

    name, size = "nowhere", 1 << 50

    def read_into(self, offset, into):
        raise AssertionError("payload was read")

    def fileno(self):
        return None

    def check(self):
        pass


def tensors(net: ResNet) -> dict[str, Tensor]:
    made, at, source = {}, 0, Nowhere()
    for name, dtype, shape in net.specs():
        length = span(shape, contiguous_strides(shape)) * DTYPES[dtype].itemsize
        extent = Extent(source, at, length)
        made[name] = Tensor.in_storage(name, DTYPES[dtype], shape, contiguous_strides(shape), extent)
        at += length
    return made


def passed(net, **options):
    return passes.apply(net, **{"dtype": "float32", "names": "torch", **options})


@pytest.mark.parametrize("name", RESNETS)
def test_auto_recognises_every_net_of_the_table_and_binds_every_tensor(name):
    held = tensors(RESNETS[name])
    net = families.bind(held)
    assert net.name == name.replace("32x8d_wsl", "32x8d")  # one net, two sets of weights
    bound = {origin for layer in net.layers for blob in layer.blobs for origin in blob.origin}
    assert bound == {name for name in held if not name.endswith("num_batches_tracked")}
    assert any("recognised" in note for note in net.notes)
    assert any("dilation" in note for note in net.notes)


PARAMETERS = {  # as the papers and torchvision's documentation have them
    "resnet18": 11_689_512,
    "resnet50": 25_557_032,
    "resnet152": 60_192_808,
    "wide_resnet50_2": 68_883_240,
    "resnext50_32x4d": 25_028_904,
    "resnext101_64x4d": 83_455_272,
    "resnext101_32x8d_wsl": 88_791_336,
    "resnext101_32x16d_wsl": 194_026_792,
    "resnext101_32x32d_wsl": 468_530_472,
    "resnext101_32x48d_wsl": 828_411_176,
}


@pytest.mark.parametrize(("name", "count"), PARAMETERS.items())
def test_published_numbers_of_parameters(name, count):
    net = families.bind(tensors(RESNETS[name]), name)
    trained = [b for layer in net.layers if layer.type != "BatchNorm" for b in layer.blobs]
    assert sum(blob.count for blob in trained) == count


@pytest.mark.parametrize(
    ("name", "is_called"),
    [
        ("resnext-101-32x48d", "resnext101_32x48d_wsl"),
        ("resnext-101-32x8d", "resnext101_32x8d_wsl"),
        ("resnet50", "resnet50"),
    ],
)
def test_names_of_the_older_converter(name, is_called):
    assert families.find(name).name == is_called


def test_classes_channels_and_depth_come_from_the_tensors():
    odd = ResNet("x", True, (1, 2, 1, 5), 2, 32, classes=7, channels=4)
    net = families.bind(tensors(odd))
    assert net.name == "resnet"
    assert net.preprocessing is None
    assert net.input_shapes == ((1, 4, 224, 224),)
    assert next(layer for layer in net.layers if layer.name == "fc").operation == InnerProduct(7)


def test_a_wrong_net_says_what_does_not_fit_and_what_would():
    held = tensors(RESNETS["resnet18"])
    with pytest.raises(
        NetError, match=r"does not fit resnet50: layer1.0.conv1.weight is .* and \d+ more; resnet18 fits"
    ):
        families.bind(held, "resnet50")
    with pytest.raises(NetError, match="no net called 'resnet5O'; did you mean resnet50"):
        families.bind(held, "resnet5O")
    with pytest.raises(NetError, match="no built-in net has tensors like these"):
        families.bind({"w": held["conv1.weight"]})


def test_tensors_that_a_net_does_not_have_are_named_and_never_guessed_away():
    held = tensors(RESNETS["resnet18"])
    held["layer1.0.se.weight"] = replace(held["bn1.weight"], name="layer1.0.se.weight")
    with pytest.raises(NetError, match="looks like resnet18, but holds more: layer1.0.se.weight; .*`net=resnet18`"):
        families.bind(held)
    assert any(
        "left out, no part of resnet18: layer1.0.se.weight" in note for note in families.bind(held, "resnet18").notes
    )


def test_a_missing_or_misshapen_tensor_is_named():
    held = tensors(RESNETS["resnet18"])
    del held["bn1.running_var"]
    with pytest.raises(NetError, match="looks like resnet18, but bn1.running_var is missing"):
        families.bind(held)
    held = tensors(RESNETS["resnet18"])
    held["layer2.1.bn1.bias"] = held["bn1.bias"]
    with pytest.raises(NetError, match=r"layer2.1.bn1.bias is \[64\], not \[128\]"):
        families.bind(held)


@pytest.mark.parametrize("shape", [(1, 4, 224, 224), (1, 3, 224), (0, 3, 8, 8)])
def test_an_input_shape_that_does_not_fit_is_refused(shape):
    with pytest.raises(NetError, match="input shape"):
        families.bind(tensors(RESNETS["resnet18"]), input_shape=shape)


def test_a_backbone_without_fc_converts_as_such():
    held = {name: t for name, t in tensors(RESNETS["resnet50"]).items() if not name.startswith("fc.")}
    net = families.bind(held)
    assert net.name == "resnet50" or net.name == "resnet"
    assert net.layers[-1].name == "flatten"
    assert any("no fc" in note for note in net.notes)


# Passes


def bound(name="resnet50"):
    return families.bind(tensors(RESNETS[name]), name)


def test_layers_are_called_like_torch_s_modules():
    names = [layer.name for layer in passed(bound()).layers]
    assert names[:8] == ["data", "conv1", "bn1", "bn1.scale", "relu", "maxpool", "maxpool.size", "maxpool.crop"]
    block = "conv1 bn1 bn1.scale relu1 conv2 bn2 bn2.scale relu2 conv3 bn3 bn3.scale"
    downsample = "downsample.0 downsample.1 downsample.1.scale"
    assert names[8:24] == [f"layer1.0.{part}" for part in f"{block} {downsample} add relu3".split()]
    assert names[-4:] == ["avgpool", "flatten", "fc", "prob"]
    assert len(set(names)) == len(names)
    assert not any("/" in name for name in names)
    assert all(layer.tops == (layer.name,) for layer in passed(bound()).layers)


def test_classic_names_are_those_of_the_published_prototxts():
    net = passed(bound("resnext101_32x48d_wsl"), names="classic")
    counted = {"conv": 104, "batch_norm": 104, "bn_scale": 104, "relu": 100, "add": 33, "fc": 1, "view": 1}
    expected = {f"{stem}{n}" for stem, count in counted.items() for n in range(1, count + 1)}
    expected |= {"data", "max_pool1", "max_pool1_size", "max_pool1_crop", "ave_pool1", "prob"}
    assert {layer.name for layer in net.layers} == expected
    layers = {layer.name: layer for layer in net.layers}
    for stem, count in counted.items():
        order = [layer.name for layer in net.layers if re.fullmatch(stem + r"\d+", layer.name)]
        assert order == [f"{stem}{n}" for n in range(1, count + 1)]
    for n in range(1, 105):
        assert layers[f"conv{n}"].tops == layers[f"batch_norm{n}"].bottoms == (f"conv_blob{n}",)
        assert layers[f"batch_norm{n}"].tops == layers[f"bn_scale{n}"].bottoms == (f"batch_norm_blob{n}",)
        assert layers[f"bn_scale{n}"].tops == (f"batch_norm_blob{n}",)
    assert layers["relu1"].tops == ("relu_blob1",)
    # The first block: three convolutions, and its downsample convolution after them.
    assert layers["conv5"].bottoms == layers["conv2"].bottoms == ("max_pool_blob1_crop",)
    assert layers["add1"].bottoms == ("batch_norm_blob4", "batch_norm_blob5")
    assert layers["add1"].tops == ("add_blob1",)
    assert layers["conv1"].bottoms == ("data",)


@pytest.mark.parametrize("names", ["torch", "classic"])
@pytest.mark.parametrize("dialect", ["portable", "bvlc", "opencv", "ssd"])
def test_every_bottom_is_a_top_above_it(dialect, names):
    seen: set[str] = set()
    for layer in passed(bound(), dialect=dialect, names=names).layers:
        assert set(layer.bottoms) <= seen
        seen.update(layer.tops)


@pytest.mark.parametrize(
    ("dialect", "said"), [("bvlc", "round_mode: FLOOR"), ("opencv", "ceil_mode: false"), ("ssd", "ceil_mode: false")]
)
def test_dialects_say_floor_in_their_own_words(dialect, said):
    text = prototxt(passed(bound(), dialect=dialect))
    assert text.count(said) == 1
    assert "Crop" not in text
    portable = prototxt(passed(bound()))
    assert "round_mode" not in portable
    assert "ceil_mode" not in portable


def test_the_reference_of_a_crop_has_pytorch_s_size_at_every_input():
    """The formula of passes/dialects.py against both programs' rounding rules, over all sensible poolings."""
    for kernel in range(1, 8):
        for stride in range(1, 5):
            for pad in range(kernel // 2 + 1):
                reference = kernel + stride - 1 - 2 * pad
                if reference < 1:
                    continue
                for size in range(max(kernel, reference), 60):
                    ours = -(-(size - reference) // stride) + 1
                    assert ours == (size + 2 * pad - kernel) // stride + 1


@pytest.mark.parametrize(
    ("end", "last"),
    [
        ("fc", "fc"),
        ("layer4", "layer4.2.relu3"),
        ("layer1.0.bn1", "layer1.0.bn1.scale"),
        ("maxpool", "maxpool.crop"),
        ("layer2.0", "layer2.0.relu3"),
    ],
)
def test_a_net_is_cut_behind_a_layer_or_module(end, last):
    net = passed(bound(), end=[end])
    assert net.layers[-1].name == last
    consumed = {bottom for layer in net.layers for bottom in layer.bottoms}
    assert [layer.name for layer in net.layers if layer.tops[0] not in consumed] == [last]


def test_cutting_drops_what_the_end_does_not_need():
    names = [layer.name for layer in passed(bound(), end=["layer1.0.conv3"]).layers]
    assert names[-1] == "layer1.0.conv3"
    assert not any("downsample" in name for name in names)


def test_an_end_that_is_nowhere_is_refused():
    with pytest.raises(NetError, match="no layer 'layer9' to end with; did you mean"):
        passed(bound(), end=["layer9"])


def test_no_softmax():
    assert passed(bound(), softmax=False).layers[-1].name == "fc"


def test_half_floats_are_for_weights_of_convolutions_and_inner_products_alone():
    net = passed(bound(), dtype="float16")
    for layer in net.layers:
        for index, blob in enumerate(layer.blobs):
            is_weight = layer.type in ("Convolution", "InnerProduct") and index == 0
            assert blob.dtype.name == ("float16" if is_weight else "float32")
    assert [rendered(layer.blobs[2].values) for layer in net.layers if layer.type == "BatchNorm"] == [b"\0\0\x80?"] * 53
