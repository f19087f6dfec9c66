"""Many elements that become one: poolings, sums, and the largest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar

from ...errors import NetError
from ..windows import Axis, Window
from .operation import Operation, Shape, along, axis_of, check_method, check_rank


@dataclass(frozen=True, slots=True)
class Pooling(Operation):
    """MAX over the part of the window inside the bottom, or AVE: its sum, divided by the part inside bottom and padding
    (both counted from the padded top left corner, and padding at the bottom right counted once).

    Attributes
    ----------
    window : None for all of the bottom
    rounds_down : torch's way to come to the top's size; Caffe's own is to round up. Neutral: who says it how, the dialect
        decides
    says_ceil_mode : in the words of OpenCV and the SSD family, `ceil_mode`, instead of BVLC master's, `round_mode`
    """

    method: str
    window: Window | None = None
    rounds_down: bool = False
    says_ceil_mode: bool = False
    merges_rightly: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_method(self.method, ("MAX", "AVE"))
        if self.window is not None and any(axis.low >= axis.kernel for axis in self.window.axes):
            kernel, pad = list(self.window.kernel), list(self.window.pad)
            raise NetError(f"its padding {pad} is not less than its kernel {kernel}")

    @property
    def stem(self) -> str:
        return "ave_pool" if self.method == "AVE" else "max_pool"

    def window_over(self, bottom: Shape) -> Window:
        """What slides over a bottom of this shape."""
        return self.window or Window.of((bottom[2], bottom[3]))

    def top_shapes(self, bottoms: Sequence[Shape], count: int) -> tuple[Shape, ...]:
        bottom = bottoms[0]
        check_rank(bottom, 4)
        window = self.window_over(bottom)
        is_padded = any(window.pad)
        sizes = (self._pooled(size, axis, is_padded) for size, axis in zip(bottom[2:], window.axes, strict=True))
        return ((*bottom[:2], *sizes),)

    def _pooled(self, size: int, axis: Axis, is_padded: bool) -> int:
        """Rounding up, the last window can begin behind the bottom; with padding (on either axis) it is left out then."""
        span, stride = size + 2 * axis.low - axis.kernel, axis.stride
        pooled = (span // stride if self.rounds_down else -(-span // stride)) + 1
        return pooled - 1 if is_padded and (pooled - 1) * stride >= size + axis.low else pooled


@dataclass(frozen=True, slots=True)
class Reduction(Operation):
    """All axes from `axis` on become one number, times a coefficient: their SUM, ASUM (of absolute values), SUMSQ (of
    squares) or MEAN."""

    method: str = "SUM"
    axis: int = 0
    coefficient: float = 1.0

    def __post_init__(self) -> None:
        check_method(self.method, ("SUM", "ASUM", "SUMSQ", "MEAN"))

    def top_shapes(self, bottoms: Sequence[Shape], count: int) -> tuple[Shape, ...]:
        return (bottoms[0][: axis_of(self.axis, len(bottoms[0]))],)


@dataclass(frozen=True, slots=True)
class ArgMax(Operation):
    """Indices of the `count` largest along an axis; without one, of all that is behind the first. With values: (indices,
    values) without an axis, the values alone with one."""

    axis: int | None = None
    count: int = 1
    with_values: bool = False

    def top_shapes(self, bottoms: Sequence[Shape], count: int) -> tuple[Shape, ...]:
        bottom = bottoms[0]
        axis = None if self.axis is None else axis_of(self.axis, len(bottom))
        searched = prod(bottom[1:]) if axis is None else bottom[axis]
        if not 1 <= self.count <= searched:
            raise NetError(f"asks for the {self.count} largest of {searched}")
        if axis is not None:
            return (along(bottom, axis, self.count),)
        return ((bottom[0], 2 if self.with_values else 1, self.count) + (1,) * (len(bottom) - 3),)
