"""Dimensions in another order: in the weights of who reads them, where that is possible, else by layers that every Caffe has.

A matrix, or kernels, that alone take what is turned can have their columns in the order that was before: a view of the
checkpoint, and no layer is left.

Two neighbouring blocks of dimensions, of A and B elements with I behind them, change places in one of three ways:

    Slice, Concat   (o, A, B, I) is cut into A parts, which stand one behind the other as (o, 1, B, A I); or into B parts,
                    and (o, B A, 1, I). Each run of I elements is copied twice, bit for bit whatever they are.
    Convolution     with an identity: (o, 1, A, B I) and a kernel of 1 x B whose elements lie I apart, with B outputs, give
                    (o, B, A, I).
    Deconvolution   the same from the other side, where I is 1: (o, A, B, 1) and a kernel of 1 x A give (o, 1, B, A).

The last two are sums of one element times 1 and others times 0: bit for bit for finite values. They take as many
multiplications as the kernel is long for each element, whatever is behind it: where runs are short, they are faster.

Any order is a few of these.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from math import prod
from operator import itemgetter

from ..net import kernels
from ..net.graph import Blob, Layer, Net, computed
from ..net.operations import Concat, Convolution, Deconvolution, InnerProduct, Rearrange, Reshape, Shape, Slice
from ..net.windows import Window
from ..payload.pieces import Extent
from ..payload.tensors import Cast, Stored, Strided, Tensor

STEP = 24
"""What a convolution costs besides its multiplications, in these, for each element: it is read, unfolded and written. This
and the following were measured in Caffe and OpenCV, on one thread, where a multiplication takes 0.02 to 0.06 ns."""
COPIES = 8
"""What two copies cost for each element of long runs."""
RUN = 400
"""What a run costs besides: a call of memcpy."""
PART = 10_000
"""What a part costs: its top, and two loops over its runs."""

Exchange = tuple[int, int, int]
"""Atoms [i, j) and [j, k) of those that are there change places."""
Path = tuple[Exchange, ...]


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


Turn = Callable[[str, int, int, int, int], list[Layer]]
"""Layers called after a part of a net, which turn (o, A, B, I) to (o, B, A, I), without the bottom of the first and the top
of the last. The first reshapes."""


def exchanges(layer: Layer, atoms: Sequence[int], order: Sequence[int]) -> list[Layer]:
    """What a Rearrange of these atoms is, in layers one behind the other: without bottoms and tops, but for those between a
    Slice and its Concat."""
    moved = layer.operation
    assert isinstance(moved, Rearrange)
    sizes, shape, layers = tuple(atoms), moved.blob, list[Layer]()
    for i, j, k in cheapest(sizes, tuple(order)):
        outer, first, second, inner = (prod(part) for part in (sizes[:i], sizes[i:j], sizes[j:k], sizes[k:]))
        sizes = (*sizes[:i], *sizes[j:k], *sizes[i:j], *sizes[k:])
        if 1 in (first, second):
            continue
        _, turn = _cheapest_turn(first, second, inner, prod(sizes))
        name = f"{layer.name}.{len(layers)}" if layers else layer.name
        split, *turned = turn(name, outer, first, second, inner)
        layers += [*([] if split.shapes == (shape,) else [split]), *turned]
        (shape,) = turned[-1].shapes
    if shape != moved.shape or not layers:
        layers.append(_reshape(f"{layer.name}.join", moved.shape))
    return layers


def _reshape(name: str, shape: Shape) -> Layer:
    """The batch is what is left, whatever it is."""
    return Layer(name, Reshape((-1, *shape[1:])), (), (), shapes=(shape,))


def _copied(name: str, outer: int, first: int, second: int, inner: int) -> list[Layer]:
    shape = (outer, first, second, inner)
    if first <= second:
        axis, behind, count, part, whole = 1, 3, first, (outer, 1, second, inner), (outer, 1, second, first * inner)
    else:
        axis, behind, count, part, whole = 2, 1, second, (outer, first, 1, inner), (outer, second * first, 1, inner)
    parts = tuple(f"{name}.part{number}" for number in range(count))
    return [
        _reshape(f"{name}.split", shape),
        Layer(f"{name}.cut", Slice(axis), (), parts, shapes=(part,) * count),
        Layer(f"{name}.turn", Concat(behind), parts, (), shapes=(whole,)),
    ]


def _convolved(name: str, outer: int, first: int, second: int, inner: int) -> list[Layer]:
    turn = Convolution(second, Window.of((1, second), dilation=(1, inner)), has_bias=False)
    top = (outer, second, first, inner)
    return [
        _reshape(f"{name}.split", (outer, 1, first, second * inner)),
        Layer(f"{name}.turn", turn, (), (), (_identity(second),), shapes=(top,)),
    ]


def _deconvolved(name: str, outer: int, first: int, second: int, inner: int) -> list[Layer]:
    turn = Deconvolution(1, Window.of((1, first)), has_bias=False)
    return [
        _reshape(f"{name}.split", (outer, first, second, inner)),
        Layer(f"{name}.turn", turn, (), (), (_identity(first),), shapes=((outer, inner, second, first),)),
    ]


def _identity(length: int) -> Blob:
    return kernels.selected((length, 1, 1, length), range(length))


def _cheapest_turn(first: int, second: int, inner: int, count: int) -> tuple[float, Turn]:
    """Of `count` elements in all, in multiplications for each."""
    ways: list[tuple[float, Turn]] = [
        (STEP + second, _convolved),
        (COPIES + RUN / inner + PART * min(first, second) / count, _copied),
    ]
    if inner == 1:
        ways.append((STEP + first, _deconvolved))
    return min(ways, key=itemgetter(0))


@cache
def cheapest(sizes: tuple[int, ...], order: tuple[int, ...]) -> Path:
    """The exchanges that put atoms of these sizes in an order, at the lowest cost: Dijkstra's algorithm."""
    start = tuple(range(len(sizes)))
    queue: list[tuple[float, Path, tuple[int, ...]]] = [(0, (), start)]
    done: set[tuple[int, ...]] = set()
    while queue:
        cost, path, found = heapq.heappop(queue)
        if found == order:
            return path
        if found in done:
            continue
        done.add(found)
        for i, j, k in _pairs(len(found)):
            first, second, inner = (prod(sizes[atom] for atom in part) for part in (found[i:j], found[j:k], found[k:]))
            step = 0 if 1 in (first, second) else _cheapest_turn(first, second, inner, prod(sizes))[0]
            turned = (*found[:i], *found[j:k], *found[i:j], *found[k:])
            if turned not in done:
                heapq.heappush(queue, (cost + step, (*path, (i, j, k)), turned))
    raise AssertionError(order)


def _pairs(count: int) -> Iterator[Exchange]:
    return ((i, j, k) for i in range(count) for j in range(i + 1, count) for k in range(j + 1, count + 1))
