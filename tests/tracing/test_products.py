"""Products of two activations: torch runs the module, other programs run what it became, and the numbers agree."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conversion.test_consumers import opencv_logits
from tests.shared import caffe_judge
from tests.shared.product_modules import PRODUCTS
from tests.tracing.test_traced import Converted


def by_opencv(made: Converted) -> list[np.ndarray]:
    found = [opencv_logits(made.prototxt, made.model, made.image, output) for output in made.outputs]
    return [a.reshape(b.shape) for a, b in zip(found, made.expected, strict=True)]


@pytest.mark.parametrize("name", PRODUCTS)
def test_opencv_and_stream_compute_what_torch_computes(tmp_path, name):
    for dialect in ("opencv", "portable", "bvlc", "ssd"):
        made = Converted(tmp_path / dialect, name, dialect=dialect)
        made.assert_agrees(made.stream())
        if dialect in ("opencv", "portable"):
            made.assert_agrees(by_opencv(made))


@pytest.mark.parametrize("options", [{"in_place": True}, {"names": "classic", "in_place": True}])
@pytest.mark.parametrize("dialect", ["bvlc", "opencv"])
def test_other_options_compute_the_same(tmp_path, dialect, options):
    made = Converted(tmp_path, "small vit", dialect=dialect, **options)
    made.assert_agrees(made.stream())


@pytest.mark.caffe
def test_caffe_computes_what_torch_computes(tmp_path):
    made = {
        f"{dialect} {name}": Converted(
            tmp_path / f"{dialect}{number}", name, dialect=dialect, in_place=bool(number % 2)
        )
        for number, name in enumerate(PRODUCTS)
        for dialect in ("portable", "bvlc", "ssd")
    }
    found = caffe_judge.judge(*(case.prototxt.parent for case in made.values()))
    departed = {}
    for (name, case), tops in zip(made.items(), found, strict=True):
        if tops is None:
            departed[name] = "refused"
            continue
        try:
            case.assert_agrees([tops[output] for output in case.outputs])
        except AssertionError as error:
            departed[name] = str(error)
    assert not departed
