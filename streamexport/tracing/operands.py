"""What operators of torch's compute with while a net is made: values of layers, and constants.

A `Value` is the top of a layer, seen through a `View`; a `Constant` is made of parameters and of numbers alone, and becomes
a blob, or a number in a layer's parameters. What cannot be expressed exactly is refused by `UnsupportedError`; the caller
says where.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from ..payload.tensors import Tensor
from .views import Shape, View

if TYPE_CHECKING:
    import torch

    from .streams import Elements

SMALL = 1 << 26
"""Elements of a constant that is computed while the net is traced, and of each parameter that it is computed from: 256 MiB."""
LARGE = 1 << 16
"""Elements of one that is not computed as a whole, where it can be made in parts: 256 KiB."""
KEPT = 1 << 20
"""Elements of the largest one that is kept until what is computed from it is: 4 MiB."""
BAKED = (
    "compute it once and save that: torch.nn.utils.remove_weight_norm(module),"
    " torch.nn.utils.parametrize.remove_parametrizations(module, 'weight')"
)


class UnsupportedError(Exception):
    """Nothing here computes this with Caffe's layers. `advice` is what would work."""

    def __init__(self, what: str, advice: str | None = None) -> None:
        super().__init__(what)
        self.what, self.advice = what, advice


@dataclass(frozen=True, slots=True)
class Label:
    """What a node's layers are called after.

    Attributes
    ----------
    name : the module's path, or that of the module around it and the name of the function, numbered where several share it
    node : which one it is, by the graph's own name
    """

    name: str
    node: str = ""


@dataclass(frozen=True, slots=True)
class Value:
    """What a layer makes: a top, the shape of its blob, and how torch's dimensions are made of it.

    Attributes
    ----------
    padding : zeros that are to stand around the last two dimensions and do not yet: top, bottom, left, right
    label : what a layer is called that makes the view contiguous
    """

    top: str
    blob: Shape
    view: View
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    label: Label | None = None

    @property
    def shape(self) -> Shape:
        """As torch says."""
        above, below, left, right = self.padding
        if not any(self.padding):
            return self.view.shape
        *rest, height, width = self.view.shape
        return (*rest, above + height + below, left + width + right)


@dataclass(frozen=True, slots=True)
class Constant:
    """A tensor that depends on no input: a parameter or buffer, or computed from some.

    Attributes
    ----------
    origin : the state-dict names that it is made from
    tensor : where it lies, for a parameter or buffer of the checkpoint
    compute : makes it; only for small ones
    made : how it is made in parts, if it is large and computed
    """

    shape: Shape
    origin: tuple[str, ...]
    tensor: Tensor | None
    compute: Callable[[], torch.Tensor]
    made: Callable[[], Elements] | None = None

    @property
    def count(self) -> int:
        return prod(self.shape)

    def value(self) -> torch.Tensor:
        """Its elements. UnsupportedError if they are too many to be held."""
        if self.count > SMALL:
            what = (
                f"computes with {', '.join(self.origin) or 'a constant'} of {self.count} elements, {SMALL} are the most"
            )
            raise UnsupportedError(what, BAKED)
        with evaluation() as known:
            if self.compute in known:
                return known[self.compute]
            made = self.compute() if self.made is None else self.made().values(0, self.count)
            made = made if self.made is None else made.expand(self.count).reshape(self.shape)
            if self.count <= KEPT:
                known[self.compute] = made
            return made

    def number(self) -> float:
        """The only element."""
        return float(self.value().reshape(()))

    def mapped(self, shape: Shape, function: Callable[[torch.Tensor], torch.Tensor]) -> Constant:
        """What a function makes of it, which has this shape; computed when somebody asks."""
        return Constant(shape, self.origin, None, lambda: function(self.value()))


_known: ContextVar[dict[Callable[[], torch.Tensor], torch.Tensor] | None] = ContextVar("known", default=None)


@contextmanager
def evaluation() -> Iterator[dict[Callable[[], torch.Tensor], torch.Tensor]]:
    """What is known while one constant is computed, of those that it is computed from: many have several ways to one, and
    each way would compute it anew (the masks of shifted windows took millions of times)."""
    known = _known.get()
    if known is not None:
        yield known
        return
    token = _known.set(known := {})
    try:
        yield known
    finally:
        _known.reset(token)


Operand = Value | Constant | float
