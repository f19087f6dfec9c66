"""Constants of too many elements to be held: made of the checkpoint's tensors block by block, as they are written.

A normalised weight is a function of each of its elements and of few numbers that many have part in: means, deviations and
norms of its rows, a largest singular value. Those are summed up first, in float64, in a pass or two over the tensor; then
elements are computed as they pass. What torch calls pointwise is made so, sums and norms of it are, and views. Blocks begin at
multiples of their size, wherever a range begins: so the same bits come out, whoever writes the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from threading import local
from typing import TYPE_CHECKING, Any, Protocol

from ..payload.pieces import Extent, Source
from ..payload.tensors import FLOAT32, Computed, boxes
from .views import Shape

if TYPE_CHECKING:
    import torch

    from ..payload.tensors import Array

BLOCK = 1 << 16
"""Elements that are computed at a time: 256 KiB."""


class Elements(Protocol):
    """The elements of a constant in row-major order, made range by range."""

    @property
    def sources(self) -> tuple[Source, ...]: ...

    def extents(self, first: int, last: int) -> Sequence[Extent]: ...

    def values(self, first: int, last: int) -> torch.Tensor:
        """Elements [first, last), one-dimensional; or one number that all of them are."""


@dataclass(frozen=True, slots=True)
class Lying:
    """What lies in the checkpoint."""

    where: Computed

    @property
    def sources(self) -> tuple[Source, ...]:
        return self.where.sources

    def extents(self, first: int, last: int) -> Sequence[Extent]:
        return self.where.extents(first, last)

    def values(self, first: int, last: int) -> torch.Tensor:
        import torch

        return torch.from_numpy(self.where.elements(first, last).astype("f4", copy=False))


@dataclass(frozen=True, slots=True)
class Repeated:
    """A few numbers, repeated to a shape."""

    few: Array
    shape: Shape

    @property
    def sources(self) -> tuple[Source, ...]:
        return ()

    def extents(self, first: int, last: int) -> Sequence[Extent]:
        return ()

    def values(self, first: int, last: int) -> torch.Tensor:
        import numpy as np
        import torch

        if self.few.size == 1:
            return torch.from_numpy(self.few.reshape(()))
        return torch.from_numpy(np.broadcast_to(self.few, self.shape).flat[first:last])


@dataclass(frozen=True, slots=True)
class Applied:
    """An operator of torch's, by its name and overload, that works on elements; among its arguments are `Elements`."""

    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @property
    def operands(self) -> Iterator[Elements]:
        return (arg for arg in (*self.args, *self.kwargs.values()) if isinstance(arg, (Lying, Repeated, Applied)))

    @property
    def sources(self) -> tuple[Source, ...]:
        return tuple(dict.fromkeys(source for operand in self.operands for source in operand.sources))

    def extents(self, first: int, last: int) -> Sequence[Extent]:
        return [extent for operand in self.operands for extent in operand.extents(first, last)]

    def values(self, first: int, last: int) -> torch.Tensor:
        def of(arg: Any) -> Any:
            return arg.values(first, last) if isinstance(arg, (Lying, Repeated, Applied)) else arg

        made: torch.Tensor = _function(self.name)(*map(of, self.args), **{k: of(arg) for k, arg in self.kwargs.items()})
        return made


@cache
def _function(name: str) -> Callable[..., Any]:
    import torch

    packet, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, packet), overload or "default")  # type: ignore[no-any-return]


class Streamed(Computed):
    """The bytes of a blob of such elements."""

    dtype = FLOAT32

    def __init__(self, made: Elements, count: int, name: str) -> None:
        self.made, self.count, self.name = made, count, name

    @property
    def sources(self) -> tuple[Source, ...]:
        return self.made.sources

    def extents(self, first: int, last: int) -> Sequence[Extent]:
        return self.made.extents(first // BLOCK * BLOCK, min(-(-last // BLOCK) * BLOCK, self.count))

    def elements(self, first: int, last: int) -> Array:
        import numpy as np

        array = np.empty(last - first, self.dtype.code)
        for begin in range(first // BLOCK * BLOCK, last, BLOCK):
            block = self._block(begin)
            start, stop = max(first, begin), min(last, begin + BLOCK)
            array[start - first : stop - first] = block[start - begin : stop - begin]
        return array

    def _block(self, begin: int) -> Array:
        """The block that begins there, which is kept until a thread wants another one."""
        if _last.block is None or _last.block[:2] != (self, begin):
            size = min(BLOCK, self.count - begin)
            _last.block = self, begin, self.made.values(begin, begin + size).float().expand(size).numpy()
        return _last.block[2]


class _Last(local):
    block: tuple[Streamed, int, Array] | None = None


_last = _Last()

Combine = Callable[["Array", "Array"], "Array"]


def reduced(made: Elements, shape: Shape, dims: Sequence[int], of: Callable[[Array], Array], method: str) -> Array:
    """The sum (`add`), `maximum` or `minimum` of a function of the elements over dimensions, which become 1; in float64."""
    import numpy as np

    ufunc: Any = getattr(np, method)
    few = tuple(1 if dim in dims else size for dim, size in enumerate(shape))
    total = np.full(few, {"add": 0.0, "maximum": -np.inf, "minimum": np.inf}[method])
    for first in range(0, prod(shape), BLOCK):
        last = min(first + BLOCK, prod(shape))
        values, at = made.values(first, last).expand(last - first).numpy().astype("f8"), 0
        for corner, box in boxes(shape, first, last):
            part = of(values[at : at + prod(box)].reshape(box))
            at += prod(box)
            place = tuple(
                slice(0, 1) if dim in dims else slice(low, low + size)
                for dim, (low, size) in enumerate(zip(corner, box, strict=True))
            )
            total[place] = ufunc(total[place], ufunc.reduce(part, axis=tuple(dims), keepdims=True))
    return total
