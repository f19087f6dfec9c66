"""What recurrences compute, step by step. Their weights are read anew at each step: large ones are never held.

torch is imported at the top: whoever imports this module is about to compute.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..net import operations as ops
from .task import Task, empty


def _product(task: Task, index: int, vectors: Tensor) -> Tensor:
    """Vectors times the transpose of a blob."""
    made = empty((len(vectors), task.parameters.shape(index)[0]))
    for first, last, weight in task.parameters.rows(1, len(vectors), index):
        made[:, first:last] = torch.mm(vectors, weight.T)
    return made


def lstm(operation: ops.LSTM, task: Task) -> list[Tensor]:
    steps, batch = task.bottom.shape[:2]
    is_caffe_s = len(task.bottoms) > 1
    inputs, bias, states = (0, 1, 2) if is_caffe_s else (1, 2, 0)
    came_in = _product(task, inputs, task.bottom.reshape(steps * batch, -1)).view(steps, batch, -1)
    came_in += task.parameters.whole(bias)
    state = cell = torch.zeros(batch, operation.outputs)
    if not is_caffe_s:
        state, cell = task.parameters.whole(3), task.parameters.whole(4)
    elif operation.exposes_states:
        state, cell = (bottom[0] for bottom in task.bottoms[2:])
    top = empty(task.top)
    for step in reversed(range(steps)) if operation.is_reversed else range(steps):
        goes_on = task.bottoms[1][step, :, None] if is_caffe_s else 1
        gates = came_in[step] + _product(task, states, state * goes_on)
        enters, stays, leaves = (gate.sigmoid() for gate in gates[:, : 3 * operation.outputs].chunk(3, 1))
        cell = stays * (cell * goes_on) + enters * gates[:, 3 * operation.outputs :].tanh()
        top[step] = state = leaves * cell.tanh()
    return [top, state[None], cell[None]][: len(task.tops)]


def gru(operation: ops.GRU, task: Task) -> Tensor:
    steps, batch = task.bottom.shape[:2]
    came_in = _product(task, 1, task.bottom.reshape(steps * batch, -1)).view(steps, batch, -1)
    bias, state_bias = task.parameters.whole(2).chunk(2)
    came_in += bias
    state, top = task.parameters.whole(3), empty(task.top)
    for step in range(steps):
        update, reset, new = (_product(task, 0, state) + state_bias).chunk(3, 1)
        own_update, own_reset, own_new = came_in[step].chunk(3, 1)
        new = (own_new + (own_reset + reset).sigmoid() * new).tanh()
        top[step] = state = new + (own_update + update).sigmoid() * (state - new)
    return top
