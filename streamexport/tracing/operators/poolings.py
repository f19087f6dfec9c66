"""Pooling of sequences, images and volumes, with windows of one size and with those that torch adapts to what they slide over.

Caffe rounds pooled sizes up, torch down, which `passes.dialects` puts into the words of each dialect, and its average divides
by a window that includes padding. Where it has no such window, averages are products with matrices, and of maxima what each
window sees is put side by side first. Volumes are pooled plane by plane, then through the planes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

from ...net.operations import Pooling
from ...net.windows import Axis, Window
from ..node import Node, Scope
from ..operands import Operand, UnsupportedError, Value
from ..views import Shape
from .indexing import picked
from .interpolation import Matrix
from .registry import operator
from .resizing import resized
from .shapes import sliced

RANKS = (1, 2, 3)


@dataclass(frozen=True, slots=True)
class Along:
    """What slides along one dimension.

    Attributes
    ----------
    size, count : elements there, and windows
    axis : of windows that are alike; None for those that torch adapts, and whose sizes differ
    rounds_up : whether the last window may reach beyond the padding
    """

    size: int
    count: int
    axis: Axis | None
    rounds_up: bool

    @classmethod
    def adapted(cls, size: int, count: int) -> Along:
        return cls(size, count, None if size % count else Axis(size // count, size // count), True)

    @property
    def keeps(self) -> bool:
        """Whether each window is one element."""
        return self.axis is not None and (self.axis.kernel, self.size) == (1, self.count)

    @property
    def is_whole(self) -> bool:
        """Whether there is one window over everything, and nothing else."""
        return self.count == 1 and self.axis is not None and (self.axis.kernel, self.axis.low) == (self.size, 0)

    @property
    def is_even(self) -> bool:
        """Whether Caffe has such windows: of one size, and none that begins in a gap behind the last element."""
        return self.axis is not None and not (self.rounds_up and self.axis.stride > self.axis.kernel)

    def windows(self) -> list[list[int]]:
        """The places that each window sees."""
        if self.axis is None:
            bounds = (
                (at * self.size // self.count, -(-(at + 1) * self.size // self.count)) for at in range(self.count)
            )
            return [[*range(*bound)] for bound in bounds]
        starts = (at * self.axis.stride - self.axis.low for at in range(self.count))
        ranges = (range(start, start + self.axis.extent, self.axis.dilation) for start in starts)
        return [[place for place in window if 0 <= place < self.size] for window in ranges]


NOTHING = Along(1, 1, Axis(1), False)
Pool = Callable[[Scope, Value, Along, Along], Value]
"""Pools an image, down its columns and along its rows."""


def _max_pool(
    rank: int,
    node: Node,
    x: Operand,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> Value:
    sliding = _sliding(node, x, rank, kernel_size, stride, padding, dilation, ceil_mode)
    return _pooled(node, x, sliding, _largest)


def _max_pool_with_indices(
    rank: int,
    node: Node,
    x: Operand,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> list[Value | None]:
    _refuse_indices(node)
    return [_max_pool(rank, node, x, kernel_size, stride, padding, dilation, ceil_mode), None]


def _avg_pool(
    rank: int,
    node: Node,
    x: Operand,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Value:
    if node.dtype != "float32":
        raise UnsupportedError("rounds means of whole numbers")
    sliding = _sliding(node, x, rank, kernel_size, stride, padding, (1,), ceil_mode)
    if divisor_override is None:
        return _pooled(
            node, x, sliding, partial(_mean, counts=_counts_padding if count_include_pad else _counts_inside)
        )
    pooled = _pooled(node, x, sliding, partial(_mean, counts=_counts_all))
    kernel = prod(_each(kernel_size, rank))
    return node.viewed(node.power(pooled, scale=kernel / divisor_override, part="divisor"), node.shape)


def _avg_pool1d(
    node: Node,
    x: Operand,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Value:
    return _avg_pool(1, node, x, kernel_size, stride, padding, ceil_mode, count_include_pad)


def _adaptive_avg_pool(rank: int, node: Node, x: Operand, output_size: Sequence[int]) -> Value:
    return _pooled(node, x, _adapted(node, x, rank), partial(_mean, counts=_counts_inside))


def _adaptive_max_pool(rank: int, node: Node, x: Operand, output_size: Sequence[int]) -> list[Value | None]:
    _refuse_indices(node)
    return [_pooled(node, x, _adapted(node, x, rank), _largest), None]


operator("avg_pool1d")(_avg_pool1d)
for _rank in RANKS:
    operator(f"max_pool{_rank}d")(partial(_max_pool, _rank))
    operator(f"max_pool{_rank}d_with_indices")(partial(_max_pool_with_indices, _rank))
    operator(f"adaptive_max_pool{_rank}d")(partial(_adaptive_max_pool, _rank))
    operator(f"adaptive_avg_pool{_rank}d", *[f"_adaptive_avg_pool{_rank}d"] * (_rank > 1))(
        partial(_adaptive_avg_pool, _rank)
    )
    if _rank > 1:
        operator(f"avg_pool{_rank}d")(partial(_avg_pool, _rank))


@operator("streamexport::lp_pool1d", "streamexport::lp_pool2d", "streamexport::lp_pool3d")
def _lp_pool(
    node: Node,
    x: Operand,
    norm_type: float,
    kernel_size: Sequence[int],
    stride: Sequence[int] | None = None,
    ceil_mode: bool = False,
) -> Value:
    """(sum of x^p)^(1/p), where torch takes the root of nothing less than 0."""
    rank = len(kernel_size)
    powers = node.power(x, power=norm_type, part="powers")
    sliding = _sliding(node, powers, rank, kernel_size, stride or (), (0,), (1,), ceil_mode)
    mean = _pooled(node, powers, sliding, partial(_mean, counts=_counts_padding))
    return node.power(mean, power=1 / norm_type, scale=prod(kernel_size), part="root")


def _refuse_indices(node: Node) -> None:
    if 1 in node.used:
        raise UnsupportedError("uses the indices of what it pools")


def _each(sizes: Sequence[int], rank: int) -> tuple[int, ...]:
    """A size for each dimension, of sizes that may be said once for all."""
    return tuple(sizes) * (rank if len(sizes) == 1 else 1)


def _sliding(
    node: Node,
    x: Operand,
    rank: int,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    rounds_up: bool,
) -> list[Along]:
    """The windows of a pooling, by dimension."""
    sizes = zip(*(_each(given, rank) for given in (kernel, stride or kernel, padding, dilation)), strict=True)
    axes = [Axis(size, step, pad, pad, reach) for size, step, pad, reach in sizes]
    space = zip(node.activation(x).shape[-rank:], node.shape[-rank:], axes, strict=True)
    return [Along(size, count, axis, rounds_up) for size, count, axis in space]


def _adapted(node: Node, x: Operand, rank: int) -> list[Along]:
    space = zip(node.activation(x).shape[-rank:], node.shape[-rank:], strict=True)
    return [Along.adapted(size, count) for size, count in space]


def _pooled(node: Node, x: Operand, sliding: Sequence[Along], pool: Pool) -> Value:
    """What a pooling makes, with a batch or without: planes as images, then, of volumes, columns through them."""
    *depth, down, right = (NOTHING, *sliding) if len(sliding) == 1 else sliding
    x = node.activation(x)
    if depth and depth[0].axis is not None and (depth[0].axis.kernel, depth[0].axis.low) == (1, 0):
        x, depth = sliced(node, x, len(x.shape) - 3, 0, x.shape[-3], depth[0].axis.stride), []
    lead = x.shape[: len(x.shape) - len(sliding)]
    batch, channels = lead if len(lead) == 2 else (1, *lead)
    planes = prod(x.shape[len(lead) :]) // (down.size * right.size)
    if depth and down.is_whole and right.is_whole:
        size = down.size * right.size
        down, right, depth, planes = depth[0], Along(size, 1, Axis(size, size), down.rounds_up), [], 1
    made = _image(node, x, (batch, channels * planes, down.size, right.size), pool, down, right)
    if depth:
        pixels = down.count * right.count
        columns = Along(pixels, pixels, Axis(1), False)
        made = _image(node, made, (batch, channels, planes, pixels), pool, depth[0], columns)
    return node.viewed(made, node.shape)


def _image(scope: Scope, x: Value, shape: Shape, pool: Pool, down: Along, right: Along) -> Value:
    if down.keeps and right.keeps:
        return x
    return pool(scope, scope.reshaped(x, shape), down, right)


def _largest(scope: Scope, image: Value, down: Along, right: Along) -> Value:
    image, down = _side_by_side(scope, image, 2, down)
    image, right = _side_by_side(scope, image, 3, right)
    return _pool(scope, image, "MAX", down, right)


def _side_by_side(scope: Scope, image: Value, dim: int, along: Along) -> tuple[Value, Along]:
    """An image that windows cut up in one dimension, and the windows: shorter ones see their last element again."""
    if along.axis is not None and along.axis.dilation == 1 and along.is_even:
        return image, along
    windows = along.windows()
    if not all(windows):
        raise UnsupportedError("has windows that see nothing but padding")
    most = max(map(len, windows))
    places = [place for window in windows for place in (*window, *window[-1:] * (most - len(window)))]
    return picked(scope, image, dim, places), Along(len(places), along.count, Axis(most, most), True)


Counts = Callable[[Along, int, int], int]
"""What a window's sum is divided by: given where it begins, and how many elements it sees."""


def _counts_padding(along: Along, start: int, seen: int) -> int:
    """Padding, but nothing behind it."""
    assert along.axis is not None
    return min(start + along.axis.kernel, along.size + along.axis.high) - start


def _counts_inside(along: Along, start: int, seen: int) -> int:
    return seen


def _counts_all(along: Along, start: int, seen: int) -> int:
    assert along.axis is not None
    return along.axis.kernel


def _mean(scope: Scope, image: Value, down: Along, right: Along, counts: Counts) -> Value:
    if all(_is_caffe_s(along, counts) for along in (down, right)):
        return _pool(scope, image, "AVE", down, right)
    return resized(scope, image, *(None if along.keeps else _shares(along, counts) for along in (down, right)))


def _is_caffe_s(along: Along, counts: Counts) -> bool:
    """Whether Caffe's own average divides by the same."""
    if along.axis is None or not along.is_even:
        return False
    if counts is _counts_inside:
        return not along.axis.low
    return counts is _counts_padding or not along.rounds_up


def _shares(along: Along, counts: Counts) -> Matrix:
    """Means of windows as a matrix."""
    matrix = []
    for at, window in enumerate(along.windows()):
        start = at * along.axis.stride - along.axis.low if along.axis is not None else window[0]
        share = 1 / counts(along, start, len(window))
        first, *_, last = window[0], window[-1]
        reach = along.axis.dilation if along.axis is not None else 1
        matrix.append((first, [0.0 if (place - first) % reach else share for place in range(first, last + 1)]))
    return matrix


def _pool(scope: Scope, x: Value, method: str, down: Along, right: Along) -> Value:
    """A pooling of an image with windows that are alike: MAX or AVE."""
    if down.is_whole and right.is_whole:
        return scope.layer(Pooling(method), [x])
    axes = [along.axis for along in (down, right) if along.axis is not None]
    # A larger window than there is room for, which torch has where sizes are rounded up, leaves nothing to OpenCV.
    rooms = [size + axis.low + axis.high for size, axis in zip(x.blob[2:], axes, strict=True)]
    kernel = [min(axis.kernel, room) for axis, room in zip(axes, rooms, strict=True)]
    stride = [axis.stride for axis in axes]
    rounds_down = any(not along.rounds_up and step != 1 for along, step in zip((down, right), stride, strict=True))
    if rounds_down:  # Nor does a longer stride than to the end, once the portable dialect makes a window of it.
        stride = [min(step, room - size + 1) for step, room, size in zip(stride, rooms, kernel, strict=True)]
    window = Window.of((kernel[0], kernel[1]), (stride[0], stride[1]), (axes[0].low, axes[1].low))
    return scope.layer(Pooling(method, window, rounds_down and set(stride) != {1}), [x])
