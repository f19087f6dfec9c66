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
    consumers = net.consumers
    changed: dict[str, Layer | None] = {}
    for layer in net.layers:
        readers = consumers.get(layer.tops[0], []) if isinstance(layer.operation, Rearrange) else []
        if len(readers) == 1 and layer.tops[0] not in net.outputs and (taking := _taking(layer, readers[0])):
            changed |= {layer.name: None, taking.name: taking}
    layers = (changed.get(layer.name, layer) for layer in net.layers)
    return net.with_layers(tuple(layer for layer in layers if layer is not None))


def _taking(turned: Layer, reader: Layer) -> Layer | None:
    """A layer that takes the bottom of a Rearrange instead of its top, and computes the same; None if it cannot."""
    moved, operation = turned.operation, reader.operation
    assert isinstance(moved, Rearrange)
    if reader.shared or not reader.blobs:
        return None
    if isinstance(operation, InnerProduct):
        before, whole = len(moved.shape[: operation.axis]), prod(moved.blob)
        outer, inner = (1, operation.outputs) if operation.is_transposed else (operation.outputs, 1)
    elif isinstance(operation, Convolution) and operation.groups == 1 and moved.shape == moved.blob:
        before, whole = 1, prod(moved.blob[:2])
        outer, inner = operation.outputs, prod(operation.window.kernel)
    else:
        return None
    columns = within(moved.atoms, moved.order, prod(moved.shape[:before]), whole)
    if columns is None or moved.shape[:before] != moved.blob[:before]:
        return None
    weight = _columns(reader.blobs[0], outer, inner, moved.atoms, moved.order[slice(*columns)])
    return replace(reader, bottoms=turned.bottoms, blobs=(weight, *reader.blobs[1:])) if weight else None


def within(atoms: Sequence[int], order: Sequence[int], before: int, whole: int) -> tuple[int, int] | None:
    """Atoms [first, last), if none but they change places: those in front make up `before` elements, with them `whole`."""
    counts = [prod(atoms[:n]) for n in range(len(atoms) + 1)]
    if before not in counts or whole not in counts:
        return None
    first, last = counts.index(before), len(atoms) - counts[::-1].index(whole)
    is_kept = [*order[:first], *order[last:]] == [*range(first), *range(last, len(order))]
    return (first, last) if is_kept else None


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
