"""What layers make of shapes, by hand; hundreds more are judged by Caffe in test_caffe_layers.py."""

from __future__ import annotations

from math import prod

import pytest
from google.protobuf import text_format

from streamexport.caffe import caffe_pb2, codec
from streamexport.errors import NetError
from streamexport.net.graph import Net
from streamexport.net.inference import Step, fits, infer
from streamexport.net.operations import Convolution, Crop, Permute, Slice
from streamexport.net.windows import Window
from tests.shared.small_nets import inputs, layer

IMAGE = (2, 6, 7, 9)


def understood(kind: str, parameters: str = "", *bottoms: tuple[int, ...], tops: int = 1) -> Step:
    """A layer behind inputs of these shapes."""
    bottoms = bottoms or (IMAGE,)
    names = [" ".join(f"{side}{index}" for index in range(count)) for side, count in (("x", len(bottoms)), ("y", tops))]
    given = inputs({f"x{index}": shape for index, shape in enumerate(bottoms)})
    return infer(net(given + layer("tested", kind, *names, parameters)))[-1]


def net(text: str) -> Net:
    return Net("", tuple(map(codec.decode, text_format.Parse(text, caffe_pb2.NetParameter()).layer)))


@pytest.mark.parametrize(
    ("size", "window", "expected"),
    [  # what Caffe's formula gives for one axis; the stem of a ResNet first
        (112, "kernel_size: 3 stride: 2 pad: 1", 57),
        (112, "kernel_size: 3 stride: 2 pad: 1 round_mode: FLOOR", 56),
        (112, "kernel_size: 3 stride: 2 pad: 1 ceil_mode: false", 56),
        (112, "kernel_size: 3 stride: 2 pad: 1 round_mode: CEIL", 57),
        (112, "kernel_size: 3 stride: 2 pad: 1 ceil_mode: true round_mode: CEIL", 57),
        (112, "kernel_size: 3 stride: 2", 56),
        (112, "kernel_size: 2 stride: 2", 56),
        (113, "kernel_size: 2 stride: 2", 57),
        (4, "kernel_size: 2 stride: 3", 2),  # the second window has one row
        (4, "kernel_size: 1 stride: 2", 3),  # the last begins behind the bottom,
        (4, "kernel_size: 2 stride: 3 pad: 1", 2),  # and with padding it is left out
        (5, "kernel_size: 2 stride: 2 pad: 1", 3),
        (2, "kernel_size: 3 stride: 2", 1),
        (9, "global_pooling: true", 1),
    ],
)
def test_pooled_sizes(size, window, expected):
    assert understood("Pooling", f"pooling_param {{ {window} }}", (1, 1, size, size)).tops == (
        (1, 1, expected, expected),
    )


@pytest.mark.parametrize(
    ("parameters", "window"),
    [
        ("kernel_size: 3", Window.of((3, 3))),
        ("kernel_size: 3 kernel_size: 2 stride: 2", Window.of((3, 2), (2, 2))),
        ("kernel_h: 1 kernel_w: 2 pad_w: 3", Window.of((1, 2), pad=(0, 3))),
        ("kernel_size: 3 stride_h: 2 stride_w: 1 dilation: 2", Window.of((3, 3), (2, 1), dilation=(2, 2))),
    ],
)
def test_windows_of_convolutions(parameters, window):
    step = understood("Convolution", f"convolution_param {{ num_output: 4 group: 2 {parameters} }}")
    assert step.layer.operation == Convolution(4, window, 2)
    assert step.blobs == ((4, 3, *window.kernel), (4,))


VOLUME = (2, 6, 5, 4, 7)


@pytest.mark.parametrize(
    ("parameters", "kernel", "top"),
    [
        ("kernel_size: 3", (3, 3, 3), (3, 2, 5)),
        ("kernel_size: 3 kernel_size: 1 kernel_size: 2 stride: 2", (3, 1, 2), (2, 2, 3)),
        ("kernel_size: 2 pad: 0 pad: 1 pad: 2 axis: -4", (2, 2, 2), (4, 5, 10)),
    ],
)
def test_windows_of_volumes(parameters, kernel, top):
    step = understood("Convolution", f"convolution_param {{ num_output: 4 group: 2 {parameters} }}", VOLUME)
    assert (step.tops, step.blobs) == (((2, 4, *top),), ((4, 3, *kernel), (4,)))
    assert step.multiply_adds == 2 * prod(top) * 4 * 3 * prod(kernel)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            "kernel_size: 3 kernel_size: 2",
            r"slides over 2 axes behind channels, its bottom has shape \[2, 6, 5, 4, 7\]",
        ),
        ("kernel_size: 1 pad: 1 pad: 1 pad: 1 pad: 1", r"slides over 4 axes behind channels"),
        (
            "kernel_size: 1 kernel_size: 1 kernel_size: 1 pad: 1 pad: 1",
            r"its pad is \[1, 1\]: one or 3 sizes of at least 0",
        ),
        ("kernel_size: 1 axis: -3", r"works on axes from -3 on of \[2, 6, 5, 4, 7\]; known is 1"),
        ("kernel_size: 6", r"its kernel reaches over 6, its bottom with padding is 5"),
    ],
)
def test_windows_that_do_not_fit_volumes_are_refused(parameters, message):
    with pytest.raises(NetError, match=message):
        understood("Convolution", f"convolution_param {{ num_output: 4 {parameters} }}", VOLUME)


def test_axes_and_sizes_follow_from_the_bottom():
    assert understood("Softmax", "softmax_param { axis: -3 }").tops == (IMAGE,)
    assert understood("Concat", "concat_param { concat_dim: 0 }", IMAGE, IMAGE).tops == ((4, 6, 7, 9),)
    assert understood("Slice", "", IMAGE, tops=3).tops == ((2, 2, 7, 9),) * 3
    assert understood("Crop", "crop_param { offset: 2 }", IMAGE, (1, 1, 2, 2)).tops == ((2, 6, 2, 2),)
    assert understood("Permute", "permute_param { order: 2 }").tops == ((7, 2, 6, 9),)
    assert Slice(-3).sizes(IMAGE, 2) == (3, 3)
    assert Crop(offsets=(2,)).begin(IMAGE) == (0, 0, 2, 2)
    assert Permute((2,)).whole(4) == (2, 0, 1, 3)


def test_deconvolutions_make_what_convolutions_of_it_would_take():
    deconvolution = understood(
        "Deconvolution", "convolution_param { num_output: 4 group: 2 kernel_size: 3 stride: 2 pad: 1 }"
    )
    assert (deconvolution.tops, deconvolution.blobs) == (((2, 4, 13, 17),), ((6, 2, 3, 3), (4,)))


@pytest.mark.parametrize(
    ("kind", "parameters", "message"),
    [
        ("Interp", "", "is of type 'Interp', and what that computes is not known here"),
        ("", "", "is of type ''"),
        ("Concat", "concat_param { axis: 4 }", "names axis 4 of a bottom with 4 axes"),
        ("Eltwise", "", "has 1 bottoms, not 2 or more"),
        ("Pooling", "", "its kernel_size is []: one or two sizes of at least 1 are needed"),
        ("Pooling", "pooling_param { kernel_size: 2 pool: STOCHASTIC }", "pools by STOCHASTIC, which is for training"),
        ("Pooling", "pooling_param { kernel_size: 2 pad: 2 }", "its padding [2, 2] is not less than its kernel [2, 2]"),
        (
            "Pooling",
            "pooling_param { kernel_size: 2 round_mode: FLOOR ceil_mode: true }",
            "its round_mode and its ceil_mode contradict each other",
        ),
        ("Convolution", "convolution_param { num_output: 4 kernel_size: 8 }", "its kernel reaches over 8"),
        ("Convolution", "convolution_param { kernel_size: 3 }", "has 6 inputs, 0 outputs, 1 groups"),
        ("Convolution", "convolution_param { num_output: 1 kernel_size: 1 axis: 2 }", "works on axes from 2 on"),
        (
            "Deconvolution",
            "convolution_param { num_output: 1 kernel_size: 1 pad: 4 }",
            "[2, 1, -1, 1], which holds nothing",
        ),
        ("InnerProduct", "", "its top has shape [2, 0], which holds nothing"),
        ("Reshape", "reshape_param { shape { dim: 5 dim: -1 } }", "reshapes [2, 6, 7, 9] to [5, -1]"),
        ("Clip", "", "has to give min and max"),
        ("Flatten", "flatten_param { axis: 3 end_axis: 1 }", "flattens from axis 3 to axis 1"),
        ("LRN", "lrn_param { local_size: 2 }", "its local_size is 2, it has to be odd"),
        ("Slice", "slice_param { slice_point: 2 }", "slices 6 at [2] into 1 tops"),
    ],
)
def test_layers_that_cannot_work_are_refused_by_name(kind, parameters, message):
    with pytest.raises(NetError) as refused:
        understood(kind, parameters)
    assert str(refused.value).startswith("layer tested: ")
    assert message in str(refused.value)


def test_layers_for_images_need_four_axes():
    with pytest.raises(NetError, match=r"its bottom has shape \[3, 4\], it has to have 4 axes"):
        understood("Pooling", "pooling_param { kernel_size: 1 }", (3, 4))
    with pytest.raises(NetError, match=r"it has to have 1 to 4 axes"):
        understood("MVN", "", (1, 2, 3, 4, 5))


def test_shapes_of_a_whole_net_follow_from_those_of_its_inputs():
    text = inputs({"x": (1, 3, 9, 9)}) + layer(
        "pool", "Pooling", "x", "pool", "pooling_param { kernel_size: 3 stride: 2 }"
    )
    text += layer("relu", "ReLU", "pool", "pool") + layer("flat", "Flatten", "pool", "flat")
    declared = infer(net(text))
    assert [step.tops for step in declared] == [((1, 3, 9, 9),), ((1, 3, 4, 4),), ((1, 3, 4, 4),), ((1, 48),)]
    given = infer(net(text), {"x": (5, 3, 3, 4)})
    assert given[-1].bottoms == ((5, 3, 1, 2),)
    assert net(text).ends == ("flat",)


def test_inputs_may_share_a_shape_or_leave_it_to_the_caller():
    shared = layer("in", "Input", "", "a b", "input_param { shape { dim: 2 } }")
    assert infer(net(shared), {"b": (3,)})[0].tops == ((2,), (3,))
    open_ = layer("in", "Input", "", "a b")
    assert infer(net(open_), {"a": (2,), "b": (3,)})[0].tops == ((2,), (3,))
    with pytest.raises(NetError, match="layer in: declares no shape, and none was given"):
        infer(net(open_))
    with pytest.raises(NetError, match="layer in: declares 3 shapes for 2 tops"):
        infer(net(layer("in", "Input", "", "a b", "input_param { shape {} shape {} shape {} }")))


@pytest.mark.parametrize(
    ("shape", "is_allowed"),
    [((1,) * 32, True), ((1,) * 33, False), ((2**31, 2**31), True), ((2**32, 2**31), False)],
)
def test_blobs_have_no_more_axes_than_caffe_allows_and_can_be_counted(shape, is_allowed):
    x = net(inputs({"x": shape}))
    if is_allowed:
        assert infer(x)[0].tops == (shape,)
    else:
        with pytest.raises(NetError, match="layer x: its top has shape .*, more than a blob can have"):
            infer(x)


def test_wires_that_lead_nowhere_or_meet():
    image = inputs({"x": IMAGE})
    with pytest.raises(NetError, match="layer a: its bottom y is the top of no layer before it"):
        infer(net(image + layer("a", "ReLU", "y", "a")))
    with pytest.raises(NetError, match="layer b: its top a is another layer's top already"):
        infer(net(image + layer("a", "ReLU", "x", "a") + layer("b", "ReLU", "x", "a")))


@pytest.mark.parametrize(
    ("held", "expected", "is_fitting"),
    [
        ((5, 3), (5, 3), True),
        ((1, 1, 5, 3), (5, 3), True),
        ((1, 1, 1, 5), (5,), True),
        ((1, 1, 1, 1), (), True),
        ((5,), (5,), True),
        ((1, 5, 1, 1), (5,), False),
        ((1, 5), (5,), False),
        ((15,), (5, 3), False),
        ((3, 5), (5, 3), False),
    ],
)
def test_blobs_of_the_first_years_had_four_axes(held, expected, is_fitting):
    assert fits(held, expected) is is_fitting
