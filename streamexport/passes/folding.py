"""Arithmetic that is done once, in the weights, instead of for every input.

`fold_batchnorm` merges BatchNorm and Scale into the convolution before them. With mean m, variance v (both divided by
BatchNorm's third blob), scale g and bias b, and a convolution with weights W and bias c, all per output channel:

    s = g / sqrt(v + eps)        W' = W s        c' = b + (c - m) s

`for_pixels` changes the order of the first convolution's input channels and takes in the scaling of the input. A mean is
left to the caller: zeros that pad a normalised image are pixels of the mean's colour, which no weights can imitate.

All of it is computed in float64, for the range of channels that is asked for, and rounded once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from ..errors import NetError
from ..net.graph import Blob, Layer, Net, computed
from ..net.kernels import Filled
from ..net.operations import BatchNorm, Convolution, InnerProduct, Operation, Scale
from ..payload.pieces import Extent, Source
from ..payload.tensors import FLOAT32, FLOAT64, Cast, Computed

if TYPE_CHECKING:
    from ..payload.tensors import Array

ORDERS = ("rgb", "bgr")
AHEAD = 1024
"""Channels of statistics that are computed at once: 8 KiB."""


def fold_batchnorm(net: Net) -> Net:
    """The net without the BatchNorm, and Scale behind it, that follow convolutions and inner products."""
    consumers = net.consumers

    def follower(layer: Layer, kind: type[Operation]) -> Layer | None:
        """The layer of that kind that alone takes what `layer` makes."""
        taking = consumers.get(layer.tops[0], [])
        is_alone = len(taking) == 1 and layer.tops[0] not in net.outputs
        return taking[0] if is_alone and isinstance(taking[0].operation, kind) else None

    merged: dict[str, Layer | None] = {}
    for layer in net.layers:
        norm = follower(layer, BatchNorm) if layer.operation.makes_channels and layer.blobs else None
        if norm is None or norm.blobs[0].count != layer.blobs[0].shape[0]:  # else its bottom was given another shape
            continue
        scale = follower(norm, Scale)
        if scale is not None and (len(scale.bottoms) > 1 or scale.blobs[0].shape != norm.blobs[0].shape):
            scale = None
        merged |= {layer.name: _merged(layer, norm, scale), norm.name: None}
        if scale is not None:
            merged[scale.name] = None
    layers = (merged.get(layer.name, layer) for layer in net.layers)
    return net.with_layers(tuple(layer for layer in layers if layer is not None))


def for_pixels(net: Net, order: str, fold_scale: bool) -> Net:
    """The net for inputs whose channels are in `order`; with `fold_scale`, for pixels 0…255 less their mean.

    NetError if it is not known what the net expects now.
    """
    if order == "rgb" and not fold_scale:
        return net
    expected = net.preprocessing
    if expected is None:
        raise NetError(
            "the net is not known to take RGB images, nor how they are normalised: its input stays as it is",
            advice="say it with `mean=` and `std=`",
        )
    reverse = order == "bgr"
    if reverse and expected.order != "RGB":
        raise NetError(f"the net takes {expected.order}, not RGB images: its channels stay in their order")
    mean, deviation = expected.mean, expected.deviation or (1.0,) * len(expected.mean)
    factors = [1 / (255 * value) for value in deviation] if fold_scale else [1.0] * len(mean)
    expected = replace(expected, mean=tuple(255 * m for m in mean), deviation=(), white=255) if fold_scale else expected
    if reverse:
        expected = replace(expected, order="BGR", mean=expected.mean[::-1], deviation=expected.deviation[::-1])
    changed = {layer.name: _for_channels(layer, factors, reverse) for layer in net.consumers[net.image[0]]}
    layers = tuple(changed.get(layer.name, layer) for layer in net.layers)
    return replace(net, layers=layers, preprocessing=expected)


def _for_channels(layer: Layer, factors: Sequence[float], reverse: bool) -> Layer:
    """A convolution that takes the input, for channels each divided by its factor, in reverse if asked for."""
    if not isinstance(layer.operation, Convolution) or layer.operation.groups > 1 or not layer.blobs:
        raise NetError(
            "takes the input, and only convolutions without groups can take in its scale and order",
            tensor=f"layer {layer.name}",
            advice="leave out `fold_input_scale=` and `input_order=`",
        )
    weight, *rest = layer.blobs
    values = Cast(InputChannels(computed(weight), weight.shape, factors, reverse), FLOAT32)
    return replace(layer, blobs=(replace(weight, values=values), *rest))


def _merged(layer: Layer, norm: Layer, scale: Layer | None) -> Layer:
    assert isinstance(layer.operation, (Convolution, InnerProduct))
    weight, *biases = layer.blobs
    statistics = Statistics(norm, scale)
    folded = Cast(PerChannel(computed(weight), statistics, prod(weight.shape[1:])), FLOAT32)
    bias = Cast(FoldedBias(statistics, computed(biases[0]) if biases else None), FLOAT32)
    parts = (norm,) if scale is None else (norm, scale)
    origin = tuple(name for part in parts for blob in part.blobs for name in blob.origin)
    blobs = (
        replace(weight, values=folded, origin=weight.origin + origin),
        Blob((weight.shape[0],), bias, origin=tuple(name for blob in biases for name in blob.origin) + origin),
    )
    last = parts[-1]
    with_bias = replace(layer.operation, has_bias=True)
    return replace(layer, tops=last.tops, operation=with_bias, blobs=blobs, origin=last.origin)


class Statistics(Computed):
    """By what each channel is multiplied: g / sqrt(v + eps), in float64.

    Weights are rendered a few channels at a time: up to `AHEAD` are computed at once, and kept until the last was asked for.
    """

    dtype = FLOAT64

    def __init__(self, norm: Layer, scale: Layer | None) -> None:
        self.mean, self.variance, self.factor = map(computed, norm.blobs)
        held = [] if scale is None else [computed(blob) for blob in scale.blobs]
        self.scale: Computed = held[0] if held else Filled(self.mean.count, 1)
        self.bias: Computed = held[1] if len(held) > 1 else Filled(self.mean.count, 0)
        assert isinstance(norm.operation, BatchNorm)
        self.epsilon = norm.operation.epsilon
        self.name, self.count = norm.name, self.scale.count
        self._kept: tuple[int, Array] | None = None

    @property
    def sources(self) -> tuple[Source, ...]:
        return _sources(self.mean, self.variance, self.factor, self.scale, self.bias)

    def extents(self, first: int, last: int) -> Sequence[Extent]:
        last = self._ahead(first, last)
        read = [*self.scale.extents(first, last), *self.variance.extents(first, last)]
        return [*read, *self.factor.extents(0, 1)]

    def elements(self, first: int, last: int) -> Array:
        kept = self._kept
        if kept is None or not kept[0] <= first <= last <= kept[0] + len(kept[1]):
            kept = first, self._computed(first, self._ahead(first, last))
        begin, found = kept
        self._kept = kept if last < self.count and len(found) <= AHEAD else None
        wanted: Array = found[first - begin : last - begin].copy()
        return wanted

    def _ahead(self, first: int, last: int) -> int:
        """Up to where is computed what begins with a range."""
        return max(last, min(first + AHEAD, self.count))

    def _computed(self, first: int, last: int) -> Array:
        variance = self.over_factor(self.variance, first, last)
        multiplied: Array = self.scale.elements(first, last) / (variance + self.epsilon) ** 0.5
        return multiplied

    def over_factor(self, values: Computed, first: int, last: int) -> Array:
        """Mean or variance of channels [first, last): divided by the third blob, or zero where that is zero."""
        factor = float(self.factor.elements(0, 1)[0])
        divided: Array = values.elements(first, last).astype("<f8") * (1 / factor if factor else 0.0)
        return divided


class PerChannel(Computed):
    """Values multiplied by a number for each output channel, in float64."""

    dtype = FLOAT64

    def __init__(self, values: Computed, channels: Computed, per_channel: int) -> None:
        self.values, self.channels, self.per_channel = values, channels, per_channel
        self.name, self.count = values.name, values.count

    @property
    def sources(self) -> tuple[Source, ...]:
        return _sources(self.values, self.channels)

    def extents(self, first: int, last: int) -> Sequence[Extent]:
        begin, end = self._channels(first, last)
        return [*self.channels.extents(begin, end), *self.values.extents(first, last)]

    def _channels(self, first: int, last: int) -> tuple[int, int]:
        """Those that some values belong to."""
        return first // self.per_channel, -(-last // self.per_channel)

    def elements(self, first: int, last: int) -> Array:
        import numpy as np

        begin, end = self._channels(first, last)
        edges = np.arange(begin, end + 1) * self.per_channel
        edges[0], edges[-1] = first, last
        factors = np.repeat(self.channels.elements(begin, end), edges[1:] - edges[:-1])
        factors *= self.values.elements(first, last)
        return factors


class FoldedBias(Computed):
    """b + (c - m) s, in float64."""

    dtype = FLOAT64

    def __init__(self, statistics: Statistics, bias: Computed | None) -> None:
        self.statistics, self.bias, self.name, self.count = statistics, bias, statistics.name, statistics.count

    @property
    def sources(self) -> tuple[Source, ...]:
        return _sources(self.statistics, *([self.bias] if self.bias else []))

    def extents(self, first: int, last: int) -> Sequence[Extent]:
        parts = [self.statistics.mean, self.statistics.bias, self.statistics, *([self.bias] if self.bias else [])]
        return [extent for part in parts for extent in part.extents(first, last)]

    def elements(self, first: int, last: int) -> Array:
        own = self.bias.elements(first, last).astype("<f8") if self.bias else 0.0
        centred = own - self.statistics.over_factor(self.statistics.mean, first, last)
        folded: Array = self.statistics.bias.elements(first, last) + centred * self.statistics.elements(first, last)
        return folded


class InputChannels(Computed):
    """A convolution's weights, each input channel multiplied by its factor, and the channels in reverse if asked for."""

    dtype = FLOAT64

    def __init__(self, values: Computed, shape: Sequence[int], factors: Sequence[float], reverse: bool) -> None:
        self.values, self.channels, self.kernel = values, shape[1], prod(shape[2:])
        self.factors, self.reverse = factors, reverse
        self.name, self.count = values.name, values.count

    @property
    def sources(self) -> tuple[Source, ...]:
        return self.values.sources

    def extents(self, first: int, last: int) -> Sequence[Extent]:
        row, begin, end = self._rows(first, last)
        return self.values.extents(begin * row, end * row)

    def _rows(self, first: int, last: int) -> tuple[int, int, int]:
        """Elements of an output channel, a few hundred in a first convolution; and the channels that some lie in."""
        row = self.channels * self.kernel
        return row, first // row, -(-last // row)

    def elements(self, first: int, last: int) -> Array:
        import numpy as np

        row, begin, end = self._rows(first, last)
        rows = self.values.elements(begin * row, end * row).reshape(end - begin, self.channels, self.kernel)
        scaled = rows * np.array(self.factors)[:, None]
        ordered: Array = scaled[:, ::-1] if self.reverse else scaled
        return ordered.reshape(-1)[first - begin * row : last - begin * row]


def _sources(*parts: Computed) -> tuple[Source, ...]:
    return tuple(dict.fromkeys(source for part in parts for source in part.sources))
