"""Dimensions in another order, in the weights of who reads them: see `exchanges` for what no weights can take.

A matrix, or kernels, that alone take what is turned can have their columns in the order that was before: a view of the
checkpoint, and no layer is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from ..net.graph import Blob, Layer, Net, computed
from ..net.operations import Convolution, InnerProduct, Rearrange, Shape
from ..payload.pieces import Extent
from ..payload.tensors import Cast, Stored, Strided, Tensor


def into_weights(net: Net) -> Net:
    """The net without the Rearranges whose only reader can have them in its weights."""
    taken: dict[str, Layer] = {}
    gone: set[str] = set()
    for layer in net.layers:
        readers = net.consumers.get(layer.tops[0], []) if isinstance(layer.operation, Rearrange) else []
        if len(readers) == 1 and layer.tops[0] not in net.outputs and (taking := _taking(layer, readers[0])):
            taken[taking.name] = taking
            gone.add(layer.name)
    return net.with_layers(tuple(taken.get(layer.name, layer) for layer in net.layers if layer.name not in gone))


def _taking(turned: Layer, reader: Layer) -> Layer | None:
    """A layer that takes the bottom of a Rearrange instead of its top, and computes the same; None if it cannot."""
    moved, operation = turned.operation, reader.operation
    assert isinstance(moved, Rearrange)
    if reader.shared or not reader.blobs:
        return None
    if isinstance(operation, InnerProduct):
        before = len(moved.shape[: operation.axis])
        outer, inner = (1, operation.outputs) if operation.is_transposed else (operation.outputs, 1)
        behind: int | None = len(moved.atoms)
    elif isinstance(operation, Convolution) and operation.groups == 1 and moved.shape == moved.blob:
        before, outer, inner = 1, operation.outputs, prod(operation.window.kernel)
        behind = split(moved.atoms, prod(moved.blob[:2]))
    else:
        return None
    first, order = split(moved.atoms, prod(moved.shape[:before])), moved.order
    if first is None or behind is None or moved.shape[:before] != moved.blob[:before]:
        return None
    if [*order[:first], *order[behind:]] != [*range(first), *range(behind, len(order))]:
        return None
    weight = _columns(reader.blobs[0], outer, inner, moved.atoms, order[first:behind])
    return replace(reader, bottoms=turned.bottoms, blobs=(weight, *reader.blobs[1:])) if weight else None


def split(atoms: Sequence[int], count: int) -> int | None:
    """How many of the first atoms make up so many elements."""
    return next((n for n in range(len(atoms) + 1) if prod(atoms[:n]) == count), None)


def _columns(weight: Blob, outer: int, inner: int, atoms: Sequence[int], order: Sequence[int]) -> Blob | None:
    """A weight of `outer` rows whose columns, of `inner` elements, are counted by some atoms as an order has them.

    They are put as the atoms were before. None where the weight is not the checkpoint's own.
    """
    strides, step = dict[int, int](), inner
    for atom in reversed(order):
        strides[atom] = step
        step *= atoms[atom]
    before = sorted(order)
    shape = (outer, *(atoms[atom] for atom in before), inner)
    return seen_as(weight, shape, (step, *(strides[atom] for atom in before), 1))


def seen_as(weight: Blob, shape: Shape, strides: Sequence[int]) -> Blob | None:
    """A blob of the same shape that holds a view of its elements; None where these are not the checkpoint's own."""
    stored = computed(weight)
    numbers = stored.values if isinstance(stored, Cast) else stored
    if not isinstance(numbers, Stored) or not isinstance(numbers.values, Extent):
        return None
    view = Strided(Tensor.in_storage(numbers.name, numbers.dtype, shape, strides, numbers.values))
    return replace(weight, values=view if numbers is stored else Cast(view, stored.dtype))
