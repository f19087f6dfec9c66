"""Along one dimension, how each element of a resized image is made of those of the given one: rows of a matrix.

`size` elements become `wanted`. Where a factor was asked for, torch computes with that, not with the sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import floor

from ...net.kernels import Row
from ..operands import UnsupportedError

Matrix = Sequence[Row]


def nearest(size: int, wanted: int, factor: float | None, middle: float = 0) -> list[int]:
    """Which element each one is, computed in float32 as torch does."""
    import numpy as np

    step = np.float32(1 / factor) if factor else np.float32(size) / np.float32(wanted)
    picked = [min(floor(np.float32(place + middle) * step), size - 1) for place in range(wanted)]
    if middle:
        return picked
    # Of the same or twice the size, small images are repeated whatever the factor, large ones are not.
    if wanted in (size, 2 * size) and picked != [place * size // wanted for place in range(wanted)]:
        raise UnsupportedError(f"resizes {size} by {factor}, which torch does in two ways", "give it the size instead")
    return picked


def picking(places: Sequence[int]) -> Matrix:
    return [(place, (1.0,)) for place in places]


def linear(size: int, wanted: int, align_corners: bool, factor: float | None) -> Matrix | None:
    if size == wanted:  # torch then copies, whatever the factor
        return None
    if align_corners:
        step = (size - 1) / (wanted - 1) if wanted > 1 else 0.0
        places = [place * step for place in range(wanted)]
    else:
        step = 1 / factor if factor else size / wanted
        places = [max((place + 0.5) * step - 0.5, 0.0) for place in range(wanted)]
    return [_between(place, size) for place in places]


def _between(place: float, size: int) -> Row:
    """Shares of two neighbours."""
    first = min(floor(place), size - 1)
    share = place - first
    return first, ((1 - share, share) if first + 1 < size else (1 - share + share,))


def cubic(size: int, wanted: int, align_corners: bool, factor: float | None) -> Matrix:
    """Four neighbours of each place, by Keys' cubic; those outside are the element at the edge."""
    step = _step(size, wanted, align_corners, factor)
    matrix = []
    for place in range(wanted):
        at = place * step if align_corners else (place + 0.5) * step - 0.5
        shares: dict[int, float] = {}
        for neighbour in range(floor(at) - 1, floor(at) + 3):
            inside = min(max(neighbour, 0), size - 1)
            shares[inside] = shares.get(inside, 0.0) + keys(at - neighbour, -0.75)
        matrix.append((min(shares), tuple(shares.values())))
    return matrix


def _step(size: int, wanted: int, align_corners: bool, factor: float | None) -> float:
    return (size - 1) / max(wanted - 1, 1) if align_corners else 1 / factor if factor else size / wanted


def keys(distance: float, a: float) -> float:
    """Keys' cubic convolution kernel."""
    x = abs(distance)
    if x <= 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0.0


def tent(distance: float) -> float:
    return max(0.0, 1 - abs(distance))


def antialiased(
    reach: int, kernel: Callable[[float], float]
) -> Callable[[int, int, bool, float | None], Matrix | None]:
    """A kernel that reaches so far, as much wider as the image becomes smaller; its weights add up to 1."""

    def matrix(size: int, wanted: int, align_corners: bool, factor: float | None) -> Matrix | None:
        if size == wanted:
            return None
        step = _step(size, wanted, align_corners, factor)
        width = max(step, 1.0)
        made = []
        for place in range(wanted):
            middle = step * (place + 0.5)
            first = max(int(middle - reach * width + 0.5), 0)
            last = min(int(middle + reach * width + 0.5), size)
            weights = [kernel((at - middle + 0.5) / width) for at in range(first, last)]
            total = sum(weights)
            made.append((first, [weight / total for weight in weights]))
        return made

    return matrix
