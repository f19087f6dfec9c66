"""A ResNet as torch computes it, written from the papers' description, for judging what others compute."""

from __future__ import annotations

import torch
from torch.nn import functional as F  # noqa: N812

State = dict[str, torch.Tensor]


def reference(state: State, image: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Logits of the ResNet whose state dict this is; groups follow from the shapes."""
    state = {name: tensor.to(dtype) for name, tensor in state.items()}
    with torch.inference_mode():
        x = _norm(state, "bn1", F.conv2d(image.to(dtype), state["conv1.weight"], stride=2, padding=3)).relu()
        x = F.max_pool2d(x, 3, 2, 1)
        for stage in range(1, 5):
            index = 0
            while f"layer{stage}.{index}.conv1.weight" in state:
                x = _block(state, f"layer{stage}.{index}", x, 2 if stage > 1 and not index else 1)
                index += 1
        return F.linear(x.mean((2, 3)), state["fc.weight"], state["fc.bias"])


def _block(state: State, name: str, x: torch.Tensor, stride: int) -> torch.Tensor:
    count = 3 if f"{name}.conv3.weight" in state else 2
    strided = count - 1  # the first 3x3 convolution: of a bottleneck the second, of a basic block the first
    y = x
    for number in range(1, count + 1):
        weight = state[f"{name}.conv{number}.weight"]
        step = stride if number == strided else 1
        y = F.conv2d(y, weight, None, step, weight.shape[2] // 2, groups=y.shape[1] // weight.shape[1])
        y = _norm(state, f"{name}.bn{number}", y)
        y = y.relu() if number < count else y
    if f"{name}.downsample.0.weight" in state:
        x = F.conv2d(x, state[f"{name}.downsample.0.weight"], stride=stride)
        x = _norm(state, f"{name}.downsample.1", x)
    return (x + y).relu()


def _norm(state: State, name: str, x: torch.Tensor) -> torch.Tensor:
    weight, bias, mean, variance = (state[f"{name}.{p}"] for p in ("weight", "bias", "running_mean", "running_var"))
    return F.batch_norm(x, mean, variance, weight, bias)
