"""Values whose dimensions torch has turned, worked on as their blobs have them.

Where nothing but the order of dimensions differs from the blob's, an operator that works along some of them finds them there:
sequences that come first, channels that come last, and a batch that is anywhere. `arrange` gives it the blob's order and says
which dimension is where; what it makes is seen in torch's order again by `Arranged.back`, and no layer turns anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from .node import Scope
from .operands import Constant, Operand, Value
from .views import Shape, View

LEAD = -1
"""A batch of one in front, which torch does not have there."""


@dataclass(frozen=True, slots=True)
class Arranged:
    """A contiguous value.

    Attributes
    ----------
    order : dimension n of `value` is torch's dimension order[n], or LEAD
    """

    value: Value
    order: tuple[int, ...]

    @property
    def is_turned(self) -> bool:
        return self.order != tuple(range(len(self.order)))

    def axis(self, dim: int) -> int:
        """Where torch's dimension is."""
        return self.order.index(dim % (len(self.order) - self.order.count(LEAD)))

    def back(self, made: Value) -> Value:
        """What was made of it, and has as many dimensions, in torch's order."""
        if not self.is_turned:
            return made
        dims = sorted((dim, place) for place, dim in enumerate(self.order) if dim != LEAD)
        return replace(made, view=made.view.permuted([place for _, place in dims]))

    def turned(self, constant: Constant) -> Constant:
        """A constant of as many dimensions as torch has, in the order of the value's."""
        order = [dim for dim in self.order if dim != LEAD]
        shape = tuple(1 if dim == LEAD else constant.shape[dim] for dim in self.order)
        if sum(size != 1 for size in shape) < 2 or order == sorted(order):
            return replace(constant, shape=shape)
        own = constant.shape
        return constant.mapped(shape, lambda values: values.reshape(own).permute(order).reshape(shape))

    def image(self, scope: Scope, axis: int) -> Value:
        """It with one of its dimensions as the channels of images."""
        before, size, behind = self.value.shape[:axis], self.value.shape[axis], self.value.shape[axis + 1 :]
        pixels = behind if len(behind) == 2 else (1, prod(behind))
        return scope.reshaped(self.value, (prod(before), size, *pixels))

    def of_image(self, image: Value, axis: int) -> Value:
        """What was made of `image`, in torch's order."""
        shape = self.value.shape
        made = (*shape[:axis], image.blob[1], *shape[axis + 1 :])
        return self.back(replace(image, view=View.of(made)))


def arrange(scope: Scope, x: Operand, dims: Sequence[int]) -> Arranged:
    """A value as its blob has it, to be worked on along these dimensions; if it cannot be so, made contiguous."""
    x = scope.activation(x)
    order = _natural(x)
    if order is None:
        x, order = scope.contiguous(x), tuple(range(len(x.shape)))
    if order != tuple(range(len(order))):
        x = replace(x, view=x.view.permuted(order), label=None)
    found = Arranged(x, order)
    if any(found.axis(dim) == 0 and x.shape[0] != 1 for dim in dims):
        return Arranged(replace(x, view=View(x.view.atoms, ((), *x.view.dims))), (LEAD, *order))
    return found


def arrange_alike(scope: Scope, values: Sequence[Operand]) -> list[Arranged]:
    """Values as their blobs have them, where all have the same order; else made contiguous.

    Those of fewer dimensions than others get theirs in front, of size 1, as torch broadcasts them.
    """
    given = [scope.activation(x) for x in values]
    rank = max(len(x.shape) for x in given)
    given = [_of_rank(x, rank) for x in given]
    for order in filter(None, map(_natural, given)):
        views = [x.view.permuted(order) for x in given]
        if all(view.is_contiguous for view in views):
            is_turned = order != tuple(range(rank))
            turned = [
                replace(x, view=view, label=None) if is_turned else x for x, view in zip(given, views, strict=True)
            ]
            return [Arranged(x, order) for x in turned]
    return [Arranged(scope.contiguous(x), tuple(range(rank))) for x in given]


def _natural(x: Value) -> tuple[int, ...] | None:
    """The order of dimensions in which a value is contiguous; None if there is none.

    Dimensions of size 1 may be anywhere; where the blob's batch is one of them, they come first.
    """
    dims = x.view.dims
    if x.view.is_contiguous:
        return tuple(range(len(dims)))
    ones = [dim for dim, atoms in enumerate(dims) if not atoms]
    others = sorted((dim for dim, atoms in enumerate(dims) if atoms), key=lambda dim: dims[dim][0])
    order = (*ones, *others) if x.blob[0] == 1 else (*others, *ones)
    return order if x.view.permuted(order).is_contiguous else None


def _of_rank(x: Value, rank: int) -> Value:
    shape: Shape = (1,) * (rank - len(x.shape)) + x.shape
    return x if shape == x.shape else replace(x, view=x.view.squeezed(shape))
