"""What a net expects of its input, where the user says it: a module does not, and a checkpoint never does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import isfinite

from ..errors import NetError
from ..net.graph import Net, Preprocessing

ORDERS = {1: "grey", 3: "RGB"}
OTHER_ORDER = "channels in torch's order"


def expect(net: Net, mean: Sequence[float] | None, std: Sequence[float] | None) -> Net:
    """The net as one for pixels 0…1 less `mean`, divided by `std`; what is None stays as it was, or is nothing.

    NetError if these are not as many numbers as the input has channels.
    """
    if mean is None and std is None:
        return net
    _, shape = net.image
    channels = shape[1] if len(shape) > 1 else 1
    for option, values in (("`mean=`", mean), ("`std=`", std)):
        if values is not None and len(values) != channels:
            raise NetError(f"{option} has {len(values)} numbers, the input has {channels} channels")
        if values is not None and not all(map(isfinite, values)):
            raise NetError(f"{option} has a number that is not finite")
    if std is not None and min(std) <= 0:
        raise NetError(f"`std=` has {min(std)}: nothing is divided by that", advice="deviations are positive")
    known = net.preprocessing or Preprocessing(ORDERS.get(channels, OTHER_ORDER), (0.0,) * channels)
    known = replace(known, mean=known.mean if mean is None else tuple(mean))
    return replace(net, preprocessing=known if std is None else replace(known, deviation=tuple(std)))
