"""Every kind of layer that is written behind every other, and three in a row where OpenCV merges: three engines beside torch.

Nothing is traced. Nets are built of layers (`layer_kinds`), hundreds of chains side by side that begin at the same inputs,
and go through the passes of a conversion. Side by side they are merged as they would be alone: OpenCV merges a layer with the
only one that reads it, and each chain's end is an output.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

import streamexport
from streamexport import passes
from streamexport.caffe.formats import CAFFEMODEL
from streamexport.caffe.prototxt import prototxt
from streamexport.net import operations
from streamexport.net.graph import Net
from streamexport.passes import dialects, opencv
from streamexport.running.forward import forward
from tests.payload.test_extents import rendered
from tests.shared import caffe_judge
from tests.shared.layer_kinds import KINDS, Bench, Held, Shape, Way

ALONE = ((1, 4), (1, 4, 4), (1, 4, 4, 4))
BATCHES = ((2, 4), (2, 4, 3), (2, 4, 3, 5))
VOLUMES = ((1, 4, 4, 4, 4),)
WAYS = [way for ways in KINDS.values() for way in ways]
POINTWISE = [name for name, kind in operations.KINDS.items() if kind.is_pointwise]
TAKEN = [way for kind in (*POINTWISE, "BatchNorm", "Concat", "Scale") for way in KINDS[kind]]
"""What OpenCV may take into the layer in front, or write there."""

FACTORS = [way for kind in ("BatchNorm", "Scale") for way in KINDS[kind]]
FACTORS += [way for way in KINDS["Power"] if way.name in ("Power 2x + 0.5", "Power 3x", "Power x^3")]
FUNCTIONS = [way for kind in ("PReLU", "ReLU", "Sigmoid") for way in KINDS[kind]]
MAKERS = [way for way in WAYS if way not in TAKEN] + FACTORS + FUNCTIONS
BEHIND = [way for kind in ("BatchNorm", "PReLU") for way in KINDS[kind]]
BEHIND += [way for way in WAYS if way.name in ("Concat", "Power 2x + 0.5", "Scale with bias")]
FOLDED = [way for kind in ("Convolution", "Deconvolution", "InnerProduct") for way in KINDS[kind]]
SIDE_BY_SIDE = 400
"""Chains in a net."""

UNUSUAL = ("Power x^3", "Power x^-0.5", "Power (2x)^0.5")
"""Ways behind which OpenCV is kept from factors."""

NOT_WRITTEN = {"Dropout", "Normalize", "Parameter", "Reduction", "Silence", "Tile"}
"""Kinds that are known, so that other people's nets can be run."""

CAFFES_ALONE = {"ArgMax", "Bias", "DummyData", "Embed"}
"""Kinds that are written for Caffe, which merges nothing: see test_embedding.py, test_products.py, test_recurrent.py and
test_top_values.py in tests/tracing."""


@dataclass(frozen=True)
class Chain:
    """Layers one behind the other, the first one behind an input of this shape."""

    shape: Shape
    ways: tuple[Way, ...]

    def __str__(self) -> str:
        return f"{self.shape} {' -> '.join(way.name for way in self.ways)}"

    @property
    def is_positive(self) -> bool:
        return any(way.is_positive for way in self.ways)

    @property
    def is_opencv_s(self) -> bool:
        """Whether it has layers that no Caffe has."""
        return any(way in KINDS[kind] for kind in ("Const", "GRU", "Gelu", "LSTM", "MatMul") for way in self.ways)

    def built(self, bench: Bench) -> Held:
        bench.is_positive = self.is_positive
        made = bench.input(self.shape)
        for way in self.ways:
            made = way.make(bench, made)
        return made

    def with_another(self, ways: Sequence[Way]) -> Iterator[Chain]:
        """The chains with one of these ways more, if it fits."""
        shape = self.built(Bench()).shape
        return (Chain(self.shape, (*self.ways, way)) for way in ways if way.fits(shape))


def chains(shapes: Sequence[Shape], *steps: Sequence[Way]) -> list[Chain]:
    found = [Chain(shape, ()) for shape in shapes]
    for ways in steps:
        found = [longer for chain in found for longer in chain.with_another(ways)]
    return found


CASES: Mapping[str, tuple[Callable[[], list[Chain]], Mapping[str, bool]]] = {
    "pairs": (lambda: chains(ALONE, WAYS, WAYS), {}),
    "pairs of a batch, without shapes": (lambda: chains(BATCHES, MAKERS, TAKEN), {"knows_shapes": False}),
    "pairs in place": (lambda: chains(ALONE[::2], MAKERS, TAKEN, KINDS["Softmax"][:1]), {"in_place": True}),
    "pairs of volumes": (lambda: chains(VOLUMES, WAYS, TAKEN), {}),
    "folded volumes": (
        lambda: chains(VOLUMES, FOLDED, KINDS["BatchNorm"], TAKEN),
        {"fold_batchnorm": True, "in_place": True},
    ),
    "threes": (lambda: chains(ALONE, MAKERS, FACTORS, BEHIND), {}),
    "threes with an activation": (lambda: chains(ALONE, MAKERS, FUNCTIONS, BEHIND), {}),
    "threes in place": (lambda: chains(ALONE[2:], FOLDED, FACTORS + FUNCTIONS, BEHIND), {"in_place": True}),
    "folded": (lambda: chains(ALONE + BATCHES, FOLDED, KINDS["BatchNorm"], TAKEN), {"fold_batchnorm": True}),
}


@dataclass(frozen=True)
class Written:
    """A net of chains in a directory: `expected` are their ends in float64, `single` what float32 makes of them."""

    directory: Path
    chains: Sequence[Chain]
    inputs: Mapping[str, np.ndarray]
    net: Net
    expected: Sequence[np.ndarray]
    single: Sequence[np.ndarray]


def write(directory: Path, some: Sequence[Chain], knows_shapes: bool = True, **options: object) -> Written:
    directory.mkdir(parents=True)
    double, single = Bench(torch.float64, knows_shapes), Bench(torch.float32)
    ends, rounded = ([chain.built(bench) for chain in some] for bench in (double, single))
    net = Net("pairs", tuple(double.layers), outputs=tuple(end.top for end in ends))
    net = passes.apply(net, dialect="opencv", **options)
    (layout,) = CAFFEMODEL.layouts(net)
    (directory / "net.prototxt").write_text(prototxt(net))
    (directory / "net.caffemodel").write_bytes(rendered(layout))
    inputs = {name: held.value.numpy().astype(np.float32) for name, held in double.inputs.items()}
    np.savez(directory / "inputs.npz", **inputs)
    values = ([end.value.numpy() for end in ends] for ends in (ends, rounded))
    return Written(directory, some, inputs, net, *values)


@pytest.fixture(scope="module", params=CASES)
def written(request, tmp_path_factory):
    make, options = CASES[request.param]
    found = make()
    root = tmp_path_factory.mktemp("pairs")
    by_readers = [[chain for chain in found if chain.is_opencv_s is alone] for alone in (False, True)]
    parts = [some[n : n + SIDE_BY_SIDE] for some in by_readers for n in range(0, len(some), SIDE_BY_SIDE)]
    return [write(root / str(number), part, **options) for number, part in enumerate(parts)]


def by_opencv(made: Written) -> Mapping[str, np.ndarray]:
    cv2 = pytest.importorskip("cv2")
    loaded = cv2.dnn.readNetFromCaffe(str(made.directory / "net.prototxt"), str(made.directory / "net.caffemodel"))
    for name, values in made.inputs.items():
        loaded.setInput(values, name)
    known = set(loaded.getLayerNames())
    makers = {top: layer.name for layer in made.net.layers for top in layer.tops}
    names = [makers[top] if makers[top] in known else top for top in made.net.outputs]
    return dict(zip(made.net.outputs, loaded.forward(names), strict=True))


def by_stream(made: Written) -> Mapping[str, np.ndarray]:
    files = made.directory / "net.prototxt", [made.directory / "net.caffemodel"]
    return forward(*files, made.inputs, made.net.outputs)


def differences(made: Written, found: Mapping[str, np.ndarray]) -> Iterator[str]:
    """The chains whose end is not what torch says.

    To 1e-5 of the largest number; where that is too much to ask of floats, to ten times what torch loses to them.
    """
    for chain, top, expected, single in zip(made.chains, made.net.outputs, made.expected, made.single, strict=True):
        values = found[top]
        if values.shape != expected.shape:
            yield f"{chain}: has shape {values.shape}, not {expected.shape}"
            continue
        finite = np.isfinite(expected)
        scale, lost, error = (
            np.abs(array[finite]).max(initial=0) for array in (expected, single - expected, values - expected)
        )
        if not finite.any() or not (np.isfinite(values) == finite).all():
            yield f"{chain}: is no number at other places"
        if not error <= 1e-5 * scale + 10 * lost:
            yield f"{chain}: departs by {error / scale:.1e}"


def test_opencv(written):
    assert [line for made in written for line in differences(made, by_opencv(made))] == []


def test_stream(written):
    assert [line for made in written for line in differences(made, by_stream(made))] == []


@pytest.mark.parametrize("shape", ALONE, ids=str)
def test_opencv_behind_the_input(shape, tmp_path):
    """Chains that have a net, and its input, to themselves: single layers, and some of the pairs."""
    some = chains([shape], WAYS) + chains([shape], WAYS, TAKEN)[::40]
    made = [write(tmp_path / str(number), [chain]) for number, chain in enumerate(some)]
    assert [line for one in made for line in differences(one, by_opencv(one))] == []


@pytest.mark.caffe
def test_caffe(written):
    read = [made for made in written if not made.chains[0].is_opencv_s]
    found = caffe_judge.judge(*(made.directory for made in read))
    assert [line for made, tops in zip(read, found, strict=True) for line in differences(made, tops)] == []


def test_every_kind_has_an_entry():
    """A kind that is known, or that operators and passes write, and that stands in neither list, has not been proved."""
    assert set(operations.KINDS) == {*KINDS, *NOT_WRITTEN, *CAFFES_ALONE, "Input"}
    assert {kind.__name__ for kind in dialects._EXPRESSIONS} <= {*KINDS, *CAFFES_ALONE}
    package = Path(streamexport.__file__).parent
    written = ("dialects", "opencv", "outputs", "sums")
    sources = [
        *(package / "tracing").rglob("*.py"),
        *(package / "families").rglob("*.py"),
        *(package / "passes" / f"{name}.py" for name in written),
    ]
    assert sources
    for source in sources:
        nodes = list(ast.walk(ast.parse(source.read_text())))
        used = {node.id for node in nodes if isinstance(node, ast.Name)}
        used |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        assert not used & NOT_WRITTEN, source


def test_layers_that_follow_convolutions_stay_where_they_are():
    """What usual nets are made of gains no layer."""
    kinds = ("Convolution", "BatchNorm", "Scale", "ReLU", "Eltwise", "Concat", "Pooling", "Power", "Sigmoid", "PReLU")
    usual = [[way for way in KINDS[kind] if way.name not in UNUSUAL] for kind in kinds]
    for first, second in product(usual, usual):
        for chain in chains(ALONE[2:], first, second):
            bench = Bench()
            chain.built(bench)
            net = Net("net", tuple(bench.layers))
            assert opencv.keep_apart(net, "portable") == net, chain
