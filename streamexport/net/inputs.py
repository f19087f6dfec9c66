"""What a module's `forward` is given: tensors, each of which is an input of the net, and other arguments.

The inputs of a net are called like the arguments of `forward`, so that whoever feeds the net can read in the module which is
which. Where there is one alone, it is `data`, as in the nets that come with Caffe, and as tools expect it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter, Signature, signature
from math import prod
from typing import TYPE_CHECKING, Any

from ..errors import NetError
from .graph import LARGEST, Layer, Net
from .kernels import Selected
from .operations import Embed, Flatten, Rearrange, Reshape, Shape, Slice

if TYPE_CHECKING:
    from torch import nn

INPUT = "data"
InputShape = Shape | tuple[Shape, ...] | Mapping[str, Shape]
"""Of the only input; or of several, in the order of the arguments, or by their names."""


@dataclass(frozen=True, slots=True)
class Argument:
    """A tensor that is given: what its blob is called, and its shape."""

    name: str
    shape: Shape


@dataclass(frozen=True, slots=True)
class Arguments:
    """All that `forward` is given, with an `Argument` in the place of each tensor; in the order of its parameters."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @property
    def inputs(self) -> tuple[Argument, ...]:
        return tuple(given for given in (*self.args, *self.kwargs.values()) if isinstance(given, Argument))

    @property
    def shapes(self) -> dict[str, Shape]:
        """Of the tensors, by name."""
        return {given.name: given.shape for given in self.inputs}

    def filled(self, tensor: Callable[[Argument], Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments, with tensors."""

        def value(given: Any) -> Any:
            return tensor(given) if isinstance(given, Argument) else given

        return tuple(map(value, self.args)), {name: value(given) for name, given in self.kwargs.items()}

    def __str__(self) -> str:
        if len(self.inputs) == 1:
            return f"an input of {list(self.inputs[0].shape)}"
        return f"the inputs {', '.join(f'{given.name} of {list(given.shape)}' for given in self.inputs)}"


def only(shape: Shape) -> Arguments:
    """Those of a module that takes one tensor, by position."""
    return Arguments((Argument(INPUT, shape),), {})


def one_shape(shape: InputShape | None, net: str) -> Shape | None:
    """The shape of the only input of a net that takes no more, None if it is not said. NetError if others are."""
    given = split(shape)
    by_name = given if isinstance(given, Mapping) else dict(zip((INPUT, *range(1, len(given))), given, strict=False))
    if by_name.keys() - {INPUT}:
        raise NetError(f"{net} has one input, {INPUT}", advice="give one shape")
    return by_name.get(INPUT)


def arguments(module: nn.Module, net: str, shape: InputShape, others: Mapping[str, Any]) -> Arguments:
    """What a module is given. NetError, which names its parameters, if that is not what it takes."""
    given = split(shape)
    is_only = len(given) == 1
    takes = signature(module.forward)
    if isinstance(given, Mapping):
        by_place, by_name = [], {name: Argument(INPUT if is_only else name, size) for name, size in given.items()}
    else:
        names = _names(takes, len(given))
        by_place = [Argument(INPUT if is_only else name, size) for name, size in zip(names, given, strict=True)]
        by_name = {}
    for argument in (*by_place, *by_name.values()):
        if min(argument.shape, default=0) < 1 or prod(argument.shape) > LARGEST:
            advice = f"from 1 to {LARGEST} numbers can be"
            raise NetError(f"takes no input of {list(argument.shape)}", advice=advice)
    try:
        if twice := by_name.keys() & others:
            raise TypeError(f"{min(twice)!r} is given as an input and in `forward_args=`")
        takes.bind_partial(*by_place, **by_name, **others)  # says first what it does not take
        bound = takes.bind(*by_place, **by_name, **others)
    except TypeError as error:
        advice = "`input_shape=` is given for each tensor, `forward_args=` for other arguments"
        raise NetError(f"{net} takes {parameters(module)}: {error}", advice=advice) from error
    return Arguments(bound.args, bound.kwargs)


def parameters(module: nn.Module) -> str:
    """Of its `forward`, by name."""
    named = signature(module.forward).parameters.values()
    bare = [str(parameter.replace(annotation=Parameter.empty, default=Parameter.empty)) for parameter in named]
    return ", ".join(bare) or "nothing"


def split(shape: InputShape | None) -> Mapping[str, Shape] | tuple[Shape, ...]:
    """Shapes by name, or by position."""
    if shape is None or isinstance(shape, Mapping):
        return shape or ()
    return tuple(map(tuple, shape)) if _are_several(shape) else (tuple(shape),)  # type: ignore[arg-type]


def joined(shape: InputShape | None) -> InputShape | None:
    """The same in the one way in which it is kept: a single shape by position is no list of shapes."""
    given = split(shape)
    if isinstance(given, Mapping):
        return {name: tuple(size) for name, size in given.items()}
    return None if shape is None else given if len(given) > 1 else given[0]


def _are_several(shape: Sequence[Any]) -> bool:
    return bool(shape) and all(isinstance(size, (tuple, list)) for size in shape)


def _names(takes: Signature, count: int) -> list[str]:
    """What so many tensors are called that are given by position."""
    return [name for _, name in zip(range(count), _by_place(takes), strict=False)]


def _by_place(takes: Signature) -> Iterator[str]:
    """The names of what is given by position, without end: more than it takes are refused by who looks closer."""
    for parameter in takes.parameters.values():
        if parameter.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD):
            yield parameter.name
    rest = next((p.name for p in takes.parameters.values() if p.kind is Parameter.VAR_POSITIONAL), "")
    number = 0
    while True:
        yield f"{rest}_{number}"
        number += 1


def rows_named(net: Net) -> dict[str, int]:
    """The inputs that name rows of tables, and how many rows the smallest of these has."""
    named: dict[str, int] = {}
    inputs = {name: name for name in net.inputs}  # by the blobs that hold their elements
    for layer in net.layers:
        source = inputs.get(layer.bottoms[0]) if len(layer.bottoms) == 1 else None
        if source is None:
            continue
        if isinstance(layer.operation, Embed):
            named[source] = min(layer.operation.inputs, named.get(source, layer.operation.inputs))
        elif isinstance(layer.operation, Rearrange | Reshape | Flatten | Slice) or _picks(layer):
            inputs.update(dict.fromkeys(layer.tops, source))
    return named


def _picks(layer: Layer) -> bool:
    """Whether it multiplies by zeros and single ones."""
    return bool(layer.blobs) and all(isinstance(blob.values, Selected) for blob in layer.blobs)
