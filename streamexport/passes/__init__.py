"""Functions from nets to nets, each of one thought. `apply` composes them: the order is part of their meaning."""

from __future__ import annotations

from ..nets.graph import Net
from . import cutting, dialects, naming, precision


def apply(
    net: Net, *, dialect: str = "portable", end: str | None = None, softmax: bool = True, dtype: str, names: str
) -> Net:
    """Dialect, cutting, precision, and naming, last of all, so that all others speak of modules by torch's names."""
    net = dialects.express(net, dialect)
    if end is not None:
        net = cutting.cut(net, end)
    elif not softmax:
        net = cutting.without_softmax(net)
    net = precision.store(net, dtype)
    return naming.rename(net, names)
