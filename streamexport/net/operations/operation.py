"""What every kind of layer says of itself: `Operation`, and the words that several of them need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from math import inf, prod
from typing import ClassVar

from ...errors import NetError

Shape = tuple[int, ...]
Count = tuple[float, float]
"""The least and the most that there can be."""

ONE: Count = (1, 1)
ANY: Count = (1, inf)


class Merge(Enum):
    """As what OpenCV takes a layer into the one in front of it."""

    CHANNELS = "numbers for each channel"
    FACTOR = "one factor and one offset for all elements"
    ACTIVATION = "a function of each element"


class Operation:
    """What a layer computes, in full but for its weights. Each kind is a frozen dataclass, called as Caffe calls its type.

    Defaults are Caffe's own. What cannot work whatever its bottoms are is refused when it is made, what cannot work with
    given ones when it is asked for shapes: by a NetError, to which the caller adds the layer.

    Attributes
    ----------
    bottoms, tops : how many there can be
    is_pointwise : works on every element by itself
    shares_memory : a top is memory that somebody else looks at, in Caffe: its bottom's, or what the caller filled
    writes_in_place : may be written over its only bottom, in Caffe
    has_statistics : its blobs are observed, not trained
    large_blobs : among how many of its blobs, the first ones, those of several axes are weights, which grow with both
        inputs and outputs
    merges_rightly : in OpenCV, takes in rightly whatever OpenCV has it take in, which is often nothing
    stem : what the prototxts published for the nets of this project's family call such layers
    """

    __slots__ = ()

    bottoms: ClassVar[Count] = ONE
    tops: ClassVar[Count] = ONE
    is_pointwise: ClassVar[bool] = False
    shares_memory: ClassVar[bool] = False
    writes_in_place: ClassVar[bool] = False
    has_statistics: ClassVar[bool] = False
    large_blobs: ClassVar[int] = 0
    merges_rightly: ClassVar[bool] = False

    @property
    def type(self) -> str:
        """What Caffe calls it."""
        return type(self).__name__

    @property
    def stem(self) -> str:
        return self.type.lower()

    @property
    def makes_channels(self) -> bool:
        """Whether the rows of its weights make its top's second dimension, which BatchNorm takes for the channels."""
        return False

    def top_shapes(self, bottoms: Sequence[Shape], count: int) -> tuple[Shape, ...]:
        """Of its `count` tops."""
        return (bottoms[0],)

    def blob_shapes(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        """Of the blobs that it needs."""
        return ()

    def mixes_images(self, bottoms: Sequence[Shape]) -> bool:
        """Whether what its tops have at one place of the first axis is made of other places, too, though their shapes, and
        those of its blobs, would be right for any number of them."""
        return False

    def positions(self, bottoms: Sequence[Shape]) -> int:
        """How often all of its first blob is multiplied and added up: a multiply-add for each element and time."""
        return 0

    def multiply_adds(self, bottoms: Sequence[Shape], blobs: Sequence[Shape]) -> int:
        """Multiplications and the additions behind them: by each weight, at each position, in padding, too."""
        positions = self.positions(bottoms)
        return positions * prod(blobs[0]) if positions else 0

    def merged_as(self, bottoms: int) -> Merge | None:
        """As what OpenCV takes it into the layer in front of it, where it has so many bottoms; None if never."""
        return None

    def may_merge(self, what: Merge, rank: Callable[[], int]) -> bool:
        """Whether OpenCV computes rightly what this layer is with that behind it; `rank` is that of its top."""
        return self.merges_rightly


class Pointwise(Operation):
    """A function of every element."""

    __slots__ = ()
    is_pointwise: ClassVar[bool] = True
    writes_in_place: ClassVar[bool] = True
    merges_rightly: ClassVar[bool] = True

    def merged_as(self, bottoms: int) -> Merge | None:
        return Merge.ACTIVATION


def check_method(method: str, known: Sequence[str]) -> None:
    if method not in known:
        raise NetError(f"its method is {method!r}, it has to be one of {', '.join(known)}")


def axis_of(index: int, rank: int) -> int:
    """An axis counted from the front."""
    if not -rank <= index < rank:
        raise NetError(f"names axis {index} of a bottom with {rank} axes")
    return index % rank


def check_rank(shape: Shape, least: int, most: int = 4) -> None:
    if not least <= len(shape) <= most:
        wanted = f"{least}" if least == most else f"{least} to {most}"
        raise NetError(f"its bottom has shape {list(shape)}, it has to have {wanted} axes")


def along(shape: Shape, axis: int, size: int) -> Shape:
    """A shape with another size of one axis."""
    return (*shape[:axis], size, *shape[axis + 1 :])
