"""Which Caffe layers a checkpoint's tensors become: those of a built-in net, one file per family; or those of a PyTorch
module, traced. `bind` chooses among them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from math import prod
from typing import TYPE_CHECKING

from ..errors import NetError
from ..tensors import Tensor
from . import modules
from .graph import LARGEST, Net
from .resnet import COUNTER, RESNETS, TAKEN_FOR_GRANTED, ResNet, adapted, recognise

if TYPE_CHECKING:
    import torch

AUTO = "auto"
DEFAULT_SIZE = (224, 224)

WSL_URLS = {
    f"resnext101_{size}d_wsl": f"https://download.pytorch.org/models/ig_resnext101_{size}-{digest}.pth"
    for size, digest in (("32x8", "c38310e5"), ("32x16", "c6f796b0"), ("32x32", "e4b90b00"), ("32x48", "3e41cc8a"))
}
"""Where the weights of the four WSL nets are; the suffix is the beginning of the file's sha256."""


def find(name: str) -> ResNet:
    """The built-in net of that name; `resnext-101-32x48d` is the WSL net, as older converters call it.

    NetError, naming those that look alike, if there is none.
    """
    older = re.fullmatch(r"resnext-101-(32x(?:8|16|32|48)d)", name)
    net = RESNETS.get(f"resnext101_{older[1]}_wsl" if older else name)
    if net is None:
        near = get_close_matches(name, RESNETS, 3, 0.5)
        advice = f"did you mean {' or '.join(near)}?" if near else "`streamexport nets` lists them"
        raise NetError(f"there is no net called {name!r}", advice=advice)
    return net


def bind(
    tensors: Mapping[str, Tensor],
    name: str = AUTO,
    input_shape: tuple[int, ...] | None = None,
    arguments: str | None = None,
) -> Net:
    """The Caffe net whose blobs are the checkpoint's tensors.

    Parameters
    ----------
    tensors : the state dict
    name : a built-in net; "auto" to recognise it by names and shapes; or what builds a PyTorch module, see `modules.find`
    input_shape : batch, channels, height, width; by default 1, as the weights say (3 for a module), 224, 224
    arguments : for what builds a module, JSON

    Raises
    ------
    NetError : nothing fits, or not everything; says what does not, and what would
    """
    if modules.is_named(name):
        from . import traced

        return traced.bind(tensors, name, arguments, input_shape or (1, 3, *DEFAULT_SIZE))
    if arguments is not None:
        raise NetError("arguments are for nets that a module of yours builds", advice="name one: --net MODULE:CALLABLE")
    net, notes = _chosen(tensors, name)
    size = _input(net, input_shape)
    return replace(net.net(tensors, size), notes=tuple(notes))


def maker(tensors: Mapping[str, Tensor], name: str = AUTO, arguments: str | None = None) -> modules.Maker:
    """What builds the PyTorch module whose net `bind` returns for the same arguments; NetError as there."""
    if modules.is_named(name):
        return modules.find(name, arguments)
    net, _ = _chosen(tensors, name)

    def make() -> torch.nn.Module:
        from . import torch_resnet

        return torch_resnet.module(net).eval().requires_grad_(False)

    return make


def _chosen(tensors: Mapping[str, Tensor], name: str) -> tuple[ResNet, list[str]]:
    """The built-in net of that name, or the one that the tensors are of, and what the user should know."""
    if name == AUTO:
        net, leftover = _recognised(tensors)
        notes = [f"net {net.name}: recognised by the names and shapes of its tensors", TAKEN_FOR_GRANTED]
    else:
        net = adapted(find(name), tensors)
        if misfits := net.misfits(tensors):
            raise NetError(f"does not fit {net.name}: {_first(misfits)}", advice=_what_fits(tensors))
        notes, leftover = [], _leftover(net, tensors)
    if leftover:
        notes.append(f"left out, no part of {net.name}: {_first(leftover)}")
    if not net.classes:
        notes.append("no fc in the checkpoint: the net ends with the pooled features")
    return net, notes


def _recognised(tensors: Mapping[str, Tensor]) -> tuple[ResNet, list[str]]:
    net = recognise(tensors)
    if net is None:
        example = ", ".join(list(tensors)[:3])
        raise NetError(f"no built-in net has tensors like these ({example}, ...)", advice="see `streamexport nets`")
    if misfits := net.misfits(tensors):
        raise NetError(f"looks like {net.name}, but {_first(misfits)}")
    if leftover := _leftover(net, tensors):
        # Attention and other modules between the layers leave all of a ResNet's names in place.
        advice = f"if the net computes without them, say so: --net {net.name}"
        raise NetError(f"looks like {net.name}, but holds more: {_first(leftover)}", advice=advice)
    return net, []


def _leftover(net: ResNet, tensors: Mapping[str, Tensor]) -> list[str]:
    bound = {name for name, _, _ in net.specs()}
    return [name for name in tensors if name not in bound and not name.endswith(COUNTER)]


def _what_fits(tensors: Mapping[str, Tensor]) -> str:
    net = recognise(tensors)
    if net is None or net.misfits(tensors):
        return "no built-in net fits, see `streamexport nets`"
    return f"{net.name} fits: --net {net.name}" if net.name in RESNETS else "--net auto fits"


def _first(items: list[str]) -> str:
    return ", ".join(items[:3]) + (f" and {len(items) - 3} more" if len(items) > 3 else "")


def _input(net: ResNet, shape: tuple[int, ...] | None) -> tuple[int, int, int, int]:
    shape = (1, net.channels, *DEFAULT_SIZE) if shape is None else shape
    if len(shape) != 4 or min(shape) < 1 or prod(shape) > LARGEST or shape[1] != net.channels:
        what = f"input shape {list(shape)} does not fit {net.name}"
        raise NetError(what, advice=f"it takes N,{net.channels},H,W, not more than {LARGEST} numbers")
    batch, channels, height, width = shape
    return batch, channels, height, width
