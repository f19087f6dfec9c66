"""Dimensions in another order by layers that every Caffe has, exactly.

Two neighbouring blocks of dimensions, of A and B elements with I behind them, change places by a convolution with an
identity: (o, 1, A, B I) and a kernel of 1 x B whose elements lie I apart, with B outputs, give (o, B, A, I). Where nothing
is behind them, a deconvolution does it from the other side: (o, A, B, 1) and a kernel of 1 x A give (o, 1, B, A). Either is
a sum of one element times 1 and others times 0: bit for bit for finite values.

Any order is a few of these. A step takes as many multiplications as the kernel is long, for each element.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from functools import cache
from math import prod

from ..net import kernels
from ..net.graph import Layer
from ..net.operations import Convolution, Deconvolution, Operation, Rearrange, Reshape, Shape
from ..net.windows import Window

STEP = 16
"""What a step costs besides, in multiplications for each element: it is read, unfolded and written."""

Exchange = tuple[int, int, int]
"""Atoms [i, j) and [j, k) of those that are there change places."""
Path = tuple[Exchange, ...]


def exchanges(layer: Layer, atoms: Sequence[int], order: Sequence[int]) -> list[Layer]:
    """What a Rearrange of these atoms is, in layers without bottoms and tops, one behind the other."""
    moved = layer.operation
    assert isinstance(moved, Rearrange)
    sizes, shape, layers = tuple(atoms), moved.blob, list[Layer]()

    def reshape(name: str, wanted: Shape) -> None:
        nonlocal shape
        if shape != wanted:  # the batch is what is left, whatever it is
            layers.append(Layer(f"{layer.name}.{name}", Reshape((-1, *wanted[1:])), (), (), shapes=(wanted,)))
        shape = wanted

    for number, (i, j, k) in enumerate(cheapest(sizes, tuple(order))):
        outer, first, second, inner = (prod(part) for part in (sizes[:i], sizes[i:j], sizes[j:k], sizes[k:]))
        sizes = (*sizes[:i], *sizes[j:k], *sizes[i:j], *sizes[k:])
        if 1 in (first, second):
            continue
        part = f"{number}." if number else ""
        if inner == 1 and first < second:
            reshape(f"{part}split", (outer, first, second, 1))
            turn: Operation = Deconvolution(1, Window.of((1, first)), has_bias=False)
            shape = (outer, 1, second, first)
        else:
            reshape(f"{part}split", (outer, 1, first, second * inner))
            turn = Convolution(second, Window.of((1, second), dilation=(1, inner)), has_bias=False)
            shape = (outer, second, first, inner)
        length = min(first, second) if inner == 1 else second
        identity = kernels.selected((length, 1, 1, length), range(length))
        layers.append(Layer(f"{layer.name}.{part}turn", turn, (), (), (identity,), shapes=(shape,)))
    reshape("join", moved.shape)
    return layers or [Layer(layer.name, Reshape.to(shape), (), (), shapes=(shape,))]


@cache
def cheapest(sizes: tuple[int, ...], order: tuple[int, ...]) -> Path:
    """The exchanges that put atoms of these sizes in an order, with the fewest multiplications: Dijkstra's algorithm."""
    start = tuple(range(len(sizes)))
    queue: list[tuple[int, Path, tuple[int, ...]]] = [(0, (), start)]
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
            length = min(first, second) if inner == 1 else second
            step = 0 if 1 in (first, second) else length + STEP
            turned = (*found[:i], *found[j:k], *found[i:j], *found[k:])
            if turned not in done:
                heapq.heappush(queue, (cost + step, (*path, (i, j, k)), turned))
    raise AssertionError(order)


def _pairs(count: int) -> Iterator[Exchange]:
    return ((i, j, k) for i in range(count) for j in range(i + 1, count) for k in range(j + 1, count + 1))
