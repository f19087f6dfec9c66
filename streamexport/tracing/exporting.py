"""A module's graph by `torch.export`, or why there is none that a net can be made of."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING

from ..errors import NetError
from ..net.inputs import Arguments
from . import ends
from .calls import kept_whole
from .complaints import explained

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram


def export(module: torch.nn.Module, net: str, given: Arguments) -> ExportedProgram:
    """The module's graph for inputs of these shapes, functionalized. NetError, naming the reason, if there is none."""
    import torch

    device = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))
    try:
        args, kwargs = given.filled(lambda argument: torch.empty(argument.shape, device=device))
        with torch.no_grad(), silence():
            if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
                raise ValueError("a ScriptModule")
            with kept_whole():
                program: ExportedProgram = torch.export.export(module, args, kwargs, strict=False)
            _refuse_autocast(program, device)
            functional: ExportedProgram = program.run_decompositions({})
            _refuse_open_shapes(functional)
            return functional
    except (Exception, SystemExit) as error:  # whatever the module raises, and torch where control flow depends on data
        what, advice = explained(error)
        raise NetError(f"cannot be traced with {given}: {what}", advice=advice) from error


def _refuse_autocast(program: ExportedProgram, device: torch.device) -> None:
    """ValueError where the CPU would compute in another type: the meta device does not show it."""
    graphs = (part.graph for part in program.graph_module.modules() if hasattr(part, "graph"))
    regions = (node for graph in graphs for node in graph.nodes if "wrap_with_autocast" in str(node.target))
    if device.type == "meta" and any(node.args[0] == "cpu" and node.args[2] for node in regions):
        raise ValueError("it uses autocast")


def _refuse_open_shapes(program: ExportedProgram) -> None:
    """ValueError where a shape is known only when the net runs."""
    for node in program.graph.nodes:
        if any(not isinstance(size, int) for shape in ends.shapes(node) for size in shape):
            raise ValueError(f"{ends.place(node)} makes a data-dependent shape")


@contextmanager
def silence() -> Iterator[None]:
    """What torch logs and prints while it traces is for its developers."""
    nowhere = io.StringIO()
    with warnings.catch_warnings(), redirect_stdout(nowhere), redirect_stderr(nowhere):
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable()
        try:
            yield
        finally:
            logging.disable(before)
