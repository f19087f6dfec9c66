"""What the nodes of a graph are called and where they come from, and which of them a net may end with.

Names depend on the graph alone, not on what its operators become: the part of a net that ends somewhere has the names of the
whole one. A module is called by its path and stands for the last thing that it makes, in the last of its calls.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ..net.fitting import no_end
from ..net.graph import Call

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import Node

    from .operands import Label

FEW = 8
"""Ends that are offered together."""


class Graph:
    """An exported graph by names.

    Attributes
    ----------
    inputs : the nodes that are tensors which the module is given, by name, in order
    labels : what the layers of each node are called after, of those that depend on the input
    calls : the calls of torch's own modules without children, by the nodes that they end with
    modules : of each module the node that it stands for, and the call that makes it
    """

    def __init__(self, program: ExportedProgram) -> None:
        self.nodes = list(program.graph.nodes)
        specs = program.graph_signature.input_specs
        given = [spec.arg for spec in specs if spec.kind.name == "USER_INPUT"]
        self.inputs = [argument.name for argument in given if not hasattr(argument, "value")]
        fed: set[Node] = set()
        for node in self.nodes:
            if node.name in self.inputs or fed.intersection(node.all_input_nodes):
                fed.add(node)
        self.made = [node for node in self.nodes if node.op == "call_function" and node in fed and "val" in node.meta]

    @cached_property
    def labels(self) -> Mapping[Node, Label]:
        from .operands import Label

        same: dict[str, dict[str, None]] = {}
        bases = {node: _base(node) for node in self.nodes if node.op == "call_function"}
        for node in self.made:
            if node.target is not operator.getitem:
                base, key = bases[node]
                same.setdefault(base, {})[key] = None
        numbers = {
            (base, key): number if len(keys) > 1 else ""
            for base, keys in same.items()
            for number, key in enumerate(keys, 1)
        }
        return {node: Label(f"{base}{numbers.get((base, key), '')}", node.name) for node, (base, key) in bases.items()}

    @cached_property
    def calls(self) -> Mapping[Node, Call]:
        last: dict[str, tuple[Node, str]] = {}
        for node in self.nodes:
            stack = calls(node)
            if node.op == "call_function" and stack and _is_torchs(stack[-1][2]):
                key, path, _ = stack[-1]
                last[key] = (node, path)
        return {node: _call(key, path) for key, (node, path) in last.items()}

    @cached_property
    def modules(self) -> Mapping[str, tuple[Node, Call]]:
        found: dict[str, dict[str, list[Node]]] = {}
        for node in self.made:
            if hasattr(node.meta["val"], "shape"):
                for key, path, _ in calls(node):
                    found.setdefault(path, {}).setdefault(key, []).append(node)
        ends = {}
        for path, by_call in found.items():
            key, inside = list(by_call.items())[-1]
            taken = [node for node in inside if any(key not in _keys(user) for user in node.users)]
            ends[path] = ((taken or inside)[-1], _call(key, path))
        ends.pop("", None)
        return ends

    def end(self, name: str) -> tuple[Node, Call | None]:
        """The node that a module or a layer of this name stands for; of a layer that is a part of one, the whole.

        NetError, naming what looks alike, if there is none.
        """
        nodes = {label.name: node for node, label in self.labels.items() if hasattr(node.meta.get("val"), "shape")}
        whole = name
        while whole:
            if whole in self.modules:
                return self.modules[whole]
            if whole in nodes:
                return nodes[whole], None
            whole = whole.rpartition(".")[0]
        raise no_end(name, list(dict.fromkeys((*self.modules, *nodes))))

    def frontier(self, refused: Collection[str]) -> list[str]:
        """The last modules that depend on no node of these names, in order: all others of that kind are in front of them."""
        tainted: set[Node] = set()
        for node in self.nodes:
            if node.name in refused or tainted.intersection(node.all_input_nodes):
                tainted.add(node)
        paths: dict[Node, str] = {}
        for path, (node, _) in self.modules.items():
            if node not in tainted and len(path) < len(paths.get(node, path + ".")):
                paths[node] = path
        last: list[str] = []
        covered: set[Node] = set()
        for node in reversed(self.nodes):
            if node in paths and node not in covered:
                last.insert(0, paths[node])
                covered |= ancestors([node])
        return last if len(last) <= FEW else last[-1:]


def ancestors(nodes: Iterable[Node]) -> set[Node]:
    """These and all that they are computed from."""
    found: set[Node] = set()
    left = list(nodes)
    while left:
        node = left.pop()
        if node not in found:
            found.add(node)
            left += node.all_input_nodes
    return found


def calls(node: Node) -> list[tuple[str, str, str]]:
    """The calls of modules that a node is made in: key (path and number of the call), path, class."""
    return [(key, path, str(kind)) for key, (path, kind) in (node.meta.get("nn_module_stack") or {}).items()]


def function(node: Node) -> str:
    """What an operator is registered as: `relu`, `add.Tensor`, and those that are not ATen's `library::name`."""
    library, _, name = str(node.target).partition(".")
    name = name.removesuffix(".default")
    return name if library == "aten" else f"{library}::{name}" if name else library


def called(node: Node) -> str:
    """An operator as messages call it, without a default overload."""
    return str(node.target).removesuffix(".default")


def _keys(node: Node) -> Collection[str]:
    return {key for key, _, _ in calls(node)}


def _call(key: str, path: str) -> Call:
    """Numbers, not places in the order: of calls that come to nothing there is no node."""
    return Call(path, int(key.rpartition("@")[2]) if "@" in key else 0)


def _is_torchs(kind: str) -> bool:
    return kind.startswith("torch.nn.modules.")


def _base(node: Node) -> tuple[str, str]:
    """Torch's own modules are called by path, other nodes after the module around and the function; and the key by which
    those that share a name are told apart: of the call of the module, or of the node."""
    *_, (key, path, kind) = calls(node) or [("", "", "")]
    if _is_torchs(kind) and path:
        return path, key
    own = (str(node.target).split(".")[1:] or [str(node.target)])[0].strip("_")
    name = (node.meta.get("torch_fn") or ("", ""))[1].rpartition(".")[2].strip("_") or own
    return (f"{path}.{name}" if path else name), node.name


def shapes(node: Node) -> tuple[tuple[int, ...], ...]:
    """Of all its results, as torch says; () for what is no tensor."""
    found = node.meta.get("val", ())
    several = found if isinstance(found, (list, tuple)) else [found]
    return tuple(tuple(value.shape) if hasattr(value, "shape") else () for value in several)


def dtypes(node: Node) -> tuple[str, ...]:
    """Of its results that are tensors, as torch calls them."""
    found = node.meta.get("val", ())
    several = found if isinstance(found, (list, tuple)) else [found]
    return tuple(str(value.dtype).removeprefix("torch.") for value in several if hasattr(value, "dtype"))


def place(node: Node) -> str:
    """Which module calls it, and on which line of whose code."""
    import torch

    own = str(Path(torch.__file__).parent)
    frames = re.findall(r'File "([^"]+)", line (\d+)', node.meta.get("stack_trace") or "")
    line = next((f" at {Path(file).name}:{line}" for file, line in reversed(frames) if not file.startswith(own)), "")
    stack = calls(node)
    return f"in {(stack[-1][1] if stack else '') or 'the net itself'}{line}"
