"""Means, sums, norms and variances over dimensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf, prod
from typing import Any

from ...net import kernels
from ...net.operations import AbsVal, Exp, Log, Pooling, Threshold
from ...net.windows import LONG, Window
from ..arranged import arrange
from ..node import Node, Scope
from ..operands import Operand, UnsupportedError, Value
from ..views import View
from .arithmetic import combined
from .registry import operator
from .shapes import cut

Dims = Sequence[int] | int | None
"""Dimensions as torch names them: one, several, or all by None."""


@operator("mean", "mean.dim")
def _mean(scope: Scope, x: Operand, dim: Dims = None, keepdim: bool = False, **_: Any) -> Value:
    return reduced(scope, x, dim, keepdim, "AVE")


@operator("sum", "sum.dim_IntList")
def _sum(node: Node, x: Operand, dim: Dims = None, keepdim: bool = False, **_: Any) -> Value:
    if node.dtype != "float32":  # of whole numbers, or of truth values, which are counted
        if node.taken[0] == "float32":
            raise UnsupportedError(f"rounds an activation, to torch.{node.dtype}")
        return reduced(node, x, dim, keepdim, "SUM")
    return total(node, node.activation(x), dim, keepdim)


@operator("prod", "prod.dim_int")
def _prod(scope: Scope, x: Operand, dim: int | None = None, keepdim: bool = False, **_: Any) -> Value:
    """One half of a dimension times the other, until nothing is left to multiply."""
    x = scope.activation(x)
    if dim is None:
        return scope.viewed(_prod(scope, scope.viewed(x, (prod(x.shape),)), 0), ())
    given = arrange(scope, x, [dim])
    made, axis, odd = given.value, given.axis(dim), []
    while (size := made.shape[axis]) > 1:
        first, second, *others = cut(scope, made, axis, [size // 2] * 2 + [1] * (size % 2))
        made = scope.eltwise("PROD", first, second)
        odd += others
    for other in odd:
        made = scope.eltwise("PROD", made, other)
    made = given.back(made)
    return made if keepdim else _dropped(made, _axes(made, dim))


@operator("logsumexp")
def _logsumexp(scope: Scope, x: Operand, dim: Dims, keepdim: bool = False) -> Value:
    """max(x) + log(sum of e^(x - max(x))), which no number is too large for."""
    largest = reduced(scope, x, dim, True, "MAX", "largest")
    powers = scope.pointwise(Exp(), combined(scope, "SUM", x, largest, (1.0, -1.0), "centred"), "exp")
    log = scope.pointwise(Log(), total(scope, powers, dim, True, "sum"), "log")
    made = scope.eltwise("SUM", log, largest)
    return made if keepdim else _dropped(made, _axes(scope.activation(x), dim))


@operator("linalg_vector_norm")
def norm(
    scope: Scope,
    x: Operand,
    ord: float = 2,  # noqa: A002
    dim: Dims = None,
    keepdim: bool = False,
    **_: Any,
) -> Value:
    if ord == 2:
        squares = scope.power(x, power=2, part="square")
        return scope.power(total(scope, squares, dim, keepdim, "sum"), power=0.5)
    sizes = scope.pointwise(AbsVal(), x, "abs")
    if not ord:
        return reduced(scope, scope.pointwise(Threshold(), sizes, "others"), dim, keepdim, "SUM")
    if abs(ord) == inf:
        return reduced(scope, sizes, dim, keepdim, "MAX" if ord > 0 else "MIN")
    if ord < 0:
        raise UnsupportedError(f"a norm of order {ord}")
    if ord == 1:
        return total(scope, sizes, dim, keepdim)
    powers = scope.power(sizes, power=ord, part="powers")
    return scope.power(total(scope, powers, dim, keepdim, "sum"), power=1 / ord)


@operator("linalg_matrix_norm.str_ord")
def _matrix_norm(
    scope: Scope,
    x: Operand,
    ord: str = "fro",  # noqa: A002
    dim: Dims = (-2, -1),
    keepdim: bool = False,
    **_: Any,
) -> Value:
    if ord != "fro":
        raise UnsupportedError(f"a norm of order {ord}")
    return norm(scope, x, 2, dim, keepdim)


@operator("norm.Scalar", "norm.ScalarOpt_dim", "norm.ScalarOpt_dtype", "norm.ScalarOpt_dim_dtype")
def _norm(scope: Scope, x: Operand, p: float | None = 2, dim: Dims = None, keepdim: bool = False, **_: Any) -> Value:
    return norm(scope, x, 2 if p is None else p, dim, keepdim)


def total(scope: Scope, x: Value, dim: Dims, keepdim: bool, part: str = "") -> Value:
    """Sums over dimensions: means times the number of elements."""
    count = prod(x.shape[axis] for axis in _axes(x, dim))
    made = reduced(scope, x, dim, keepdim, "AVE", part="mean")
    return scope.power(made, scale=count, part=part)


def _axes(x: Value, dim: Dims) -> list[int]:
    rank = len(x.shape)
    given = range(rank) if dim is None or dim in ([], ()) else [dim] if isinstance(dim, int) else dim
    return sorted(axis % rank for axis in given)


def reduced(scope: Scope, x: Operand, dim: Dims, keepdim: bool, method: str, part: str = "") -> Value:
    """Means (AVE), sums of whole numbers (SUM), maxima (MAX) or minima (MIN) over dimensions. Minima are -max(-x)."""
    if method == "MIN":
        largest = reduced(scope, scope.power(x, scale=-1, part="negated"), dim, keepdim, "MAX", "largest")
        return scope.power(largest, scale=-1, part=part)
    x = scope.activation(x)
    dims = _axes(x, dim)
    given = arrange(scope, x, dims)
    made = given.value
    for run in reversed(_runs(made.shape, sorted(map(given.axis, dims)))):
        made = _reduced(scope, made, run, method, part)
    made = given.back(made)
    return made if keepdim else _dropped(made, dims)


def _dropped(x: Value, dims: Sequence[int]) -> Value:
    """Without dimensions of size 1."""
    kept = tuple(atoms for axis, atoms in enumerate(x.view.dims) if axis not in dims)
    return replace(x, view=View(x.view.atoms, kept))


def _runs(shape: Sequence[int], axes: Sequence[int]) -> list[list[int]]:
    """Axes that follow each other, or have nothing but sizes of 1 between them."""
    runs: list[list[int]] = []
    for axis in axes:
        if runs and prod(shape[runs[-1][-1] + 1 : axis]) == 1:
            runs[-1].append(axis)
        else:
            runs.append([axis])
    return runs


def _reduced(scope: Scope, x: Value, axes: Sequence[int], method: str, part: str) -> Value:
    """Of a contiguous value, over axes that follow each other: those are the pixels of an image. They stay, of size 1.

    Means over channels are products with a row of a matrix.
    """
    reduced = tuple(1 if axis in axes else size for axis, size in enumerate(x.shape))
    if axes and axes[0] == 0 and x.shape[0] != 1:
        raise UnsupportedError("combines the images of a batch")
    axes = [axis for axis in axes if axis and x.shape[axis] != 1]
    if not axes:
        return replace(x, view=x.view.squeezed(reduced))
    first, last = axes[0], axes[-1]
    batch, before = x.shape[0], prod(x.shape[1:first])
    inside, behind = prod(x.shape[first : last + 1]), prod(x.shape[last + 1 :])
    if method == "SUM":
        image = scope.reshaped(x, (batch * before, inside, 1, behind))
        made = scope.pointwise_convolution(image, kernels.filled((1, inside), 1), part=part)
    elif len(x.shape) == 4 and axes == [2, 3]:
        made = scope.layer(Pooling(method), [scope.reshaped(x, x.shape)], part=part)
    elif method == "AVE" and before == 1 and inside <= LONG:
        rest = x.shape[2:] if len(x.shape) == 4 and axes == [1] else (1, behind)
        image = scope.reshaped(x, (batch, inside, *rest))
        made = scope.pointwise_convolution(image, kernels.filled((1, inside), 1 / inside), part=part)
    else:
        image = scope.reshaped(x, (batch, before, inside, behind))
        made = scope.layer(whole_columns(method, inside), [image], part=part)
    return replace(made, view=View.of(reduced))


def whole_columns(method: str, height: int) -> Pooling:
    """A pooling that makes one pixel of each column of an image of this height."""
    return Pooling(method, Window.of((height, 1), (height, 1)))


def variance(scope: Scope, x: Operand, dim: Dims, correction: float, keepdim: bool, part: str = "") -> Value:
    """The sum of squares of distances from the mean, divided by how many there are less the correction."""
    x = scope.activation(x)
    count = prod(x.shape[axis] for axis in _axes(x, dim))
    share = count - correction
    if share <= 0:
        raise UnsupportedError(f"divides by {share}, of {count} elements less the correction")
    centred = combined(scope, "SUM", x, reduced(scope, x, dim, True, "AVE", "mean"), (1.0, -1.0), "centred")
    square = scope.power(centred, power=2, part="square")
    made = reduced(scope, square, dim, keepdim, "AVE", "mean_square" if share != count else part)
    return scope.power(made, scale=count / share, part=part) if share != count else made


def _deviation(scope: Scope, x: Operand, dim: Dims, correction: float, keepdim: bool) -> Value:
    return scope.power(variance(scope, x, dim, correction, keepdim, "variance"), power=0.5)


def _with_mean(statistic: Callable[[Scope, Operand, Dims, float, bool], Value]) -> Callable[..., list[Value]]:
    def made(scope: Scope, x: Operand, dim: Dims, correction: float, keepdim: bool) -> list[Value]:
        return [statistic(scope, x, dim, correction, keepdim), reduced(scope, x, dim, keepdim, "AVE", "average")]

    return made


def _register(name: str, made: Callable[[Scope, Operand, Dims, float, bool], Value | list[Value]]) -> None:
    """A statistic in the three ways that torch has to say what it is corrected by."""

    @operator(name)
    def of_all(scope: Scope, x: Operand, unbiased: bool = True) -> Value | list[Value]:
        return made(scope, x, None, float(unbiased), False)

    @operator(f"{name}.dim")
    def over(scope: Scope, x: Operand, dim: Dims, unbiased: bool = True, keepdim: bool = False) -> Value | list[Value]:
        return made(scope, x, dim, float(unbiased), keepdim)

    @operator(f"{name}.correction")
    def corrected(
        scope: Scope, x: Operand, dim: Dims = None, *, correction: float | None = None, keepdim: bool = False
    ) -> Value | list[Value]:
        return made(scope, x, dim, 1.0 if correction is None else correction, keepdim)


_register("var", variance)
_register("std", _deviation)
_register("var_mean", _with_mean(variance))
_register("std_mean", _with_mean(_deviation))
