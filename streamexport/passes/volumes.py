"""Transposed convolutions of volumes for OpenCV, which has those of images alone.

The weights of a kernel, as they lie, are those of a kernel of images with so many times the outputs as it is deep. One
Deconvolution makes of each plane all that it adds to others, a second one, of ones, adds it up where it belongs:

    Reshape        (N, C, D, H, W) to (N, C, D H, W), the planes one below the other
    Deconvolution  to (N, outputs depth, D H', W'), by the weights
    Reshape        to (N, outputs depth, D, H' W')
    Deconvolution  to (N, outputs, D', H' W'), each output by itself, and the bias
    Reshape        to (N, outputs, D', H', W')

Where kernels reach from one plane into the next, rows of zeros go around each plane at first. What is made of them, and what
padding takes away, goes at the end. Both is done by convolutions of each channel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..net import kernels
from ..net.graph import Blob, Layer, computed
from ..net.operations import Convolution, Deconvolution, Operation, Shape
from ..net.windows import Axis, Window
from .steps import Steps, Top


def planes(layer: Layer, bottom: Shape) -> list[Layer]:
    """The layers that make the transposed convolution of a volume of this shape out of such of images."""
    operation, (weight, *bias) = layer.operation, layer.blobs
    assert isinstance(operation, Deconvolution)
    (top,) = operation.top_shapes([bottom], 1)
    depth, down, right = operation.window_over(bottom).axes
    batch, channels, count, height, width = bottom
    _, outputs, planes_made, high, wide = top
    around = max(0, -(-down.extent // down.stride) - 1)
    rows = (height + 2 * around) * down.stride
    made = _Chain(Steps(layer), Top(layer.bottoms[0], bottom))
    if around:
        made.reshape("rows", (batch, channels * count, height, width))
        made.slide("around", Axis(1, low=around, high=around), first=0)
    made.reshape("column", (batch, channels, count * (height + 2 * around), width))
    apart, weight = _meeting(down, weight)
    weight = replace(weight, shape=(channels, outputs // operation.groups * depth.kernel, *weight.shape[3:]))
    made.spread("planes", (apart, right), operation.groups, weight)
    if made.shape[2] > count * rows:
        made.cut("fitted", 0, count * rows)
    made.reshape("apart", (batch, outputs * depth.kernel, count, rows * wide))
    ones = kernels.selected((outputs * depth.kernel, 1, depth.kernel, 1), [*range(depth.kernel)] * outputs)
    made.spread("sum", (depth, Axis(1)), outputs, ones, *bias)
    if rows > high:
        made.reshape("whole", (batch, outputs * planes_made, rows, wide))
        made.cut("cut", around * down.stride + down.low, high)
    made.reshape("joined", top)
    return made.steps.finished()


def _meeting(down: Axis, weight: Blob) -> tuple[Axis, Blob]:
    """An axis without padding, of kernels that leave out no row between them: shorter ones get rows of zeros."""
    if down.extent >= down.stride:
        return replace(down, low=0, high=0), weight
    shape = weight.shape[2:]
    room = (shape[0], down.stride, shape[2])
    values = kernels.Embedded(computed(weight), shape, room, (0, 0, 0), (1, down.dilation, 1))
    return Axis(down.stride, down.stride), replace(weight, shape=(*weight.shape[:2], *room), values=values)


@dataclass
class _Chain:
    """Layers one behind the other, and what the last one makes."""

    steps: Steps
    top: Top

    @property
    def shape(self) -> Shape:
        return self.top.shape

    def add(self, part: str, operation: Operation, *blobs: Blob) -> None:
        self.top = self.steps.add(part, operation, self.top, blobs=blobs)

    def reshape(self, part: str, shape: Shape) -> None:
        self.top = self.steps.reshaped(part, self.top, shape)

    def slide(self, part: str, down: Axis, first: int) -> None:
        """A kernel for each channel, of rows: a 1 and zeros."""
        channels = self.shape[1]
        kernel = kernels.selected((channels, 1, down.kernel, 1), [first] * channels)
        self.add(part, Convolution(channels, Window((down, Axis(1))), channels, has_bias=False), kernel)

    def cut(self, part: str, first: int, count: int) -> None:
        """Rows from `first` on."""
        self.slide(part, Axis(self.shape[2] - count + 1), first)

    def spread(self, part: str, axes: tuple[Axis, Axis], groups: int, weight: Blob, *bias: Blob) -> None:
        window, weight = kernels.cropped(Window(axes), weight)
        self.add(part, Deconvolution(weight.shape[1] * groups, window, groups, bool(bias)), weight, *bias)
