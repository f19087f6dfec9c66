"""Sequences, step by step: what is made of one step goes into the next.

Bottoms and tops are (steps, batch, numbers). A recurrence multiplies what comes in by one matrix and its own last state by
another; the rows of both are those of its gates, one block of `outputs` rows each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar

from ...errors import NetError
from .operation import ONE, Count, Operation, Shape, check_method

GATES: Mapping[str, int] = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
"""Blocks of rows of each kind: in PyTorch i, f, g, o, and r, z, n."""


@dataclass(frozen=True, slots=True)
class _Sequential(Operation):
    outputs: int
    bottoms: ClassVar[Count] = (1, 4)
    tops: ClassVar[Count] = (1, 3)

    def __post_init__(self) -> None:
        if self.outputs < 1:
            raise NetError(f"has {self.outputs} outputs")

    def mixes_images(self, bottoms: Sequence[Shape]) -> bool:
        return True  # the first axis is steps

    def _sizes(self, bottoms: Sequence[Shape]) -> tuple[int, int, int]:
        """Steps, batch, and numbers that come in."""
        steps, batch, *numbers = bottoms[0] if len(bottoms[0]) > 1 else (0, 0)
        if not steps:
            raise NetError(f"its bottom has shape {list(bottoms[0])}, it has to be steps, batch and numbers")
        return steps, batch, prod(numbers)

    def _products(self, bottoms: Sequence[Shape], gates: int) -> int:
        steps, batch, inputs = self._sizes(bottoms)
        return steps * batch * gates * self.outputs * (inputs + self.outputs)


@dataclass(frozen=True, slots=True)
class LSTM(_Sequential):
    """Rows of gates in the order i, f, o, g.

    Caffe's has a second bottom (steps, batch), by which the last state is multiplied before each step, and blobs for what
    comes in, the bias, and the state. If `exposes_states`, bottoms and tops go on with states and cells (1, batch, outputs).
    OpenCV's has one bottom, and blobs for the state, what comes in, the bias, the first state and the first cell.
    """

    is_reversed: bool = False
    exposes_states: bool = False
    large_blobs: ClassVar[int] = 3

    def top_shapes(self, bottoms: Sequence[Shape], count: int) -> tuple[Shape, ...]:
        steps, batch, _ = self._sizes(bottoms)
        wanted = 4 if self.exposes_states else 2 - self.is_reversed
        if len(bottoms) not in {1, wanted} or count != (3 if self.exposes_states else 1):
            raise NetError(f"has {len(bottoms)} bottoms and {count} tops")
        if len(bottoms) > 1 and bottoms[1] != (steps, batch):
            raise NetError(f"its second bottom has shape {list(bottoms[1])}, it has to be {[steps, batch]}")
        state = (1, batch, self.outputs)
        if any(bottom != state for bottom in bottoms[2:]):
            raise NetError(f"its states have shapes {list(map(list, bottoms[2:]))}, they have to be {list(state)}")
        return ((steps, batch, self.outputs), state, state)[:count]

    def blob_shapes(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        _, batch, inputs = self._sizes(bottoms)
        rows, state = 4 * self.outputs, (batch, self.outputs)
        if len(bottoms) > 1:
            return (rows, inputs), (rows,), (rows, self.outputs)
        return (rows, self.outputs), (rows, inputs), (rows,), state, state

    def multiply_adds(self, bottoms: Sequence[Shape], blobs: Sequence[Shape]) -> int:
        return self._products(bottoms, 4)


@dataclass(frozen=True, slots=True)
class GRU(_Sequential):
    """OpenCV's: rows of gates in the order z, r, n; blobs for the state, what comes in, both biases, and the first state."""

    bottoms: ClassVar[Count] = ONE
    tops: ClassVar[Count] = ONE
    large_blobs: ClassVar[int] = 2

    def top_shapes(self, bottoms: Sequence[Shape], count: int) -> tuple[Shape, ...]:
        steps, batch, _ = self._sizes(bottoms)
        return ((steps, batch, self.outputs),)

    def blob_shapes(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        _, batch, inputs = self._sizes(bottoms)
        rows = 3 * self.outputs
        return (rows, self.outputs), (rows, inputs), (2 * rows,), (batch, self.outputs)

    def multiply_adds(self, bottoms: Sequence[Shape], blobs: Sequence[Shape]) -> int:
        return self._products(bottoms, 3)


@dataclass(frozen=True, slots=True)
class Recurrent(_Sequential):
    """One layer of PyTorch's nn.LSTM, nn.GRU or nn.RNN in one direction. Neutral: `passes.recurrence` puts it into words.

    Blobs are PyTorch's: for what comes in, for the state, and a bias for each if `has_bias`. Behind the sequence, bottoms are
    the first state (1, batch, outputs), zeros if there is none, and of an LSTM the first cell.

    Attributes
    ----------
    kind : one of GATES
    blob : the first bottom's shape
    is_reversed : whether the last step comes first; the top has them in the bottom's order
    makes : what its tops are: "steps", all of them; "state", after the step that comes last; "cell"
    """

    kind: str
    blob: Shape
    is_reversed: bool = False
    has_bias: bool = True
    makes: tuple[str, ...] = ("steps",)
    bottoms: ClassVar[Count] = (1, 3)

    def __post_init__(self) -> None:
        check_method(self.kind, list(GATES))

    def top_shapes(self, bottoms: Sequence[Shape], count: int) -> tuple[Shape, ...]:
        steps, batch, _ = self.blob
        return tuple((steps if made == "steps" else 1, batch, self.outputs) for made in self.makes)

    def blob_shapes(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        rows = GATES[self.kind] * self.outputs
        return (rows, self.blob[2]), (rows, self.outputs), *((rows,) * 2 if self.has_bias else ())

    def multiply_adds(self, bottoms: Sequence[Shape], blobs: Sequence[Shape]) -> int:
        return self._products([self.blob], GATES[self.kind])
