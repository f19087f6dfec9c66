"""What the layers of a Caffe net cost: arithmetic, parameters, and memory for what they make.

A multiply-add is one multiplication and the addition behind it. Convolutions, deconvolutions and inner products count: at
each position all weights, whether the window lies inside the bottom or reaches into its padding. torch's own counter,
`torch.utils.flop_counter`, finds the same, and calls a multiply-add two operations. All else counts 0: biases, BatchNorm,
Scale, activations, pooling, softmax, Eltwise, normalization. It takes little arithmetic, though not always little time.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod

from ..caffe.prototxt import read_prototxt
from ..errors import NetError
from ..net.graph import Net, written
from ..net.inference import Step, infer
from ..net.inputs import InputShape, split
from ..net.operations import Shape

FLOAT_SIZE = 4


@dataclass(frozen=True, slots=True)
class Cost:
    """What one layer costs.

    Attributes
    ----------
    layer, type : its name and its type
    shapes : of its tops
    multiply_adds : see the module's docstring
    parameters : trained numbers: of its blobs, but for statistics of BatchNorm and what an earlier layer shares with it
    activation_bytes : of its tops as float32; a top that takes the place of the bottom of its name counts 0
    """

    layer: str
    type: str
    shapes: tuple[Shape, ...]
    multiply_adds: int
    parameters: int
    activation_bytes: int


def costs(prototxt: str | os.PathLike[str], inputs: InputShape | None = None) -> tuple[Cost, ...]:
    """What each layer of a net costs, in the order of the net.

    Parameters
    ----------
    prototxt : the net
    inputs : shapes by the names of the input blobs, or in their order, or the shape of the only one, instead of those that
        the net declares

    Raises
    ------
    SourceError : the prototxt cannot be read
    FormatError : it is none
    NetError : what a layer does is not known, or it cannot work as it stands; it is named
    """
    try:
        net = read_prototxt(prototxt, strict=True)
        return tuple(_costs(infer(net, _by_name(net, inputs))))
    except NetError as error:
        error.file = os.fspath(prototxt)
        raise


def _by_name(net: Net, inputs: InputShape | None) -> Mapping[str, Shape]:
    given = split(inputs)
    if isinstance(given, Mapping):
        if strange := sorted(given.keys() - set(net.inputs)):
            raise NetError(f"has no input {', '.join(strange)}", advice=f"its inputs are {', '.join(net.inputs)}")
        return given
    if given and len(net.inputs) != len(given):
        shapes = f"{len(given)} shapes were" if len(given) > 1 else "one shape was"
        raise NetError(f"has {len(net.inputs)} inputs ({', '.join(net.inputs)}), {shapes} given")
    return dict(zip(net.inputs, given, strict=False))


def _costs(steps: Iterable[Step]) -> Iterator[Cost]:
    steps = list(steps)
    seen = set(written(step.layer for step in steps).values())  # which are no weights
    for step in steps:
        yield _cost(step, seen)
        seen.update(step.layer.shared)


def _cost(step: Step, seen: Container[str]) -> Cost:
    """`seen` are names of shared blobs that an earlier layer has."""
    layer = step.layer
    names = layer.shared or ("",) * len(step.blobs)
    own = [shape for shape, name in zip(step.blobs, names, strict=False) if not name or name not in seen]
    trained = [] if layer.operation.has_statistics else own
    made = (shape for name, shape in zip(layer.tops, step.tops, strict=True) if name not in layer.bottoms)
    return Cost(
        layer.name,
        layer.type,
        step.tops,
        step.multiply_adds,
        sum(map(prod, trained)),
        FLOAT_SIZE * sum(map(prod, made)),
    )
