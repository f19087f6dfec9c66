"""Dimensions in another order, by layers that every Caffe has: the cheapest of these.

Two neighbouring blocks of dimensions, of A and B elements with I behind them, change places in one of three ways:

    Slice, Concat   (o, A, B, I) is cut into A parts, which stand one behind the other as (o, 1, B, A I); or into B parts,
                    and (o, B A, 1, I). Each run of I elements is copied twice, bit for bit whatever they are.
    Convolution     with an identity: (o, 1, A, B I) and a kernel of 1 x B whose elements lie I apart, with B outputs, give
                    (o, B, A, I).
    Deconvolution   the same from the other side, where I is 1: (o, A, B, 1) and a kernel of 1 x A give (o, 1, B, A).

The last two are sums of one element times 1 and others times 0: bit for bit for finite values. They take as many
multiplications as the kernel is long for each element, whatever is behind it: where runs are short, they are faster.

Any order is a few of these. Where nothing but channels change places, one convolution of 1 x 1 can pick all of them. It
works at any size of image, and so do Slice and Concat when channels alone are reshaped: no other way is taken for images.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import product
from math import prod
from operator import itemgetter

from ..net import kernels
from ..net.graph import Blob, Layer
from ..net.operations import Concat, Convolution, Deconvolution, Rearrange, Reshape, Shape, Slice
from ..net.windows import ONE_PIXEL, Window
from .turning import within

STEP = 24
"""What a convolution costs besides its multiplications, in these, for each element: it is read, unfolded and written. This
and the following were measured in Caffe and OpenCV, on one thread, where a multiplication takes 0.02 to 0.06 ns."""
PICK = 4
"""The same for one of 1 x 1, which unfolds nothing."""
COPIES = 8
"""What two copies cost for each element."""
RUN = 400
"""What each run costs besides, however long it is: calls of memcpy."""
PART = 10_000
"""What each part costs besides: its top, and loops over its runs."""

Exchange = tuple[int, int, int]
"""Atoms [i, j) and [j, k) of those that are there change places."""
Path = tuple[Exchange, ...]
Turn = Callable[[str, Shape, int, int, Shape], tuple[Shape, list[Layer]]]
"""What turns (before, A, B, behind) to (before, B, A, behind): the shape that its first layer wants, and layers, called after
a part of a net, without the bottom of the first and the top of the last."""


def express(layer: Layer, atoms: Sequence[int], order: Sequence[int]) -> list[Layer]:
    """What a Rearrange of these atoms is, in layers one behind the other: without bottoms and tops, but for those between a
    Slice and its Concat."""
    moved = layer.operation
    assert isinstance(moved, Rearrange)
    sizes, order = tuple(atoms), tuple(order)
    end = images(moved, sizes, order)
    channels = end or _channels(moved.blob, sizes, order)
    cost, path = cheapest(sizes, order, end)
    if channels and prod(sizes[1:channels]) + PICK <= cost:
        return _picked(layer, sizes[1:channels], [atom - 1 for atom in order[1:channels]])
    return _exchanged(layer, sizes, path, end)


def images(moved: Rearrange, atoms: Sequence[int], order: Sequence[int]) -> int:
    """How many atoms make up the batch, which is the first, and the channels of images, if nothing but channels is
    rearranged, which can be done at any size; else 0."""
    return _channels(moved.blob, atoms, order) if len(moved.blob) == 4 and moved.shape == moved.blob else 0


def _channels(blob: Shape, atoms: Sequence[int], order: Sequence[int]) -> int:
    """The same of any blob, whose second axis are the channels."""
    channels = within(atoms, order, blob[0], prod(blob[:2])) if atoms[0] == blob[0] and order[0] == 0 else None
    return channels[1] if channels else 0


def _picked(layer: Layer, atoms: Sequence[int], order: Sequence[int]) -> list[Layer]:
    """The channels of a blob in another order: as an image, whose pixels are whatever is behind the second axis."""
    moved = layer.operation
    assert isinstance(moved, Rearrange)
    steps = [prod(atoms[atom + 1 :]) for atom in order]
    places = product(*(range(atoms[atom]) for atom in order))
    columns = [sum(place * step for place, step in zip(found, steps, strict=True)) for found in places]
    channels = len(columns)
    image = moved.blob if len(moved.blob) == 4 else (moved.blob[0], channels, 1, prod(moved.blob[2:]))
    pick = Convolution(channels, ONE_PIXEL, has_bias=False)
    picking = kernels.selected((channels, channels, 1, 1), columns)
    return [
        *reshaped(f"{layer.name}.split", moved.blob, image),
        Layer(f"{layer.name}.pick", pick, (), (), (picking,), shapes=(image,)),
        *reshaped(f"{layer.name}.join", image, moved.shape),
    ]


def _exchanged(layer: Layer, sizes: tuple[int, ...], path: Path, end: int) -> list[Layer]:
    """With `end`, of an image whose batch and channels are so many atoms: these alone are reshaped."""
    moved = layer.operation
    assert isinstance(moved, Rearrange)
    shape, layers = moved.blob, list[Layer]()
    for i, j, k in path:
        first, second = prod(sizes[i:j]), prod(sizes[j:k])
        before = sizes[:i] if end else (prod(sizes[:i]),)
        behind = (prod(sizes[k:end]), *moved.blob[2:]) if end else (prod(sizes[k:]),)
        sizes = (*sizes[:i], *sizes[j:k], *sizes[i:j], *sizes[k:])
        if 1 in (first, second):
            continue
        _, turn = _cheapest_turn(first, second, prod(behind), prod(sizes), bool(end))
        name = f"{layer.name}.{len(layers)}" if layers else layer.name
        wanted, turned = turn(name, before, first, second, behind)
        layers += [*reshaped(f"{name}.split", shape, wanted, bool(end)), *turned]
        (shape,) = turned[-1].shapes
    layers += reshaped(f"{layer.name}.join", shape, moved.shape, bool(end))
    return layers or [Layer(layer.name, Reshape.to(shape, shape), (), (), shapes=(shape,))]


def reshaped(name: str, shape: Shape, wanted: Shape, is_image: bool = False) -> list[Layer]:
    """From one shape to another, if they differ; of an image the channels alone, whatever its size."""
    if shape == wanted:
        return []
    operation = Reshape(wanted[1:-2], 1, len(shape) - 3) if is_image else Reshape.to(wanted, shape)
    return [Layer(name, operation, (), (), shapes=(wanted,))]


def _copied(name: str, before: Shape, first: int, second: int, behind: Shape) -> tuple[Shape, list[Layer]]:
    axis = len(before)
    inner, *rest = behind
    if first <= second:
        cut, joined, count = axis, axis + 2, first
        part, whole = (1, second, inner), (1, second, first * inner)
    else:
        cut, joined, count = axis + 1, axis, second
        part, whole = (first, 1, inner), (second * first, 1, inner)
    parts = tuple(f"{name}.part{number}" for number in range(count))
    return (*before, first, second, *behind), [
        Layer(f"{name}.cut", Slice(cut), (), parts, shapes=((*before, *part, *rest),) * count),
        Layer(f"{name}.turn", Concat(joined), parts, (), shapes=((*before, *whole, *rest),)),
    ]


def _convolved(name: str, before: Shape, first: int, second: int, behind: Shape) -> tuple[Shape, list[Layer]]:
    (outer,), (inner,) = before, behind
    turn = Convolution(second, Window.of((1, second), dilation=(1, inner)), has_bias=False)
    top = (outer, second, first, inner)
    return (outer, 1, first, second * inner), [
        Layer(f"{name}.turn", turn, (), (), (_identity(second),), shapes=(top,)),
    ]


def _deconvolved(name: str, before: Shape, first: int, second: int, behind: Shape) -> tuple[Shape, list[Layer]]:
    turn = Deconvolution(1, Window.of((1, first)), has_bias=False)
    return (*before, first, second, 1), [
        Layer(f"{name}.turn", turn, (), (), (_identity(first),), shapes=((*before, 1, second, first),)),
    ]


def _identity(length: int) -> Blob:
    return kernels.selected((length, 1, 1, length), range(length))


def _cheapest_turn(first: int, second: int, inner: int, count: int, is_copied: bool) -> tuple[float, Turn]:
    """Of `count` elements in all, in multiplications for each; with `is_copied` of those that copy."""
    ways: list[tuple[float, Turn]] = [(COPIES + RUN / inner + PART * min(first, second) / count, _copied)]
    if not is_copied:
        ways.append((STEP + second, _convolved))
    if not is_copied and inner == 1:
        ways.append((STEP + first, _deconvolved))
    return min(ways, key=itemgetter(0))


@cache
def cheapest(sizes: tuple[int, ...], order: tuple[int, ...], end: int = 0) -> tuple[float, Path]:
    """The exchanges that put atoms of these sizes in an order, and what they cost, the least: Dijkstra's algorithm.

    With `end` atoms from 1 up to there alone change places, and are copied.
    """
    start = tuple(range(len(sizes)))
    queue: list[tuple[float, Path, tuple[int, ...]]] = [(0, (), start)]
    done: set[tuple[int, ...]] = set()
    while queue:
        cost, path, found = heapq.heappop(queue)
        if found == order:
            return cost, path
        if found in done:
            continue
        done.add(found)
        for i, j, k in _pairs(1, end) if end else _pairs(0, len(found)):
            first, second, inner = (prod(sizes[atom] for atom in part) for part in (found[i:j], found[j:k], found[k:]))
            step = 0 if 1 in (first, second) else _cheapest_turn(first, second, inner, prod(sizes), bool(end))[0]
            turned = (*found[:i], *found[j:k], *found[i:j], *found[k:])
            if turned not in done:
                heapq.heappush(queue, (cost + step, (*path, (i, j, k)), turned))
    raise AssertionError(order)


def _pairs(first: int, last: int) -> Iterator[Exchange]:
    return ((i, j, k) for i in range(first, last) for j in range(i + 1, last) for k in range(j + 1, last + 1))
