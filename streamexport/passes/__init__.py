"""Functions from nets to nets, each of one thought. `apply` composes them: the order is part of their meaning."""

from __future__ import annotations

from collections.abc import Sequence

from ..net.graph import Net
from . import (
    cleaning,
    cutting,
    dialects,
    folding,
    matrices,
    naming,
    offsets,
    opencv,
    outputs,
    precision,
    products,
    rows,
    sharing,
    slicing,
    sums,
    turning,
    weighing,
)


def apply(
    net: Net,
    *,
    dialect: str = "portable",
    fold_batchnorm: bool = False,
    input_order: str = "rgb",
    fold_input_scale: bool = False,
    end: Sequence[str] = (),
    softmax: bool = True,
    dtype: str = "float32",
    in_place: bool = False,
    names: str = "torch",
) -> Net:
    """Cutting, softmax, sums, slices, rows, turned dimensions, scales, dialect, folding, input, matrices, cleaning, offsets,
    outputs, what OpenCV merges, writing in place, precision, names, sharing; what all that weighs is said last."""
    if end:
        net = cutting.cut(net, end)
    if not softmax:
        net = outputs.without_softmax(net)
    net = rows.slice_rows(rows.turn_rows(slicing.slice_parts(sums.shorten(net))))
    net = turning.into_weights(net)
    if dialect != "opencv":
        net = products.take_scales(net)
    net = dialects.express(net, dialect)
    if fold_batchnorm:
        net = folding.fold_batchnorm(net)
    net = folding.for_pixels(net, input_order, fold_input_scale)
    if dialect == "opencv":
        net = matrices.multiply(net)
    net = opencv.keep_apart(outputs.apart(offsets.unspread(cleaning.clean(net))), dialect)
    if in_place:
        net = cleaning.write_in_place(offsets.over_a_term(net))
    net = precision.store(net, dtype)
    return weighing.weighed(sharing.share(naming.rename(net, names), dialect))
