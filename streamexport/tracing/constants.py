"""What depends on no input: constants, computed when somebody asks, and trees of arguments that they stand in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import reason
from . import ends, weights
from .operands import Constant, UnsupportedError

if TYPE_CHECKING:
    from torch import fx


def computed(node: fx.Node, args: Any, kwargs: Any) -> Any:
    """A node that depends on no input, as constants: what it computes, it computes when somebody asks."""
    import torch

    held = [leaf for leaf in leaves((args, kwargs)) if isinstance(leaf, Constant)]
    origin = tuple(dict.fromkeys(name for constant in held for name in constant.origin))

    def compute() -> Any:
        values = mapped(args, _value), mapped(kwargs, _value)
        if "device" in values[1]:
            values[1]["device"] = torch.device("cpu")
        try:
            return node.target(*values[0], **values[1])  # type: ignore[operator]
        except Exception as error:  # whatever torch says
            what = f"takes what torch cannot compute, {ends.called(node)}: {type(error).__name__}: {reason(error)}"
            raise UnsupportedError(what) from error

    is_pointwise = torch.Tag.pointwise in getattr(node.target, "tags", ())
    if isinstance(node.meta["val"], (list, tuple)):
        each = enumerate(ends.shapes(node))
        made = [Constant(shape, origin, None, partial(lambda index: compute()[index], index)) for index, shape in each]
        return weights.of_parts(ends.function(node), is_pointwise, args, kwargs, made)
    (shape,) = ends.shapes(node)
    whole = Constant(shape, origin, None, compute)
    if not str(node.meta["val"].dtype).endswith("float32"):
        return whole
    return weights.of_parts(ends.function(node), is_pointwise, args, kwargs, [whole])[0]


def _value(leaf: Any) -> Any:
    return leaf.value() if isinstance(leaf, Constant) else leaf


def mapped(tree: Any, function: Callable[[Any], Any]) -> Any:
    """A function's results in place of the leaves of nested lists and mappings."""
    if isinstance(tree, (list, tuple)):
        return [mapped(item, function) for item in tree]
    if isinstance(tree, Mapping):
        return {key: mapped(item, function) for key, item in tree.items()}
    return function(tree)


def leaves(tree: Any) -> list[Any]:
    found: list[Any] = []
    mapped(tree, found.append)
    return found
