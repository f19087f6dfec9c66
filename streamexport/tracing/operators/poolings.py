"""Pooling with windows of one size, and with those that torch adapts to an image.

Caffe rounds pooled sizes up, torch down, which `passes.dialects` puts into the words of each dialect. Caffe's average
divides by a window that includes padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from ...net.operations import Pooling
from ...net.windows import Window, pair
from ..node import Node, Scope
from ..operands import Operand, UnsupportedError, Value
from ..views import Shape, View
from .registry import operator
from .resizing import Matrix, resized


@operator("max_pool2d")
def _max_pool(
    node: Node,
    x: Operand,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> Value:
    if set(dilation) != {1}:
        raise UnsupportedError("pools with dilation")
    window = (pair(kernel_size), pair(stride or kernel_size), pair(padding))
    return _pool(node, node.image(x), node.shape, "MAX", *window, ceil_mode)


@operator("max_pool2d_with_indices")
def _max_pool_with_indices(
    node: Node,
    x: Operand,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> list[Value | None]:
    if 1 in node.used:
        raise UnsupportedError("uses the indices of what it pools")
    return [_max_pool(node, x, kernel_size, stride, padding, dilation, ceil_mode), None]


@operator("avg_pool2d")
def _avg_pool(
    node: Node,
    x: Operand,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Value:
    image, window = node.image(x), (pair(kernel_size), pair(stride or kernel_size), pair(padding))
    if divisor_override is not None:
        if ceil_mode:
            raise UnsupportedError("rounds up sizes, and divides by another number than the windows'")
        pooled = _pool(node, image, node.shape, "AVE", *window, ceil_mode)
        return node.power(pooled, scale=prod(window[0]) / divisor_override, part="divisor")
    if any(window[2]) and not count_include_pad:
        lists = zip(image.blob[2:], node.shape[2:], *window, strict=True)
        return resized(node, image, *(_averages(*axis) for axis in lists))
    return _pool(node, image, node.shape, "AVE", *window, ceil_mode)


@operator("max_pool1d")
def _max_pool1d(
    node: Node,
    x: Operand,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> Value:
    if set(dilation) != {1}:
        raise UnsupportedError("pools with dilation")
    return _pool_sequence(node, x, "MAX", kernel_size[0], (*stride, kernel_size[0])[0], padding[0], ceil_mode)


@operator("avg_pool1d")
def _avg_pool1d(
    node: Node,
    x: Operand,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Value:
    if padding[0] and not count_include_pad:
        raise UnsupportedError("leaves padding out of the means of a sequence", "write it as an image of height 1")
    return _pool_sequence(node, x, "AVE", kernel_size[0], (*stride, kernel_size[0])[0], padding[0], ceil_mode)


def _pool_sequence(node: Node, x: Operand, method: str, kernel: int, stride: int, pad: int, ceil_mode: bool) -> Value:
    """A sequence is an image one pixel high."""
    x = node.activation(x)
    batch, channels, length = (1,) * (3 - len(x.shape)) + x.shape
    image = node.reshaped(x, (batch, channels, 1, length))
    shape = (batch, channels, 1, node.shape[-1])
    pooled = _pool(node, image, shape, method, (1, kernel), (1, stride), (0, pad), ceil_mode)
    return replace(pooled, view=View.of(node.shape))


def _pool(
    scope: Scope,
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
        return scope.layer(Pooling(method), [x])
    if ceil_mode and any(s > k for s, k in zip(stride, kernel, strict=True)):
        raise UnsupportedError("rounds up sizes of windows that leave gaps")
    rounds_down = not ceil_mode and set(stride) != {1}
    return scope.layer(Pooling(method, Window.of(kernel, stride, pad), rounds_down), [x])


def _averages(size: int, pooled: int, kernel: int, stride: int, pad: int) -> Matrix:
    """Means of windows that leave padding out, as a matrix."""
    windows = (range(max(0, at * stride - pad), min(size, at * stride - pad + kernel)) for at in range(pooled))
    return [[1 / len(window) if place in window else 0.0 for place in range(size)] for window in windows]


@operator("adaptive_avg_pool2d", "_adaptive_avg_pool2d")
def _adaptive_avg_pool(scope: Scope, x: Operand, output_size: Sequence[int]) -> Value:
    image = scope.image(x)
    return _averaged(scope, image, (*image.blob[:2], *output_size))


@operator("adaptive_avg_pool1d")
def _adaptive_avg_pool1d(scope: Scope, x: Operand, output_size: Sequence[int]) -> Value:
    x = scope.activation(x)
    batch, channels, length = x.shape
    image = scope.reshaped(x, (batch, channels, 1, length))
    made = _averaged(scope, image, (batch, channels, 1, *output_size))
    return replace(made, view=View.of((batch, channels, *output_size)))


def _averaged(scope: Scope, image: Value, shape: Shape) -> Value:
    """Windows of equal size where they divide the image; else means of theirs, as matrices."""
    given, wanted = image.blob[2:], shape[2:]
    if given == wanted:
        return image
    if wanted == (1, 1):
        return scope.layer(Pooling("AVE"), [image])
    if all(n % m == 0 for n, m in zip(given, wanted, strict=True)):
        step = (given[0] // wanted[0], given[1] // wanted[1])
        return _pool(scope, image, shape, "AVE", step, step, (0, 0), ceil_mode=True)
    return resized(scope, image, *(_adapted(n, m) for n, m in zip(given, wanted, strict=True)))


def _adapted(size: int, pooled: int) -> Matrix | None:
    if size == pooled:
        return None
    windows = (range(at * size // pooled, -(-(at + 1) * size // pooled)) for at in range(pooled))
    return [[1 / len(window) if place in window else 0.0 for place in range(size)] for window in windows]


@operator("adaptive_max_pool2d")
def _adaptive_max_pool(node: Node, x: Operand, output_size: Sequence[int]) -> list[Value | None]:
    if 1 in node.used:
        raise UnsupportedError("uses the indices of what it pools")
    image = node.image(x)
    wanted = (*image.blob[:2], *output_size)
    if image.blob == wanted:
        return [image, None]
    if wanted[2:] == (1, 1):
        return [node.layer(Pooling("MAX"), [image]), None]
    if any(n % m for n, m in zip(image.blob[2:], wanted[2:], strict=True)):
        raise UnsupportedError(f"pools {list(image.blob[2:])} to {list(wanted[2:])}, windows of several sizes")
    step = (image.blob[2] // wanted[2], image.blob[3] // wanted[3])
    return [_pool(node, image, wanted, "MAX", step, step, (0, 0), ceil_mode=True), None]
