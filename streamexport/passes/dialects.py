"""What Caffe and its relatives say differently.

Nets come with pooling that rounds sizes down, PyTorch's way, written as BVLC master writes it: `round_mode: FLOOR`. Caffe's
own way is to round up, and `round_mode` is known to BVLC master alone.

    portable    for all of them: pool rounding up, then crop to the size of a pooling without padding that comes out right
    bvlc        `round_mode: FLOOR`
    opencv, ssd `ceil_mode: false`

Without padding Caffe's size is ceil((n - k) / s) + 1, PyTorch's with padding p is floor((n + 2p - K) / s) + 1. They agree at
every n for k = K + s - 1 - 2p, because floor((x + s - 1) / s) = ceil(x / s).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ..errors import NetError
from ..nets.graph import Layer, Net

DIALECTS = ("portable", "bvlc", "opencv", "ssd")


def express(net: Net, dialect: str) -> Net:
    """The net in the words of one dialect; it computes the same."""
    if dialect == "bvlc":
        return net
    layers: list[Layer] = []
    renamed: dict[str, str] = {}
    for layer in net.layers:
        layer = replace(layer, bottoms=tuple(renamed.get(bottom, bottom) for bottom in layer.bottoms))
        pooling = layer.parameters.get("pooling_param", {})
        if pooling.get("round_mode") != "FLOOR":
            layers.append(layer)
            continue
        rest = {name: value for name, value in pooling.items() if name != "round_mode"}
        if dialect == "portable":
            layers += _cropped(layer, rest)
            renamed[layer.tops[0]] = layers[-1].tops[0]
        else:
            layers.append(replace(layer, parameters={"pooling_param": {**rest, "ceil_mode": False}}))
    return net.with_layers(tuple(layers))


def _cropped(layer: Layer, pooling: Mapping[str, Any]) -> Iterator[Layer]:
    kernel = pooling["kernel_size"] + pooling["stride"] - 1 - 2 * pooling["pad"]
    if kernel < 1:
        raise NetError(
            "its pooling has more padding than can be cropped again",
            tensor=f"layer {layer.name}",
            advice="use --dialect bvlc, opencv or ssd",
        )
    size, crop = f"{layer.name}.size", f"{layer.name}.crop"
    yield replace(layer, parameters={"pooling_param": pooling})
    reference = {"pool": "MAX", "kernel_size": kernel, "stride": pooling["stride"]}
    yield Layer(size, "Pooling", layer.bottoms, (size,), {"pooling_param": reference})
    yield Layer(crop, "Crop", (*layer.tops, size), (crop,), {"crop_param": {"axis": 2, "offset": [0]}})
