"""How blobs are stored."""

from __future__ import annotations

from dataclasses import replace

from ..net.graph import Blob, Layer, Net, computed
from ..net.operations import KINDS
from ..payload.tensors import FLOAT16, FLOAT32, Cast, DType

STORED = ("float32", "float16")


def store(net: Net, dtype: str) -> Net:
    """The net with its blobs in float32, or with the weights of its convolutions and inner products in float16.

    Biases, BatchNorm and Scale stay as they are: they are small, and variances do not fit into half floats.
    """
    change = _single if dtype == "float32" else _half
    return net.with_layers(tuple(change(layer) for layer in net.layers))


def _single(layer: Layer) -> Layer:
    if all(blob.dtype == FLOAT32 for blob in layer.blobs):
        return layer
    return replace(layer, blobs=tuple(_cast(blob, FLOAT32) for blob in layer.blobs))


def _half(layer: Layer) -> Layer:
    # Models that other programs wrote as HDF5 do not say what a layer is: there, what has two axes and more.
    kind = KINDS.get(layer.type, layer.operation)
    large = kind.large_blobs if layer.type else sum(len(blob.shape) > 1 for blob in layer.blobs[:1])
    halves = (_cast(blob, FLOAT16) if len(blob.shape) > 1 else blob for blob in layer.blobs[:large])
    return replace(layer, blobs=(*halves, *layer.blobs[large:])) if large else layer


def _cast(blob: Blob, dtype: DType) -> Blob:
    return blob if blob.dtype == dtype else replace(blob, values=Cast(computed(blob), dtype), dtype=dtype)
