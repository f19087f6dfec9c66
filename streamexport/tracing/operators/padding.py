"""What stands around images, sequences and volumes: zeros, other numbers, or elements of theirs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import mod
from typing import TYPE_CHECKING

from ..node import Scope
from ..operands import Constant, Operand, UnsupportedError, Value
from ..views import Shape
from .arithmetic import add
from .indexing import picked
from .registry import operator
from .shapes import sliced

if TYPE_CHECKING:
    import torch


@operator("pad")
def padded(scope: Scope, x: Operand, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Value:
    if mode != "constant":
        return _padded_with_pixels(scope, x, pad, _BESIDE[mode])
    if min(pad) < 0:
        x, pad = _cut(scope, scope.activation(x), pad), [max(0, size) for size in pad]
    made = _padded_with_zeros(scope, x, pad)
    return add(scope, made, _around(made.shape, pad, value)) if value else made


def _cut(scope: Scope, x: Value, pad: Sequence[int]) -> Value:
    """What is left where less than nothing stands around it."""
    for dim, (low, high) in enumerate(zip(pad[::2], pad[1::2], strict=True), 1):
        start, stop = max(0, -low), x.shape[-dim] + min(0, high)
        if (start, stop) != (0, x.shape[-dim]):
            x = sliced(scope, x, len(x.shape) - dim, start, stop, 1)
    return x


def _around(shape: Shape, pad: Sequence[int], value: float) -> Constant:
    """A number around zeros, to be added to what has zeros around it."""

    def compute() -> torch.Tensor:
        import torch

        within = [size - low - high for size, low, high in zip(shape[::-1], pad[::2], pad[1::2], strict=False)]
        whole = shape[len(shape) - len(within) :]
        zeros = torch.zeros(within[::-1])
        return torch.nn.functional.pad(zeros, [*pad], value=value).reshape(whole)

    return Constant(shape[len(shape) - len(pad) // 2 :], (), None, compute)


def _padded_with_zeros(scope: Scope, x: Operand, pad: Sequence[int]) -> Value:
    """Zeros around an image or a sequence are left to the convolution that follows; others are picked from nowhere."""
    if not isinstance(x, Value):
        raise UnsupportedError("takes a constant where only activations can be")
    rank = len(x.shape)
    if rank == 4 and any(pad[4:6]) and any(pad[2:4]) and not any(pad[:2]) and not any(pad[6:]):
        return _padded_channels_last(scope, x, pad)
    sides = [*zip(pad[::2], pad[1::2], strict=True), (0, 0), (0, 0)]
    slid = {3: 1, 4: 2}.get(rank, 0)
    for dim, (low, high) in enumerate(sides[slid:], slid + 1):
        if low or high:
            places = [*[None] * low, *range(x.shape[-dim]), *[None] * high]
            x = picked(scope, scope.activation(x), rank - dim, places)
    (left, right), (above, below) = [*sides[:slid], (0, 0), (0, 0)][:2]
    known = x.padding
    return replace(x, padding=(known[0] + above, known[1] + below, known[2] + left, known[3] + right))


def _padded_channels_last(scope: Scope, x: Value, pad: Sequence[int]) -> Value:
    """Images whose channels come last, as torch has them, are padded as images."""
    left, right, above, below = pad[2:6]
    image = replace(x, view=x.view.permuted((0, 3, 1, 2)), label=scope.label, padding=(above, below, left, right))
    made = scope.activation(image)
    return replace(made, view=made.view.permuted((0, 2, 3, 1)))


def _mirrored(place: int, size: int) -> int:
    return abs(place) if place < size else 2 * (size - 1) - place


def _nearest_inside(place: int, size: int) -> int:
    return min(max(place, 0), size - 1)


_BESIDE = {"reflect": _mirrored, "replicate": _nearest_inside, "circular": mod}
"""Which pixel stands at a place outside of the image, by mode."""


def _padded_with_pixels(scope: Scope, x: Operand, pad: Sequence[int], beside: Callable[[int, int], int]) -> Value:
    """Elements of the tensor stand around it."""
    x = scope.activation(x)
    for dim, (before, after) in enumerate(zip(pad[::2], pad[1::2], strict=True), 1):
        size = x.shape[-dim]
        x = picked(scope, x, len(x.shape) - dim, [beside(place, size) for place in range(-before, size + after)])
    return x
