"""Nets of torchvision as callables for --net that the library itself does not have: one answer where it gives several."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models import get_model


def segmentation(name: str) -> nn.Module:
    """A segmentation net that answers with its "out" alone; the tensors' names stay what they are."""
    net = get_model(name, weights=None, weights_backbone=None)
    forward = net.forward

    def out(image: Tensor) -> Tensor:
        answer: Tensor = forward(image)["out"]
        return answer

    net.forward = out
    return net
