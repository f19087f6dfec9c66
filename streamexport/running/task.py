"""What a layer is given to compute with: its bottoms, and its weights, a buffer at a time.

torch is imported at the top: whoever imports this module is about to compute.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..net.graph import Blob
from ..net.operations import Shape
from ..payload.tensors import FLOAT32

WEIGHTS = 6 << 20
"""Weights held at a time. Fewer cost time: a matrix product per piece has to be worth its start."""
MADE = 2 << 20
"""Elements of a top made at a time, beside the top: torch's convolution takes three times their memory."""
CAST = 1 << 18
"""Elements of other types that are converted at a time."""

Values = np.ndarray[Any, np.dtype[np.float32]]


class Buffer:
    """Memory for weights that is used again and again."""

    def __init__(self) -> None:
        self._values = empty((WEIGHTS,))

    def part(self, count: int) -> Tensor:
        """Room for so many weights: more than WEIGHTS only where a single row has more."""
        if count > len(self._values):
            self._values = empty((count,))
        return self._values[:count]


class Parameters:
    """The blobs of one layer, read when asked for, in the shapes that the layer expects."""

    def __init__(self, blobs: Sequence[Blob], shapes: Sequence[Shape], buffer: Buffer) -> None:
        self._blobs, self._shapes, self._buffer = blobs, shapes, buffer

    def __len__(self) -> int:
        return len(self._blobs)

    def shape(self, index: int) -> Shape:
        return self._shapes[index]

    def whole(self, index: int) -> Tensor:
        """A small blob."""
        values: Values = np.empty(self._blobs[index].count, np.float32)
        _read(self._blobs[index], 0, values)
        return torch.from_numpy(values).view(self._shapes[index])

    def rows(self, unit: int, made: int, index: int = 0) -> Iterator[tuple[int, int, Tensor]]:
        """A blob in pieces along its first axis: (first, last, what lies between), each valid until the next.

        A piece is either a number of whole units (of `unit` rows) or a part of one. Of a row `made` elements are made.
        """
        blob, shape = self._blobs[index], self._shapes[index]
        row = prod(shape[1:])
        most = max(1, min(WEIGHTS // row, MADE // made))
        block = max(1, most // unit) * unit
        for start in range(0, shape[0], block):
            stop = min(start + block, shape[0])
            for first in range(start, stop, most):
                last = min(first + most, stop)
                values = self._buffer.part((last - first) * row)
                _read(blob, first * row, values.numpy())
                yield first, last, values.view(last - first, *shape[1:])


@dataclass(frozen=True, slots=True)
class Task:
    """What a layer is to work on, and the shapes of what it is to make; `is_spare` if nothing needs the first bottom
    afterwards."""

    bottoms: Sequence[Tensor]
    tops: Sequence[Shape]
    parameters: Parameters
    is_spare: bool = False

    @property
    def bottom(self) -> Tensor:
        return self.bottoms[0]

    @property
    def top(self) -> Shape:
        return self.tops[0]

    def taken(self) -> Tensor:
        """The first bottom's elements, to be overwritten: memory that is not asked for need not be found and cleared."""
        return self.bottom if self.is_spare else empty(self.bottom.shape).copy_(self.bottom)


def empty(shape: Shape) -> Tensor:
    """Memory for a top, straight from the system and straight back to it.

    malloc keeps some of what is freed, and the next top does not fit between what is still in use: the largest ResNeXt
    took up to 25 MiB more, and each time another amount.
    """
    memory = mmap.mmap(-1, FLOAT32.itemsize * prod(shape), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(memory, dtype=torch.float32).view(shape)


def _read(blob: Blob, first: int, into: Values) -> None:
    """Elements of a blob from `first` on, as float32."""
    size = blob.dtype.itemsize
    if blob.dtype == FLOAT32:
        blob.values.render(first * size, (first + len(into)) * size, into.data.cast("B"))
        return
    for start in range(0, len(into), CAST):
        part = into[start : start + CAST]
        stored: np.ndarray[Any, np.dtype[Any]] = np.empty(len(part), blob.dtype.code)
        at = (first + start) * size
        blob.values.render(at, at + stored.nbytes, stored.data.cast("B"))
        part[:] = stored
