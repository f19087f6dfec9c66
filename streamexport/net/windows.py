"""What slides over an image or a volume: convolutions' kernels, poolings' windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

Sizes = tuple[int, ...]
"""One for each axis."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a window; `low` and `high` are the padding before and behind it."""

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
    """What slides over (depth,) height and width, in this order."""

    axes: tuple[Axis, ...]

    @classmethod
    def of(cls, kernel: Sizes, stride: Sizes = (), pad: Sizes = (), dilation: Sizes = ()) -> Window:
        """One that pads both sides of an axis alike, as Caffe does."""
        ones, zeros = (1,) * len(kernel), (0,) * len(kernel)
        sizes = zip(kernel, stride or ones, pad or zeros, dilation or ones, strict=True)
        return cls(tuple(Axis(k, s, p, p, d) for k, s, p, d in sizes))

    @property
    def kernel(self) -> Sizes:
        return tuple(axis.kernel for axis in self.axes)

    @property
    def stride(self) -> Sizes:
        return tuple(axis.stride for axis in self.axes)

    @property
    def pad(self) -> Sizes:
        """Before the image, which is all the padding that is said where both sides have as much."""
        return tuple(axis.low for axis in self.axes)

    @property
    def dilation(self) -> Sizes:
        return tuple(axis.dilation for axis in self.axes)

    @property
    def is_symmetric(self) -> bool:
        """Whether both sides of each axis are padded alike."""
        return all(axis.low == axis.high for axis in self.axes)

    def grown(self, by: int) -> Window:
        """With a border of so many elements around the kernel, and as much more padding."""
        return Window(
            tuple(
                replace(
                    axis,
                    kernel=axis.kernel + 2 * by,
                    low=axis.low + by * axis.dilation,
                    high=axis.high + by * axis.dilation,
                )
                for axis in self.axes
            )
        )

    def over(self, count: int) -> Window:
        """The same over so many axes, if two are alike: that is how sizes are read that are said once, for however many."""
        first, *others = self.axes
        return Window((first,) * count) if others == [first] else self


def each(sizes: Sequence[int], rank: int, neutral: int) -> Sizes:
    """What torch gives for each of `rank` dimensions, or once for all: for each axis, of an image at least; `neutral` for
    axes that torch does not have."""
    given = [*sizes] * rank if len(sizes) == 1 else sizes
    return (*[neutral] * (2 - rank), *given)


LONG = 4096
"""Elements that Caffe and OpenCV may add one after the other in float32; `passes.sums` cuts longer averages."""
ONE_PIXEL = Window((Axis(1), Axis(1)))
