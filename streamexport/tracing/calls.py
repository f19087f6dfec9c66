"""Calls that torch.export would take apart although Caffe has a layer for the whole: they stay whole, as operators of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

LIBRARY = "streamexport"
"""What torch.library knows our operators by."""

POOLINGS = {
    f"lp_pool{rank}d": f"(Tensor input, float norm_type, int[{rank}] kernel_size, int[{rank}]? stride=None,"
    " bool ceil_mode=False) -> Tensor"
    for rank in (1, 2, 3)
}
SCHEMAS = {
    "local_response_norm": "(Tensor input, int size, float alpha=0.0001, float beta=0.75, float k=1.0) -> Tensor",
    **POOLINGS,
}
"""Of those functions of torch.nn.functional."""


@contextmanager
def kept_whole() -> Iterator[None]:
    """For the time of the block, those functions are operators of ours, which compute nothing."""
    from torch.overrides import TorchFunctionMode

    kept = _operators()

    class Keeping(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return kept.get(func, func)(*args, **(kwargs or {}))

    with Keeping():
        yield


@cache
def _operators() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Our operators by torch's functions; they exist once in a process, and stay."""
    import torch

    make: Any = torch.library.Library  # which says nothing of its types
    library = make(LIBRARY, "DEF")
    found = {}
    for name, schema in SCHEMAS.items():
        library.define(name + schema)
        library.impl(
            name, _pooled if name in POOLINGS else lambda x, *_: torch.empty_like(x), "CompositeExplicitAutograd"
        )
        found[getattr(torch.nn.functional, name)] = getattr(getattr(torch.ops, LIBRARY), name)
    _living.append(library)
    return found


def _pooled(
    x: torch.Tensor, _: float, kernel: list[int], stride: list[int] | None = None, rounds_up: bool = False
) -> torch.Tensor:
    """Something of the shape that a pooling makes."""
    from torch.nn import functional

    pool: Any = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)[len(kernel) - 1]
    made: torch.Tensor = pool(x, kernel, stride, 0, rounds_up)
    return made


_living: list[object] = []
"""Operators go away with their library."""
