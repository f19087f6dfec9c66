"""Functions of every element, and of the elements of several bottoms that stand at the same place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log
from typing import ClassVar

from ...errors import NetError
from .operation import ANY, Merge, Operation, Pointwise, Shape, check_method


@dataclass(frozen=True, slots=True)
class AbsVal(Pointwise):
    writes_in_place: ClassVar[bool] = False  # Caffe refuses it


@dataclass(frozen=True, slots=True)
class BNLL(Pointwise):
    """log(1 + e^x)"""


@dataclass(frozen=True, slots=True)
class Clip(Pointwise):
    """Between two limits. BVLC master has it; `passes.dialects` composes it for the others."""

    low: float
    high: float
    merges_rightly: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class ELU(Pointwise):
    """x where it is positive, else alpha (e^x - 1)."""

    alpha: float = 1.0


@dataclass(frozen=True, slots=True)
class Gelu(Pointwise):
    """x times the share of a normal distribution below x. OpenCV has it; `passes.dialects` composes it for the others."""


@dataclass(frozen=True, slots=True)
class _OfBase(Pointwise):
    """Of shift + scale x, to a base; -1 is e."""

    base: float = -1.0
    scale: float = 1.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        if self.base != -1 and self.base <= 0:
            raise NetError(f"its base is {self.base:g}, it has to be positive, or -1 for e")

    @property
    def logarithm(self) -> float:
        """Of the base, the natural one."""
        return 1.0 if self.base == -1 else log(self.base)


@dataclass(frozen=True, slots=True)
class Exp(_OfBase):
    """base ^ (shift + scale x)"""


@dataclass(frozen=True, slots=True)
class Log(_OfBase):
    """The logarithm of shift + scale x."""

    def __post_init__(self) -> None:
        _OfBase.__post_init__(self)
        if self.base == 1:
            raise NetError("its base is 1")


@dataclass(frozen=True, slots=True)
class Power(Pointwise):
    """(shift + scale x) ^ power"""

    power: float = 1.0
    scale: float = 1.0
    shift: float = 0.0

    def merged_as(self, bottoms: int) -> Merge | None:
        return Merge.FACTOR if self.power == 1 else Merge.ACTIVATION

    def may_merge(self, what: Merge, rank: Callable[[], int]) -> bool:
        """One that raises to a power takes in factors, unless it adds something first."""
        return what == Merge.ACTIVATION or self.power == 1 or self.shift != 0


@dataclass(frozen=True, slots=True)
class PReLU(Pointwise):
    """x where it is positive, else x times a number of its channel, or one for all."""

    is_shared: bool = False

    def blob_shapes(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if len(bottoms[0]) < 2:
            raise NetError(f"its bottom has shape {list(bottoms[0])}, without channels")
        return (() if self.is_shared else (bottoms[0][1],),)

    def merged_as(self, bottoms: int) -> Merge | None:
        return Merge.CHANNELS


@dataclass(frozen=True, slots=True)
class ReLU(Pointwise):
    """x where it is positive, else x times the slope."""

    slope: float = 0.0


@dataclass(frozen=True, slots=True)
class ReLU6(Pointwise):
    """Between 0 and 6: in the SSD family and OpenCV."""


@dataclass(frozen=True, slots=True)
class Sigmoid(Pointwise):
    """1 / (1 + e^-x)"""


@dataclass(frozen=True, slots=True)
class TanH(Pointwise):
    pass


@dataclass(frozen=True, slots=True)
class Threshold(Pointwise):
    """1 where x is larger than the threshold, else 0. OpenCV has none; `passes.dialects` composes it."""

    threshold: float = 0.0


@dataclass(frozen=True, slots=True)
class Eltwise(Operation):
    """The PROD, SUM or MAX of bottoms of the same shape; of a SUM each may have a coefficient."""

    method: str = "SUM"
    coefficients: tuple[float, ...] = ()
    bottoms: ClassVar[tuple[float, float]] = (2, ANY[1])

    def __post_init__(self) -> None:
        check_method(self.method, ("PROD", "SUM", "MAX"))

    @property
    def stem(self) -> str:
        return "add"

    def top_shapes(self, bottoms: Sequence[Shape], count: int) -> tuple[Shape, ...]:
        if any(bottom != bottoms[0] for bottom in bottoms):
            raise NetError(f"its bottoms differ in shape: {', '.join(str(list(bottom)) for bottom in bottoms)}")
        if self.coefficients and (self.method == "PROD" or len(self.coefficients) != len(bottoms)):
            what = f"the {self.method} of {len(bottoms)} bottoms"
            raise NetError(f"gives {len(self.coefficients)} coefficients for {what}")
        return (bottoms[0],)

    def may_merge(self, what: Merge, rank: Callable[[], int]) -> bool:
        return what != Merge.CHANNELS or rank() == 4
