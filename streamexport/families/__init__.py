"""Which Caffe layers a checkpoint's tensors become: those of a built-in net, one file per family; or those of a PyTorch
module, traced. `bind` chooses among them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from math import prod
from typing import TYPE_CHECKING, Protocol

from ..errors import NetError
from ..net import fitting, inputs
from ..net.fitting import Bound, Shapes
from ..net.graph import DEFAULT_SIZE, LARGEST, Net, Refusal
from ..net.inputs import InputShape
from ..payload.tensors import Tensor
from ..tracing import modules
from .resnet import ANCHOR, EPSILON, RESNETS, TAKEN_FOR_GRANTED, ResNet, adapted, recognise

if TYPE_CHECKING:
    import torch

AUTO = "auto"


def find(name: str) -> ResNet:
    """The built-in net of that name; `resnext-101-32x48d` is the WSL net, as older converters call it.

    NetError, naming those that look alike, if there is none.
    """
    older = re.fullmatch(r"resnext-101-(32x(?:8|16|32|48)d)", name)
    net = RESNETS.get(f"resnext101_{older[1]}_wsl" if older else name)
    if net is None:
        if name.endswith(".py"):
            advice = f"say which class or function in it builds the module: `net={name}:CALLABLE`"
            raise NetError(f"`net={name}` names a file", advice=advice)
        near = get_close_matches(name, RESNETS, 3, 0.5)
        advice = f"did you mean {' or '.join(near)}?" if near else "`streamexport nets` lists them"
        raise NetError(f"there is no net called {name!r}", advice=advice)
    return net


class Architecture(Protocol):
    """A net without weights."""

    def fits(self, tensors: Shapes) -> bool:
        """Whether all that the net needs is among these tensors, whatever stands before their names."""

    def bind(self, tensors: Mapping[str, Tensor], input_shape: InputShape | None) -> Bound:
        """The net with a checkpoint's tensors; NetError: not everything fits, says what does not, and what would."""


def architecture(
    name: str = AUTO,
    arguments: str | None = None,
    epsilon: float | None = None,
    end: Sequence[str] = (),
    refusal: Refusal = lambda _: None,
    operators: str | None = None,
    others: str | None = None,
) -> Architecture:
    """The net of that name.

    Parameters
    ----------
    name : a built-in net; "auto" to recognise it by names and shapes; or what builds a PyTorch module, see `modules.find`
    arguments : for what builds a module, JSON
    epsilon : of BatchNorm, for a built-in net; None for torch's default
    end, refusal : where a module's net ends, see `walk.bind`; a built-in one is whole
    operators : a file of operators for what traces a module, see `modules.own_operators`
    others : what its `forward` is given besides tensors, JSON

    Raises
    ------
    NetError : there is no such net
    """
    if epsilon is not None and (modules.is_named(name) or not 0 <= epsilon < 1):
        what = "a module says its own" if modules.is_named(name) else f"{epsilon} is none"
        raise NetError(f"`eps=` is BatchNorm's epsilon in built-in nets; {what}", advice="leave it out")
    if modules.is_named(name):
        own = modules.own_operators(operators) if operators is not None else {}
        given = modules.keywords(others, "forward_args")
        return modules.UserNet(name, modules.find(name, arguments), tuple(end), refusal, own, given)
    if operators is not None:
        raise NetError("operators are for nets that are traced", advice="name one: `net=MODULE:CALLABLE`")
    if arguments is not None or others is not None:
        raise NetError("arguments are for nets that a module of yours builds", advice="name one: `net=MODULE:CALLABLE`")
    return BuiltIn(name if name == AUTO else find(name).name, EPSILON if epsilon is None else epsilon)


def takes(name: str, arguments: str | None = None) -> str:
    """What the `forward` of the net of that name is given, for messages; parameters as for `architecture`."""
    net = architecture(name, arguments)
    if isinstance(net, modules.UserNet):
        return f"the module takes {inputs.parameters(net.built[0])}"
    return f"the net takes {inputs.INPUT}"


def bind(
    tensors: Mapping[str, Tensor],
    name: str = AUTO,
    input_shape: InputShape | None = None,
    arguments: str | None = None,
) -> Net:
    """The Caffe net whose blobs are the checkpoint's tensors.

    Parameters
    ----------
    tensors : the state dict
    name, arguments : see `architecture`
    input_shape : batch, channels, height, width; by default 1, as the weights say (3 for a module), 224, 224; of a module
        with several inputs one shape for each, by their names or in the order of its arguments

    Raises
    ------
    NetError : nothing fits, or not everything; says what does not, and what would
    """
    return architecture(name, arguments).bind(tensors, input_shape).net


@dataclass(frozen=True)
class BuiltIn:
    """A net of the table; or "auto": whichever the tensors are of."""

    name: str
    epsilon: float = EPSILON

    def fits(self, tensors: Shapes) -> bool:
        return any(not fit.misfits for fit in self._fits(tensors))

    def bind(self, tensors: Mapping[str, Tensor], input_shape: InputShape | None) -> Bound:
        fit = self._fit(tensors)
        held = fitting.bound(fit, tensors)
        net = self._net(held)
        assert net is not None
        notes = [*self._found(net, fit, tensors), *fit.notes(net.name)]
        if not net.classes:
            notes.append("no fc in the checkpoint: the net ends with the pooled features")

        def make() -> torch.nn.Module:
            from . import torch_resnet

            return torch_resnet.module(net).eval().requires_grad_(False)

        shape = _input(net, input_shape)
        return Bound(replace(net.net(held, shape), notes=tuple(notes)), held, make, inputs.only(shape))

    def _net(self, tensors: Shapes) -> ResNet | None:
        net = recognise(tensors) if self.name == AUTO else adapted(RESNETS[self.name], tensors)
        return net and replace(net, epsilon=self.epsilon)

    def _fits(self, tensors: Shapes) -> list[fitting.Fit]:
        def wanted(under: Shapes) -> fitting.Wanted | None:
            net = self._net(under)
            return net.wanted if net else None

        return fitting.fits(tensors, fitting.prefixes((ANCHOR,), tensors), wanted)

    def _fit(self, tensors: Mapping[str, Tensor]) -> fitting.Fit:
        found = self._fits(tensors)
        if not found:
            example = ", ".join(list(tensors)[:3])
            raise NetError(f"no built-in net has tensors like these ({example}, ...)", advice="see `streamexport nets`")
        name = self.name if self.name != AUTO else "a built-in net"
        fit = fitting.only(found, tensors, name)
        if not fit.misfits:
            return fit
        misfits = fitting.listed(fit.misfits, 3)
        if self.name != AUTO:
            raise NetError(f"does not fit {name}: {misfits}", advice=_what_fits(tensors))
        net = self._net(fitting.bound(fit, tensors))
        raise NetError(f"looks like {net.name if net else name}, but {misfits}")

    def _found(self, net: ResNet, fit: fitting.Fit, tensors: Shapes) -> Iterator[str]:
        """What was recognised. NetError where there is more than that, and nobody said that it is not needed."""
        if self.name != AUTO:
            return
        more = [name for name in fit.extra if not fitting.is_counter(name, tensors[name])]
        if more:
            # Attention and other modules between the layers leave all of a ResNet's names in place.
            advice = f"if the net computes without them, say so: `net={net.name}`"
            raise NetError(f"looks like {net.name}, but holds more: {fitting.listed(more, 3)}", advice=advice)
        yield f"net {net.name}: recognised by the names and shapes of its tensors"
        yield TAKEN_FOR_GRANTED


@dataclass(frozen=True)
class Under:
    """A net whose tensors stand under a prefix, which somebody said; what else there is, is not looked at."""

    prefix: str
    net: Architecture

    def fits(self, tensors: Shapes) -> bool:
        try:
            return self.net.fits(fitting.under(tensors, self.prefix))
        except NetError:
            return False

    def bind(self, tensors: Mapping[str, Tensor], input_shape: InputShape | None) -> Bound:
        return self.net.bind(fitting.under(tensors, self.prefix), input_shape)


def _what_fits(tensors: Shapes) -> str:
    held = next((name for name in RESNETS if BuiltIn(name).fits(tensors)), None)
    if held is None:
        return "`net=auto` fits" if BuiltIn(AUTO).fits(tensors) else "no built-in net fits, see `streamexport nets`"
    return f"{held} fits: `net={held}`"


def _input(net: ResNet, given: InputShape | None) -> tuple[int, int, int, int]:
    shape = inputs.one_shape(given, net.name) or (1, net.channels, *DEFAULT_SIZE)
    if len(shape) != 4 or min(shape) < 1 or prod(shape) > LARGEST or shape[1] != net.channels:
        what = f"input shape {list(shape)} does not fit {net.name}"
        raise NetError(what, advice=f"it takes N,{net.channels},H,W, not more than {LARGEST} numbers")
    batch, channels, height, width = shape
    return batch, channels, height, width
