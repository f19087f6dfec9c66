"""Products of two activations: torch runs the module, other programs run what it became, and the numbers agree."""

from __future__ import annotations

import pytest

from tests.conversion.test_consumers import opencv_logits
from tests.shared.product_modules import PRODUCTS
from tests.tracing.test_traced import Converted


@pytest.mark.parametrize("name", PRODUCTS)
def test_opencv_and_stream_compute_what_torch_computes(tmp_path, name):
    made = Converted(tmp_path, name, dialect="opencv")
    made.assert_agrees(made.stream())
    found = [opencv_logits(made.prototxt, made.model, made.image, output) for output in made.outputs]
    made.assert_agrees([a.reshape(b.shape) for a, b in zip(found, made.expected, strict=True)])
