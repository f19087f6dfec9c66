"""What moves elements about without computing with them: views, slices, concatenation, padding, resizing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from math import floor, prod
from typing import Any

from .. import kernels
from ..graph import Blob
from ..lowering import Lowering, Operand, UnsupportedError, Value, operator
from ..views import View
from ..windows import Axis, Window

Matrix = list[list[float]]


@operator(
    "_to_copy",
    "to",
    "clone",
    "alias",
    "contiguous",
    "detach",
    "lift_fresh_copy",
    "lift_fresh",
)
def _identity(net: Lowering, x: Operand, *_: Any, **__: Any) -> Operand:
    return x


@operator("dropout", "feature_dropout")
def _dropout(net: Lowering, x: Operand, share: float, is_training: bool) -> Operand:
    if is_training and share:
        raise UnsupportedError("drops values at random", "give it training=self.training")
    return x


@operator("native_dropout")
def _native_dropout(net: Lowering, x: Operand, share: float, is_training: bool | None) -> list[Operand | None]:
    return [_dropout(net, x, share, is_training is not False), None]


@operator("view", "_unsafe_view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "view_copy")
def _view(net: Lowering, x: Operand, *_: Any, **__: Any) -> Value:
    x = net.activation(x)
    view = x.view.reshaped(net.shape)
    if view is None:
        x = net.in_order(x)
        view = View.of(net.shape)
    return replace(x, view=view, label=net.label)


@operator("permute")
def _permute(net: Lowering, x: Operand, dims: Sequence[int]) -> Value:
    x = net.activation(x)
    order = [dim % len(dims) for dim in dims]
    return replace(x, view=x.view.permuted(order), label=net.label)


@operator("transpose", "swapaxes", "t")
def _transpose(net: Lowering, x: Operand, first: int = 0, second: int = 1) -> Value:
    rank = len(net.shape)
    order = list(range(rank))
    order[first % rank], order[second % rank] = order[second % rank], order[first % rank]
    return _permute(net, x, order)


@operator("expand")
def _expand(net: Lowering, x: Operand, *_: Any, **__: Any) -> Operand:
    return spread(net, net.activation(x), net.shape)


def spread(net: Lowering, x: Value, shape: tuple[int, ...], part: str = "spread") -> Value:
    """A value repeated along the dimensions in which it has a size of 1 and `shape` more: all pixels or all channels."""
    own = (1,) * (len(shape) - len(x.shape)) + x.shape
    x = replace(x, view=x.view.squeezed(own))
    if own == shape:
        return x
    if not 2 <= len(shape) <= 4 or own[0] != shape[0]:
        raise UnsupportedError(f"repeats {list(own)} to {list(shape)}", "what is repeated are channels or pixels")
    few, many = _as_image(own), _as_image(shape)
    x = net.reshaped(x, few)
    if few[2:] != many[2:]:
        if few[2:] != (1, 1):
            raise UnsupportedError(f"repeats {list(own)} to {list(shape)}", "what is repeated are channels or pixels")
        x = _enlarged(net, x, many[2], many[3], part)
    if few[1] != many[1]:
        x = net.mixed(x, kernels.filled((many[1], 1), 1), part=part)
    return replace(x, view=View.of(shape))


def _enlarged(net: Lowering, x: Value, down: int, right: int, part: str = "") -> Value:
    """An image of whose pixels each is repeated, `down` by `right` times."""
    channels = x.blob[1]
    window = Window((Axis(down, down), Axis(right, right)))
    return net.deconvolution(x, kernels.filled((channels, 1, down, right), 1), None, window, channels, part)


def _as_image(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Sequences are one pixel high, vectors one pixel."""
    return {2: (*shape, 1, 1), 3: (*shape[:2], 1, *shape[2:]), 4: shape}[len(shape)]


@operator("cat", "concat")
def _cat(net: Lowering, tensors: Sequence[Operand], dim: int = 0) -> Value:
    axis = dim % len(net.shape)
    values = [net.activation(x) for x in tensors]
    values = [net.reshaped(x, x.shape) for x in values]
    if len(values) == 1:
        return values[0]
    return net.layer("Concat", values, net.shape, {"concat_param": {"axis": axis}})


@operator("stack")
def _stack(net: Lowering, tensors: Sequence[Operand], dim: int = 0) -> Value:
    axis = dim % len(net.shape)
    one = (*net.shape[:axis], 1, *net.shape[axis + 1 :])
    values = [net.reshaped(net.activation(x), one) for x in tensors]
    return net.layer("Concat", values, net.shape, {"concat_param": {"axis": axis}})


@operator("split", "split_with_sizes", "chunk", "unsafe_split", "unsafe_chunk", "tensor_split")
def _split(net: Lowering, x: Operand, *_: Any, **__: Any) -> list[Value | None]:
    """The sizes of the parts are what torch made of the arguments."""
    x = net.activation(x)
    shapes = net.shapes
    axis = next((n for n, size in enumerate(x.shape) if any(shape[n] != size for shape in shapes)), 0)
    sizes = [shape[axis] for shape in shapes]
    starts = [0, *accumulate(sizes)]
    if len(shapes) == 1:
        return [x]
    if len(net.used) == len(shapes):
        whole = net.reshaped(x, x.shape)
        parameters = {"slice_param": {"axis": axis, "slice_point": starts[1:-1]}}
        return list(net.layers("Slice", [whole], shapes, parameters))
    return [
        _sliced(net, x, axis, start, start + size, 1) if index in net.used else None
        for index, (start, size) in enumerate(zip(starts, sizes, strict=False))
    ]


@operator("unbind")
def _unbind(net: Lowering, x: Operand, dim: int = 0) -> list[Value | None]:
    x = net.activation(x)
    axis = dim % len(x.shape)
    return [
        _dropped(_sliced(net, x, axis, index, index + 1, 1), axis) if index in net.used else None
        for index in range(x.shape[axis])
    ]


@operator("slice")
def _slice(
    net: Lowering, x: Operand, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Value:
    x = net.activation(x)
    axis = dim % len(x.shape)
    first, last, _ = slice(start, end).indices(x.shape[axis])
    return _sliced(net, x, axis, first, last, step)


@operator("select")
def _select(net: Lowering, x: Operand, dim: int, index: int) -> Value:
    x = net.activation(x)
    axis = dim % len(x.shape)
    at = index % x.shape[axis]
    return _dropped(_sliced(net, x, axis, at, at + 1, 1), axis)


@operator("slice_scatter")
def _slice_scatter(
    net: Lowering,
    x: Operand,
    source: Operand,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Value:
    """What is in front of the part that is written, that part, and what is behind."""
    x, source = net.activation(x), net.activation(source)
    axis = dim % len(x.shape)
    size = x.shape[axis]
    first, last, _ = slice(start, end).indices(size)
    if step != 1:
        raise UnsupportedError("writes to every n-th element")
    if (first, last) == (0, size):
        return source
    parts = [source]
    if first:
        parts.insert(0, _sliced(net, x, axis, 0, first, 1))
    if last < size:
        parts.append(_sliced(net, x, axis, last, size, 1))
    return _cat(net, parts, axis)


def _sliced(net: Lowering, x: Value, axis: int, first: int, last: int, step: int) -> Value:
    """Part of one dimension, by a convolution that picks channels or pixels. (A layer Slice would leave tops behind that
    nobody takes.)"""
    shape = (*x.shape[:axis], -(-(last - first) // step), *x.shape[axis + 1 :])
    if shape == x.shape:
        return x
    if not axis:
        raise UnsupportedError("takes a part of the batch")
    if min(shape) < 1:
        raise UnsupportedError("takes nothing at all")
    batch, size, behind = x.shape[0], x.shape[axis], prod(x.shape[axis + 1 :])
    if axis == 1:
        rest = x.shape[2:] if len(x.shape) == 4 else (1, behind)
        image = net.reshaped(x, (batch, size, *rest))
        made = net.mixed(image, kernels.selected((shape[1], size), range(first, last, step)))
    else:
        if len(x.shape) == 4:
            image, at = net.reshaped(x, x.shape), axis - 2
        else:
            image, at = net.reshaped(x, (batch, prod(x.shape[1:axis]), size, behind)), 0
        reach = size - (last - first) + 1
        axes = [Axis(1), Axis(1)]
        axes[at] = Axis(reach, step)
        channels = image.blob[1]
        room = (reach, 1) if at == 0 else (1, reach)
        kernel = kernels.selected((channels, 1, *room), [first] * channels)
        made = net.convolution(image, kernel, None, Window((axes[0], axes[1])), channels)
    return replace(made, view=View.of(shape))


def _dropped(x: Value, axis: int) -> Value:
    """Without a dimension of size 1."""
    return replace(x, view=View(x.view.atoms, (*x.view.dims[:axis], *x.view.dims[axis + 1 :])))


@operator("pad")
def _pad(net: Lowering, x: Operand, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Value:
    if mode == "constant":
        return _padded_with_zeros(net, x, pad, value or 0)
    if mode not in ("reflect", "replicate"):
        raise UnsupportedError(f"pads in mode {mode}")
    return _padded_with_pixels(net, x, pad, is_mirrored=mode == "reflect")


def _padded_with_zeros(net: Lowering, x: Operand, pad: Sequence[int], value: float) -> Value:
    """Zeros around an image are left to the convolution that follows."""
    if value:
        raise UnsupportedError(f"pads with {value}", "Caffe pads with zeros")
    if not isinstance(x, Value):
        raise UnsupportedError("takes a constant where only activations can be")
    if min(pad) < 0:  # what it cuts off would be there again after the next padding
        raise UnsupportedError("pads by a negative number", "slice instead")
    if any(pad[4:]):
        return _padded_channels(net, x, pad)
    left, right, above, below = (*pad[:4], 0, 0)[:4]
    if len(x.shape) not in (3, 4) or (len(x.shape) == 3 and (above or below)):
        raise UnsupportedError(f"pads {list(x.shape)}", "images and sequences are padded, behind their channels")
    known = x.padding
    return replace(x, padding=(known[0] + above, known[1] + below, known[2] + left, known[3] + right))


def _padded_with_pixels(net: Lowering, x: Operand, pad: Sequence[int], is_mirrored: bool) -> Value:
    """Pixels of the image stand around it, each picked by a row of a matrix."""
    image = net.image(x)
    left, right, above, below = (*pad, 0, 0)[:4]
    matrices = []
    for size, before, after in zip(image.blob[2:], (above, left), (below, right), strict=True):
        places: Sequence[int] = range(-before, size + after)
        if is_mirrored:
            places = [abs(place) if place < size else 2 * (size - 1) - place for place in places]
        picked = [min(max(place, 0), size - 1) for place in places]
        matrices.append(None if picked == list(range(size)) else _picking(picked, size))
    return resized(net, image, *matrices)


def _padded_channels(net: Lowering, x: Value, pad: Sequence[int]) -> Value:
    """Channels of zeros: rows of a 1x1 convolution that pick nothing."""
    if len(x.shape) != 4 or any(pad[:4]) or any(pad[6:]):
        raise UnsupportedError(f"pads by {list(pad)}", "pad channels by themselves")
    image = net.image(x)
    channels = image.blob[1]
    columns = [*[None] * pad[4], *range(channels), *[None] * pad[5]]
    return net.mixed(image, kernels.selected((len(columns), channels), columns))


@operator("pixel_shuffle")
def _pixel_shuffle(net: Lowering, x: Operand, factor: int) -> Value:
    """A transposed convolution: each channel puts its pixels at one place of a square."""
    image = net.image(x)
    return net.deconvolution(image, _places(image.blob[1], factor), None, _squares(factor), net.shape[1])


@operator("pixel_unshuffle")
def _pixel_unshuffle(net: Lowering, x: Operand, factor: int) -> Value:
    image = net.image(x)
    return net.convolution(image, _places(net.shape[1], factor), None, _squares(factor), image.blob[1])


def _squares(factor: int) -> Window:
    """What cuts an image into squares."""
    return Window((Axis(factor, factor),) * 2)


def _places(channels: int, factor: int) -> Blob:
    """Kernels that are squares with a single one, at each place in turn."""
    return kernels.selected((channels, 1, factor, factor), [channel % factor**2 for channel in range(channels)])


@operator("channel_shuffle", "native_channel_shuffle")
def _channel_shuffle(net: Lowering, x: Operand, groups: int) -> Value:
    image = net.image(x)
    batch, channels, height, width = image.blob
    turned = View.of((batch, groups, channels // groups, height, width)).permuted((0, 2, 1, 3, 4))
    view = turned.reshaped(net.shape)
    assert view is not None  # whole dimensions become one
    return replace(image, view=view, label=net.label)


@operator("upsample_nearest2d")
def _upsample_nearest(net: Lowering, x: Operand, size: Any = None, *scales: Any) -> Value:
    """Where each pixel is repeated as often, a transposed convolution does it; else each is picked by a matrix."""
    image = net.image(x)
    given, wanted = image.blob[2:], net.shape[2:]
    places = [_nearest(n, m, s) for n, m, s in zip(given, wanted, _scales(scales), strict=True)]
    down, right = (m // n for n, m in zip(given, wanted, strict=True))
    if places == [[at // by for at in range(n * by)] for n, by in zip(given, (down, right), strict=True)]:
        return _enlarged(net, image, down, right)
    lists = zip(places, given, wanted, strict=True)
    return resized(net, image, *(None if n == m else _picking(picked, n) for picked, n, m in lists))


@operator("upsample_bilinear2d")
def _upsample_bilinear(net: Lowering, x: Operand, size: Any, align_corners: bool, *scales: Any) -> Value:
    image = net.image(x)
    lists = zip(image.blob[2:], net.shape[2:], _scales(scales), strict=True)
    return resized(net, image, *(_linear(n, m, align_corners, s) for n, m, s in lists))


def resized(net: Lowering, x: Value, rows: Matrix | None, columns: Matrix | None) -> Value:
    """An image whose columns are multiplied by one matrix and its rows by another (None: by none).

    The first is a 1x1 convolution with rows for channels, the second an inner product over the last axis.
    """
    batch, channels, height, width = x.blob
    if rows is not None:
        tall = len(rows)
        turned = net.reshaped(x, (batch * channels, height, 1, width), "rows")
        made = net.mixed(turned, kernels.literal((tall, height), [v for row in rows for v in row]), part="vertical")
        x = net.reshaped(made, (batch, channels, tall, width), "back")
    if columns is not None:
        weight = kernels.literal((len(columns), width), [v for row in columns for v in row])
        parameters = {"num_output": len(columns), "bias_term": False, "axis": 3}
        shape = (*x.blob[:3], len(columns))
        x = net.layer("InnerProduct", [x], shape, {"inner_product_param": parameters}, [weight])
    return x


def _scales(scales: Sequence[Any]) -> tuple[float | None, float | None]:
    """Factors of height and width that were asked for; torch computes with them, not with the sizes, where they are."""
    given = list(scales[0]) if len(scales) == 1 and isinstance(scales[0], (list, tuple)) else list(scales)
    first, second = (*given, None, None)[:2]
    return first, second


def _nearest(size: int, wanted: int, factor: float | None) -> list[int]:
    """Which pixel each one is taken from, computed in float32 as torch does."""
    import numpy as np

    step = np.float32(1 / factor) if factor else np.float32(size) / np.float32(wanted)
    picked = [min(floor(np.float32(place) * step), size - 1) for place in range(wanted)]
    # Of the same or twice the size, small images are repeated whatever the factor, large ones are not.
    if wanted in (size, 2 * size) and picked != [place * size // wanted for place in range(wanted)]:
        raise UnsupportedError(f"resizes {size} by {factor}, which torch does in two ways", "give it the size instead")
    return picked


def _picking(picked: Sequence[int], size: int) -> Matrix:
    return [[float(place == column) for column in range(size)] for place in picked]


def _linear(size: int, wanted: int, align_corners: bool, factor: float | None) -> Matrix | None:
    if size == wanted:
        return None
    if align_corners:
        step = (size - 1) / (wanted - 1) if wanted > 1 else 0.0
        places = [place * step for place in range(wanted)]
    else:
        step = 1 / factor if factor else size / wanted
        places = [max((place + 0.5) * step - 0.5, 0.0) for place in range(wanted)]
    matrix = []
    for place in places:
        row = [0.0] * size
        first = min(floor(place), size - 1)
        share = place - first
        row[first] += 1 - share
        row[min(first + 1, size - 1)] += share
        matrix.append(row)
    return matrix
