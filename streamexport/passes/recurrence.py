"""Recurrences in the words of a dialect: a layer that does all steps, where its readers have one, else layers for each step.

    LSTM        bvlc, ssd   Caffe's, with a constant `cont` that is 0 at the first step and 1 at all others; everywhere 1, and
                            with states as bottoms and tops, where they are given or the cell is wanted
                opencv      OpenCV's, whose blobs are others
    GRU         opencv      OpenCV's
    all else                unrolled: what comes in is multiplied for all steps at once, then step by step the last state

Gates are rows of the weights, in PyTorch i, f, g, o and r, z, n; the layers have them in another order, which costs nothing:
blocks of the checkpoint are moved to other places. An LSTM's two biases are added up, as both are to what is added up.
Unrolled, every step has the same weights. Where layers share them (`passes.sharing`) they are stored once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ..net import kernels
from ..net.graph import Blob, Layer
from ..net.operations import (
    GRU,
    LSTM,
    Concat,
    Convolution,
    DummyData,
    Eltwise,
    InnerProduct,
    Power,
    Recurrent,
    ReLU,
    Reshape,
    Sigmoid,
    Silence,
    Slice,
    TanH,
)
from ..net.operations.recurrent import GATES
from ..net.windows import ONE_PIXEL
from .steps import Steps, Top

IFOG = (0, 1, 3, 2)
"""Blocks of PyTorch's LSTM as Caffe and OpenCV have them."""
ZRN = (1, 0, 2)
"""Blocks of PyTorch's GRU as OpenCV has them."""


class _Unrolling(Steps):
    """What a recurrence becomes."""

    __slots__ = ()

    @property
    def operation(self) -> Recurrent:
        assert isinstance(self.layer.operation, Recurrent)
        return self.layer.operation

    @property
    def sequence(self) -> Top:
        return Top(self.layer.bottoms[0], self.operation.blob)

    @property
    def states(self) -> list[Top]:
        """The first state, and the first cell; none where they are zeros."""
        shape = (1, self.operation.blob[1], self.operation.outputs)
        return [Top(name, shape) for name in self.layer.bottoms[1:]]

    @property
    def order(self) -> range:
        """Of the steps."""
        steps = range(self.operation.blob[0])
        return steps[::-1] if self.operation.is_reversed else steps

    def end(self, part: str, x: Top) -> None:
        """Takes what nobody else does: it would be one more output of the net."""
        self.several(f"{part}.end", Silence(), [x], 0)

    def slices(self, part: str, x: Top, axis: int, count: int) -> list[Top]:
        """Equal parts along an axis."""
        points = tuple(range(0, x.shape[axis], x.shape[axis] // count))[1:]
        return self.several(part, Slice(axis, points), [x], count) if points else [x]

    def concatenated(self, part: str, parts: Sequence[Top], axis: int = 0) -> Top:
        return self.add(part, Concat(axis), *parts) if len(parts) > 1 else parts[0]

    def turned(self, part: str, x: Top) -> Top:
        """The steps in reverse."""
        return self.concatenated(part, self.slices(f"{part}.slice", x, 0, x.shape[0])[::-1])

    def step(self, part: str, x: Top, index: int) -> Top:
        """One of the steps, by a convolution that takes steps for channels. (A Slice would make all others, too.)"""
        steps, batch, outputs = x.shape
        image = self.add(f"{part}.split", Reshape((1, steps, batch, outputs)), x)
        chosen = kernels.selected((1, steps, 1, 1), [index])
        picked = self.add(f"{part}.pick", Convolution(1, ONE_PIXEL, has_bias=False), image, blobs=[chosen])
        return self.add(part, Reshape((1, batch, outputs)), picked)

    def named(self, made: dict[str, Top]) -> Iterator[Layer]:
        """The layers, with the recurrence's own tops for what was made; the maker of the first one is called like it."""
        renamed = {made[what].name: top for what, top in zip(self.operation.makes, self.layer.tops, strict=True)}
        for layer in self.layers:
            bottoms, tops = (tuple(renamed.get(n, n) for n in names) for names in (layer.bottoms, layer.tops))
            if self.layer.tops[0] in tops:
                layer = replace(layer, name=self.layer.name, origin=self.layer.origin)
            yield replace(layer, bottoms=bottoms, tops=tops)


def express(layer: Layer, dialect: str) -> Iterator[Layer]:
    """The layers that a recurrence becomes."""
    steps = _Unrolling(layer)
    is_alone = not steps.states and "cell" not in steps.operation.makes
    if steps.operation.kind == "lstm" and dialect in ("bvlc", "ssd"):
        made = _caffe_s_lstm(steps)
    elif steps.operation.kind == "lstm" and dialect == "opencv" and is_alone:
        made = _opencv_s_lstm(steps)
    elif steps.operation.kind == "gru" and dialect == "opencv" and is_alone:
        made = _opencv_s_gru(steps)
    else:
        made = _unrolled(steps)
    return steps.named(made)


def _caffe_s_lstm(net: _Unrolling) -> dict[str, Top]:
    operation = net.operation
    inputs, states, *biases = net.layer.blobs
    rows = [kernels.in_blocks(blob, 4, IFOG) for blob in (inputs, _bias(biases, states), states)]
    sequence = net.turned("reversed", net.sequence) if operation.is_reversed else net.sequence
    if net.states or "cell" in operation.makes:
        made, found = _exposed(net, sequence, rows)
    else:
        made, found = _reset(net, sequence, rows)
    if "steps" in operation.makes:
        found["steps"] = net.turned("forward", made) if operation.is_reversed else made
    return found


def _reset(net: _Unrolling, sequence: Top, rows: Sequence[Blob]) -> tuple[Top, dict[str, Top]]:
    """All steps from zeros on: what is left of the last forward is multiplied by 0."""
    steps, batch, _ = sequence.shape
    count = min(steps, 2)
    constants = DummyData(((1, batch), (steps - 1, batch))[:count], (0.0, 1.0)[:count])
    cont = net.concatenated("cont", net.several("goes_on", constants, [], count))
    made = net.add("lstm", LSTM(net.operation.outputs), sequence, cont, blobs=rows)
    return made, {"state": net.step("state", made, steps - 1)} if "state" in net.operation.makes else {}


def _exposed(net: _Unrolling, sequence: Top, rows: Sequence[Blob]) -> tuple[Top, dict[str, Top]]:
    """All steps from states that are given, and the last ones."""
    steps, batch, _ = sequence.shape
    outputs = net.operation.outputs
    cont = net.add("cont", DummyData(((steps, batch),), (1.0,)))
    given = net.states or net.several("zeros", DummyData(((1, batch, outputs),)), [], 2)
    names = ("steps", "state", "cell")
    tops = net.several("lstm", LSTM(outputs, exposes_states=True), [sequence, cont, *given], 3, rows)
    found = dict(zip(names, tops, strict=True))
    for name in names:
        if name not in net.operation.makes:
            net.end(name, found[name])
    return tops[0], found


def _opencv_s_lstm(net: _Unrolling) -> dict[str, Top]:
    operation = net.operation
    inputs, states, *biases = net.layer.blobs
    first = kernels.filled((operation.blob[1], operation.outputs), 0)
    rows = [kernels.in_blocks(blob, 4, IFOG) for blob in (states, inputs, _bias(biases, states))]
    layer = LSTM(operation.outputs, operation.is_reversed)
    return _opencv_s(net, net.add("lstm", layer, net.sequence, blobs=[*rows, first, first]))


def _opencv_s_gru(net: _Unrolling) -> dict[str, Top]:
    """OpenCV's does not turn steps around."""
    operation = net.operation
    inputs, states, *biases = net.layer.blobs
    first = kernels.filled((operation.blob[1], operation.outputs), 0)
    rows = [kernels.in_blocks(blob, 3, ZRN) for blob in (states, inputs, *biases)]
    bias = kernels.joined(*rows[2:]) if biases else kernels.filled((2 * states.shape[0],), 0)
    sequence = net.turned("reversed", net.sequence) if operation.is_reversed else net.sequence
    made = net.add("gru", GRU(operation.outputs), sequence, blobs=[*rows[:2], bias, first])
    return _opencv_s(net, net.turned("forward", made) if operation.is_reversed else made)


def _opencv_s(net: _Unrolling, made: Top) -> dict[str, Top]:
    """OpenCV does not find what these layers make by their names: a layer behind them has the same."""
    found = {}
    if "steps" in net.operation.makes:
        found["steps"] = net.add("steps", Reshape(made.shape), made)
    if "state" in net.operation.makes:
        found["state"] = net.step("state", made, net.order[-1])
    return found


def _bias(biases: Sequence[Blob], states: Blob) -> Blob:
    return kernels.total(*biases) if biases else kernels.filled(states.shape[:1], 0)


# Unrolled


def _unrolled(net: _Unrolling) -> dict[str, Top]:
    """With a batch of one, steps are the second axis meanwhile: the first is then that of the images, however many."""
    operation = net.operation
    inputs, _, *biases = net.layer.blobs
    if biases and operation.kind != "gru":  # of a GRU, one is multiplied
        biases = [kernels.total(*biases)]
    steps, batch, numbers = operation.blob
    axis, sequence = int(batch == 1 < steps), net.sequence
    if axis:
        sequence = net.add("in.images", Reshape((-1, steps, numbers)), sequence)
    came_in = _product(net, "in", sequence, inputs, biases[:1])
    step = {"lstm": _lstm_step, "gru": _gru_step}.get(operation.kind, _rnn_step)
    held: list[Top] = net.states
    states: list[Top] = [net.sequence] * steps
    for place, own in zip(net.order, _by_step(net, came_in, axis), strict=True):
        held = step(net, f"{place}", own, held, biases[1:])
        states[place] = held[0]
    found = {"state": held[0], "cell": held[-1]}
    if "steps" in operation.makes:
        found["steps"] = net.concatenated("steps", states, axis)
        if axis:
            found["steps"] = net.add("steps.turned", Reshape((-1, 1, operation.outputs)), found["steps"])
    elif "state" not in operation.makes:  # the gate of the last one is cut off, and for nothing
        net.end("state", Top(f"{net.layer.name}.{net.order[-1]}.slice.3", held[0].shape))
    return found


def _by_step(net: _Unrolling, came_in: Top, axis: int) -> Iterator[list[Top]]:
    """What comes into each step, in their order: what is added to what the state makes, as it is looked at."""
    steps, outputs = came_in.shape[axis], net.operation.outputs
    parts = [came_in]
    if net.operation.kind == "gru":
        parts = net.several("in.gates", Slice(2, (2 * outputs,)), parts, 2)
    cut = [net.slices(f"in.steps{index}", part, axis, steps) for index, part in enumerate(parts)]
    for place in net.order:
        yield [part[place] for part in cut]


def _product(net: _Unrolling, part: str, x: Top, weight: Blob, bias: Sequence[Blob]) -> Top:
    return net.add(part, InnerProduct(weight.shape[0], bool(bias), axis=2), x, blobs=[weight, *bias])


def _gates(net: _Unrolling, at: str, own: Top, held: Sequence[Top]) -> Top:
    """What comes in and what the state makes, added up."""
    if not held:
        return own
    made = _product(net, f"{at}.state", held[0], net.layer.blobs[1], ())
    return net.add(f"{at}.gates", Eltwise("SUM"), own, made)


def _rnn_step(net: _Unrolling, at: str, own: Sequence[Top], held: Sequence[Top], _: Sequence[Blob]) -> list[Top]:
    function = TanH() if net.operation.kind == "rnn_tanh" else ReLU()
    return [net.add(f"{at}.hidden", function, _gates(net, at, own[0], held))]


def _lstm_step(net: _Unrolling, at: str, own: Sequence[Top], held: Sequence[Top], _: Sequence[Blob]) -> list[Top]:
    """The state is o tanh(c) and the cell c = f c + i g, with sigmoids of i, f, o, and tanh of g."""
    parts = zip("ifgo", net.slices(f"{at}.slice", _gates(net, at, own[0], held), 2, GATES["lstm"]), strict=True)
    i, f, g, o = (net.add(f"{at}.{gate}", TanH() if gate == "g" else Sigmoid(), part) for gate, part in parts)
    before = held[1] if held else net.add(f"{at}.zero", Power(scale=0.0), f)
    kept, new = net.add(f"{at}.kept", Eltwise("PROD"), f, before), net.add(f"{at}.new", Eltwise("PROD"), i, g)
    cell = net.add(f"{at}.cell", Eltwise("SUM"), kept, new)
    shown = net.add(f"{at}.shown", TanH(), cell)
    return [net.add(f"{at}.hidden", Eltwise("PROD"), o, shown), cell]


def _gru_step(net: _Unrolling, at: str, own: Sequence[Top], held: Sequence[Top], bias: Sequence[Blob]) -> list[Top]:
    """The state is n + z (h - n), n = tanh(what comes in + r (what the state makes)), with sigmoids of r and z."""
    outputs = net.operation.outputs
    state = held[0] if held else net.add(f"{at}.zero", Power(scale=0.0), own[1])
    made = _product(net, f"{at}.state", state, net.layer.blobs[1], bias)
    gates, new = net.several(f"{at}.slice", Slice(2, (2 * outputs,)), [made], 2)
    gates = net.add(f"{at}.gates", Sigmoid(), net.add(f"{at}.sum", Eltwise("SUM"), own[0], gates))
    reset, update = net.slices(f"{at}.gate", gates, 2, 2)
    new = net.add(f"{at}.reset", Eltwise("PROD"), reset, new)
    new = net.add(f"{at}.new", TanH(), net.add(f"{at}.candidate", Eltwise("SUM"), own[1], new))
    away = net.add(f"{at}.away", Eltwise("SUM", (1.0, -1.0)), state, new)
    kept = net.add(f"{at}.kept", Eltwise("PROD"), update, away)
    return [net.add(f"{at}.hidden", Eltwise("SUM"), new, kept)]
