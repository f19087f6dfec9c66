"""Two activations multiplied as matrices (`MatMul`), in the words of those that have no layer for it.

    bvlc, ssd   the first factor is written into a blob that a convolution, of a group for each pair of matrices, takes for
                its weights: `Parameter` has the blob as its top, Eltwise writes over that (0 times what was there, plus the
                factor), and the convolution shares the blob by its name. A factor that is held transposed makes it a
                deconvolution. Net.forward runs layers in their order, which is part of the meaning here.
    portable    each row of the first factor times all of the second, a Scale of two bottoms, and its sums by convolutions
                with ones: as many elements as there are multiplications.

Either needs the second factor as (k, n): one that is held transposed is turned. Either multiplies the product by a number
for nothing, as what is written, or what sums up: the scale of attention is no layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from ..errors import NetError
from ..net import kernels
from ..net.graph import LARGEST, Blob, Layer, Net
from ..net.operations import (
    Convolution,
    Deconvolution,
    Eltwise,
    MatMul,
    Operation,
    Parameter,
    Power,
    Rearrange,
    Reshape,
    Scale,
    Shape,
    Silence,
)
from ..net.windows import ONE_PIXEL, Window
from . import rows
from .cleaning import without
from .outputs import MOVES

SINGLE = 4
"""Bytes of an element."""


@dataclass(frozen=True, slots=True)
class Scaled(MatMul):
    """A product that is multiplied by a number. Neutral, where it is composed."""

    scale: float = 1.0


def take_scales(net: Net) -> Net:
    """The net whose products multiply by what a Power in front of one, or behind it, did for it alone."""
    taken: set[str] = set()
    changed: dict[str, Layer] = {}
    alone, consumers = rows.alone(net), net.consumers
    for layer in net.layers:
        operation = layer.operation
        if isinstance(operation, MatMul):
            scales = _scales(layer, alone, consumers)
            found = [power for power in scales if power.name not in taken and power.tops[0] not in net.outputs]
            taken.update(power.name for power in found)
            flags = operation.is_first_transposed, operation.is_second_transposed
            if found:
                changed[layer.name] = replace(layer, operation=Scaled(*flags, prod(map(_factor, found))))
    gone = [layer for layer in net.layers if layer.name in taken]
    return without(net.with_layers(tuple(changed.get(layer.name, layer) for layer in net.layers)), gone)


def _scales(layer: Layer, alone: Mapping[str, Layer], consumers: Mapping[str, Sequence[Layer]]) -> Iterator[Layer]:
    """Powers that multiply a factor of a product or the product, with nothing between but what moves elements.

    What a module of torch's made stays as it is: it can be compared.
    """
    for bottom in layer.bottoms:
        while (before := alone.get(bottom)) and before.origin is None:
            if _factor(before):
                yield before
            if not isinstance(before.operation, MOVES):
                break
            bottom = before.bottoms[0]
    while layer.tops[0] in alone and layer.origin is None:
        (layer,) = consumers[layer.tops[0]]
        if _factor(layer) and layer.origin is None:
            yield layer
        if not isinstance(layer.operation, MOVES):
            break


def _factor(layer: Layer) -> float:
    """What a layer multiplies each element by, if it does nothing else; else 0."""
    operation = layer.operation
    return operation.scale if isinstance(operation, Power) and (operation.power, operation.shift) == (1, 0) else 0


def product(layer: Layer, bottoms: Sequence[Shape], dialect: str) -> Iterator[Layer]:
    """The layers that a MatMul becomes; a Rearrange may be among them."""
    if dialect == "opencv":
        yield layer
        return
    matmul = layer.operation
    assert isinstance(matmul, MatMul)
    made = _Steps(layer.name, matmul.top_shapes(bottoms, 1)[0])
    scale = matmul.scale if isinstance(matmul, Scaled) else 1.0
    first, second = layer.bottoms
    if matmul.is_second_transposed:
        second = made.turned(second, bottoms[1])
    sizes = matmul.sizes(bottoms)
    if dialect == "portable":
        _by_scale(made, first, second, sizes, matmul.is_first_transposed, scale)
    else:
        _by_weights(made, first, second, bottoms[0], sizes, matmul.is_first_transposed, scale)
    *steps, last = made.layers
    yield from steps
    yield replace(last, name=layer.name, tops=layer.tops)


class _Steps:
    """The layers that one becomes, each called after its part."""

    def __init__(self, name: str, top: Shape) -> None:
        self.name, self.top = name, top
        self.layers: list[Layer] = []

    def add(
        self, part: str, operation: Operation, bottoms: Sequence[str], shape: Shape, blobs: tuple[Blob, ...] = ()
    ) -> str:
        name = f"{self.name}.{part}"
        self.layers.append(Layer(name, operation, tuple(bottoms), (name,), blobs, shapes=(shape,)))
        return name

    def reshaped(self, part: str, bottom: str, shape: Shape) -> str:
        return self.add(part, Reshape((-1, *shape[1:])), [bottom], shape)

    def turned(self, bottom: str, shape: Shape) -> str:
        """Its matrices transposed."""
        swapped = (*shape[:-2], shape[-1], shape[-2])
        if 1 in swapped[-2:]:
            return self.reshaped("turned", bottom, swapped)
        axes = [axis for axis, size in enumerate(shape) if size != 1]
        order = (*range(len(axes) - 2), len(axes) - 1, len(axes) - 2)
        moved = Rearrange(shape, tuple(shape[axis] for axis in axes), order, swapped)
        return self.add("turned", moved, [bottom], swapped)


def _by_weights(
    made: _Steps,
    first: str,
    second: str,
    shape: Shape,
    sizes: tuple[int, int, int, int],
    is_transposed: bool,
    scale: float,
) -> None:
    count, rows, inner, columns = sizes
    blob = made.add("weight", Parameter(shape), (), shape)
    made.layers[-1] = replace(made.layers[-1], shared=(blob,))
    made.layers += [
        Layer(f"{made.name}.put", Eltwise("SUM", (0.0, scale)), (blob, first), (blob,), shapes=(shape,)),
        Layer(f"{made.name}.end", Silence(), (blob,), ()),
    ]
    data = made.reshaped("data", second, (1, count * inner, 1, columns))
    kind = Deconvolution if is_transposed else Convolution
    by = made.add("by", kind(count * rows, ONE_PIXEL, count, False), [data], (1, count * rows, 1, columns))
    made.layers[-1] = replace(made.layers[-1], shared=(blob,), is_permissive=True)
    made.reshaped("", by, made.top)


def _by_scale(
    made: _Steps, first: str, second: str, sizes: tuple[int, int, int, int], is_transposed: bool, scale: float
) -> None:
    count, rows, inner, columns = sizes
    if count * rows * inner * columns > LARGEST:
        raise NetError(
            f"multiplies matrices as blobs of {count * rows * inner * columns} elements, Caffe's hold {LARGEST}",
            tensor=f"layer {made.name}",
            advice="`dialect=bvlc`, opencv or ssd has other words for it",
        )
    ones = kernels.filled((rows, 1, 1, 1), 1)
    spread = Convolution(rows, ONE_PIXEL, has_bias=False)
    if is_transposed:
        data = made.reshaped("data", second, (count * inner, 1, 1, columns))
        data = made.add("spread", spread, [data], (count * inner, rows, 1, columns), (ones,))
        whole = (count, inner, rows, columns)
        data = made.reshaped("whole", data, whole)
        factor = made.reshaped("factor", first, (count, inner, rows))
        data = made.add("multiplied", Scale(0), [data, factor], whole)
        total, summed = kernels.filled((1, inner, 1, 1), scale), (count, 1, rows, columns)
        data = made.add("sum", Convolution(1, ONE_PIXEL, has_bias=False), [data], summed, (total,))
    else:
        data = made.reshaped("data", second, (count, 1, inner, columns))
        whole = (count, rows, inner, columns)
        data = made.add("spread", spread, [data], whole, (ones,))
        factor = made.reshaped("factor", first, (count, rows, inner))
        data = made.add("multiplied", Scale(0), [data, factor], whole)
        data = made.reshaped("rows", data, (count * rows, 1, inner, columns))
        total, summed = kernels.filled((1, 1, inner, 1), scale), (count * rows, 1, 1, columns)
        data = made.add("sum", Convolution(1, Window.of((inner, 1)), has_bias=False), [data], summed, (total,))
    made.reshaped("", data, made.top)


def note(layers: Sequence[Layer], bottoms: Sequence[Sequence[Shape]], dialect: str) -> str | None:
    """What who runs the net has to know, of all of its products: these layers, with the shapes of their bottoms."""
    if not layers or dialect == "opencv":
        return None
    count, weights, whole = len(layers), 0, 0
    for layer, shapes in zip(layers, bottoms, strict=True):
        assert isinstance(layer.operation, MatMul)
        weights += SINGLE * (prod(shapes[0]) + prod(layer.shapes[0]))
        whole += SINGLE * (2 * prod(layer.operation.sizes(shapes)) + prod(layer.shapes[0]))
    if dialect == "portable":
        return (
            f"{count} products of two activations take {whole} bytes where no memory is used again, as in Caffe;"
            f" `dialect=bvlc` takes {weights} for them; sizes are fixed"
        )
    return (
        f"{count} products of two activations are convolutions whose weights other layers write: batch and sizes are fixed,"
        " and so is the order of layers; programs that convert or reorder them cannot run it, Caffe can"
    )
