"""What Caffe and its relatives say differently.

Nets come with three things that not all of them know, and leave in words that the dialect's readers do:

    Pooling with `round_mode: FLOOR`, PyTorch's way of rounding sizes; Caffe's own is to round up
        portable    pool rounding up, then crop to the size of a pooling without padding that comes out right
        bvlc        `round_mode: FLOOR`, which BVLC master alone knows
        opencv, ssd `ceil_mode: false`
    Clip, which is BVLC master's
        opencv, ssd `ReLU6` between 0 and 6; else as in portable
        portable    ReLU of the distance from the upper limit, where the lower one is 0; else maxima with limits
    Rearrange, which is nobody's: the elements of a blob in another order (`nets.views`)
        opencv, ssd Reshape, `Permute`, Reshape
        portable, bvlc  a 1x1 convolution that picks channels; anything else is refused

Without padding Caffe's size is ceil((n - k) / s) + 1, PyTorch's with padding p is floor((n + 2p - K) / s) + 1. They agree at
every n for k = K + s - 1 - 2p, because floor((x + s - 1) / s) = ceil(x / s).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from math import prod
from typing import Any

from ..errors import NetError
from ..nets import kernels
from ..nets.graph import InexpressibleError, Layer, Net

DIALECTS = ("portable", "bvlc", "opencv", "ssd")
HAVE_PERMUTE = ("opencv", "ssd")


def express(net: Net, dialect: str) -> Net:
    """The net in the words of one dialect; it computes the same. NetError, naming all of them, where layers cannot."""
    if refused := refusal(net.layers, dialect):
        raise refused
    layers: list[Layer] = []
    renamed: dict[str, str] = {}
    for layer in net.layers:
        layer = replace(layer, bottoms=tuple(renamed.get(bottom, bottom) for bottom in layer.bottoms))
        made = _expressed(layer, dialect)
        if made[-1].tops != layer.tops:
            renamed[layer.tops[0]] = made[-1].tops[0]
        made[-1] = replace(made[-1], origin=layer.origin, shapes=layer.shapes)
        layers += made
    return replace(net, layers=tuple(layers), outputs=tuple(renamed.get(top, top) for top in net.outputs))


def refusal(layers: Sequence[Layer], dialect: str) -> InexpressibleError | None:
    """What names all layers that the dialect cannot express; None if there are none."""
    found: dict[int, NetError] = {}
    for place, layer in enumerate(layers):
        try:
            _expressed(layer, dialect)
        except NetError as error:
            found[place] = error
    if not found:
        return None
    first, *_ = found.values()
    names = ", ".join(f"{error.tensor}: {error.what}" for error in found.values())
    return InexpressibleError(f"dialect {dialect} cannot express {names}", advice=first.advice, places=list(found))


def _expressed(layer: Layer, dialect: str) -> list[Layer]:
    express_one = _EXPRESSIONS.get(layer.type)
    return list(express_one(layer, dialect)) if express_one else [layer]


def _pooling(layer: Layer, dialect: str) -> Iterator[Layer]:
    pooling = layer.parameters["pooling_param"]
    if pooling.get("round_mode") != "FLOOR" or dialect == "bvlc":
        yield layer
        return
    rest = {name: value for name, value in pooling.items() if name != "round_mode"}
    if dialect == "portable":
        yield from _cropped(layer, rest)
    else:
        yield replace(layer, parameters={"pooling_param": {**rest, "ceil_mode": False}})


def _cropped(layer: Layer, pooling: Mapping[str, Any]) -> Iterator[Layer]:
    kernel, stride, pad = (_sizes(pooling, *names) for names in _WINDOW)
    reference = [k + s - 1 - 2 * p for k, s, p in zip(kernel, stride, pad, strict=True)]
    # Along an axis of stride 1 nothing is rounded: there a reference that would be empty may be the pooling itself, padding
    # and all. Caffe then drops windows that begin behind the image, which has to leave the other axis alone.
    padded = [p if s == 1 and r < 1 else 0 for s, p, r in zip(stride, pad, reference, strict=True)]
    reference = [k if p else r for k, p, r in zip(kernel, padded, reference, strict=True)]
    if min(reference) < 1 or (any(padded) and any(r < s for r, s in zip(reference, stride, strict=True))):
        raise NetError(
            "its pooling has more padding than can be cropped again",
            tensor=f"layer {layer.name}",
            advice="use `dialect=bvlc`, opencv or ssd",
        )
    size, crop = f"{layer.name}.size", f"{layer.name}.crop"
    # Not the shapes that torch says: those are the cropped one's.
    yield replace(layer, parameters={"pooling_param": pooling}, origin=None, shapes=())
    window: dict[str, Any] = {"pool": "MAX"}
    windows = (reference, stride, padded) if any(padded) else (reference, stride)
    for (whole, *parts), pair in zip(_WINDOW, windows, strict=False):
        window |= {whole: pair[0]} if pair[0] == pair[1] else dict(zip(parts, pair, strict=True))
    yield Layer(size, "Pooling", layer.bottoms, (size,), {"pooling_param": window})
    yield Layer(crop, "Crop", (*layer.tops, size), (crop,), {"crop_param": {"axis": 2, "offset": [0]}})


_WINDOW = (("kernel_size", "kernel_h", "kernel_w"), ("stride", "stride_h", "stride_w"), ("pad", "pad_h", "pad_w"))


def _sizes(pooling: Mapping[str, Any], whole: str, *parts: str) -> list[int]:
    """Both sizes of a window."""
    default = pooling.get(whole, 0 if whole == "pad" else 1)
    return [pooling.get(part, default) for part in parts]


def _clip(layer: Layer, dialect: str) -> Iterator[Layer]:
    """h - ReLU(h - ReLU(x)) between 0 and h; else -max(-max(x, l), -h).

    A distance from a limit is rounded to the limit's last place: no limits but those near the values are subtracted.
    """
    low, high = (layer.parameters["clip_param"][name] for name in ("min", "max"))
    if dialect == "bvlc":
        yield layer
        return
    if dialect in HAVE_PERMUTE and (low, high) == (0, 6):
        yield replace(layer, type="ReLU6", parameters={})
        return
    name, bottom = layer.name, layer.bottoms[0]
    if low == 0 and high <= NEAR:
        steps: list[tuple[str, str, tuple[str, ...], Mapping[str, Any]]] = [
            ("above", "ReLU", (), {}),
            ("high", "Power", (), {"power_param": {"scale": -1.0, "shift": high}}),
            ("below", "ReLU", (), {}),
            ("", "Power", (), {"power_param": {"scale": -1.0, "shift": high}}),
        ]
    else:
        steps = [
            ("low", "Power", (), {"power_param": {"scale": 0.0, "shift": low}}),
            ("above", "Eltwise", (bottom,), {"eltwise_param": {"operation": "MAX"}}),
            ("negated", "Power", (), {"power_param": {"scale": -1.0}}),
            ("high", "Power", (), {"power_param": {"scale": 0.0, "shift": -high}}),
            ("below", "Eltwise", (f"{name}.negated",), {"eltwise_param": {"operation": "MAX"}}),
            ("", "Power", (), {"power_param": {"scale": -1.0}}),
        ]
    for part, kind, others, parameters in steps:
        made = f"{name}.{part}" if part else name
        yield Layer(made, kind, (*others, bottom), (made,), parameters, shapes=layer.shapes)
        bottom = made


NEAR = 8
"""A limit up to which ReLU6 and its like are composed of distances from it."""


def _rearrange(layer: Layer, dialect: str) -> Iterator[Layer]:
    parameters = layer.parameters["rearrange_param"]
    blob, shape = parameters["blob"], parameters["shape"]
    atoms, order = tuple(parameters["atoms"]), tuple(parameters["order"])
    if blob[0] == 1:  # a batch of one is no atom
        atoms, order = (1, *atoms), (0, *(atom + 1 for atom in order))
    turned = tuple(atoms[atom] for atom in order)
    if dialect in HAVE_PERMUTE:
        steps: list[Layer] = _reshape(layer, "split", blob, atoms)
        steps.append(
            Layer(f"{layer.name}.turn", "Permute", (), (), {"permute_param": {"order": order}}, shapes=(turned,))
        )
        steps += _reshape(layer, "join", turned, shape)
    else:
        columns = _channels(blob, atoms, order)
        if columns is None:
            raise NetError(
                f"turns dimensions of {list(blob)}",
                tensor=f"layer {layer.name}",
                advice="`dialect=opencv` or ssd has the layer Permute for it",
            )
        channels = blob[1]
        image = blob if len(blob) == 4 else (blob[0], channels, 1, prod(blob[2:]))
        window = {"num_output": channels, "bias_term": False, "pad": [0], "kernel_size": [1], "stride": [1]}
        picking = kernels.selected((channels, channels, 1, 1), columns)
        steps = _reshape(layer, "split", blob, image)
        steps.append(
            Layer(
                f"{layer.name}.pick", "Convolution", (), (), {"convolution_param": window}, (picking,), shapes=(image,)
            )
        )
        steps += _reshape(layer, "join", image, shape)
    bottoms = layer.bottoms
    for step in steps[:-1]:
        yield replace(step, bottoms=bottoms, tops=(step.name,))
        bottoms = (step.name,)
    yield replace(steps[-1], name=layer.name, bottoms=bottoms, tops=layer.tops)


def _reshape(layer: Layer, part: str, shape: Sequence[int], wanted: Sequence[int]) -> list[Layer]:
    if tuple(shape) == tuple(wanted):
        return []
    parameters = _to(wanted) if shape[0] == wanted[0] else {"reshape_param": {"shape": {"dim": list(wanted)}}}
    return [Layer(f"{layer.name}.{part}", "Reshape", (), (), parameters, shapes=(tuple(wanted),))]


def _to(shape: Sequence[int]) -> Mapping[str, Any]:
    """A Reshape's parameters that keep the size of the batch, whatever it is."""
    return {"reshape_param": {"shape": {"dim": [0, *shape[1:]]}}}


def _channels(blob: Sequence[int], atoms: Sequence[int], order: Sequence[int]) -> list[int] | None:
    """Which channel each one comes from, if nothing but the second axis of a blob is rearranged; else None."""
    count = next((n for n in range(1, len(atoms) + 1) if prod(atoms[1:n]) == blob[1]), None)
    if count is None or order[0] or list(order[count:]) != list(range(count, len(order))):
        return None
    inner = order[1:count]
    steps = {atom: prod(atoms[atom + 1 : count]) for atom in inner}
    ranges = (range(atoms[atom]) for atom in inner)
    return [sum(place * steps[atom] for place, atom in zip(places, inner, strict=True)) for places in product(*ranges)]


_EXPRESSIONS: Mapping[str, Callable[[Layer, str], Iterator[Layer]]] = {
    "Pooling": _pooling,
    "Clip": _clip,
    "Rearrange": _rearrange,
}
