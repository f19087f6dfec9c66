"""What follows a layer with weights, done in the rows of these: a row makes one output, wherever it stands.

Outputs that are turned among themselves alone are those of a weight whose rows stand in the order that is wanted, and its
bias: views of the checkpoint, and no layer is left. Functions of single elements may stand between.

Outputs that a Slice parts are made by a layer for each part, of a block of rows, and never are in one blob: queries, keys and
values of a packed product. That is for matrices, since kernels would gather the windows of their bottom for each part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import gcd, prod

from ..net import kernels
from ..net.graph import Blob, Layer, Net
from ..net.operations import Convolution, Deconvolution, Flatten, InnerProduct, Rearrange, Reshape, Shape, Slice
from ..net.windows import ONE_PIXEL
from .cleaning import without
from .turning import seen_as, within


@dataclass(frozen=True, slots=True)
class _Made:
    """What a layer with weights makes, as it is read: behind others that leave every element where it is.

    Attributes
    ----------
    maker, between : that layer; those behind it, in their order
    before, outputs, behind : elements of its top in front of its outputs, of these, and of each
    outer, inner : elements of its weights in front of those of an output, and of each there
    """

    maker: Layer
    between: tuple[Layer, ...]
    before: int
    outputs: int
    behind: int
    outer: int
    inner: int


def turn_rows(net: Net) -> Net:
    """The net without Rearranges of what a layer alone makes, where its weights can be in their order."""
    changed: dict[str, Layer] = {}
    makers = alone(net)
    for layer in net.layers:
        made = _made(layer, makers, changed) if isinstance(layer.operation, Rearrange) else None
        if made is not None:
            changed.update((new.name, new) for new in _turned(made, layer))
    shapes = {top: shape for layer in net.layers for top, shape in zip(layer.tops, layer.shapes, strict=False)}
    reshapes = [layer for layer in changed.values() if isinstance(layer.operation, Reshape)]
    idle = [layer for layer in reshapes if layer.shapes[0] == shapes[layer.bottoms[0]]]
    return without(net.with_layers(tuple(changed.get(layer.name, layer) for layer in net.layers)), idle)


def slice_rows(net: Net) -> Net:
    """The net with several layers in place of one whose outputs a Slice parts."""
    changed: dict[str, Sequence[Layer]] = {}
    makers = alone(net)
    for layer in net.layers:
        made = _made(layer, makers, {}) if isinstance(layer.operation, Slice) else None
        if made is not None and (parts := list(_parts(made, layer))):
            changed |= {gone.name: () for gone in (made.maker, *made.between)} | {layer.name: parts}
    return net.with_layers(tuple(new for layer in net.layers for new in changed.get(layer.name, (layer,))))


def alone(net: Net) -> dict[str, Layer]:
    """The layers whose top one layer alone reads, by that top."""
    consumers = net.consumers
    tops = {layer.tops[0]: layer for layer in net.layers if len(layer.tops) == 1}
    return {top: layer for top, layer in tops.items() if len(consumers.get(top, ())) == 1 and top not in net.outputs}


def _made(reader: Layer, makers: Mapping[str, Layer], changed: Mapping[str, Layer]) -> _Made | None:
    """What a layer reads, where a layer with weights is among those who make it for nobody else; some `changed` already."""
    between: list[Layer] = []
    bottom = reader.bottoms[0]
    while bottom in makers:
        layer = changed.get(makers[bottom].name, makers[bottom])
        operation = layer.operation
        if not layer.shapes or layer.shared or len(layer.bottoms) != 1:
            return None
        if isinstance(operation, Reshape | Flatten) or (operation.is_pointwise and not layer.blobs):
            between.insert(0, layer)
            bottom = layer.bottoms[0]
            continue
        if not layer.blobs or not isinstance(operation, Convolution | Deconvolution | InnerProduct):
            return None
        if not isinstance(operation, InnerProduct) and operation.groups > 1:
            return None
        (shape,), weight = layer.shapes, layer.blobs[0]
        axis = operation.axis if isinstance(operation, InnerProduct) else 1
        is_behind = isinstance(operation, Deconvolution) or (
            isinstance(operation, InnerProduct) and operation.is_transposed
        )
        outer = weight.shape[0] if is_behind else 1
        inner = weight.count // operation.outputs // outer
        before, behind = prod(shape[:axis]), prod(shape[axis + 1 :])
        return _Made(layer, tuple(between), before, operation.outputs, behind, outer, inner)
    return None


def _turned(made: _Made, layer: Layer) -> Iterator[Layer]:
    """The layers that make what a Rearrange does of it; none where more than outputs change places."""
    moved = layer.operation
    assert isinstance(moved, Rearrange)
    outputs = within(moved.atoms, moved.order, made.before, made.before * made.outputs)
    if outputs is None:
        return
    first, last = outputs
    sizes, order = moved.atoms[first:last], [atom - first for atom in moved.order[first:last]]
    weight, *bias = made.maker.blobs
    found = [_rows(weight, made.outer, made.inner, sizes, order), *(_rows(blob, 1, 1, sizes, order) for blob in bias)]
    blobs = tuple(blob for blob in found if blob is not None)
    if len(blobs) < len(found):
        return
    yield replace(made.maker, blobs=blobs, origin=None)
    yield from (replace(between, origin=None) for between in made.between)
    yield replace(layer, operation=Reshape.to(moved.shape, moved.blob))


def _rows(blob: Blob, outer: int, inner: int, atoms: Sequence[int], order: Sequence[int]) -> Blob | None:
    """A weight whose outputs, counted by atoms, are put into another order of these."""
    count = prod(atoms)
    steps = [prod(atoms[atom + 1 :]) * inner for atom in order]
    return seen_as(blob, (outer, *(atoms[atom] for atom in order), inner), (count * inner, *steps, 1))


def _parts(made: _Made, layer: Layer) -> Iterator[Layer]:
    """For each top of a Slice the layer that makes it, and what gives it its shape; none where it parts other than outputs."""
    sliced, (maker, *reshapes) = layer.operation, (made.maker, *made.between)
    assert isinstance(sliced, Slice)
    operation = maker.operation
    is_matrix = isinstance(operation, Convolution) and operation.window == ONE_PIXEL
    is_matrix |= isinstance(operation, InnerProduct) and not operation.is_transposed
    whole = reshapes[-1].shapes[0] if reshapes else maker.shapes[0]
    axis = sliced.axis % len(whole)
    counts = [prod(shape[axis:]) // made.behind for shape in layer.shapes]
    if not is_matrix or any(not isinstance(between.operation, Reshape | Flatten) for between in reshapes):
        return
    if prod(whole[:axis]) != made.before or any(prod(shape[axis:]) % made.behind for shape in layer.shapes):
        return
    assert isinstance(operation, Convolution | InnerProduct)
    step, first = gcd(*counts), 0
    place = 1 if isinstance(operation, Convolution) else operation.axis
    for top, shape, count in zip(layer.tops, layer.shapes, counts, strict=True):
        blocks = range(first // step, (first + count) // step)
        blobs = tuple(kernels.in_blocks(blob, made.outputs // step, blocks) for blob in maker.blobs)
        first += count
        made_shape: Shape = (*maker.shapes[0][:place], count, *maker.shapes[0][place + 1 :])
        name = top if made_shape == shape else f"{top}.rows"
        row = replace(maker, name=name, operation=replace(operation, outputs=count), tops=(name,), blobs=blobs)
        yield replace(row, shapes=(made_shape,), origin=None)
        if made_shape != shape:
            yield Layer(top, Reshape.to(shape, made_shape), (name,), (top,), shapes=(shape,))
