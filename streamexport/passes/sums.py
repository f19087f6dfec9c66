"""Averages of many elements, taken in steps.

Caffe and OpenCV add the elements of a window one after the other in float32, and lose the more of each the longer the sum
is: 2 million alike are off by a thousandth and more. Averages of averages of some hundred are not.

    a window that is all there is       windows of windows; where its size has no divisor, zeros make up the last ones
    windows that cover each pixel once  the same, by divisors alone
    windows that overlap, or leave out  rows, then columns

Softmax divides by a sum, and is divided once more by what it then comes to.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from math import prod

from ..net.graph import Layer, Net
from ..net.operations import Flatten, Operation, Pooling, Power, Reshape, Scale, Shape, Softmax
from ..net.windows import LONG, Window
from . import naming

MOST = 256
"""Elements of a step. For equal ones, the worst there are, three such steps come to 1e-5 of them."""

MANY = 32768
"""Elements that Softmax sums within 1e-5: it adds in another order than Pooling."""

AVERAGE = Pooling("AVE")
"""Of all that an image has."""


def shorten(net: Net) -> Net:
    """The net with averages of more than LONG elements taken in steps, where the shapes of their bottoms are known."""
    shapes: dict[str, Shape] = {}
    names = naming.taken(net)
    layers: list[Layer] = []
    for layer in net.layers:
        operation = layer.operation
        bottom = shapes.get(layer.bottoms[0]) if layer.bottoms else None
        if isinstance(operation, Pooling) and operation.method == "AVE" and bottom is not None:
            layers += naming.unlike(layer, partial(_shortened, pooling=operation, bottom=bottom), names)
        elif isinstance(operation, Softmax) and bottom is not None:
            layers += naming.unlike(layer, partial(_normalised, axis=operation.axis, shape=bottom), names)
        else:
            layers.append(layer)
        shapes.update(zip(layer.tops, layer.shapes, strict=False))
    return net.with_layers(tuple(layers))


@dataclass(frozen=True, slots=True)
class _Axis:
    """What an averaging window does along one axis of an image of `size` pixels."""

    size: int
    kernel: int
    stride: int
    pad: int

    @property
    def is_alone(self) -> bool:
        return (self.kernel, self.pad) == (self.size, 0)

    @property
    def covers(self) -> bool:
        """Whether each pixel is in one window."""
        return self.is_alone or (self.stride == self.kernel and not self.pad and not self.size % self.kernel)

    def step(self, most: int) -> _Axis:
        """A window of at most so many pixels, such that those behind it make up the whole."""
        if self.kernel <= most:
            return replace(self, stride=self.kernel)
        least = most // 2 if self.is_alone else 1
        divisor = next((kernel for kernel in range(most, least, -1) if not self.kernel % kernel), None)
        if divisor is not None or most < 2:
            return _Axis(self.size, divisor or 1, divisor or 1, 0)
        if not self.is_alone:
            return replace(self, stride=self.kernel)
        kernel = most - (most - self.size) % 2  # zeros stand on both sides alike: an even number of them
        count = -(-self.size // kernel)
        count += (count * kernel - self.size) % 2
        return _Axis(self.size, kernel, kernel, (count * kernel - self.size) // 2)

    @property
    def count(self) -> int:
        """Windows, where they cover the axis."""
        return (self.size + 2 * self.pad) // self.kernel

    def after(self, step: _Axis) -> _Axis:
        """What is left to average of the tops of a step."""
        kernel = step.count if self.is_alone else self.kernel // step.kernel
        return _Axis(step.count, kernel, kernel, 0)


def _shortened(layer: Layer, pooling: Pooling, bottom: Shape) -> list[Layer]:
    window = pooling.window_over(bottom)
    rows, columns = (
        _Axis(size, axis.kernel, size if pooling.window is None else axis.stride, axis.low)
        for size, axis in zip(bottom[2:], window.axes, strict=True)
    )
    if rows.kernel * columns.kernel <= LONG:
        return [layer]
    if rows.covers and columns.covers:
        return list(_in_steps(layer, bottom, rows, columns))
    if 1 in (rows.kernel, columns.kernel):
        return [layer]
    batch, channels, height, _ = bottom
    (top,) = layer.shapes
    flat = _average(_Axis(height, 1, 1, 0), columns, pooling.rounds_down)
    first = _pooled(layer, flat, (batch, channels, height, top[3]), f"{layer.name}.rows")
    second = _average(rows, _Axis(top[3], 1, 1, 0), pooling.rounds_down)
    return [first, replace(layer, bottoms=first.tops, operation=second)]


def _in_steps(layer: Layer, bottom: Shape, rows: _Axis, columns: _Axis) -> Iterator[Layer]:
    """Poolings of poolings. What zeros made smaller is multiplied in the end."""
    factor, number = 1.0, 0
    while rows.kernel * columns.kernel > MOST:
        right = columns.step(max(MOST // rows.kernel, round(MOST**0.5)))
        down = rows.step(max(MOST // right.kernel, 1))
        number += 1
        top = (*bottom[:2], down.count, right.count)
        made = _pooled(layer, _average(down, right), top, f"{layer.name}.step{number}")
        yield made
        factor *= (down.size + 2 * down.pad) / down.size * (right.size + 2 * right.pad) / right.size
        layer, rows, columns = replace(layer, bottoms=made.tops), rows.after(down), columns.after(right)
    is_whole = rows.is_alone and columns.is_alone
    last = replace(layer, operation=AVERAGE if is_whole else _average(rows, columns))
    if factor == 1:
        yield last
        return
    name = f"{layer.name}.mean"
    yield replace(last, name=name, tops=(name,), origin=None)
    yield replace(layer, bottoms=(name,), operation=Power(scale=factor))


def _normalised(layer: Layer, axis: int, shape: Shape) -> list[Layer]:
    """A softmax over many elements behind which no axis is, divided by its sums."""
    batch, before, count, behind = shape[0], prod(shape[1:axis]), shape[axis], prod(shape[axis + 1 :])
    if count <= MANY or behind > 1 or not axis:
        return [layer]
    image, factor = (batch, before, count, 1), (batch, before)
    steps: list[tuple[str, Operation, Shape]] = [
        ("rounded", layer.operation, shape),
        ("image", Reshape.to(image, shape), image),
        ("mean", AVERAGE, (*factor, 1, 1)),
        ("inverse", Power(power=-1.0, scale=float(count)), (*factor, 1, 1)),
        ("factor", Flatten(), factor),
        ("exact", Scale(0), image),
        ("", Reshape.to(shape, image), shape),
    ]
    made: list[Layer] = []
    bottoms = layer.bottoms
    for part, operation, top in steps:
        if isinstance(operation, Scale):
            bottoms = (f"{layer.name}.image", *bottoms)
        name = f"{layer.name}.{part}" if part else layer.name
        made.append(Layer(name, operation, bottoms, (name,), shapes=(top,)))
        bottoms = (name,)
    made[2:3] = _shortened(made[2], AVERAGE, image)
    return [*made[:-1], replace(made[-1], tops=layer.tops, origin=layer.origin)]


def _pooled(layer: Layer, pooling: Pooling, shape: Shape, name: str) -> Layer:
    return Layer(name, pooling, layer.bottoms, (name,), shapes=(shape,))


def _average(rows: _Axis, columns: _Axis, rounds_down: bool = False) -> Pooling:
    kernel, stride, pad = ((getattr(rows, n), getattr(columns, n)) for n in ("kernel", "stride", "pad"))
    return Pooling("AVE", Window.of(kernel, stride, pad), rounds_down)
