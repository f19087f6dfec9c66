"""Products, with weights and of activations: what nearly all arithmetic and nearly all bytes of a net are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar

from ...errors import NetError
from ..windows import Window
from .operation import Count, Merge, Operation, Shape, axis_of, check_rank


@dataclass(frozen=True, slots=True)
class _Sliding(Operation):
    """A kernel over all axes behind the channels, which are axis 1, of so many groups of these."""

    outputs: int
    window: Window
    groups: int = 1
    has_bias: bool = True
    axis: int = 1

    def _blobs(self, weight: Shape) -> tuple[Shape, ...]:
        return (weight, (self.outputs,)) if self.has_bias else (weight,)

    def window_over(self, bottom: Shape) -> Window:
        """What slides over this bottom: sizes said once are for all of its axes."""
        check_rank(bottom, 3, 5)
        if axis_of(self.axis, len(bottom)) != 1:
            raise NetError(f"works on axes from {self.axis} on of {list(bottom)}; known is 1")
        window = self.window.over(len(bottom) - 2)
        if len(window.axes) != len(bottom) - 2:
            raise NetError(f"slides over {len(window.axes)} axes behind channels, its bottom has shape {list(bottom)}")
        outputs, groups = self.outputs, self.groups
        if not outputs or not groups or bottom[1] % groups or outputs % groups:
            raise NetError(f"has {bottom[1]} inputs, {outputs} outputs, {groups} groups")
        return window


@dataclass(frozen=True, slots=True)
class Convolution(_Sliding):
    """Weights (outputs, inputs / groups, (depth,) height, width), and a bias for each output."""

    large_blobs: ClassVar[int] = 1
    merges_rightly: ClassVar[bool] = True

    @property
    def stem(self) -> str:
        return "conv"

    @property
    def makes_channels(self) -> bool:
        return True

    def top_shapes(self, bottoms: Sequence[Shape], count: int) -> tuple[Shape, ...]:
        axes = self.window_over(bottoms[0]).axes
        batch, _, *size = bottoms[0]
        for pixels, axis in zip(size, axes, strict=True):
            padded = pixels + axis.low + axis.high
            if axis.extent > padded:
                raise NetError(f"its kernel reaches over {axis.extent}, its bottom with padding is {padded}")
        sizes = (axis.convolved(pixels) for pixels, axis in zip(size, axes, strict=True))
        return ((batch, self.outputs, *sizes),)

    def blob_shapes(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        return self._blobs((self.outputs, bottoms[0][1] // self.groups, *self.window_over(bottoms[0]).kernel))

    def positions(self, bottoms: Sequence[Shape]) -> int:
        batch, _, *size = self.top_shapes(bottoms, 1)[0]
        return batch * prod(size)


@dataclass(frozen=True, slots=True)
class Deconvolution(_Sliding):
    """A transposed convolution: weights (inputs, outputs / groups, (depth,) height, width), and a bias for each output."""

    def top_shapes(self, bottoms: Sequence[Shape], count: int) -> tuple[Shape, ...]:
        axes = self.window_over(bottoms[0]).axes
        batch, _, *size = bottoms[0]
        sizes = (axis.transposed(pixels) for pixels, axis in zip(size, axes, strict=True))
        return ((batch, self.outputs, *sizes),)

    def blob_shapes(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        return self._blobs((bottoms[0][1], self.outputs // self.groups, *self.window_over(bottoms[0]).kernel))

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


@dataclass(frozen=True, slots=True)
class Embed(Operation):
    """Rows of a matrix (inputs, outputs) by their numbers, which Caffe rounds toward zero, and a bias."""

    outputs: int
    inputs: int
    has_bias: bool = True
    large_blobs: ClassVar[int] = 1

    def top_shapes(self, bottoms: Sequence[Shape], count: int) -> tuple[Shape, ...]:
        return ((*bottoms[0], self.outputs),)

    def blob_shapes(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        weight = (self.inputs, self.outputs)
        return (weight, (self.outputs,)) if self.has_bias else (weight,)


@dataclass(frozen=True, slots=True)
class MatMul(Operation):
    """Two activations multiplied as matrices, (..., m, k) by (..., k, n), each of which may be held transposed; what is in
    front of the matrices is alike, or 1 throughout for one of the two. OpenCV has it; `passes.products` composes it for the
    others."""

    is_first_transposed: bool = False
    is_second_transposed: bool = False
    bottoms: ClassVar[Count] = (2, 2)

    def sizes(self, bottoms: Sequence[Shape]) -> tuple[int, int, int, int]:
        """How many products there are, and m, k and n of each."""
        first, second = bottoms
        lead = self._lead(bottoms)
        rows, inner = first[-2:][:: -1 if self.is_first_transposed else 1]
        same, columns = second[-2:][:: -1 if self.is_second_transposed else 1]
        if inner != same:
            raise NetError(f"multiplies matrices of {rows} x {inner} by such of {same} x {columns}")
        return prod(lead), rows, inner, columns

    def _lead(self, bottoms: Sequence[Shape]) -> Shape:
        """What is in front of the matrices of the top."""
        leads = sorted((bottom[:-2] for bottom in bottoms), key=prod)
        if (
            len({len(bottom) for bottom in bottoms}) > 1
            or len(bottoms[0]) < 2
            or leads[0] not in (leads[1], (1,) * len(leads[1]))
        ):
            raise NetError(
                f"multiplies {list(bottoms[0])} by {list(bottoms[1])}: what is in front of the matrices differs"
            )
        return leads[1]

    def top_shapes(self, bottoms: Sequence[Shape], count: int) -> tuple[Shape, ...]:
        _, rows, _, columns = self.sizes(bottoms)
        return ((*self._lead(bottoms), rows, columns),)

    def multiply_adds(self, bottoms: Sequence[Shape], blobs: Sequence[Shape]) -> int:
        return prod(self.sizes(bottoms))
