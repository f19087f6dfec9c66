"""nn.LSTM, nn.GRU and nn.RNN, each layer and direction a `Recurrent`; and their cells, which are recurrences of one step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ...net.graph import Blob
from ...net.operations import Concat, Recurrent, Slice
from ...net.operations.recurrent import GATES
from ..node import Node, Scope
from ..operands import Constant, Operand, UnsupportedError, Value
from ..views import View
from .registry import operator
from .shapes import activations


@dataclass(frozen=True, slots=True)
class _Stack:
    """Layers of one kind upon each other, each of one or two directions.

    Attributes
    ----------
    weights : by layer and direction: for what comes in, for the state, and their biases, if there are any
    wanted : which of "steps", "state" and "cell" are used
    """

    scope: Scope
    kind: str
    layers: int
    directions: int
    weights: Sequence[Sequence[Blob]]
    wanted: Sequence[str]

    def made(self, x: Value, states: Sequence[Value]) -> dict[str, Value]:
        """Of a sequence (steps, batch, numbers) what is wanted: steps, and states and cells of all layers."""
        given = self._by_layer(states)
        found: dict[str, list[Value]] = {name: [] for name in self.wanted if name != "steps"}
        for layer in range(self.layers):
            places = range(layer * self.directions, (layer + 1) * self.directions)
            names = self.wanted if layer == self.layers - 1 else ["steps", *found]
            tops = [self._one(x, place, given[place], names) for place in places]
            for name, values in found.items():
                values += [top[name] for top in tops]
            if "steps" in names:
                x = self._beside([top["steps"] for top in tops], 2, f"l{layer}")
        stacked = {name: self._upon_each_other(values, name) for name, values in found.items()}
        return {"steps": x, **stacked} if "steps" in self.wanted else stacked

    def _one(self, x: Value, place: int, states: Sequence[Value], names: Sequence[str]) -> dict[str, Value]:
        layer, is_reversed = divmod(place, self.directions)
        part = f"l{layer}{'_reverse' * is_reversed}" if len(self.weights) > 1 else ""
        return recurrent(self.scope, self.kind, x, states, self.weights[place], names, bool(is_reversed), part)

    def _by_layer(self, states: Sequence[Value]) -> list[list[Value]]:
        count = len(self.weights)
        given = [self.scope.reshaped(state, state.shape) for state in states]
        if count > 1:
            cut = [
                self.scope.layers(Slice(0, tuple(range(1, count))), [state], count, part="states") for state in given
            ]
        else:
            cut = [[state] for state in given]
        return [[parts[place] for parts in cut] for place in range(count)]

    def _upon_each_other(self, values: Sequence[Value], part: str) -> Value:
        """States, or cells, (1, batch, numbers) each. A batch of one stays in front: it may become larger."""
        if len(values) == 1 or values[0].blob[1] > 1:
            return self._beside(values, 0, part)
        made = self._beside(values, 1, part)
        return replace(made, view=View.of(made.blob).permuted((1, 0, 2)))

    def _beside(self, values: Sequence[Value], axis: int, part: str) -> Value:
        return values[0] if len(values) == 1 else self.scope.layer(Concat(axis), values, part=part)


def _of_sequences(kind: str) -> Callable[..., list[Value | None]]:
    def expressed(
        node: Node,
        x: Operand,
        hx: Operand | Sequence[Operand],
        params: Sequence[Operand],
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> list[Value | None]:
        each, directions = 4 if has_biases else 2, 1 + bidirectional
        if train and dropout and num_layers > 1:
            raise UnsupportedError("drops values at random", "call eval() first")
        if len(params) != each * num_layers * directions:
            raise UnsupportedError("projects its states (proj_size)")
        blobs = [node.blob(weight) for weight in params]
        weights = [blobs[start : start + each] for start in range(0, len(blobs), each)]
        names = ("steps", "state", "cell")[: len(node.shapes)]
        wanted = [name for place, name in enumerate(names) if place in node.used]
        sequence, states = _activations(node, x, hx)
        if batch_first:
            sequence = replace(sequence, view=sequence.view.permuted((1, 0, 2)))
        made = _Stack(node, kind, num_layers, directions, weights, wanted).made(sequence, states)
        if batch_first and "steps" in made:
            made["steps"] = replace(made["steps"], view=made["steps"].view.permuted((1, 0, 2)))
        return [made.get(name) for name in names]

    return expressed


def _of_one_step(kind: str) -> Callable[..., Value | list[Value | None]]:
    def expressed(
        node: Node,
        x: Operand,
        hx: Operand | Sequence[Operand],
        w_ih: Operand,
        w_hh: Operand,
        b_ih: Operand | None = None,
        b_hh: Operand | None = None,
    ) -> Value | list[Value | None]:
        weights = [node.blob(weight) for weight in (w_ih, w_hh, b_ih, b_hh) if weight is not None]
        given, states = _activations(node, x, hx)
        step, *before = (node.viewed(value, (1, *value.shape)) for value in (given, *states))
        names = ["state", "cell"] if kind == "lstm" and 1 in node.used else ["state"]
        made = recurrent(node, kind, step, before, weights, names, False, "")
        tops = [replace(top, view=View.of(top.blob[1:])) for top in made.values()]
        return [*tops, None][:2] if kind == "lstm" else tops[0]

    return expressed


for _kind in GATES:
    operator(f"{_kind}.input")(_of_sequences(_kind))
    operator(f"{_kind}_cell")(_of_one_step(_kind))


def recurrent(
    scope: Scope,
    kind: str,
    x: Value,
    states: Sequence[Value],
    weights: Sequence[Blob],
    names: Sequence[str],
    is_reversed: bool,
    part: str,
) -> dict[str, Value]:
    """One layer in one direction, and what is asked for of it; the state after a single step is all the steps."""
    x, *states = (scope.reshaped(value, value.shape) for value in (x, *states))
    steps, batch, inputs = x.blob
    makes = tuple(dict.fromkeys("steps" if name == "state" and steps == 1 else name for name in names))
    operation = Recurrent(weights[1].shape[1], kind, (steps, batch, inputs), is_reversed, len(weights) > 2, makes)
    made = dict(zip(makes, scope.layers(operation, [x, *states], len(makes), weights, part), strict=True))
    return {name: made[name] if name in made else made["steps"] for name in names}


def _activations(scope: Scope, x: Operand, hx: Operand | Sequence[Operand]) -> tuple[Value, list[Value]]:
    """What comes in, and the state or an LSTM's state and cell: none if they are zeros."""
    states = [hx] if isinstance(hx, (Value, Constant, float)) else list(hx)
    if all(isinstance(state, Constant) and not state.value().any() for state in states):
        return scope.activation(x), []
    sequence, *given = activations(scope, [x, *states])
    return sequence, given
