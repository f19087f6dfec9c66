"""What a layer can mean: one operation for each thing that layers compute, and Window, what some of them slide.

An operation says in full what is to be computed: axes counted from the front, windows with both of their axes, defaults
filled in. `semantics` tells which one a layer's parameters ask for, `operations` computes it.
"""

from __future__ import annotations

from dataclasses import dataclass

Shape = tuple[int, ...]
Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Input:
    """Tops that the caller fills."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Every top has the bottom's elements, in a shape of its own: Split, Dropout, Flatten, Reshape; Silence has no top."""


@dataclass(frozen=True, slots=True)
class Pointwise:
    """One function of every element; `operations` says which, by the layer's type, and what its constants are."""

    function: str
    constants: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Window:
    """What slides over height and width, in this order."""

    kernel: Pair
    stride: Pair = (1, 1)
    pad: Pair = (0, 0)
    dilation: Pair = (1, 1)

    @property
    def extent(self) -> Pair:
        """The kernel's reach, dilation included."""
        vertical, horizontal = (d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True))
        return vertical, horizontal


@dataclass(frozen=True, slots=True)
class Convolution:
    window: Window
    groups: int


@dataclass(frozen=True, slots=True)
class Deconvolution:
    """The gradient of a convolution with regard to its bottom; its blob is (inputs, outputs / groups, height, width)."""

    window: Window
    groups: int


@dataclass(frozen=True, slots=True)
class InnerProduct:
    """Axes from `axis` on are one vector; `transposed` weights are (inputs, outputs)."""

    axis: int
    transposed: bool


@dataclass(frozen=True, slots=True)
class Pooling:
    """MAX over the part of the window inside the bottom, or AVE: its sum, divided by the part inside bottom and padding
    (both counted from the padded top left corner, and padding at the bottom right counted once)."""

    method: str
    window: Window
    rounding: str  # of the top's size: "CEIL" or "FLOOR"


@dataclass(frozen=True, slots=True)
class BatchNorm:
    """(x - mean) / sqrt(variance + epsilon), of each channel; stored statistics are divided by the third blob, and are 0
    if that is 0."""

    epsilon: float
    is_stored: bool


@dataclass(frozen=True, slots=True)
class Affine:
    """Scale and Bias: multiplies (`scales`) by a factor, then adds (`adds`) an offset, each of which covers some axes of
    the bottom from `axis` on. They are the second bottom, if there is one, then the blobs."""

    axis: int
    scales: bool
    adds: bool


@dataclass(frozen=True, slots=True)
class PReLU:
    """Negative elements times the blob: a factor for each channel, or one for all."""


@dataclass(frozen=True, slots=True)
class Softmax:
    axis: int


@dataclass(frozen=True, slots=True)
class Eltwise:
    method: str  # "PROD", "SUM" or "MAX"
    coefficients: tuple[float, ...]  # one for each bottom of a SUM


@dataclass(frozen=True, slots=True)
class Concat:
    axis: int


@dataclass(frozen=True, slots=True)
class Slice:
    axis: int
    sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Crop:
    """The part of the first bottom from `offsets` on that has the size of the top."""

    offsets: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Permute:
    """Axis n of the top is axis order[n] of the bottom."""

    order: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LRN:
    """x / (k + alpha * m) ** beta, m being the mean square over `size` channels or size x size pixels around it, zeros
    beyond the edge counted."""

    within_channel: bool
    size: int
    alpha: float
    beta: float
    k: float


@dataclass(frozen=True, slots=True)
class MVN:
    """Minus the mean over all axes from `axis` on; then divided by (standard deviation + epsilon), if not None."""

    axis: int
    epsilon: float | None


@dataclass(frozen=True, slots=True)
class Normalize:
    """x / sqrt(sum of squares + epsilon) times the blob, the sum over channels, or over channels and pixels."""

    across_spatial: bool
    epsilon: float


@dataclass(frozen=True, slots=True)
class Reduction:
    """All axes from `axis` on become one number, times `coefficient`."""

    method: str  # "SUM", "ASUM" (of absolute values), "SUMSQ" (of squares) or "MEAN"
    axis: int
    coefficient: float


@dataclass(frozen=True, slots=True)
class Tile:
    axis: int
    count: int


@dataclass(frozen=True, slots=True)
class ArgMax:
    """Indices of the `count` largest along `axis`; without an axis, of all that is behind the first one. With values:
    (indices, values) without an axis, the values alone with one."""

    axis: int | None
    count: int
    with_values: bool


Operation = (
    Input
    | Identity
    | Pointwise
    | Convolution
    | Deconvolution
    | InnerProduct
    | Pooling
    | BatchNorm
    | Affine
    | PReLU
    | Softmax
    | Eltwise
    | Concat
    | Slice
    | Crop
    | Permute
    | LRN
    | MVN
    | Normalize
    | Reduction
    | Tile
    | ArgMax
)


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a layer computes, and the shapes of its tops and of the blobs that it needs."""

    operation: Operation
    tops: tuple[Shape, ...]
    blobs: tuple[Shape, ...] = ()
