"""The ResNet family as PyTorch modules, for asking torch what `resnet` says in Caffe's words.

Modules, their names and their calls are those of torchvision's ResNets. torch is imported at the top: whoever imports this
module is about to compute.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .resnet import Block, NormalisedConvolution, ResNet


def module(net: ResNet) -> nn.Module:
    """The module whose state dict `net.specs()` describes."""
    made = _ResNet(net)
    for part in made.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eps = net.epsilon
    return made


def _convolution(c: NormalisedConvolution) -> nn.Conv2d:
    return nn.Conv2d(c.inputs, c.outputs, c.kernel, c.stride, c.kernel // 2, groups=c.groups, bias=False)


class _Block(nn.Module):
    """A basic block or a bottleneck."""

    def __init__(self, net: ResNet, block: Block) -> None:
        super().__init__()
        self.main = []
        for number, convolution in enumerate(net.main(block), 1):
            self.main.append((f"conv{number}", f"bn{number}"))
            self.add_module(f"conv{number}", _convolution(convolution))
            self.add_module(f"bn{number}", nn.BatchNorm2d(convolution.outputs))
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        for convolution in net.downsample(block):
            self.downsample = nn.Sequential(_convolution(convolution), nn.BatchNorm2d(convolution.outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for number, (convolution, norm) in enumerate(self.main, 1):
            y = self.get_submodule(norm)(self.get_submodule(convolution)(y))
            y = self.relu(y) if number < len(self.main) else y
        if self.downsample is not None:
            x = self.downsample(x)
        y += x
        out: Tensor = self.relu(y)
        return out


class _ResNet(nn.Module):
    def __init__(self, net: ResNet) -> None:
        super().__init__()
        stem = net.stem()
        self.conv1, self.bn1 = _convolution(stem), nn.BatchNorm2d(stem.outputs)
        self.relu, self.maxpool = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        blocks = iter(net.blocks())
        for stage, depth in enumerate(net.depths, 1):
            self.add_module(f"layer{stage}", nn.Sequential(*(_Block(net, next(blocks)) for _ in range(depth))))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(net.features, net.classes) if net.classes else None

    def _stages(self) -> Iterator[nn.Module]:
        return (child for name, child in self.named_children() if name.startswith("layer"))

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in self._stages():
            x = stage(x)
        x = torch.flatten(self.avgpool(x), 1)
        return x if self.fc is None else self.fc(x)
