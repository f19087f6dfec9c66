"""Convolutions of images that are no larger than their kernels, of each channel by itself: OpenCV reads beside some of them.

They are written as operators write them, side by side, and judged as in `test_pairs`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import pytest
from torch.nn import functional as F  # noqa: N812

from streamexport.net.graph import Blob
from streamexport.net.windows import Axis, Window
from streamexport.payload.pieces import Literal
from streamexport.tracing.builder import Builder
from streamexport.tracing.node import Scope
from streamexport.tracing.operands import Label, Value
from streamexport.tracing.views import View
from tests.passes.test_pairs import Chain, by_opencv, by_stream, differences, write
from tests.shared import caffe_judge
from tests.shared.layer_kinds import Bench, Held, Way

SIZES = ((1, 1), (1, 4), (5, 1), (2, 3), (7, 7))
PADS = ((0, 0), (1, 1), (1, 0), (0, 1), (2, 2))


def convolution(kind: str, kernel: int, stride: int, pads: tuple[int, int], dilation: int) -> Way:
    def make(net: Bench, x: Held) -> Held:
        weight = net.random((4, 1, kernel, kernel))
        if kind == "convolution":
            made = F.conv2d(x.value, weight, None, stride, pads, dilation, groups=4)
        else:
            made = F.conv_transpose2d(x.value, weight, None, stride, pads, groups=4)
        (data,) = (layer for layer in net.layers if layer.tops == (x.top,))
        top, scope = f"{kind}{len(net.layers)}", Scope(Label("conv"), Builder([data]))
        first, second = (Axis(kernel, stride, pad, pad, dilation) for pad in pads)
        blob = Blob(tuple(weight.shape), Literal(weight.float().numpy().tobytes()))
        lower = getattr(scope, kind)
        lower(Value(x.top, x.shape, View.of(x.shape)), blob, None, Window((first, second)), 4)
        ((_, layer), _) = scope.builder.finished()
        net.layers.append(replace(layer, name=top, tops=(top,)))
        return Held(top, made)

    return Way(f"{kind} {kernel}, stride {stride}, pad {pads}, dilation {dilation}", make, lambda shape: True)


def chains() -> Iterator[Chain]:
    """Those that leave something of the image."""
    for size, pads, kernel, stride in product(SIZES, PADS, (1, 3), (1, 2)):
        for dilation in (1, 2, 3):
            if all(n + 2 * pad > dilation * (kernel - 1) for n, pad in zip(size, pads, strict=True)):
                yield Chain((1, 4, *size), (convolution("convolution", kernel, stride, pads, dilation),))
        if all(stride * (n - 1) + kernel > 2 * pad for n, pad in zip(size, pads, strict=True)):
            yield Chain((1, 4, *size), (convolution("deconvolution", kernel, stride, pads, 1),))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write(tmp_path_factory.mktemp("small") / "net", list(chains()))


def test_opencv(written):
    assert list(differences(written, by_opencv(written))) == []


def test_stream(written):
    assert list(differences(written, by_stream(written))) == []


@pytest.mark.caffe
def test_caffe(written):
    (found,) = caffe_judge.judge(written.directory)
    assert list(differences(written, found)) == []
