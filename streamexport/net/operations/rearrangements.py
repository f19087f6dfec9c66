"""What comes in, and what gives elements another shape, place or number without computing with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import ClassVar

from ...errors import NetError
from .operation import ANY, Count, Operation, Shape, along, axis_of


@dataclass(frozen=True, slots=True)
class Input(Operation):
    """Tops that the caller fills. The shapes are those of its tops, one for all of them, or none, and the caller's then."""

    shapes: tuple[Shape, ...] = ()
    bottoms: ClassVar[Count] = (0, 0)
    tops: ClassVar[Count] = ANY
    shares_memory: ClassVar[bool] = True
    merges_rightly: ClassVar[bool] = True

    def declared(self, count: int) -> tuple[Shape, ...]:
        """Shapes of so many tops; none if it declares none."""
        shapes = self.shapes * count if len(self.shapes) == 1 else self.shapes
        if len(shapes) not in (0, count):
            raise NetError(f"declares {len(shapes)} shapes for {count} tops")
        return shapes

    def top_shapes(self, bottoms: Sequence[Shape], count: int) -> tuple[Shape, ...]:
        shapes = self.declared(count)
        if not shapes:
            raise NetError("declares no shape, and none was given")
        return shapes


@dataclass(frozen=True, slots=True)
class Parameter(Operation):
    """A blob as a top, whose memory it is: what writes over the top writes the blob, and who shares that by its name works
    with what was written last."""

    shape: Shape
    bottoms: ClassVar[Count] = (0, 0)
    shares_memory: ClassVar[bool] = True
    merges_rightly: ClassVar[bool] = True

    def top_shapes(self, bottoms: Sequence[Shape], count: int) -> tuple[Shape, ...]:
        return (self.shape,)

    def blob_shapes(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        return (self.shape,)


@dataclass(frozen=True, slots=True)
class Const(Operation):
    """A blob as a top. OpenCV's."""

    shape: Shape
    bottoms: ClassVar[Count] = (0, 0)
    large_blobs: ClassVar[int] = 1
    merges_rightly: ClassVar[bool] = True

    def top_shapes(self, bottoms: Sequence[Shape], count: int) -> tuple[Shape, ...]:
        return (self.shape,)

    def blob_shapes(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        return (self.shape,)


@dataclass(frozen=True, slots=True)
class DummyData(Operation):
    """Tops of these shapes that hold a number each; one shape or one number is that of all, no number is 0."""

    shapes: tuple[Shape, ...]
    values: tuple[float, ...] = ()
    bottoms: ClassVar[Count] = (0, 0)
    tops: ClassVar[Count] = ANY

    def filled(self, count: int) -> tuple[tuple[Shape, float], ...]:
        """The shape and the number of each of so many tops."""
        shapes = self.shapes * count if len(self.shapes) == 1 else self.shapes
        values = (self.values or (0.0,)) * (count if len(self.values) < 2 else 1)
        if len(shapes) != count or len(values) != count:
            raise NetError(f"declares {len(self.shapes)} shapes and {len(self.values)} fillers for {count} tops")
        return tuple(zip(shapes, values, strict=True))

    def top_shapes(self, bottoms: Sequence[Shape], count: int) -> tuple[Shape, ...]:
        return tuple(shape for shape, _ in self.filled(count))


@dataclass(frozen=True, slots=True)
class Split(Operation):
    """Every top is the bottom."""

    tops: ClassVar[Count] = ANY
    shares_memory: ClassVar[bool] = True

    def top_shapes(self, bottoms: Sequence[Shape], count: int) -> tuple[Shape, ...]:
        return (bottoms[0],) * count


@dataclass(frozen=True, slots=True)
class Silence(Operation):
    """Takes what nobody else does, and makes nothing."""

    bottoms: ClassVar[Count] = ANY
    tops: ClassVar[Count] = (0, 0)

    def top_shapes(self, bottoms: Sequence[Shape], count: int) -> tuple[Shape, ...]:
        return ()


@dataclass(frozen=True, slots=True)
class Dropout(Operation):
    """Nothing, but in training."""

    ratio: float = 0.5


@dataclass(frozen=True, slots=True)
class Flatten(Operation):
    """Axes from `axis` to `end_axis`, both included, become one."""

    axis: int = 1
    end_axis: int = -1
    shares_memory: ClassVar[bool] = True
    merges_rightly: ClassVar[bool] = True

    @property
    def stem(self) -> str:
        return "view"

    def top_shapes(self, bottoms: Sequence[Shape], count: int) -> tuple[Shape, ...]:
        shape = bottoms[0]
        start, end = axis_of(self.axis, len(shape)), axis_of(self.end_axis, len(shape)) + 1
        if start > end:
            raise NetError(f"flattens from axis {start} to axis {end - 1}")
        return ((*shape[:start], prod(shape[start:end]), *shape[end:]),)


@dataclass(frozen=True, slots=True)
class Reshape(Operation):
    """`num_axes` axes from `axis` on, all the rest if that is -1, get these sizes: 0 for the one that is there, -1 for what
    is left."""

    sizes: tuple[int, ...] = ()
    axis: int = 0
    num_axes: int = -1
    shares_memory: ClassVar[bool] = True
    merges_rightly: ClassVar[bool] = True

    @classmethod
    def to(cls, shape: Sequence[int], bottom: Sequence[int]) -> Reshape:
        """From one shape to another, whatever the size of the batch: the first axis is the bottom's, or what is left."""
        return cls((0 if shape[:1] == bottom[:1] else -1, *shape[1:]))

    def top_shapes(self, bottoms: Sequence[Shape], count: int) -> tuple[Shape, ...]:
        shape = bottoms[0]
        rank = len(shape)
        start = self.axis if self.axis >= 0 else rank + 1 + self.axis
        end = rank if self.num_axes == -1 else start + self.num_axes
        if not 0 <= start <= end <= rank:
            raise NetError(f"reshapes axes {start} to {end} of a bottom with {rank} axes")
        sizes = [_copied(shape, start + index) if size == 0 else size for index, size in enumerate(self.sizes)]
        if sizes.count(-1) > 1 or min(sizes, default=1) < -1:
            raise NetError(f"reshapes to {list(self.sizes)}: one -1 at most, and nothing below it")
        if -1 in sizes:
            sizes[sizes.index(-1)] = prod(shape[start:end]) // prod(size for size in sizes if size != -1)
        if prod(sizes) != prod(shape[start:end]):
            raise NetError(f"reshapes {list(shape[start:end])} to {list(self.sizes)}")
        return ((*shape[:start], *sizes, *shape[end:]),)


def _copied(shape: Shape, axis: int) -> int:
    if axis >= len(shape):
        raise NetError(f"copies axis {axis} of a bottom with {len(shape)} axes")
    return shape[axis]


@dataclass(frozen=True, slots=True)
class Permute(Operation):
    """Axis n of the top is axis order[n] of the bottom; those that the order leaves out come last: in the SSD family and
    OpenCV."""

    order: tuple[int, ...]
    merges_rightly: ClassVar[bool] = True

    def whole(self, rank: int) -> tuple[int, ...]:
        """The order of all axes."""
        if len(set(self.order)) != len(self.order) or any(axis >= rank for axis in self.order):
            raise NetError(f"orders {rank} axes as {list(self.order)}")
        return (*self.order, *(axis for axis in range(rank) if axis not in self.order))

    def top_shapes(self, bottoms: Sequence[Shape], count: int) -> tuple[Shape, ...]:
        return (tuple(bottoms[0][axis] for axis in self.whole(len(bottoms[0]))),)


@dataclass(frozen=True, slots=True)
class Rearrange(Operation):
    """The elements of a blob in another order and shape. Neutral: `passes.dialects` puts it into words.

    Attributes
    ----------
    blob : the bottom's shape
    atoms : factors of it, in row-major order
    order : of the atoms in the top
    shape : of the top
    """

    blob: Shape
    atoms: Shape
    order: tuple[int, ...]
    shape: Shape

    def top_shapes(self, bottoms: Sequence[Shape], count: int) -> tuple[Shape, ...]:
        return (self.shape,)


@dataclass(frozen=True, slots=True)
class Concat(Operation):
    """Bottoms one behind the other along an axis."""

    axis: int = 1
    bottoms: ClassVar[Count] = ANY
    merges_rightly: ClassVar[bool] = True

    def top_shapes(self, bottoms: Sequence[Shape], count: int) -> tuple[Shape, ...]:
        first = bottoms[0]
        axis = axis_of(self.axis, len(first))
        for bottom in bottoms:
            if len(bottom) != len(first) or along(bottom, axis, 0) != along(first, axis, 0):
                raise NetError(f"its bottoms {list(first)} and {list(bottom)} differ in more than axis {axis}")
        return (along(first, axis, sum(bottom[axis] for bottom in bottoms)),)

    def mixes_images(self, bottoms: Sequence[Shape]) -> bool:
        return axis_of(self.axis, len(bottoms[0])) == 0


@dataclass(frozen=True, slots=True)
class Slice(Operation):
    """Parts of the bottom along an axis, cut at these points, or into equal ones."""

    axis: int = 1
    points: tuple[int, ...] = ()
    tops: ClassVar[Count] = ANY
    merges_rightly: ClassVar[bool] = True

    def sizes(self, bottom: Shape, count: int) -> tuple[int, ...]:
        """Of so many parts, along the axis."""
        whole, points = bottom[axis_of(self.axis, len(bottom))], self.points
        if not points:
            if whole % count:
                raise NetError(f"slices {whole} into {count} tops")
            points = tuple(whole // count * index for index in range(1, count))
        sizes = tuple(end - start for start, end in pairwise((0, *points, whole)))
        if len(sizes) != count or min(sizes) < 1:
            raise NetError(f"slices {whole} at {list(points)} into {count} tops")
        return sizes

    def top_shapes(self, bottoms: Sequence[Shape], count: int) -> tuple[Shape, ...]:
        bottom = bottoms[0]
        sizes = self.sizes(bottom, count)
        return tuple(along(bottom, axis_of(self.axis, len(bottom)), size) for size in sizes)

    def mixes_images(self, bottoms: Sequence[Shape]) -> bool:
        return axis_of(self.axis, len(bottoms[0])) == 0


@dataclass(frozen=True, slots=True)
class Crop(Operation):
    """The part of the first bottom that has the second one's size, from `axis` on: from these offsets on, one for each axis,
    one for all, or none for 0."""

    axis: int = 2
    offsets: tuple[int, ...] = ()
    bottoms: ClassVar[Count] = (2, 2)
    merges_rightly: ClassVar[bool] = True

    def begin(self, bottom: Shape) -> tuple[int, ...]:
        """Where the part begins, for each axis of the bottom."""
        axis = axis_of(self.axis, len(bottom))
        count = len(bottom) - axis
        if len(self.offsets) not in (0, 1, count):
            raise NetError(f"gives {len(self.offsets)} offsets for {count} axes")
        return (0,) * axis + (self.offsets if len(self.offsets) == count else (self.offsets or (0,)) * count)

    def top_shapes(self, bottoms: Sequence[Shape], count: int) -> tuple[Shape, ...]:
        bottom, reference = bottoms
        begin = self.begin(bottom)
        if len(reference) < len(bottom):
            raise NetError(f"its bottom {list(bottom)} has more axes than its reference {list(reference)}")
        axis = axis_of(self.axis, len(bottom))
        top = (*bottom[:axis], *reference[axis : len(bottom)])
        for offset, size, whole in zip(begin, top, bottom, strict=True):
            if offset + size > whole:
                raise NetError(f"crops {list(bottom)} to {list(top)} from {list(begin)} on")
        return (top,)


@dataclass(frozen=True, slots=True)
class Tile(Operation):
    """The bottom so many times along an axis."""

    count: int
    axis: int = 1

    def __post_init__(self) -> None:
        if self.count < 1:
            raise NetError(f"asks for {self.count} tiles")

    def top_shapes(self, bottoms: Sequence[Shape], count: int) -> tuple[Shape, ...]:
        axis = axis_of(self.axis, len(bottoms[0]))
        return (along(bottoms[0], axis, bottoms[0][axis] * self.count),)

    def mixes_images(self, bottoms: Sequence[Shape]) -> bool:
        return axis_of(self.axis, len(bottoms[0])) == 0
