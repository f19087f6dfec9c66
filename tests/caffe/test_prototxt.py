"""Prototxt text is read as the net that Caffe makes of it for testing."""

from __future__ import annotations

import pytest

from streamexport.caffe.prototxt import read_prototxt
from streamexport.errors import FormatError, SourceError
from streamexport.net.operations import Input
from tests.shared.small_nets import inputs, layer


@pytest.fixture
def read(tmp_path):
    def read(text: str | bytes, **options: bool):
        path = tmp_path / "net.prototxt"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return read_prototxt(path, **options)

    return read


@pytest.mark.parametrize(
    "shape",
    [
        "input_dim: 1 input_dim: 3 input_dim: 8 input_dim: 9",
        "input_shape { dim: 1 dim: 3 dim: 8 dim: 9 }",
        "input_shape { dim: [1, 3, 8, 9] }",
    ],
)
def test_inputs_of_the_net_become_an_input_layer(read, shape):
    net = read(f'name: "n" input: "data" {shape} ' + layer("relu", "ReLU", "data", "relu"))
    first, second = net.layers
    assert (first.operation, first.tops) == (Input(((1, 3, 8, 9),)), ("data",))
    assert (second.name, net.name) == ("relu", "n")


def test_inputs_of_the_net_without_a_shape_or_with_too_few(read):
    (first,) = read('input: "a" input: "b"').layers
    assert (first.tops, first.operation) == (("a", "b"), Input())
    with pytest.raises(FormatError, match="gives 1 shapes for 2 inputs"):
        read('input: "a" input: "b" input_shape { dim: 1 }')
    with pytest.raises(FormatError, match="gives 1 shapes for 1 inputs of 4 numbers each"):
        read('input: "a" input_dim: 1 input_dim: 3')


@pytest.mark.parametrize(
    ("rules", "is_kept"),
    [
        ("", True),
        ("include { phase: TRAIN }", False),
        ("include { phase: TEST }", True),
        ("include { phase: TRAIN } include { phase: TEST }", True),
        ("exclude { phase: TEST }", False),
        ("exclude { phase: TRAIN }", True),
        ('include { stage: "deploy" }', False),
        ('include { not_stage: "deploy" }', True),
        ("include { min_level: 1 }", False),
        ("include { max_level: 1 }", True),
        ("exclude { phase: TEST max_level: 0 }", False),
        ("exclude { phase: TEST min_level: 1 }", True),
    ],
)
def test_layers_that_are_not_for_testing_are_left_out(read, rules, is_kept):
    net = read(inputs({"x": (1,)}) + layer("ruled", "ReLU", "x", "y", rules))
    assert [made.name for made in net.layers] == ["x", "ruled"][: 1 + is_kept]


def test_stages_of_the_net_count(read):
    net = read('state { stage: "deploy" } ' + layer("a", "ReLU", "x", "y", 'include { stage: "deploy" }'))
    assert len(net.layers) == 1


def test_fields_that_are_not_known_are_skipped_or_refused(read):
    text = "\n\n" + layer("p", "PriorBox", "x", "y", "prior_box_param { min_size: 30 }")
    assert read(text).layers[0].type == "PriorBox"
    with pytest.raises(
        FormatError, match='net.prototxt: line 3: .*"prior_box_param"; what is not known here cannot be'
    ):
        read(text, strict=True)


def test_what_only_training_looks_at_is_known(read):
    parameters = """
        param { lr_mult: 1 decay_mult: 0 } loss_weight: 1 propagate_down: false
        convolution_param {
          num_output: 1 kernel_size: 1 engine: CAFFE
          weight_filler { type: "msra" variance_norm: FAN_OUT } bias_filler { type: "constant" value: 0.1 }
        }"""
    text = "force_backward: true debug_info: false " + layer("c", "Convolution", "x", "y", parameters)
    assert len(read(text, strict=True).layers) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layer {\n  name: \n}", "net.prototxt: line 3: Expected string but found: '}'"),
        ("layer {\n  name: 'a'\n", "net.prototxt: "),
        ("\n\nlayer { top: 3 }", "line 3: "),
        (b"name: '\xff'", "is not text (at byte 7)"),
        (b"\x0a\x03net\xa2\x06\x02", "is not text"),
        ("layer { a " + "{ a " * 3000, "nests messages too deeply"),
        ("layers { name: 'a' type: RELU }", "(layers { }); run Caffe's upgrade_net_proto_text"),
        ("layers { layer { name: 'a' } bottom: 'x' }", "upgrade_net_proto_text"),
    ],
)
def test_what_is_no_prototxt_is_refused_in_one_line(read, text, message):
    with pytest.raises(FormatError) as refused:
        read(text)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_prototxt_that_is_not_there(tmp_path):
    with pytest.raises(SourceError, match="No such file"):
        read_prototxt(tmp_path / "net.prototxt")
