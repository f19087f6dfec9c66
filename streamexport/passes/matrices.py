"""Matrices of weights as factors of MatMul, in nets that nobody but OpenCV runs.

OpenCV 4.14 takes two thirds of the time for that which its 1x1 convolution or inner product takes, where there are many
pixels or tokens: of 3072 by 768 and 197 of them, on one thread, 15 ms instead of 22 and 30. And it holds no second, packed
copy of the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import prod

from ..net import kernels
from ..net.graph import Layer, Net
from ..net.operations import Const, Convolution, InnerProduct, MatMul, Merge, Reshape, Scale
from ..net.windows import ONE_PIXEL
from . import naming

POSITIONS, WEIGHTS = 128, 65536
"""From how many on it takes less time: pixels or tokens, and weights."""


def multiply(net: Net) -> Net:
    """The net with MatMul in place of 1x1 convolutions and inner products, where there is MatMul already; it computes the
    same."""
    if not any(isinstance(layer.operation, MatMul) for layer in net.layers):
        return net
    consumers = net.consumers
    names = naming.taken(net)
    layers: list[Layer] = []
    for layer in net.layers:
        behind = [reader for top in layer.tops for reader in consumers.get(top, ())]
        merges = any(reader.operation.merged_as(len(reader.bottoms)) == Merge.CHANNELS for reader in behind)
        layers += naming.unlike(layer, _multiplied, names) if _is_large(layer) and not merges else [layer]
    return net.with_layers(tuple(layers))


def _is_large(layer: Layer) -> bool:
    """Whether it is a matrix of many weights times as many vectors as make up for it, of one image."""
    operation = layer.operation
    is_matrix = isinstance(operation, Convolution) and operation.window == ONE_PIXEL and operation.groups == 1
    is_matrix |= isinstance(operation, InnerProduct) and not operation.is_transposed
    if not is_matrix or not layer.blobs or not layer.shapes or layer.shared:
        return False
    weight, top = layer.blobs[0], layer.shapes[0]
    return top[0] == 1 and weight.count >= WEIGHTS and prod(top) >= POSITIONS * weight.shape[0]


def _multiplied(layer: Layer) -> Iterator[Layer]:
    weight, *bias = layer.blobs
    (top,) = layer.shapes
    outputs, inputs, is_image = (
        weight.shape[0],
        weight.count // weight.shape[0],
        isinstance(layer.operation, Convolution),
    )
    positions = prod(top) // outputs
    matrix, vectors, product = (1, outputs, inputs), (1, positions, inputs), (1, positions, outputs)
    if is_image:
        vectors, product = (1, inputs, positions), (1, outputs, positions)
    weights, given, made, shaped = (f"{layer.name}.{part}" for part in ("weights", "vectors", "product", "shaped"))
    yield Layer(weights, Const(matrix), (), (weights,), (replace(weight, shape=matrix),), shapes=(matrix,))
    yield Layer(given, Reshape((0, *vectors[1:])), layer.bottoms, (given,), shapes=(vectors,))
    factors = (weights, given) if is_image else (given, weights)
    yield Layer(made, MatMul(is_second_transposed=not is_image), factors, (made,), shapes=(product,))
    if not bias:
        yield replace(layer, operation=Reshape.to(top, product), bottoms=(made,), blobs=())
        return
    yield Layer(shaped, Reshape.to(top, product), (made,), (shaped,), shapes=(top,))
    offset = Scale(1 if is_image else len(top) - 1, has_bias=True)
    yield replace(layer, operation=offset, bottoms=(shaped,), blobs=(kernels.filled((outputs,), 1), *bias))
