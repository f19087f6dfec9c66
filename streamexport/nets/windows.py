"""What convolutions and pooling slide over an image: torch's arguments, in Caffe's words.

Caffe pads both sides of an axis alike. Where torch does not, the kernel is laid out in a larger one with zeros on the side
that has less padding: for padding l and r, pad max(l, r) and |r - l| more rows. That is exact at every size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from . import kernels
from .graph import Blob, computed


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
    """What slides over height and width."""

    axes: tuple[Axis, Axis]

    def symmetric(self, weight: Blob) -> tuple[Window, Blob]:
        """The same with as much padding on both sides, zeros in the kernel on the side that has less."""
        if all(axis.low == axis.high for axis in self.axes):
            return self, weight
        axes, rooms, offsets, steps = [], [], [], []
        for axis in self.axes:
            most, missing = max(axis.low, axis.high), abs(axis.high - axis.low)
            # Zeros between the elements where the dilated kernel would not meet the room's edge.
            step = axis.dilation if missing % axis.dilation else 1
            dilation = axis.dilation // step
            rooms.append((axis.extent + missing - 1) // dilation + 1)
            offsets.append((most - axis.low) // dilation)
            steps.append(step)
            axes.append(Axis(rooms[-1], axis.stride, most, most, dilation))
        kernel = weight.shape[-2:]
        values = kernels.Embedded(computed(weight), kernel, tuple(rooms), tuple(offsets), tuple(steps))
        first, second = axes
        return Window((first, second)), replace(weight, shape=(*weight.shape[:-2], *rooms), values=values)

    def enlarged(self, weight: Blob) -> tuple[Window, Blob]:
        """The same with a border of zeros around the kernel, and as much more padding; of a window padded alike."""
        kernel = weight.shape[-2:]
        room = (kernel[0] + 2, kernel[1] + 2)
        first, second = (
            replace(axis, kernel=axis.kernel + 2, low=axis.low + axis.dilation, high=axis.high + axis.dilation)
            for axis in self.axes
        )
        values = kernels.Embedded(computed(weight), kernel, room, (1, 1))
        return Window((first, second)), replace(weight, shape=(*weight.shape[:-2], *room), values=values)

    def parameters(self) -> dict[str, Any]:
        """In Caffe's words, for a convolution."""
        pad, kernel, stride, dilation = (
            [getattr(axis, name) for axis in self.axes] for name in ("low", "kernel", "stride", "dilation")
        )
        if any(first != second for first, second in (pad, kernel, stride)):
            parameters: dict[str, Any] = {
                f"{name}_{side}": value
                for name, pair in (("pad", pad), ("kernel", kernel), ("stride", stride))
                for side, value in zip("hw", pair, strict=True)
            }
        else:
            parameters = {"pad": pad[:1], "kernel_size": kernel[:1], "stride": stride[:1]}
        if dilation != [1, 1]:
            parameters["dilation"] = dilation[:1] if dilation[0] == dilation[1] else dilation
        return parameters


def pair(sizes: Sequence[int] | int, rank: int = 2, neutral: int = 0) -> tuple[int, int]:
    """What torch gives for each of `rank` dimensions, or once for all, as vertical and horizontal; `neutral` for none."""
    given = [sizes] if isinstance(sizes, int) else list(sizes)
    given = given * rank if len(given) == 1 else given
    first, second = [neutral] * (2 - rank) + given
    return first, second


LONG = 4096
"""Elements that Caffe and OpenCV may add one after the other in float32; `passes.sums` cuts longer averages."""
ONE_PIXEL = Window((Axis(1), Axis(1)))
