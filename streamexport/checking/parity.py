"""Whether a model computes what PyTorch computes, number by number, layer by layer.

The checkpoint is bound to its net once more, which says of each layer which call of a module it stands for. torch runs the
module (`reference`), an engine runs the prototxt and the model files, both on the same seeded input.

A layer holds where it differs by no more than a share of its largest value. Deep nets amplify rounding; where that is
missed, torch is asked again in float64, and a layer holds too where it is no farther from that than four times torch's own
float32, which has to be near it: two answers that have nothing in common would vouch for any third.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import TYPE_CHECKING

from ..caffe.models import open_models
from ..conversion import names, record
from ..conversion.bound import bind
from ..conversion.options import Options
from ..errors import NetError
from ..net.fitting import Bound
from ..net.graph import Call, Layer, Net
from ..net.operations import Rearrange, Softmax
from ..payload.tensors import FLOAT16
from ..running.engines import open_engine
from ..running.forward import forward_layers
from ..running.reference import Outputs, run
from ..sources import Path

if TYPE_CHECKING:
    from ..payload.tensors import Array
    from ..running.forward import Inputs


TOLERANCE = {None: 1e-4, "float32": 1e-4, "float16": 5e-3}
"""By dtype of the weights, in parts of a layer's largest value."""
ROUNDINGS = 4
MOST_ROUNDING = 1e-2
"""What float32 may make of float64, in parts of the largest value; a resnet152 of random weights comes to 1e-4."""
SEED = 0


@dataclass(frozen=True)
class Difference:
    """How far a layer is from torch.

    Attributes
    ----------
    layer, blob : in the prototxt
    torch : the module, by its path, and the number of its call if it is not the first; or "output"
    largest : absolute difference
    relative : the same in parts of the largest value that torch has
    holds : whether that is rounding
    """

    layer: str
    blob: str
    torch: str
    largest: float
    relative: float
    holds: bool


@dataclass(frozen=True)
class Parity:
    """All layers that were compared, in order; those of the net's outputs last.

    Attributes
    ----------
    unjudged : outputs that stand for no result of a module's, with which torch could be compared
    """

    engine: str
    differences: tuple[Difference, ...]
    unjudged: tuple[str, ...] = ()

    @property
    def departed(self) -> Difference | None:
        """The first layer that does not hold."""
        return next((difference for difference in self.differences if not difference.holds), None)


def parity(
    checkpoints: Sequence[Path],
    models: Sequence[Path],
    prototxt: Path | None = None,
    options: Options | None = None,
    engine: str = "stream",
    caffe_python: str | None = None,
    bound: Bound | None = None,
) -> Parity:
    """Compares what a model computes with what torch computes.

    Parameters
    ----------
    checkpoints : what the model was made from
    models : all parts of one model
    prototxt : its description, by default the one beside the first file
    options : what it was made with; by default what the model says
    engine, caffe_python : who computes, see `engines.open_engine`
    bound : what `bound.bind` makes of checkpoints and options, where somebody has it already

    Raises
    ------
    NetError : no options are given, and the model has none recorded, or names code; or nothing can be compared
    EngineError : the engine is not there, or gives up
    Error : a file cannot be read, see `errors`
    """
    options = options or record.trusted(open_models(models, checkpoints), models[0])
    bound = bound or bind(checkpoints, options)
    net = bound.net
    inputs = _seeded(bound)
    standing = (*net.layers, *(layer for chain in net.left_out for layer in chain))
    watched = {layer.origin.path for layer in standing if layer.origin is not None}
    torchs = partial(run, bound.make, bound.tensors, bound.given, inputs, watched, halved=_halved(net))
    exact = torchs()
    asked = _compared(net, exact, options)
    if not asked:
        raise NetError("has no layer that stands for a module of torch's", file=os.fspath(models[0]))
    description = names.description(os.fspath(models[0])) if prototxt is None else os.fspath(prototxt)
    distances: dict[_Part, tuple[float, float]] = {}
    doubtful = Outputs()
    for part, blob in _computed(
        asked, description, [*models, *checkpoints], _as_fed(inputs, bound, options), engine, caffe_python
    ):
        made = part.finished(blob)
        distances[part] = _distance(made, part.of(exact))
        if distances[part][1] > TOLERANCE[options.dtype]:
            doubtful[part.call] = made
    departed = _departed([part for part in distances if part.call in doubtful], doubtful, exact, torchs)
    return Parity(
        engine,
        tuple(
            Difference(part.layer.name, part.blob, part.name, largest, relative, part not in departed)
            for part, (largest, relative) in distances.items()
        ),
        tuple(output for output in net.outputs if output not in {part.blob for part in asked}),
    )


def _seeded(bound: Bound) -> dict[str, Array]:
    """Normal numbers for each input, and whole ones where it names rows of a table."""
    import numpy as np

    numbers = np.random.default_rng(SEED)
    given = {}
    for name, shape in bound.given.shapes.items():
        rows = bound.rows.get(name)
        values = numbers.standard_normal(shape) if rows is None else numbers.integers(rows, size=shape)
        given[name] = values.astype(np.float32)
    return given


def _halved(net: Net) -> set[str]:
    """The tensors that a model holds as half floats.

    Their layers are compared with what torch makes of the same: what rounding weights costs is known, and not asked here.
    """
    blobs = (blob for layer in net.layers for blob in layer.blobs)
    return {blob.origin[0] for blob in blobs if blob.dtype == FLOAT16 and len(blob.origin) == 1}


def _departed(doubted: Sequence[_Part], made: Outputs, exact: Outputs, torchs: Callable[[str], Outputs]) -> set[_Part]:
    """Those farther from torch in float64 than torch's own float32 explains."""
    if not doubted:
        return set()
    double = torchs("float64")

    def is_rounding(part: _Part) -> bool:
        ours, _ = _distance(made[part.call], part.of(double))
        own, share = _distance(part.of(exact), part.of(double))
        return share <= MOST_ROUNDING and ours <= ROUNDINGS * own

    return {part for part in doubted if not is_rounding(part)}


@dataclass(frozen=True, eq=False)
class _Part:
    """A blob, and what it stands for: a call, or one of the module's outputs, of which a softmax may have been left out."""

    layer: Layer
    blob: str
    call: Call | int
    left_out: tuple[Layer, ...] = ()

    @property
    def name(self) -> str:
        if isinstance(self.call, int):
            return "output"
        return self.call.path + (f" (call {self.call.number + 1})" if self.call.number else "")

    def of(self, outputs: Outputs) -> Array:
        return outputs.last[self.call] if isinstance(self.call, int) else outputs[self.call]

    def finished(self, made: Array) -> Array:
        """What the engine made, with the softmax that the net was left without."""
        import numpy as np

        if not self.left_out or made.size != prod(self.left_out[0].shapes[0]):
            return made
        softmax, *moves = self.left_out
        (shape,) = softmax.shapes
        places = np.arange(made.size).reshape(shape)  # where each element stands before it is moved
        for move in moves:
            places = _moved(move, places)
        logits = np.empty(made.size)
        logits[places.reshape(-1)] = made.reshape(-1)
        assert isinstance(softmax.operation, Softmax)
        axis = softmax.operation.axis
        powers = np.exp(logits.reshape(shape) - logits.reshape(shape).max(axis, keepdims=True))
        whole: Array = (powers / powers.sum(axis, keepdims=True)).astype(made.dtype)
        return whole.reshape(-1)[places.reshape(-1)]


def _moved(layer: Layer, values: Array) -> Array:
    """What a layer of `passes.outputs.MOVES` makes of an array."""
    if isinstance(layer.operation, Rearrange):
        values = values.reshape(layer.operation.atoms).transpose(layer.operation.order)
    return values.reshape(layer.shapes[0])


def _compared(net: Net, outputs: Outputs, options: Options) -> list[_Part]:
    """What can be compared: of a blob that is written several times, what the last layer leaves in it."""
    writers = {top: layer for layer in net.layers for top in layer.tops}
    parts = [
        _Part(layer, top, layer.origin)
        for top, layer in writers.items()
        if layer.origin is not None and layer.origin in outputs and top == layer.tops[0]
    ]
    left_out = net.left_out or ((),) * len(net.outputs)
    for index, (top, chain) in enumerate(zip(net.outputs, left_out, strict=False)):
        if not options.end and len(net.outputs) == len(outputs.last):
            parts.append(_Part(writers[top], top, index, chain))
        elif chain and (call := chain[-1].origin) is not None and call in outputs:
            parts.append(_Part(writers[top], top, call, chain))
    return parts


def _as_fed(inputs: Mapping[str, Array], bound: Bound, options: Options) -> Mapping[str, Array]:
    """The inputs that the Caffe net wants for torch's."""
    import numpy as np

    fed = {name: inputs[name] for name in bound.net.inputs}
    if not options.fold_input_scale and options.input_order == "rgb":
        return fed
    name, _ = bound.net.image
    image = inputs[name]
    if options.fold_input_scale and bound.expects is not None:
        deviation = np.array(bound.expects.deviation or 1.0, np.float32)
        image = image * (255 * deviation).reshape(-1, *[1] * (image.ndim - 2))
    return {**fed, name: np.ascontiguousarray(image[:, ::-1] if options.input_order == "bgr" else image)}


def _computed(
    parts: Sequence[_Part], prototxt: str, models: Sequence[Path], inputs: Inputs, engine: str, caffe_python: str | None
) -> Iterator[tuple[_Part, Array]]:
    """What the engine makes of each part. Our own hands over one layer at a time."""
    if engine == "stream":
        by_layer: dict[str, list[_Part]] = {}
        for part in parts:
            by_layer.setdefault(part.layer.name, []).append(part)
        for layer, tops in forward_layers(prototxt, models, inputs):
            yield from ((part, tops[part.blob]) for part in by_layer.get(layer.name, ()))
        return
    with open_engine(engine, prototxt, models, [part.blob for part in parts], caffe_python) as compute:
        made = compute(inputs)
    yield from ((part, made[part.blob]) for part in parts)


def _distance(found: Array, expected: Array) -> tuple[float, float]:
    """The largest difference, and in parts of the largest expected value; infinite where shapes or NaN make it so."""
    import numpy as np

    if found.size != expected.size:
        return float("inf"), float("inf")
    if not expected.size:
        return 0.0, 0.0
    largest = float(np.abs(found.reshape(-1).astype(np.float64) - expected.reshape(-1)).max())
    scale = float(np.abs(expected).max())
    if np.isnan(largest):
        return float("inf"), float("inf")
    return largest, largest / scale if scale else (float("inf") if largest else 0.0)
