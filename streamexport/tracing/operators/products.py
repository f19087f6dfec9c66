"""Products of matrices: with weights, which are linear layers, and of two activations (`MatMul`); attention, made of these.

A matrix is taken as its blob holds it, transposed or not, and a product is made transposed where its first factor is held so:
then no dialect has to turn anything, since of the two ways to write a product, one has its second factor as it is held.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING

from ...net.operations import MatMul
from ..node import Node, Scope
from ..operands import Constant, Operand, UnsupportedError, Value
from ..views import Shape, View
from .activations import softmax
from .arithmetic import add, multiplied
from .convolutions import linear
from .indexing import diagonal
from .reductions import total
from .registry import operator
from .shapes import activations, broadcast

if TYPE_CHECKING:
    import torch

HIDDEN = -1e30
"""What is added to a score that a mask hides: e to it is 0, and it is no infinity, of which a difference is no number."""


@operator("matmul")
def _matmul(node: Node, x: Operand, other: Operand) -> Value:
    """Vectors are matrices of one row, or of one column."""
    first = _shaped(node, x, (1, *_shape(x))) if len(_shape(x)) == 1 else x
    second = _shaped(node, other, (*_shape(other), 1)) if len(_shape(other)) == 1 else other
    return node.viewed(matrix_product(node, first, second), node.shape)


@operator("mm", "bmm")
def _bmm(scope: Scope, x: Operand, mat2: Operand) -> Value:
    return matrix_product(scope, x, mat2)


@operator("addmm")
def _addmm(scope: Scope, x: Operand, mat1: Operand, mat2: Operand, *, beta: float = 1, alpha: float = 1) -> Value:
    """beta x + alpha mat1 @ mat2. With a bias it is a linear layer."""
    is_layer = isinstance(x, Constant) and isinstance(mat2, Constant) and x.shape == mat2.shape[1:]
    if is_layer and (beta, alpha) == (1, 1):
        return linear(scope, mat1, _turned(scope, mat2), x)
    return _baddbmm(scope, x, mat1, mat2, beta=beta, alpha=alpha)


@operator("baddbmm")
def _baddbmm(scope: Scope, x: Operand, batch1: Operand, batch2: Operand, *, beta: float = 1, alpha: float = 1) -> Value:
    made = matrix_product(scope, batch1, batch2)
    if alpha != 1:
        made = scope.power(made, scale=alpha, part="scaled")
    return add(scope, made, x, beta) if beta else made


@operator("scaled_dot_product_attention")
def _attention(
    node: Node,
    query: Operand,
    key: Operand,
    value: Operand,
    attn_mask: Operand | None = None,
    dropout_p: float = 0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Value:
    """softmax(scale query @ key^T + mask) @ value, over the keys; queries of several heads may share keys and values.

    A query whose keys are all hidden by a mask of truth values has shares of 0, as in torch.
    """
    if dropout_p:
        raise UnsupportedError("drops values at random", "give it dropout_p=0. when it is not trained")
    query, keys = node.activation(query), _shape(key)
    *lead, count, width = query.shape
    factor = width**-0.5 if scale is None else scale
    scaled = multiplied(node, query, factor) if factor != 1 else query
    grouped = (*lead[:-1], keys[-3], lead[-1] // keys[-3] * count) if enable_gqa else (*lead, count)
    scores = matrix_product(node, node.viewed(scaled, (*grouped, width)), _turned(node, key), "scores")
    scores = node.viewed(scores, (*lead, count, keys[-2]))
    shown = attn_mask if isinstance(attn_mask, Value) and node.taken[-1] == "bool" else None
    if shown is not None:
        attn_mask = node.power(shown, scale=-HIDDEN, shift=HIDDEN, part="mask")
    for mask in _masks(attn_mask, is_causal, (count, keys[-2])):
        scores = add(node, scores, mask)
    shares = softmax(node, scores, -1)
    if shown is not None:
        shares = multiplied(node, shares, shown)
    made = matrix_product(node, node.viewed(shares, (*grouped, keys[-2])), value)
    return node.viewed(made, (*lead, count, _shape(value)[-1]))


def _masks(mask: Operand | None, is_causal: bool, shape: Shape) -> list[Operand]:
    """What is to be added to scores."""
    masks: list[Operand] = [] if mask is None else [mask]
    if is_causal:
        masks.append(Constant(shape, (), None, lambda: _causal(shape)))
    return [mask.mapped(mask.shape, _hiding) if isinstance(mask, Constant) else mask for mask in masks]


def _causal(shape: Shape) -> torch.Tensor:
    import torch

    return torch.ones(shape, dtype=torch.bool).tril()


def _hiding(mask: torch.Tensor) -> torch.Tensor:
    import torch

    added = torch.where(mask, 0.0, HIDDEN) if mask.dtype == torch.bool else mask.clamp(min=HIDDEN)
    if bool((added == HIDDEN).all(-1).any()):
        raise UnsupportedError("has a mask that hides all keys from a query")
    return added


@operator("bilinear")
def _bilinear(scope: Scope, input1: Operand, input2: Operand, weight: Operand, bias: Operand | None = None) -> Value:
    """The first times all matrices, and the sums of its products with the second."""
    assert isinstance(weight, Constant)
    outputs, width, other = weight.shape
    rows = weight.mapped((outputs * other, width), lambda values: values.transpose(1, 2).reshape(-1, width))
    lead = _shape(input2)[:-1]
    first = scope.viewed(linear(scope, input1, rows), (*lead, outputs, other))
    second = _shaped(scope, input2, (*lead, 1, other))
    made = total(scope, multiplied(scope, first, second), -1, False)
    return made if bias is None else add(scope, made, bias)


@operator("einsum")
def _einsum(scope: Scope, equation: str, tensors: Sequence[Operand], *, path: Sequence[int] | None = None) -> Value:
    """Products of the first two, of that with the third, and so on, of what no other tensor has is summed up before."""
    names, result = _letters(equation, [_shape(x) for x in tensors])
    factors = []
    for number, (x, name) in enumerate(zip(tensors, names, strict=True)):
        elsewhere = {*result}.union(*names[:number], *names[number + 1 :])
        factors.append(_reduced(scope, x, name, elsewhere))
    (made, held), *others = factors
    for number, (other, name) in enumerate(others, 1):
        later = set(result).union(*(name for _, name in others[number:]))
        made, held = _contracted(scope, made, held, other, name, later)
    return scope.activation(_permuted(scope, made, [held.index(letter) for letter in result]))


def _reduced(scope: Scope, x: Operand, name: str, elsewhere: set[str]) -> tuple[Operand, str]:
    """One tensor without dimensions that stand nowhere else, which are summed up, and without repeated ones: diagonals."""
    for letter in name:
        if name.count(letter) > 1:
            first, second = name.index(letter), name.rindex(letter)
            x = _diagonal(scope, x, first, second)
            name = name[:first] + name[first + 1 : second] + name[second + 1 :] + letter
    alone = [axis for axis, letter in enumerate(name) if letter not in elsewhere]
    if not alone:
        return x, name
    shape = tuple(size for axis, size in enumerate(_shape(x)) if axis not in alone)
    summed = x.mapped(shape, lambda values: values.sum(alone)) if isinstance(x, Constant) else None
    kept = "".join(letter for letter in name if letter in elsewhere)
    return summed or total(scope, scope.activation(x), alone, False), kept


def _diagonal(scope: Scope, x: Operand, first: int, second: int) -> Operand:
    shape = _shape(x)
    kept = tuple(size for axis, size in enumerate(shape) if axis not in (first, second))
    if isinstance(x, Constant):
        return x.mapped((*kept, shape[first]), lambda values: values.diagonal(dim1=first, dim2=second))
    return diagonal(scope, x, 0, first, second)


def _letters(equation: str, shapes: Sequence[Shape]) -> tuple[list[str], str]:
    """The dimensions of the tensors and of the result, an ellipsis by letters that nobody else has."""
    given, arrow, result = equation.replace(" ", "").partition("->")
    free = [chr(code) for code in range(0x3B1, 0x3B1 + max(map(len, shapes)))]
    names, most = [], 0
    for name, shape in zip(given.split(","), shapes, strict=True):
        count = len(shape) - len(name) + 3 if "..." in name else 0
        most = max(most, count)
        names.append(name.replace("...", "".join(free[len(free) - count :])))
    several = "".join(names)
    if not arrow:
        once = sorted(letter for letter in set(several) if several.count(letter) == 1 and letter not in free)
        result = "..." * bool(most) + "".join(once)
    result = result.replace("...", "".join(free[len(free) - most :]))
    return names, result


def _contracted(scope: Scope, x: Operand, first: str, y: Operand, second: str, later: set[str]) -> tuple[Operand, str]:
    """The product of two tensors, summed over what they share and nobody needs; and the dimensions that it has."""
    batch = [letter for letter in first if letter in second and letter in later]
    inner = [letter for letter in first if letter in second and letter not in later]
    rows, columns = ([c for c in name if c not in (*batch, *inner)] for name in (first, second))
    sizes = dict(zip(second, _shape(y), strict=True)) | {
        letter: size for letter, size in zip(first, _shape(x), strict=True) if size != 1 or letter not in second
    }
    factors = []
    for operand, name, left, right in ((x, first, rows, inner), (y, second, inner, columns)):
        turned = _permuted(scope, operand, [name.index(letter) for letter in (*batch, *left, *right)])
        own = dict(zip(name, _shape(operand), strict=True))
        shape = (*(own[c] for c in batch), prod(own[c] for c in left), prod(own[c] for c in right))
        factors.append(_shaped(scope, turned, shape))
    made = matrix_product(scope, factors[0], factors[1])
    letters = "".join((*batch, *rows, *columns))
    return scope.viewed(made, tuple(sizes[letter] for letter in letters)), letters


def matrix_product(scope: Scope, x: Operand, y: Operand, part: str = "") -> Value:
    """(..., m, k) by (..., k, n), what is in front broadcast as torch does."""
    if isinstance(y, Constant) and prod(y.shape[:-2]) == 1:
        weight = _turned(scope, _shaped(scope, y, y.shape[-2:]))
        return _led(scope, linear(scope, x, weight), len(_shape(y)))
    if isinstance(x, Constant) and prod(x.shape[:-2]) == 1:
        made = linear(scope, _turned(scope, y), _shaped(scope, x, x.shape[-2:]))
        return _led(scope, scope.activation(_turned(scope, made)), len(x.shape))
    rank = max(len(_shape(x)), len(_shape(y)))
    x, y = (_shaped(scope, z, (1,) * (rank - len(_shape(z))) + _shape(z)) for z in (x, y))
    x, y = activations(scope, (x, y))
    lead = tuple(max(pair) for pair in zip(x.shape[:-2], y.shape[:-2], strict=True))
    if prod(y.shape[:-2]) == 1 < prod(lead):  # rows of all matrices are rows of one
        rows = scope.viewed(x, (prod(x.shape[:-1]), x.shape[-1]))
        made = _product(scope, rows, scope.viewed(y, y.shape[-2:]), part)
        return scope.viewed(made, (*x.shape[:-1], y.shape[-1]))
    if prod(x.shape[:-2]) == 1 < prod(lead):
        turned = matrix_product(scope, _turned(scope, y), _turned(scope, x), part)
        return scope.activation(_turned(scope, turned))
    x, y = (broadcast(scope, z, (*lead, *z.shape[-2:])) for z in (x, y))
    return _product(scope, x, y, part)


def _product(scope: Scope, x: Value, y: Value, part: str) -> Value:
    """Of values that are alike but for the last two dimensions."""
    (first, is_first_turned), (second, is_second_turned) = _held(scope, x), _held(scope, y)
    if not is_first_turned:
        return scope.layer(MatMul(False, is_second_turned), [first, second], part=part)
    turned = scope.layer(MatMul(not is_second_turned, False), [second, first], part=part)
    return replace(turned, view=turned.view.permuted(_swapped(len(turned.shape))))


def _held(scope: Scope, x: Value) -> tuple[Value, bool]:
    """Matrices as their blob has them, and whether that is transposed. What has to be turned is turned into the order that
    breaks up less of it."""
    views = (x.view, x.view.permuted(_swapped(len(x.shape))))
    view = min(views, key=_breaks)
    made = scope.contiguous(replace(x, view=view))
    return scope.reshaped(made, view.shape), view is views[1]


def _breaks(view: View) -> int:
    return sum(second != first + 1 for first, second in pairwise(view.order))


def _swapped(rank: int) -> list[int]:
    return [*range(rank - 2), rank - 1, rank - 2]


def _led(scope: Scope, x: Value, rank: int) -> Value:
    """With dimensions of size 1 in front, up to a rank."""
    return scope.viewed(x, (1,) * (rank - len(x.shape)) + x.shape)


def _shape(x: Operand) -> Shape:
    assert isinstance(x, (Value, Constant))
    return x.shape


def _turned(scope: Scope, x: Operand) -> Operand:
    """Its last two dimensions swapped."""
    return _permuted(scope, x, _swapped(len(_shape(x))))


def _permuted(scope: Scope, x: Operand, order: Sequence[int]) -> Operand:
    if isinstance(x, Constant):
        made = x.mapped(tuple(x.shape[axis] for axis in order), lambda values: values.permute(*order))
        if x.tensor is None:
            return made
        strides = tuple(x.tensor.strides[axis] for axis in order)
        return replace(made, tensor=replace(x.tensor, shape=made.shape, strides=strides))
    x = scope.activation(x)
    return replace(x, view=x.view.permuted(order), label=scope.label)


def _shaped(scope: Scope, x: Operand, shape: Shape) -> Operand:
    if isinstance(x, Constant):
        return x if x.shape == shape else x.mapped(shape, lambda values: values.reshape(shape))
    return scope.viewed(x, shape)
