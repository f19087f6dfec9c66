"""streamexport nets: the nets that are built in."""

from __future__ import annotations

import argparse
from math import prod

from ..families import official
from ..families.resnet import RESNETS, ResNet


def register(parser: argparse.ArgumentParser) -> None:
    parser.description = "Lists the nets that are built in."
    parser.set_defaults(run=run)


def run(_: argparse.Namespace) -> int:
    for name, net in RESNETS.items():
        print(f"{name:<24} {parameters(net):>11} parameters  {official.url(name)}")
    return 0


def parameters(net: ResNet) -> int:
    """Trained numbers: without BatchNorm's statistics and counters."""
    return sum(prod(shape) for name, dtype, shape in net.specs() if dtype == "float32" and "running_" not in name)
