"""What slides over the height and width of an image: convolutions' kernels, poolings' windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a window that slides over an image; `low` and `high` are the padding before and behind it."""

    kernel: int
    stride: int = 1
    low: int = 0
    high: int = 0
    dilation: int = 1

    @property
    def extent(self) -> int:
        """The kernel's reach, dilation included."""
        return self.dilation * (self.kernel - 1) + 1

    def convolved(self, size: int) -> int:
        """Positions of the kernel along `size` pixels."""
        return (size + self.low + self.high - self.extent) // self.stride + 1

    def transposed(self, size: int) -> int:
        """Pixels that kernels at `size` positions reach."""
        return self.stride * (size - 1) + self.extent - self.low - self.high


@dataclass(frozen=True, slots=True)
class Window:
    """What slides over height and width, in this order."""

    axes: tuple[Axis, Axis]

    @classmethod
    def of(cls, kernel: Pair, stride: Pair = (1, 1), pad: Pair = (0, 0), dilation: Pair = (1, 1)) -> Window:
        """One that pads both sides of an axis alike, as Caffe does."""
        first, second = (Axis(k, s, p, p, d) for k, s, p, d in zip(kernel, stride, pad, dilation, strict=True))
        return cls((first, second))

    @property
    def kernel(self) -> Pair:
        return self.axes[0].kernel, self.axes[1].kernel

    @property
    def stride(self) -> Pair:
        return self.axes[0].stride, self.axes[1].stride

    @property
    def pad(self) -> Pair:
        """Before the image, which is all the padding that is said where both sides have as much."""
        return self.axes[0].low, self.axes[1].low

    @property
    def dilation(self) -> Pair:
        return self.axes[0].dilation, self.axes[1].dilation

    @property
    def is_symmetric(self) -> bool:
        """Whether both sides of each axis are padded alike."""
        return all(axis.low == axis.high for axis in self.axes)

    def grown(self, by: int) -> Window:
        """With a border of so many elements around the kernel, and as much more padding."""
        first, second = (
            replace(
                axis,
                kernel=axis.kernel + 2 * by,
                low=axis.low + by * axis.dilation,
                high=axis.high + by * axis.dilation,
            )
            for axis in self.axes
        )
        return Window((first, second))


def pair(sizes: Sequence[int] | int, rank: int = 2, neutral: int = 0) -> Pair:
    """What torch gives for each of `rank` dimensions, or once for all, as vertical and horizontal; `neutral` for none."""
    given = [sizes] if isinstance(sizes, int) else list(sizes)
    given = given * rank if len(given) == 1 else given
    first, second = [neutral] * (2 - rank) + given
    return first, second


LONG = 4096
"""Elements that Caffe and OpenCV may add one after the other in float32; `passes.sums` cuts longer averages."""
ONE_PIXEL = Window((Axis(1), Axis(1)))
