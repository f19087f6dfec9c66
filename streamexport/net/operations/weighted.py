"""Products with weights: what nearly all arithmetic and nearly all bytes of a net are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar

from ...errors import NetError
from ..windows import Window
from .operation import Merge, Operation, Shape, axis_of


@dataclass(frozen=True, slots=True)
class _Sliding(Operation):
    """A kernel over height and width, of so many groups of channels."""

    outputs: int
    window: Window
    groups: int = 1
    has_bias: bool = True

    def _blobs(self, weight: Shape) -> tuple[Shape, ...]:
        return (weight, (self.outputs,)) if self.has_bias else (weight,)

    def _check(self, bottom: Shape) -> None:
        if len(bottom) != 4:
            raise NetError(f"works on axes from 1 on of {list(bottom)}; known are 2 axes behind channels")
        outputs, groups = self.outputs, self.groups
        if not outputs or not groups or bottom[1] % groups or outputs % groups:
            raise NetError(f"has {bottom[1]} inputs, {outputs} outputs, {groups} groups")


@dataclass(frozen=True, slots=True)
class Convolution(_Sliding):
    """Weights (outputs, inputs / groups, height, width), and a bias for each output."""

    large_blobs: ClassVar[int] = 1
    merges_rightly: ClassVar[bool] = True

    @property
    def stem(self) -> str:
        return "conv"

    @property
    def makes_channels(self) -> bool:
        return True

    def top_shapes(self, bottoms: Sequence[Shape], count: int) -> tuple[Shape, ...]:
        self._check(bottoms[0])
        batch, _, *size = bottoms[0]
        for pixels, axis in zip(size, self.window.axes, strict=True):
            padded = pixels + axis.low + axis.high
            if axis.extent > padded:
                raise NetError(f"its kernel reaches over {axis.extent}, its bottom with padding is {padded}")
        sizes = (axis.convolved(pixels) for pixels, axis in zip(size, self.window.axes, strict=True))
        return ((batch, self.outputs, *sizes),)

    def blob_shapes(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        return self._blobs((self.outputs, bottoms[0][1] // self.groups, *self.window.kernel))

    def positions(self, bottoms: Sequence[Shape]) -> int:
        batch, _, *size = self.top_shapes(bottoms, 1)[0]
        return batch * prod(size)


@dataclass(frozen=True, slots=True)
class Deconvolution(_Sliding):
    """A transposed convolution: weights (inputs, outputs / groups, height, width), and a bias for each output."""

    def top_shapes(self, bottoms: Sequence[Shape], count: int) -> tuple[Shape, ...]:
        self._check(bottoms[0])
        batch, _, *size = bottoms[0]
        sizes = (axis.transposed(pixels) for pixels, axis in zip(size, self.window.axes, strict=True))
        return ((batch, self.outputs, *sizes),)

    def blob_shapes(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        return self._blobs((bottoms[0][1], self.outputs // self.groups, *self.window.kernel))

    def positions(self, bottoms: Sequence[Shape]) -> int:
        batch, _, *size = bottoms[0]
        return batch * prod(size)

    def may_merge(self, what: Merge, rank: Callable[[], int]) -> bool:
        return what != Merge.CHANNELS or self.groups == 1


@dataclass(frozen=True, slots=True)
class InnerProduct(Operation):
    """All from one axis on is a vector, multiplied by a matrix (outputs, inputs), or by its transpose as it is held."""

    outputs: int
    has_bias: bool = True
    axis: int = 1
    is_transposed: bool = False
    large_blobs: ClassVar[int] = 1

    @property
    def stem(self) -> str:
        return "fc"

    @property
    def makes_channels(self) -> bool:
        return self.axis == 1

    def top_shapes(self, bottoms: Sequence[Shape], count: int) -> tuple[Shape, ...]:
        return ((*bottoms[0][: axis_of(self.axis, len(bottoms[0]))], self.outputs),)

    def blob_shapes(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        inputs = prod(bottoms[0][axis_of(self.axis, len(bottoms[0])) :])
        weight = (inputs, self.outputs) if self.is_transposed else (self.outputs, inputs)
        return (weight, (self.outputs,)) if self.has_bias else (weight,)

    def positions(self, bottoms: Sequence[Shape]) -> int:
        return prod(bottoms[0][: axis_of(self.axis, len(bottoms[0]))])

    def may_merge(self, what: Merge, rank: Callable[[], int]) -> bool:
        return what != Merge.CHANNELS or self.axis == 1
