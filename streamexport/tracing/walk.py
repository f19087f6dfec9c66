"""Any PyTorch module as a Caffe net: its architecture is read from a graph, its weights stay where they are.

The module is built without its weights (`modules`), `torch.export` runs it once on tensors without elements (`exporting`) and
writes down which ATen operators it calls, functionalized: no operator changes its input, whatever the module does. The graph
is walked once; each operator becomes layers (`operators`), whose blobs are the checkpoint's tensors by name. Operators that
cannot be expressed are collected, and named all at once with the modules and the lines that they were called from.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from inspect import signature
from typing import TYPE_CHECKING, Any

from ..errors import Error, FaultError, LimitError, NetError, reason
from ..net.graph import Call, Layer, Net, Refusal
from ..net.inputs import Argument, Arguments
from ..net.operations import Input
from ..payload.tensors import Tensor
from . import ends, modules
from .builder import Builder
from .constants import computed, leaves, mapped
from .decomposing import decomposed
from .exporting import export
from .node import Node, Scope
from .operands import Constant, Label, UnsupportedError, Value
from .views import View

if TYPE_CHECKING:
    import torch
    from torch import fx
    from torch.export import ExportedProgram

    from .operators.registry import Operator

MOST = 12
"""Kinds of refusals that a message lists."""
DTYPES = ("float32", "bool", "int32", "int64")
"""Of results that floats express: truth values as 1 and 0, whole numbers up to 2^24."""
TAKING_ROWS = ("embedding", "index.Tensor")


def bind(tensors: Mapping[str, Tensor], user: modules.UserNet, given: Arguments) -> Net:
    """The Caffe net of a module whose state dict `tensors` are.

    Parameters
    ----------
    tensors : the state dict
    user : what builds the module; its `operators` are looked for before ours. `end` names modules or layers whose results
        the net is there for, in that order: what they do not need is not looked at. `refusal` is what the dialect that the
        net is for says of its layers
    given : what its `forward` is given

    Raises
    ------
    NetError : the module cannot be built or traced, or what it computes cannot be expressed; it says up to where it can
    """
    from .operators import registry

    module, why = user.built
    if not why:
        try:
            program = export(module, user.name, given)
            if any(getattr(constant, "is_meta", False) for constant in program.constants.values()):
                raise NetError("has tensors that are in no state dict")
        except NetError as error:
            module, why = modules.on_cpu(user.make), error.what
    if why:
        program = export(module, user.name, given)
    operators = registry.with_own(user.operators)
    program = decomposed(program, operators)
    notes = (f"built on the CPU, without weights, since on torch's meta device it {why}",) if why else ()
    walk = _Walk(program, module, tensors, user, given, operators)
    try:
        found = walk.net(user.end, user.refusal)
    except Error as error:
        advice = (error.advice, walk.offer(user.refusal))
        error.advice = "; ".join(filter(None, advice)) or None
        raise
    return replace(found, notes=(*found.notes, *notes))


@dataclass(slots=True)
class _Refusals:
    """What cannot be expressed: by operator and reason, the places."""

    places: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    advice: dict[str, None] = field(default_factory=dict)

    def add(self, operator: str, place: str, refused: UnsupportedError) -> None:
        self.places.setdefault((operator, refused.what), []).append(place)
        if refused.advice:
            self.advice[refused.advice] = None

    def error(self, net: str) -> NetError:
        found = []
        for (name, what), places in list(self.places.items())[:MOST]:
            times = f"{len(places)} times, first " if len(places) > 1 else ""
            found.append(f"{name} ({times}{places[0]}) {what}")
        if len(self.places) > MOST:
            found.append(f"{len(self.places) - MOST} more")
        return NetError(f"{net} cannot be converted: {'; '.join(found)}", advice=", ".join(self.advice) or None)


class _Walk:
    """A graph, and what becomes of it, node by node."""

    def __init__(
        self,
        program: ExportedProgram,
        module: torch.nn.Module,
        tensors: Mapping[str, Tensor],
        user: modules.UserNet,
        given: Arguments,
        operators: Mapping[str, Operator],
    ) -> None:
        self.own, self.operators = user.operators, operators
        self.program, self.tensors, self.name, self.given = program, tensors, user.name, given
        self.buffers = dict(module.named_buffers())
        self.graph = ends.Graph(program)
        self.inputs = dict(zip(self.graph.inputs, given.inputs, strict=True))
        self.refused: set[str] = set()  # nodes, by name

    def net(self, end: Sequence[str], refusal: Refusal) -> Net:
        """The net that ends so, or the whole one. NetError if it cannot be expressed, in this dialect."""
        inputs = [_input(argument) for argument in self.given.inputs]
        self.builder, self.scratch, self.refusals = Builder(inputs), Builder(inputs), _Refusals()
        self.unmade: set[fx.Node] = set()
        self.results: dict[fx.Node, Any] = {}
        last = [self.graph.end(name) for name in end]
        self.needed = ends.ancestors(node for node, _ in last) if last else set(self.graph.nodes)
        for node in self.graph.nodes:
            if node in self.needed and node.op != "output":
                if self.unmade.intersection(node.all_input_nodes):
                    self.unmade.add(node)
                self.results[node] = self.placeholder(node) if node.op == "placeholder" else self.call(node)
        made = [*self.returned(ends_early=bool(last)), *self.ended(last)]
        layers, tops = self.builder.finished()
        inexpressible = refusal(layers)
        if inexpressible:
            self.refused |= self.builder.nodes(inexpressible.places)
        if self.refusals.places:
            raise self.refusals.error(self.name)
        if inexpressible:
            raise inexpressible
        if not made:
            raise NetError(f"{self.name} computes nothing: its module returns no tensor")
        outputs = tuple(tops[value.top] for value in made)
        found = f"net {self.name}, traced with {self.given}"
        title = self.name.rpartition(":")[2].rpartition(".")[2]
        return Net(title, _fed(layers, outputs), outputs=outputs, notes=(found,))

    def offer(self, refusal: Refusal) -> str | None:
        """How far the net can be made, after it could not. It was tried."""
        known = -1
        while known < len(self.refused):
            known = len(self.refused)
            names = self.graph.frontier(self.refused)
            with suppress(Error):
                if self.refused and names:
                    self.net(names, refusal)
                    return f"everything up to {' and '.join(names)} can: {' '.join(f'`end={name}`' for name in names)}"
        return None

    def placeholder(self, node: fx.Node) -> Any:
        if node.name in self.inputs:
            argument = self.inputs[node.name]
            return Value(argument.name, argument.shape, View.of(argument.shape))
        signature = self.program.graph_signature
        kept = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        if node.name in kept:
            return self.kept(kept[node.name], tuple(node.meta["val"].shape))
        if node.name in signature.inputs_to_lifted_tensor_constants:
            constant = self.program.constants[signature.inputs_to_lifted_tensor_constants[node.name]]
            return Constant(tuple(constant.shape), (), None, lambda: constant)
        return node.meta["val"]  # an argument that is no tensor, and is in the graph already

    def kept(self, name: str, shape: tuple[int, ...]) -> Constant:
        """A parameter or buffer."""
        tensor = self.tensors.get(name)
        if tensor is not None:
            return Constant(shape, (name,), tensor, lambda: modules.loaded(tensor))
        buffer = self.buffers.get(name)

        def value() -> torch.Tensor:
            if buffer is None or buffer.is_meta:
                raise UnsupportedError(f"needs {name}, which the checkpoint does not hold")
            return buffer

        return Constant(shape, (), None, value)

    def call(self, node: fx.Node) -> Any:
        if "val" not in node.meta:  # an assertion about the input, which the shape has met
            return None
        if node.target is operator.getitem:
            results, index = _resolved(node.args, self.results)
            made = results[index]
            if isinstance(made, Value):
                self.mark(node, made)
            return made
        arguments = _resolved(node.args, self.results), _resolved(node.kwargs, self.results)
        if not any(isinstance(leaf, Value) for leaf in leaves(arguments)) and not _is_random(node):
            return computed(node, *arguments)
        name = ends.function(node)
        if self.names_rows(node):
            return arguments[0][0]
        try:
            if name not in self.operators:
                raise UnsupportedError("is not known here")
            return self.expressed(node, self.operators[name], *arguments)
        except UnsupportedError as refused:
            self.refuse(node, refused)
        except LimitError as error:  # of what an operator is multiplied by
            self.refuse(node, UnsupportedError(error.what, error.advice))
        except Error:
            self.refused.add(node.name)
            raise
        except Exception as error:  # nobody expected it, unless of what stands in place of what was refused
            if node in self.unmade:
                return _placeholders(node)
            self.refused.add(node.name)
            place = f"{ends.called(node)} ({ends.place(node)})"
            if name in self.own:
                what = f"the operator of yours fails: {type(error).__name__}: {reason(error)}"
                raise NetError(what, tensor=place) from error
            raise FaultError.of(error, place) from error
        return _placeholders(node)

    def names_rows(self, node: fx.Node) -> bool:
        """Whether it makes whole numbers only to name rows of constants: what does that in Caffe rounds toward zero, too."""
        if ends.function(node) not in ("_to_copy", "to.dtype") or not str(node.meta["val"].dtype).startswith(
            "torch.int"
        ):
            return False
        tables = [
            _resolved(reader.args[0], self.results) for reader in node.users if ends.function(reader) in TAKING_ROWS
        ]
        return len(tables) == len(node.users) and all(isinstance(table, Constant) for table in tables)

    def refuse(self, node: fx.Node, refused: UnsupportedError) -> None:
        self.refused.add(node.name)
        self.unmade.add(node)
        self.refusals.add(ends.called(node), ends.place(node), refused)

    def net_of(self, node: fx.Node) -> Builder:
        """Where a node's layers go: behind what was refused into a net that nobody gets, to see what else is."""
        return self.scratch if node in self.unmade else self.builder

    def expressed(
        self, node: fx.Node, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        from torch import fx

        made_by_torch = node.meta["val"]
        (dtype, *_) = ends.dtypes(node)
        if not isinstance(made_by_torch, (list, tuple)) and dtype not in DTYPES:
            what = f"changes the type of an activation to torch.{dtype}"
            raise UnsupportedError(what, "Caffe computes in float32")
        taken = (user.args[1] for user in node.users if user.target is operator.getitem and user in self.needed)
        used = frozenset(index for index in taken if isinstance(index, int))
        operands = (leaf for leaf in leaves((node.args, node.kwargs)) if isinstance(leaf, fx.Node))
        types = tuple(taken for operand in operands for taken in ends.dtypes(operand))
        place = Node(self.graph.labels[node], self.net_of(node), ends.shapes(node), used, dtype, types)
        try:
            signature(function).bind(place, *args, **kwargs)
        except TypeError as error:
            whose = "the operator of yours does not take" if ends.function(node) in self.own else "are not known here"
            raise UnsupportedError(f"has arguments that {whose}: {error}") from error
        made = function(place, *args, **kwargs)
        if wrong := _difference(node, made):
            raise (NetError if ends.function(node) in self.own else FaultError)(wrong, tensor=ends.place(node))
        if isinstance(made, Value):
            self.mark(node, made)
        return made

    def mark(self, node: fx.Node, value: Value) -> None:
        call = self.graph.calls.get(node)
        if call is not None and value.view.is_contiguous and not any(value.padding):
            self.net_of(node).mark(value, call)

    def returned(self, ends_early: bool) -> Iterator[Value]:
        """What the module returns, unless the net ends before; changes of its state are refused, Caffe's nets have none."""
        signature = self.program.graph_signature
        kept = (*signature.inputs_to_buffers.items(), *signature.inputs_to_parameters.items())
        state = {name: node for node, name in kept}
        needed = {node.name for node in self.needed}
        (results,) = self.graph.nodes[-1].args
        for leaf, spec in zip(results, signature.output_specs, strict=True):
            try:
                if spec.kind.name == "USER_OUTPUT":
                    if not ends_early:
                        builder = self.scratch if leaf in self.unmade else self.builder
                        yield _output(Scope(Label("output"), builder), _resolved(leaf, self.results))
                elif spec.kind.name != "USER_INPUT_MUTATION" and state[spec.target] in needed:
                    self.refused.add(state[spec.target])
                    what = f"is what {spec.target} is from then on: the next answer would be another one"
                    raise UnsupportedError(what)
            except UnsupportedError as refused:
                self.refusals.add("an output", "of the net", refused)

    def ended(self, last: Sequence[tuple[fx.Node, Call | None]]) -> Iterator[Value]:
        """What the net ends with, where that is not what the module returns."""
        for node, call in last:
            try:
                builder = self.net_of(node)
                value = _output(Scope(self.graph.labels[node], builder), self.results[node])
                if call is not None:
                    builder.mark(value, call)
                yield value
            except UnsupportedError as refused:
                self.refuse(node, refused)


def _difference(node: fx.Node, made: Any) -> str | None:
    """How what an operator returned is not what torch says that its node makes."""
    are_several = isinstance(node.meta["val"], (list, tuple))
    values = made if are_several and isinstance(made, list) else [made]
    for value, shape in zip(values, ends.shapes(node), strict=False):
        if not isinstance(value, (Value, Constant)) and not (are_several and value is None):
            wanted = "a list of values" if are_several else "a value"
            return f"{node.target} is expressed by {type(made).__name__}, not by {wanted}"
        if isinstance(value, Value) and value.shape != shape:
            return f"{node.target} makes {list(value.shape)} here, {list(shape)} in torch"
    return None


def _output(scope: Scope, value: Any) -> Value:
    """A result whose blob is torch's own, element by element."""
    if not isinstance(value, Value):
        raise UnsupportedError("is a constant, not computed from the input")
    made = scope.reshaped(value, value.shape or (1,))
    if made.top in {layer.name for layer in scope.builder.inputs}:
        raise UnsupportedError("is the input itself")
    return made


def _input(argument: Argument) -> Layer:
    shape = argument.shape
    return Layer(argument.name, Input((shape,)), (), (argument.name,), shapes=(shape,))


def _fed(layers: Sequence[Layer], outputs: Sequence[str]) -> tuple[Layer, ...]:
    """Without the inputs that no output depends on: Caffe would return them, and OpenCV stops where one is not filled, or
    is the last one and filled."""
    needed = set(outputs)
    for layer in reversed(layers):
        if needed.intersection(layer.tops):
            needed.update(layer.bottoms)
    return tuple(layer for layer in layers if layer.bottoms or needed.intersection(layer.tops))


def _is_random(node: fx.Node) -> bool:
    """Whether it may compute something else each time."""
    import torch

    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _resolved(tree: Any, results: Mapping[fx.Node, Any]) -> Any:
    """Arguments with the results of nodes in place of nodes."""
    from torch import fx

    return mapped(tree, lambda leaf: results[leaf] if isinstance(leaf, fx.Node) else leaf)


def _placeholders(node: fx.Node) -> Any:
    """In place of what cannot be expressed, so that the rest can be looked at; tops of no layer."""
    made = [Value(f"{node.name}:{index}", shape, View.of(shape)) for index, shape in enumerate(ends.shapes(node))]
    return made if isinstance(node.meta["val"], (list, tuple)) else made[0]
