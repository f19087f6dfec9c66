"""How blobs are stored."""

from __future__ import annotations

from dataclasses import replace

from ..extents import Extent
from ..nets.graph import Blob, Layer, Net
from ..tensors import FLOAT16, Cast, Computed, Elements, Tensor, contiguous_strides

STORED = ("float32", "float16")
LARGE = ("Convolution", "InnerProduct")


def store(net: Net, dtype: str) -> Net:
    """The net with the weights of its convolutions and inner products in `dtype`.

    Biases, BatchNorm and Scale stay in float32: they are small, and variances do not fit into half floats.
    """
    if dtype == "float32":
        return net
    return net.with_layers(tuple(_stored(layer) if layer.type in LARGE else layer for layer in net.layers))


def _stored(layer: Layer) -> Layer:
    weight, *rest = layer.blobs
    return replace(layer, blobs=(_half(weight), *rest))


def _half(blob: Blob) -> Blob:
    values = blob.values
    if isinstance(values, Extent):
        name = ", ".join(blob.origin)
        values = Elements(Tensor(name, blob.dtype, blob.shape, contiguous_strides(blob.shape), values))
    assert isinstance(values, Computed)
    return replace(blob, values=Cast(values, FLOAT16), dtype=FLOAT16)
