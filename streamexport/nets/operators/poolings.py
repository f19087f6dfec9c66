"""Pooling, and means, sums and maxima over dimensions.

Caffe rounds pooled sizes up, torch down; `round_mode: FLOOR` says so, and `passes.dialects` puts it into the words of each
dialect. Caffe's average divides by a window that includes padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

from .. import kernels
from ..lowering import Lowering, Operand, Shape, UnsupportedError, Value, operator
from ..views import View
from ..windows import LONG, pair
from .shapes import Matrix, resized

GLOBAL = {"MAX": {"pool": "MAX", "global_pooling": True}, "AVE": {"pool": "AVE", "global_pooling": True}}


@operator("max_pool2d")
def _max_pool(
    net: Lowering,
    x: Operand,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> Value:
    if set(dilation) != {1}:
        raise UnsupportedError("pools with dilation")
    return _pool(net, net.image(x), net.shape, "MAX", pair(kernel), pair(stride or kernel), pair(padding), ceil_mode)


@operator("max_pool2d_with_indices")
def _max_pool_with_indices(net: Lowering, x: Operand, *arguments: Any, **keywords: Any) -> list[Value | None]:
    if 1 in net.used:
        raise UnsupportedError("uses the indices of what it pools")
    return [_max_pool(net, x, *arguments, **keywords), None]


@operator("avg_pool2d")
def _avg_pool(
    net: Lowering,
    x: Operand,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Value:
    image, window = net.image(x), (pair(kernel), pair(stride or kernel), pair(padding))
    if divisor_override is not None:
        raise UnsupportedError("divides by another number than the window's")
    if any(window[2]) and not count_include_pad:
        lists = zip(image.blob[2:], net.shape[2:], *window, strict=True)
        return resized(net, image, *(_averages(*axis) for axis in lists))
    return _pool(net, image, net.shape, "AVE", *window, ceil_mode)


@operator("max_pool1d", "avg_pool1d")
def _pool1d(net: Lowering, x: Operand, *_: Any, **__: Any) -> Value:
    raise UnsupportedError("pools sequences", "write them as images of height 1")


def _pool(
    net: Lowering,
    x: Value,
    shape: Shape,
    method: str,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    pad: tuple[int, int],
    ceil_mode: bool,
) -> Value:
    """A pooling of an image to this shape: MAX or AVE."""
    size = x.blob[2:]
    # A larger window than there is room for, which torch has where sizes are rounded up, leaves nothing to OpenCV.
    kernel = (min(kernel[0], size[0] + 2 * pad[0]), min(kernel[1], size[1] + 2 * pad[1]))
    if not ceil_mode:  # Nor does a longer stride than to the end, once the portable dialect makes a window of it.
        spare = [n + 2 * p - k for n, p, k in zip(size, pad, kernel, strict=True)]
        stride = (min(stride[0], spare[0] + 1), min(stride[1], spare[1] + 1))
    if not ceil_mode and shape[2:] == (1, 1) and kernel == size and not any(pad):
        return net.layer("Pooling", [x], shape, {"pooling_param": GLOBAL[method]})
    pairs = (("kernel", "kernel_size", kernel), ("stride", "stride", stride), ("pad", "pad", pad))
    is_square = all(first == second for _, _, (first, second) in pairs)
    parameters: dict[str, Any] = {"pool": method}
    for part, whole, (first, second) in pairs:
        if part == "pad" and not any(pad):
            continue
        parameters |= {whole: first} if is_square else {f"{part}_h": first, f"{part}_w": second}
    if not ceil_mode and set(stride) != {1}:
        parameters["round_mode"] = "FLOOR"
    elif ceil_mode and any(s > k for s, k in zip(stride, kernel, strict=True)):
        raise UnsupportedError("rounds up sizes of windows that leave gaps")
    return net.layer("Pooling", [x], shape, {"pooling_param": parameters})


def _averages(size: int, pooled: int, kernel: int, stride: int, pad: int) -> Matrix:
    """Means of windows that leave padding out, as a matrix."""
    windows = (range(max(0, at * stride - pad), min(size, at * stride - pad + kernel)) for at in range(pooled))
    return [[1 / len(window) if place in window else 0.0 for place in range(size)] for window in windows]


@operator("adaptive_avg_pool2d", "_adaptive_avg_pool2d")
def _adaptive_avg_pool(net: Lowering, x: Operand, size: Sequence[int]) -> Value:
    return _averaged(net, net.image(x), net.shape)


@operator("adaptive_avg_pool1d")
def _adaptive_avg_pool1d(net: Lowering, x: Operand, size: Sequence[int]) -> Value:
    x = net.activation(x)
    batch, channels, length = x.shape
    image = net.reshaped(x, (batch, channels, 1, length))
    made = _averaged(net, image, (batch, channels, 1, *size))
    return replace(made, view=View.of(net.shape))


def _averaged(net: Lowering, image: Value, shape: Shape) -> Value:
    """Windows of equal size where they divide the image; else means of theirs, as matrices."""
    given, wanted = image.blob[2:], shape[2:]
    if given == wanted:
        return image
    if wanted == (1, 1):
        return net.layer("Pooling", [image], shape, {"pooling_param": GLOBAL["AVE"]})
    if all(n % m == 0 for n, m in zip(given, wanted, strict=True)):
        step = (given[0] // wanted[0], given[1] // wanted[1])
        return _pool(net, image, shape, "AVE", step, step, (0, 0), ceil_mode=True)
    return resized(net, image, *(_adapted(n, m) for n, m in zip(given, wanted, strict=True)))


def _adapted(size: int, pooled: int) -> Matrix | None:
    if size == pooled:
        return None
    windows = (range(at * size // pooled, -(-(at + 1) * size // pooled)) for at in range(pooled))
    return [[1 / len(window) if place in window else 0.0 for place in range(size)] for window in windows]


@operator("adaptive_max_pool2d")
def _adaptive_max_pool(net: Lowering, x: Operand, size: Sequence[int]) -> list[Value | None]:
    if 1 in net.used:
        raise UnsupportedError("uses the indices of what it pools")
    image, wanted = net.image(x), net.shape
    if image.blob == wanted:
        return [image, None]
    if wanted[2:] == (1, 1):
        return [net.layer("Pooling", [image], wanted, {"pooling_param": GLOBAL["MAX"]}), None]
    if any(n % m for n, m in zip(image.blob[2:], wanted[2:], strict=True)):
        raise UnsupportedError(f"pools {list(image.blob[2:])} to {list(wanted[2:])}, windows of several sizes")
    step = (image.blob[2] // wanted[2], image.blob[3] // wanted[3])
    return [_pool(net, image, wanted, "MAX", step, step, (0, 0), ceil_mode=True), None]


@operator("mean")
def _mean(net: Lowering, x: Operand, dim: Sequence[int] | int | None = None, keepdim: bool = False, **_: Any) -> Value:
    return _reduced(net, x, dim, "AVE")


@operator("sum")
def _sum(net: Lowering, x: Operand, dim: Sequence[int] | int | None = None, keepdim: bool = False, **_: Any) -> Value:
    return total(net, net.activation(x), dim)


@operator("amax")
def _amax(net: Lowering, x: Operand, dim: Sequence[int] | int | None = None, keepdim: bool = False) -> Value:
    return _reduced(net, x, dim, "MAX")


@operator("linalg_vector_norm", "norm")
def _norm(
    net: Lowering, x: Operand, order: float = 2, dim: Sequence[int] | int | None = None, *_: Any, **__: Any
) -> Value:
    x = net.activation(x)
    if order == 1:
        return total(net, net.pointwise("AbsVal", x, part="abs"), dim)
    if order != 2:
        raise UnsupportedError(f"a norm of order {order}")
    squares = net.power(x, power=2, part="square")
    return net.power(total(net, squares, dim, "sum"), power=0.5)


def total(net: Lowering, x: Value, dim: Sequence[int] | int | None, part: str = "") -> Value:
    """Sums over dimensions: means times the number of elements."""
    count = prod(x.shape[axis] for axis in _axes(x, dim))
    made = _reduced(net, x, dim, "AVE", part="mean")
    return net.power(made, scale=count, part=part)


def _axes(x: Value, dim: Sequence[int] | int | None) -> list[int]:
    rank = len(x.shape)
    given = range(rank) if dim is None or dim == [] else [dim] if isinstance(dim, int) else dim
    return sorted(axis % rank for axis in given)


def _reduced(net: Lowering, x: Operand, dim: Sequence[int] | int | None, method: str, part: str = "") -> Value:
    """Means or maxima over dimensions that follow each other: of a blob in which they are the pixels of an image.

    Means over channels are products with a row of a matrix.
    """
    x = net.activation(x)
    axes = _axes(x, dim)
    if axes[0] == 0 and x.shape[0] != 1:
        raise UnsupportedError("combines the images of a batch")
    axes = [axis for axis in axes if axis and x.shape[axis] != 1]
    if not axes:
        return replace(x, view=x.view.squeezed(net.shape))
    if axes != list(range(axes[0], axes[-1] + 1)):
        between = [axis for axis in range(axes[0], axes[-1] + 1) if axis not in axes]
        if any(x.shape[axis] != 1 for axis in between):
            raise UnsupportedError(
                f"reduces dimensions {axes} of {list(x.shape)}", "those that follow each other can be"
            )
    first, last = axes[0], axes[-1]
    batch, before = x.shape[0], prod(x.shape[1:first])
    inside, behind = prod(x.shape[first : last + 1]), prod(x.shape[last + 1 :])
    if len(x.shape) == 4 and axes == [2, 3]:
        image, shape = net.reshaped(x, x.shape), (*x.shape[:2], 1, 1)
        made = net.layer("Pooling", [image], shape, {"pooling_param": GLOBAL[method]}, part=part)
    elif method == "AVE" and before == 1 and inside <= LONG:
        rest = x.shape[2:] if len(x.shape) == 4 and axes == [1] else (1, behind)
        image = net.reshaped(x, (batch, inside, *rest))
        made = net.mixed(image, kernels.filled((1, inside), 1 / inside), part=part)
    else:
        image = net.reshaped(x, (batch, before, inside, behind))
        made = net.layer("Pooling", [image], (batch, before, 1, behind), whole_columns(method, inside), part=part)
    return replace(made, view=View.of(net.shape))


def whole_columns(method: str, height: int) -> dict[str, Any]:
    """Parameters of a Pooling that makes one pixel of each column of an image of this height."""
    return {"pooling_param": {"pool": method, "kernel_h": height, "kernel_w": 1, "stride_h": height, "stride_w": 1}}
