"""What layers compute: one frozen dataclass for each kind of layer, and all that is known of the kind.

    operation   what all of them say: shapes of tops and blobs, multiply-adds, traits
    pointwise, weighted, recurrent, normalizations, reductions, rearrangements   the kinds, by family
    opaque      layers of models that were read, of which only the type is known

`KINDS` holds them by Caffe's name for them. `caffe.codec` turns them into LayerParameter and back, `running.compute` has the
numbers, `passes.dialects` puts those that are nobody's layer (`NEUTRAL`) into the words of a dialect.
"""

from __future__ import annotations

from collections.abc import Mapping

from .normalizations import LRN, MVN, BatchNorm, Bias, Normalize, Scale, Softmax
from .opaque import Opaque
from .operation import Merge, Operation, Shape
from .pointwise import (
    BNLL,
    ELU,
    AbsVal,
    Clip,
    Eltwise,
    Exp,
    Gelu,
    Log,
    Power,
    PReLU,
    ReLU,
    ReLU6,
    Sigmoid,
    TanH,
    Threshold,
)
from .rearrangements import (
    Concat,
    Const,
    Crop,
    Dropout,
    DummyData,
    Flatten,
    Input,
    Parameter,
    Permute,
    Rearrange,
    Reshape,
    Silence,
    Slice,
    Split,
    Tile,
)
from .recurrent import GRU, LSTM, Recurrent
from .reductions import ArgMax, Pooling, Reduction
from .weighted import Convolution, Deconvolution, Embed, InnerProduct, MatMul

__all__ = [
    "BNLL",
    "ELU",
    "GRU",
    "KINDS",
    "LRN",
    "LSTM",
    "MVN",
    "NEUTRAL",
    "AbsVal",
    "ArgMax",
    "BatchNorm",
    "Bias",
    "Clip",
    "Concat",
    "Const",
    "Convolution",
    "Crop",
    "Deconvolution",
    "Dropout",
    "DummyData",
    "Eltwise",
    "Embed",
    "Exp",
    "Flatten",
    "Gelu",
    "InnerProduct",
    "Input",
    "Log",
    "MatMul",
    "Merge",
    "Normalize",
    "Opaque",
    "Operation",
    "PReLU",
    "Parameter",
    "Permute",
    "Pooling",
    "Power",
    "ReLU",
    "ReLU6",
    "Rearrange",
    "Recurrent",
    "Reduction",
    "Reshape",
    "Scale",
    "Shape",
    "Sigmoid",
    "Silence",
    "Slice",
    "Softmax",
    "Split",
    "TanH",
    "Threshold",
    "Tile",
]

KINDS: Mapping[str, type[Operation]] = {
    kind.__name__: kind
    for kind in list(globals().values())
    if isinstance(kind, type) and issubclass(kind, Operation) and kind not in (Operation, Opaque)
}
NEUTRAL = (Rearrange, Recurrent)
"""Kinds that no Caffe has."""
