"""What a constant is made of, where it or what it is computed from is large: see `streams`.

A rule is called with an operator's own arguments and with the shapes of its results, and makes constants of them. Whatever has
no rule is computed as a whole, by torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

from ..net.graph import Blob, computed
from ..payload.tensors import contiguous_strides
from .operands import LARGE, Constant, UnsupportedError, evaluation
from .streams import Applied, Elements, Lying, Repeated, reduced
from .views import Shape

if TYPE_CHECKING:
    import torch

    from ..payload.tensors import Array

Dims = Sequence[int] | int | None
Rule = Callable[..., list[Constant] | None]
RULES: dict[str, Rule] = {}


def of_parts(
    name: str, is_pointwise: bool, args: Sequence[Any], kwargs: dict[str, Any], made: list[Constant]
) -> list[Constant]:
    """An operator's results, each as it can be made without holding what is large; as they are, where there is no way."""
    given = [arg for arg in (*args, *kwargs.values()) if isinstance(arg, Constant)]
    if any(not is_known(constant) for constant in given):
        return made
    if name in VIEWS and given:
        return _viewed(name, args, kwargs, given[0], made[0]) or made
    if max((constant.count for constant in (*given, *made)), default=0) <= LARGE:
        return made
    if is_pointwise and len(made) == 1:
        return [_pointwise(name, args, kwargs, made[0])]
    rule = RULES.get(name)
    return (rule([constant.shape for constant in made], *args, **kwargs) if rule else None) or made


def is_known(constant: Constant) -> bool:
    """Whether its elements can be had without holding all of them, or are few."""
    return is_lying(constant) or constant.made is not None or constant.count <= LARGE


def is_lying(constant: Constant) -> bool:
    """Whether it lies in the checkpoint, and blobs can hold it."""
    return constant.tensor is not None and constant.tensor.dtype.is_floating


def elements(constant: Constant, shape: Shape | None = None) -> Elements:
    """A constant's elements, repeated to a shape."""
    if constant.count > LARGE and (shape is None or constant.shape == shape):
        if constant.tensor is not None:
            name = ", ".join(constant.origin)
            return Lying(computed(Blob(constant.shape, constant.tensor.as_float32(), origin=(name,))))
        if constant.made is not None:
            with evaluation():
                return constant.made()
    few = constant.value().detach()
    wanted = constant.shape if shape is None else shape
    return Repeated(few.reshape((1,) * (len(wanted) - few.ndim) + tuple(few.shape)).numpy(), wanted)


def _pointwise(name: str, args: Sequence[Any], kwargs: dict[str, Any], made: Constant) -> Constant:
    def applied() -> Elements:
        def of(arg: Any) -> Any:
            return elements(arg, made.shape) if isinstance(arg, Constant) else arg

        return Applied(name, tuple(map(of, args)), {key: of(arg) for key, arg in kwargs.items()})

    return replace(made, made=applied) if made.count > LARGE else made


# Views

VIEWS = frozenset(
    "view _unsafe_view reshape flatten.using_ints unflatten.int squeeze squeeze.dim squeeze.dims unsqueeze view_copy clone"
    " contiguous detach alias expand permute transpose.int t".split()
)


def _viewed(
    name: str, args: Sequence[Any], kwargs: dict[str, Any], x: Constant, made: Constant
) -> list[Constant] | None:
    """The same elements in another shape or order."""
    if x.tensor is not None and not is_lying(x):
        return None
    if name in ("permute", "transpose.int", "t"):
        return _turned(x, _order(name, args[1:], len(x.shape)), made)
    if name == "expand" and x.count != made.count:
        return [replace(made, made=lambda: elements(x, made.shape))] if made.count > LARGE else None
    if x.tensor is not None and x.tensor.is_contiguous:
        return [replace(made, tensor=replace(x.tensor, shape=made.shape, strides=contiguous_strides(made.shape)))]
    return [replace(made, made=lambda: elements(x))] if made.count > LARGE else None


def _turned(x: Constant, order: Sequence[int], made: Constant) -> list[Constant] | None:
    if x.tensor is None:
        return None
    strides = tuple(x.tensor.strides[dim] for dim in order)
    return [replace(made, tensor=replace(x.tensor, shape=made.shape, strides=strides))]


def _order(name: str, args: Sequence[Any], rank: int) -> list[int]:
    if name == "permute":
        return [dim % rank for dim in args[0]]
    first, second = (0, rank - 1) if name == "t" else (dim % rank for dim in args)
    order = [*range(rank)]
    order[first], order[second] = order[second], order[first]
    return order


# Sums, norms and what is made of them


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, rule))
        return rule

    return register


def _few(x: Constant, shape: Shape, compute: Callable[[], Array]) -> Constant:
    """Numbers that are computed when somebody asks, from a constant that is large."""

    def value() -> torch.Tensor:
        import torch

        return torch.from_numpy(compute().astype("f4").reshape(shape))

    return Constant(shape, x.origin, None, value)


def _dims(dim: Dims, rank: int) -> tuple[int, ...]:
    given = [dim] if isinstance(dim, int) else dim
    return tuple(n % rank for n in given) if given else tuple(range(rank))


def _reduced(x: Constant, dim: Dims, of: Callable[[Array], Array] = lambda part: part, method: str = "add") -> Array:
    if x.count <= LARGE:  # what is large is something else
        few = x.value().detach().numpy().astype("f8")
        import numpy as np

        made: Array = getattr(np, method).reduce(of(few), axis=_dims(dim, len(x.shape)), keepdims=True)
        return made
    return reduced(elements(x), x.shape, _dims(dim, len(x.shape)), of, method)


def _counted(x: Constant, dim: Dims) -> int:
    return prod(x.shape[n] for n in _dims(dim, len(x.shape)))


def _mean_of(x: Constant, dim: Dims) -> Array:
    made: Array = _reduced(x, dim) / _counted(x, dim)
    return made


def _variance_of(x: Constant, dim: Dims, correction: float) -> Array:
    """From the mean, in a second pass."""
    mean = Constant((), (), None, lambda: _torch(_mean_of(x, dim)))
    few = mean.value()
    centred = Applied("sub.Tensor", (elements(x), Repeated(few.numpy(), x.shape)), {})
    squares = reduced(centred, x.shape, _dims(dim, len(x.shape)), lambda part: part * part, "add")
    made: Array = squares / max(_counted(x, dim) - correction, 0)
    return made


def _torch(array: Array) -> torch.Tensor:
    import torch

    return torch.from_numpy(array.astype("f4"))


@_rule("sum", "sum.dim_IntList")
def _sum(shapes: list[Shape], x: Constant, dim: Dims = None, keepdim: bool = False, **_: Any) -> list[Constant]:
    return [_few(x, shapes[0], lambda: _reduced(x, dim))]


@_rule("mean", "mean.dim")
def _mean(shapes: list[Shape], x: Constant, dim: Dims = None, keepdim: bool = False, **_: Any) -> list[Constant]:
    return [_few(x, shapes[0], lambda: _mean_of(x, dim))]


@_rule("amax", "max")
def _amax(shapes: list[Shape], x: Constant, dim: Dims = (), keepdim: bool = False) -> list[Constant]:
    return [_few(x, shapes[0], lambda: _reduced(x, dim, method="maximum"))]


@_rule("amin", "min")
def _amin(shapes: list[Shape], x: Constant, dim: Dims = (), keepdim: bool = False) -> list[Constant]:
    return [_few(x, shapes[0], lambda: _reduced(x, dim, method="minimum"))]


def _variances(
    name: str,
    shapes: list[Shape],
    x: Constant,
    dim: Dims = None,
    unbiased: bool = True,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> list[Constant]:
    """Variance or deviation, and the mean beside it, if it is asked for."""
    less = float(unbiased) if correction is None else correction
    power = 0.5 if name.startswith("std") else 1.0
    found = [_few(x, shapes[0], lambda: _variance_of(x, dim, less) ** power)]
    return [*found, *(_few(x, shape, lambda: _mean_of(x, dim)) for shape in shapes[1:])]


def _flagged(name: str, shapes: list[Shape], x: Constant, unbiased: bool = True) -> list[Constant]:
    return _variances(name, shapes, x, None, unbiased)


def _corrected(name: str, shapes: list[Shape], x: Constant, dim: Dims = None, **others: Any) -> list[Constant]:
    return _variances(name, shapes, x, dim, **others)


for _name in ("var", "std", "var_mean", "std_mean"):
    RULES[_name] = partial(_flagged, _name)
    RULES[f"{_name}.dim"] = partial(_variances, _name)
    RULES[f"{_name}.correction"] = partial(_corrected, _name)


@_rule("linalg_vector_norm")
def _vector_norm(
    shapes: list[Shape],
    x: Constant,
    ord: float = 2,  # noqa: A002
    dim: Dims = None,
    keepdim: bool = False,
    **_: Any,
) -> list[Constant] | None:
    if ord in (0, float("-inf")):
        return None
    return [_few(x, shapes[0], lambda: _norm_of(x, dim, ord))]


@_rule("norm.Scalar", "norm.ScalarOpt_dim")
def _norm(
    shapes: list[Shape], x: Constant, p: float | None = 2, dim: Dims = None, keepdim: bool = False
) -> list[Constant] | None:
    return _vector_norm(shapes, x, 2 if p is None else p, dim)


def _norm_of(x: Constant, dim: Dims, order: float = 2) -> Array:
    import numpy as np

    if order == float("inf"):
        return _reduced(x, dim, np.abs, "maximum")
    made: Array = _reduced(x, dim, lambda part: np.abs(part) ** order) ** (1 / order)
    return made


@_rule("mv")
def _mv(shapes: list[Shape], x: Constant, vec: Constant) -> list[Constant]:
    """Rows times a vector, summed up."""
    rows = _pointwise("mul.Tensor", (x, vec), {}, Constant(x.shape, x.origin, None, _held_by_nobody))
    return [_few(x, shapes[0], lambda: _reduced(rows, -1))]


@_rule("_weight_norm")
def _weight_norm(shapes: list[Shape], v: Constant, g: Constant, dim: int = 0) -> list[Constant]:
    """v g / |v|, the norm over all dimensions but one, or over all."""
    others = [n for n in range(len(v.shape)) if n != dim] if dim >= 0 else None
    few = tuple(1 if others is None or n in others else size for n, size in enumerate(v.shape))
    norm = _few(v, few, lambda: _norm_of(v, others))
    factor = Constant(few, g.origin, None, lambda: g.value().reshape(few) / norm.value())
    made = Constant(shapes[0], (*v.origin, *g.origin), None, _held_by_nobody)
    return [_pointwise("mul.Tensor", (v, factor), {}, made)]


@_rule("_native_batch_norm_legit.no_stats")
def _standardised(
    shapes: list[Shape],
    x: Constant,
    weight: Constant | None,
    bias: Constant | None,
    training: bool,
    momentum: float,
    eps: float,
) -> list[Constant]:
    """(x - mean) / sqrt(variance + eps) weight + bias, of the second dimension: weights that are standardised so."""
    few = tuple(size if n == 1 else 1 for n, size in enumerate(x.shape))
    dims = [n for n in range(len(x.shape)) if n != 1]
    mean = _few(x, few, lambda: _mean_of(x, dims))
    inverse = _few(x, few, lambda: (_variance_of(x, dims, 0) + eps) ** -0.5)
    factor = inverse if weight is None else inverse.mapped(few, lambda one: one * weight.value().reshape(few))
    origin = tuple(dict.fromkeys(name for c in (x, weight, bias) if c is not None for name in c.origin))
    made = Constant(shapes[0], origin, None, _held_by_nobody)
    centred = _pointwise("sub.Tensor", (x, mean), {}, made)
    result = _pointwise("mul.Tensor", (centred, factor), {}, made)
    if bias is not None:
        result = _pointwise("add.Tensor", (result, bias.mapped(few, lambda one: one.reshape(few))), {}, made)
    return [result, *(replace(each, shape=shape) for each, shape in zip((mean, inverse), shapes[1:], strict=True))]


def _held_by_nobody() -> torch.Tensor:
    raise UnsupportedError("computes with a constant of too many elements to be held")
