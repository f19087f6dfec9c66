"""Averages of many elements, taken in steps.

Caffe and OpenCV add the elements of a window one after the other in float32, and lose the more of each the longer the sum
is: 2 million alike are off by a thousandth and more. Averages of averages of some hundred are not.

    a window that is all there is       windows of windows; where its size has no divisor, zeros make up the last ones
    windows that cover each pixel once  the same, by divisors alone
    windows that overlap, or leave out  rows, then columns

Softmax divides by a sum, and is divided once more by what it then comes to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from ..nets.graph import Layer, Net
from ..nets.windows import LONG

MOST = 256
"""Elements of a step. For equal ones, the worst there are, three such steps come to 1e-5 of them."""

MANY = 32768
"""Elements that Softmax sums within 1e-5: it adds in another order than Pooling."""

Shape = tuple[int, ...]


def shorten(net: Net) -> Net:
    """The net with averages of more than LONG elements taken in steps, where the shapes of their bottoms are known."""
    shapes: dict[str, Shape] = {}
    layers: list[Layer] = []
    for layer in net.layers:
        pooling = layer.parameters.get("pooling_param", {})
        bottom = shapes.get(layer.bottoms[0]) if layer.bottoms else None
        if pooling.get("pool") == "AVE" and bottom is not None:
            layers += _shortened(layer, pooling, bottom)
        elif layer.type == "Softmax" and bottom is not None:
            layers += _normalised(layer, bottom)
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


def _shortened(layer: Layer, pooling: Mapping[str, Any], bottom: Shape) -> list[Layer]:
    size = bottom[2:]
    if pooling.get("global_pooling"):
        rows, columns = (_Axis(n, n, n, 0) for n in size)
    else:
        kernel, stride, pad = (_both(pooling, *names) for names in _WORDS)
        rows, columns = (_Axis(*axis) for axis in zip(size, kernel, stride, pad, strict=True))
    if rows.kernel * columns.kernel <= LONG:
        return [layer]
    if rows.covers and columns.covers:
        return list(_in_steps(layer, bottom, rows, columns))
    if 1 in (rows.kernel, columns.kernel):
        return [layer]
    rounding = {name: pooling[name] for name in ("round_mode",) if name in pooling}
    batch, channels, height, _ = bottom
    (top,) = layer.shapes
    first = _pooled(layer, (batch, channels, height, top[3]), _Axis(height, 1, 1, 0), columns, f"{layer.name}.rows")
    second = replace(layer, bottoms=first.tops, parameters=_words(rows, _Axis(top[3], 1, 1, 0)))
    return [_with(first, rounding), _with(second, rounding)]


def _in_steps(layer: Layer, bottom: Shape, rows: _Axis, columns: _Axis) -> Iterator[Layer]:
    """Poolings of poolings. What zeros made smaller is multiplied in the end."""
    factor, number = 1.0, 0
    while rows.kernel * columns.kernel > MOST:
        right = columns.step(max(MOST // rows.kernel, round(MOST**0.5)))
        down = rows.step(max(MOST // right.kernel, 1))
        number += 1
        top = (*bottom[:2], down.count, right.count)
        made = _pooled(layer, top, down, right, f"{layer.name}.step{number}")
        yield made
        factor *= (down.size + 2 * down.pad) / down.size * (right.size + 2 * right.pad) / right.size
        layer, rows, columns = replace(layer, bottoms=made.tops), rows.after(down), columns.after(right)
    is_whole = rows.is_alone and columns.is_alone
    words = {"pooling_param": {"pool": "AVE", "global_pooling": True}} if is_whole else _words(rows, columns)
    last = replace(layer, parameters=words)
    if factor == 1:
        yield last
        return
    name = f"{layer.name}.mean"
    yield replace(last, name=name, tops=(name,), origin=None)
    yield replace(layer, type="Power", bottoms=(name,), parameters={"power_param": {"scale": factor}})


def _normalised(layer: Layer, shape: Shape) -> list[Layer]:
    """A softmax over many elements behind which no axis is, divided by its sums."""
    axis = layer.parameters["softmax_param"]["axis"]
    batch, before, count, behind = shape[0], prod(shape[1:axis]), shape[axis], prod(shape[axis + 1 :])
    if count <= MANY or behind > 1 or not axis:
        return [layer]
    image, factor = (batch, before, count, 1), (batch, before)
    pooling = {"pool": "AVE", "global_pooling": True}
    steps: list[tuple[str, str, Mapping[str, Any], Shape]] = [
        ("rounded", "Softmax", layer.parameters, shape),
        ("image", "Reshape", {"reshape_param": {"shape": {"dim": [0, *image[1:]]}}}, image),
        ("mean", "Pooling", {"pooling_param": pooling}, (*factor, 1, 1)),
        ("inverse", "Power", {"power_param": {"power": -1.0, "scale": float(count)}}, (*factor, 1, 1)),
        ("factor", "Flatten", {}, factor),
        ("exact", "Scale", {"scale_param": {"axis": 0}}, image),
        ("", "Reshape", {"reshape_param": {"shape": {"dim": [0, *shape[1:]]}}}, shape),
    ]
    made: list[Layer] = []
    bottoms = layer.bottoms
    for part, kind, parameters, top in steps:
        if kind == "Scale":
            bottoms = (f"{layer.name}.image", *bottoms)
        name = f"{layer.name}.{part}" if part else layer.name
        made.append(Layer(name, kind, bottoms, (name,), parameters, shapes=(top,)))
        bottoms = (name,)
    mean = made[2]
    made[2:3] = _shortened(mean, pooling, image)
    return [*made[:-1], replace(made[-1], tops=layer.tops, origin=layer.origin)]


def _pooled(layer: Layer, shape: Shape, rows: _Axis, columns: _Axis, name: str) -> Layer:
    return Layer(name, "Pooling", layer.bottoms, (name,), _words(rows, columns), shapes=(shape,))


def _with(layer: Layer, more: Mapping[str, Any]) -> Layer:
    return replace(layer, parameters={"pooling_param": {**layer.parameters["pooling_param"], **more}})


_WORDS = (("kernel_size", "kernel_h", "kernel_w"), ("stride", "stride_h", "stride_w"), ("pad", "pad_h", "pad_w"))


def _both(pooling: Mapping[str, Any], whole: str, *parts: str) -> list[int]:
    default = pooling.get(whole, 0 if whole == "pad" else 1)
    return [pooling.get(part, default) for part in parts]


def _words(rows: _Axis, columns: _Axis) -> Mapping[str, Any]:
    """Parameters of an averaging Pooling."""
    given: dict[str, Any] = {"pool": "AVE"}
    for (_, *parts), name in zip(_WORDS, ("kernel", "stride", "pad"), strict=True):
        pair = [getattr(rows, name), getattr(columns, name)]
        if name != "pad" or any(pair):
            given |= dict(zip(parts, pair, strict=True))
    return {"pooling_param": given}
