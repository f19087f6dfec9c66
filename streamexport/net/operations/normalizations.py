"""What gives elements another size and place, by statistics of theirs or by weights: normalizations and Scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ...errors import NetError
from .operation import Merge, Operation, Shape, axis_of, check_rank


@dataclass(frozen=True, slots=True)
class BatchNorm(Operation):
    """(x - mean) / sqrt(variance + epsilon), of each channel. Stored ones are divided by the third blob, and are 0 if that
    is 0; else they are those of the bottom itself."""

    epsilon: float = 1e-5
    is_stored: bool = True
    writes_in_place: ClassVar[bool] = True
    has_statistics: ClassVar[bool] = True
    merges_rightly: ClassVar[bool] = True

    @property
    def stem(self) -> str:
        return "batch_norm"

    def blob_shapes(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        channels = bottoms[0][1] if len(bottoms[0]) > 1 else 1
        return ((channels,), (channels,), (1,))

    def mixes_images(self, bottoms: Sequence[Shape]) -> bool:
        return not self.is_stored

    def merged_as(self, bottoms: int) -> Merge | None:
        return Merge.CHANNELS


@dataclass(frozen=True, slots=True)
class Scale(Operation):
    """Times a factor, plus an offset if it has a bias; both cover `num_axes` axes of the bottom, from `axis` on, all the
    rest if that is -1. A second bottom is the factor, and says by its shape how much it covers; the others are blobs."""

    axis: int = 1
    num_axes: int = 1
    has_bias: bool = False
    bottoms: ClassVar[tuple[float, float]] = (1, 2)
    writes_in_place: ClassVar[bool] = True
    merges_rightly: ClassVar[bool] = True

    def top_shapes(self, bottoms: Sequence[Shape], count: int) -> tuple[Shape, ...]:
        covered(bottoms, self.axis, self.num_axes)
        return (bottoms[0],)

    def blob_shapes(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        return (covered(bottoms, self.axis, self.num_axes)[1],) * (2 - len(bottoms) + self.has_bias)

    def merged_as(self, bottoms: int) -> Merge | None:
        return Merge.CHANNELS if bottoms == 1 else None


@dataclass(frozen=True, slots=True)
class Bias(Operation):
    """Plus an offset that covers `num_axes` axes of the bottom, from `axis` on, all the rest if that is -1. A second bottom is
    the offset, and says by its shape how much it covers; else it is a blob."""

    axis: int = 1
    num_axes: int = 1
    bottoms: ClassVar[tuple[float, float]] = (1, 2)

    def top_shapes(self, bottoms: Sequence[Shape], count: int) -> tuple[Shape, ...]:
        covered(bottoms, self.axis, self.num_axes)
        return (bottoms[0],)

    def blob_shapes(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        return (covered(bottoms, self.axis, self.num_axes)[1],) * (2 - len(bottoms))


def covered(bottoms: Sequence[Shape], axis: int, num_axes: int) -> tuple[int, Shape]:
    """The axis where a factor or an offset begins, and its shape: the second bottom's, or that of `num_axes` axes."""
    bottom = bottoms[0]
    if len(bottoms) > 1 and not bottoms[1]:
        return 0, ()  # a scalar: the axis is not looked at
    start = axis_of(axis, len(bottom))
    count = len(bottoms[1]) if len(bottoms) > 1 else num_axes if num_axes != -1 else len(bottom) - start
    shape = bottom[start : start + count]
    if count < 0 or len(shape) < count or (len(bottoms) > 1 and shape != bottoms[1]):
        what = f"its second bottom {list(bottoms[1])}" if len(bottoms) > 1 else f"{num_axes} axes"
        raise NetError(f"{what} cannot cover {list(bottom)} from axis {start} on")
    return start, shape


@dataclass(frozen=True, slots=True)
class Softmax(Operation):
    axis: int = 1
    writes_in_place: ClassVar[bool] = True
    merges_rightly: ClassVar[bool] = True

    def top_shapes(self, bottoms: Sequence[Shape], count: int) -> tuple[Shape, ...]:
        axis_of(self.axis, len(bottoms[0]))
        return (bottoms[0],)

    def mixes_images(self, bottoms: Sequence[Shape]) -> bool:
        return axis_of(self.axis, len(bottoms[0])) == 0


@dataclass(frozen=True, slots=True)
class LRN(Operation):
    """x / (k + alpha m) ^ beta, m being the mean square over `size` channels or size x size pixels around it, zeros beyond
    the edge counted. Within a channel Caffe takes k for 1."""

    size: int = 5
    alpha: float = 1.0
    beta: float = 0.75
    within_channel: bool = False
    k: float = 1.0

    def __post_init__(self) -> None:
        if not self.size % 2:
            raise NetError(f"its local_size is {self.size}, it has to be odd")

    def top_shapes(self, bottoms: Sequence[Shape], count: int) -> tuple[Shape, ...]:
        check_rank(bottoms[0], 4)
        return (bottoms[0],)


@dataclass(frozen=True, slots=True)
class MVN(Operation):
    """Minus the mean over pixels, or over channels and pixels; then divided by (standard deviation + epsilon), if asked to."""

    normalizes_variance: bool = True
    across_channels: bool = False
    epsilon: float = 1e-9

    def top_shapes(self, bottoms: Sequence[Shape], count: int) -> tuple[Shape, ...]:
        check_rank(bottoms[0], 1)
        return (bottoms[0] + (1,) * (4 - len(bottoms[0])),)  # the layer is older than blobs of other than four axes

    def may_merge(self, what: Merge, rank: object) -> bool:
        return what == Merge.ACTIVATION


@dataclass(frozen=True, slots=True)
class Normalize(Operation):
    """x / sqrt(sum of squares + epsilon) times the blob, the sum over channels, or over channels and pixels: in the SSD
    family and OpenCV."""

    across_spatial: bool = True
    is_shared: bool = True
    epsilon: float = 1e-10

    def top_shapes(self, bottoms: Sequence[Shape], count: int) -> tuple[Shape, ...]:
        check_rank(bottoms[0], 2)
        return (bottoms[0],)

    def blob_shapes(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        return (() if self.is_shared else (bottoms[0][1],),)
