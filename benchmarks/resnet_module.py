"""A ResNet as a PyTorch module, for --net."""

from __future__ import annotations

from torch import nn

from streamexport.families import find
from streamexport.families.torch_resnet import module


def resnet(name: str) -> nn.Module:
    return module(find(name))
