"""A layer whose weight is computed from what is trained, of any width.

python benchmarks/normalised_module.py ROWS FILE     saves its state dict
"""

from __future__ import annotations

import sys

import torch
from torch import nn

INPUTS = 10240


def build(rows: int) -> nn.Module:
    """For --net: a linear layer under weight_norm."""
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(INPUTS, rows)))


if __name__ == "__main__":
    torch.save(build(int(sys.argv[1])).state_dict(), sys.argv[2])
