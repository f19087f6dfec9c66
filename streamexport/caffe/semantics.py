"""What Caffe's layers mean: the operation (of `meaning`) that a layer's parameters ask for, and the shapes of its tops and
blobs.

Written from the definition of the layers, by their own rules for what may stand together, so that it can judge what our
writers make; nothing here knows where a prototxt comes from. It is about shapes only: `operations` has the numbers.

    understand(layer, shapes of its bottoms) -> Meaning(operation, tops, blobs)
    infer(net, shapes of its inputs)         -> Steps: its layers in order, each with its Meaning

Known are the layers of BVLC master that a net can be run with, and Permute, Normalize and ReLU6 of the SSD family and
OpenCV. Refused, though Caffe takes them: convolutions over other than two axes or of several bottoms at once, kernels
larger than the padded bottom (Caffe takes them if the stride is more than 1), and blobs without elements.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf, log, prod
from typing import Any

from ..errors import NetError
from ..nets.graph import Net
from .caffe_pb2 import (
    ConvolutionParameter,
    EltwiseParameter,
    LayerParameter,
    LRNParameter,
    NetParameter,
    PoolingParameter,
    ReductionParameter,
)
from .meaning import (
    LRN,
    MVN,
    Affine,
    ArgMax,
    BatchNorm,
    Concat,
    Convolution,
    Crop,
    Deconvolution,
    Eltwise,
    Identity,
    InnerProduct,
    Input,
    Meaning,
    Normalize,
    Operation,
    Pair,
    Permute,
    Pointwise,
    Pooling,
    PReLU,
    Reduction,
    Shape,
    Slice,
    Softmax,
    Tile,
    Window,
)
from .prototxt import message

AXES_LIMIT, COUNT_LIMIT = 32, 2**63 - 1
"""Axes that Caffe allows a blob, and elements that anybody can count. Caffe ends at 2**31 - 1 of them; we need not."""


@dataclass(frozen=True, slots=True)
class Step:
    """A layer in its place in a net, with the shapes of its bottoms."""

    layer: LayerParameter
    bottoms: tuple[Shape, ...]
    meaning: Meaning


def infer(net: NetParameter, inputs: Mapping[str, Shape] | None = None) -> tuple[Step, ...]:
    """The layers of a net with the shapes of everything in it.

    Parameters
    ----------
    inputs : shapes of input blobs, instead of those that the net declares

    Raises
    ------
    NetError : a layer is not known, or cannot work as it stands; it is named
    """
    steps = []
    shapes: dict[str, Shape] = {}
    for layer in net.layer:
        layer = _with_inputs(layer, inputs or {})
        for name in layer.bottom:
            if name not in shapes:
                raise NetError(f"its bottom {name} is the top of no layer before it", tensor=f"layer {layer.name}")
        bottoms = tuple(shapes[name] for name in layer.bottom)
        meaning = understand(layer, bottoms)
        for name, in_place in zip(layer.top, _in_place(layer), strict=True):
            if name in shapes and not in_place:
                raise NetError(f"its top {name} is another layer's top already", tensor=f"layer {layer.name}")
        shapes.update(zip(layer.top, meaning.tops, strict=True))
        steps.append(Step(layer, bottoms, meaning))
    return tuple(steps)


def steps_of(net: Net) -> tuple[Step, ...]:
    """The same of a net that is made here."""
    return infer(NetParameter(layer=[message(layer) for layer in net.layers]))


def ranks_of(net: Net) -> dict[str, int]:
    """How many dimensions each top of a net has."""
    steps = steps_of(net)
    return {top: len(shape) for step in steps for top, shape in zip(step.layer.top, step.meaning.tops, strict=True)}


def understand(layer: LayerParameter, bottoms: Sequence[Shape]) -> Meaning:
    """What a layer makes of bottoms of these shapes. NetError, naming it, if it is not known or cannot work."""
    try:
        if layer.type not in _KINDS:
            raise NetError(f"is of type {layer.type!r}, and what that computes is not known here")
        kind = _KINDS[layer.type]
        _check_count("bottoms", len(layer.bottom), kind.bottoms)
        _check_count("tops", len(layer.top), kind.tops)
        meaning = kind.meaning(layer, bottoms)
        for shape in meaning.tops:
            if min(shape, default=1) < 1:
                raise NetError(f"its top has shape {list(shape)}, which holds nothing")
            if len(shape) > AXES_LIMIT or prod(shape) > COUNT_LIMIT:
                raise NetError(f"its top has shape {list(shape)}, more than a blob can have")
        return meaning
    except NetError as error:
        error.tensor = f"layer {layer.name}"
        raise


def inputs(net: NetParameter) -> tuple[str, ...]:
    """The blobs that the caller fills."""
    return tuple(top for layer in net.layer if layer.type == "Input" for top in layer.top)


def outputs(net: NetParameter) -> tuple[str, ...]:
    """The blobs that no layer takes in, in the order in which they are made."""
    left: dict[str, None] = {}
    for layer in net.layer:
        for name in layer.bottom:
            left.pop(name, None)
        left.update(dict.fromkeys(layer.top))
    return tuple(left)


def fits(held: Shape, expected: Shape) -> bool:
    """Whether a blob of a file may fill one of a layer: the same shape, or the four dimensions of Caffe's first years,
    when (C) was written as (1, 1, 1, C) and (N, K) as (1, 1, N, K).

    Caffe takes the latter only where a file has them in the fields of those years, which readers do not tell.
    """
    return held == expected or held == (1,) * (4 - len(expected)) + expected


def _with_inputs(layer: LayerParameter, inputs: Mapping[str, Shape]) -> LayerParameter:
    """An Input layer with the shapes given, where they are."""
    if layer.type != "Input" or inputs.keys().isdisjoint(layer.top):
        return layer
    declared = _declared(layer) or [()] * len(layer.top)
    changed = LayerParameter()
    changed.CopyFrom(layer)
    del changed.input_param.shape[:]
    for name, shape in zip(layer.top, declared, strict=True):
        changed.input_param.shape.add(dim=inputs.get(name, shape))
    return changed


def _in_place(layer: LayerParameter) -> list[bool]:
    """Of each top, whether the layer's bottom of the same number has its name."""
    return [index < len(layer.bottom) and layer.bottom[index] == name for index, name in enumerate(layer.top)]


def _check_count(what: str, count: int, allowed: tuple[float, float]) -> None:
    least, most = allowed
    if not least <= count <= most:
        wanted = f"{least}" if least == most else f"{least} to {most}" if most < inf else f"{least} or more"
        raise NetError(f"has {count} {what}, not {wanted}")


def _axis(index: int, rank: int) -> int:
    """An axis counted from the front."""
    if not -rank <= index < rank:
        raise NetError(f"names axis {index} of a bottom with {rank} axes")
    return index % rank


def _check_rank(shape: Shape, least: int, most: int = 4) -> None:
    if not least <= len(shape) <= most:
        wanted = f"{least}" if least == most else f"{least} to {most}"
        raise NetError(f"its bottom has shape {list(shape)}, it has to have {wanted} axes")


def _older(parameters: Any, older: str) -> int:
    """The axis of a message that has an older name for it as well."""
    if not parameters.HasField(older):
        return int(parameters.axis)
    if parameters.HasField("axis"):
        raise NetError(f"gives both axis and {older}")
    return int(getattr(parameters, older))


def _same(operation: Callable[[LayerParameter], Operation]) -> Callable[[LayerParameter, Sequence[Shape]], Meaning]:
    """For layers whose top is shaped like their bottom, which is all that they look at."""
    return lambda layer, bottoms: Meaning(operation(layer), (bottoms[0],))


def _declared(layer: LayerParameter) -> list[Shape]:
    """The shapes of an Input layer's tops; none if it declares none."""
    shapes = [tuple(shape.dim) for shape in layer.input_param.shape]
    if len(shapes) == 1:
        shapes *= len(layer.top)
    if len(shapes) not in (0, len(layer.top)):
        raise NetError(f"declares {len(shapes)} shapes for {len(layer.top)} tops", tensor=f"layer {layer.name}")
    return shapes


def _input(layer: LayerParameter, bottoms: Sequence[Shape]) -> Meaning:
    shapes = _declared(layer)
    if not shapes:
        raise NetError("declares no shape, and none was given")
    return Meaning(Input(), tuple(shapes))


def _identity(layer: LayerParameter, bottoms: Sequence[Shape]) -> Meaning:
    return Meaning(Identity(), tuple(bottoms[0] for _ in layer.top))


def _flatten(layer: LayerParameter, bottoms: Sequence[Shape]) -> Meaning:
    shape, parameters = bottoms[0], layer.flatten_param
    start, end = _axis(parameters.axis, len(shape)), _axis(parameters.end_axis, len(shape)) + 1
    if start > end:
        raise NetError(f"flattens from axis {start} to axis {end - 1}")
    return Meaning(Identity(), ((*shape[:start], prod(shape[start:end]), *shape[end:]),))


def _reshape(layer: LayerParameter, bottoms: Sequence[Shape]) -> Meaning:
    shape, parameters = bottoms[0], layer.reshape_param
    rank = len(shape)
    start = parameters.axis if parameters.axis >= 0 else rank + 1 + parameters.axis
    end = rank if parameters.num_axes == -1 else start + parameters.num_axes
    if not 0 <= start <= end <= rank:
        raise NetError(f"reshapes axes {start} to {end} of a bottom with {rank} axes")
    sizes = [
        _copied(shape, start + index) if size == 0 else int(size) for index, size in enumerate(parameters.shape.dim)
    ]
    if sizes.count(-1) > 1 or min(sizes, default=1) < -1:
        raise NetError(f"reshapes to {list(parameters.shape.dim)}: one -1 at most, and nothing below it")
    if -1 in sizes:
        sizes[sizes.index(-1)] = prod(shape[start:end]) // prod(size for size in sizes if size != -1)
    if prod(sizes) != prod(shape[start:end]):
        raise NetError(f"reshapes {list(shape[start:end])} to {list(parameters.shape.dim)}")
    return Meaning(Identity(), ((*shape[:start], *sizes, *shape[end:]),))


def _copied(shape: Shape, axis: int) -> int:
    if axis >= len(shape):
        raise NetError(f"copies axis {axis} of a bottom with {len(shape)} axes")
    return shape[axis]


def _clip(layer: LayerParameter) -> Operation:
    parameters = layer.clip_param
    if not (parameters.HasField("min") and parameters.HasField("max")):
        raise NetError("has to give min and max")
    return Pointwise("Clip", (parameters.min, parameters.max))


def _power(layer: LayerParameter) -> Operation:
    parameters = layer.power_param
    return Pointwise("Power", (parameters.power, parameters.scale, parameters.shift))


def _exp(layer: LayerParameter) -> Operation:
    """base ** (shift + scale * x) as e ** (shift' + scale' * x)."""
    parameters = layer.exp_param
    base = _natural_base(parameters.base)
    return Pointwise("Exp", (parameters.scale * base, parameters.shift * base))


def _log(layer: LayerParameter) -> Operation:
    """log(shift + scale * x), then times a factor that makes it one of another base."""
    parameters = layer.log_param
    base = _natural_base(parameters.base)
    if not base:
        raise NetError("its base is 1")
    return Pointwise("Log", (parameters.scale, parameters.shift, 1 / base))


def _natural_base(base: float) -> float:
    """The natural logarithm of a base; -1 stands for e."""
    if base != -1 and base <= 0:
        raise NetError(f"its base is {base:g}, it has to be positive, or -1 for e")
    return 1.0 if base == -1 else log(base)


def _convolution(layer: LayerParameter, bottoms: Sequence[Shape]) -> Meaning:
    bottom, parameters = bottoms[0], layer.convolution_param
    window, outputs, groups = _convolution_window(bottom, parameters), parameters.num_output, parameters.group
    sizes = []
    for size, reach, stride, pad in zip(bottom[2:], window.extent, window.stride, window.pad, strict=True):
        if reach > size + 2 * pad:
            raise NetError(f"its kernel reaches over {reach}, its bottom with padding is {size + 2 * pad}")
        sizes.append((size + 2 * pad - reach) // stride + 1)
    weight = (outputs, bottom[1] // groups, *window.kernel)
    blobs = (weight, (outputs,)) if parameters.bias_term else (weight,)
    return Meaning(Convolution(window, groups), ((bottom[0], outputs, *sizes),), blobs)


def _deconvolution(layer: LayerParameter, bottoms: Sequence[Shape]) -> Meaning:
    bottom, parameters = bottoms[0], layer.convolution_param
    window, outputs, groups = _convolution_window(bottom, parameters), parameters.num_output, parameters.group
    lists = zip(bottom[2:], window.extent, window.stride, window.pad, strict=True)
    sizes = [stride * (size - 1) + reach - 2 * pad for size, reach, stride, pad in lists]
    weight = (bottom[1], outputs // groups, *window.kernel)
    blobs = (weight, (outputs,)) if parameters.bias_term else (weight,)
    return Meaning(Deconvolution(window, groups), ((bottom[0], outputs, *sizes),), blobs)


def _convolution_window(bottom: Shape, parameters: ConvolutionParameter) -> Window:
    """The window, after what convolution and deconvolution both need has been checked."""
    if len(bottom) != 4 or parameters.axis not in (1, -3):
        raise NetError(f"works on axes from {parameters.axis} on of {list(bottom)}; known are 2 axes behind channels")
    outputs, groups = parameters.num_output, parameters.group
    if not outputs or not groups or bottom[1] % groups or outputs % groups:
        raise NetError(f"has {bottom[1]} inputs, {outputs} outputs, {groups} groups")
    return Window(
        _pair("kernel_size", parameters.kernel_size, _halves(parameters, "kernel")),
        _pair("stride", parameters.stride, _halves(parameters, "stride"), 1),
        _pair("pad", parameters.pad, _halves(parameters, "pad"), 0, 0),
        _pair("dilation", parameters.dilation, None, 1),
    )


def _halves(parameters: Any, name: str) -> Pair | None:
    """What `name`_h and `name`_w say, or None if neither is there."""
    names = f"{name}_h", f"{name}_w"
    if not any(map(parameters.HasField, names)):
        return None
    return getattr(parameters, names[0]), getattr(parameters, names[1])


def _pair(name: str, sizes: Sequence[int], halves: Pair | None, default: int | None = None, least: int = 1) -> Pair:
    """Both sizes of a window: two, one for both, one by one (`halves`), or the default."""
    if halves is not None and sizes:
        raise NetError(f"gives both {name} and a part of it")
    if halves is None and not sizes and default is not None:
        sizes = (default,)
    pair = halves or (tuple(sizes) * 2 if len(sizes) == 1 else tuple(sizes))
    if len(pair) != 2 or min(pair) < least:
        raise NetError(f"its {name} is {list(pair)}: one or two sizes of at least {least} are needed")
    return pair[0], pair[1]


def _inner_product(layer: LayerParameter, bottoms: Sequence[Shape]) -> Meaning:
    bottom, parameters = bottoms[0], layer.inner_product_param
    axis, outputs = _axis(parameters.axis, len(bottom)), parameters.num_output
    inputs = prod(bottom[axis:])
    weight = (inputs, outputs) if parameters.transpose else (outputs, inputs)
    blobs: tuple[Shape, ...] = (weight, (outputs,)) if parameters.bias_term else (weight,)
    return Meaning(InnerProduct(axis, parameters.transpose), ((*bottom[:axis], outputs),), blobs)


def _pooling(layer: LayerParameter, bottoms: Sequence[Shape]) -> Meaning:
    bottom, parameters = bottoms[0], layer.pooling_param
    _check_rank(bottom, 4)
    method = PoolingParameter.PoolMethod.Name(parameters.pool)
    if method not in ("MAX", "AVE"):
        raise NetError(f"pools by {method}, which is for training")
    window, rounding = _pooling_window(bottom, parameters), _rounding(parameters)
    lists = zip(bottom[2:], window.kernel, window.stride, window.pad, strict=True)
    is_padded = any(window.pad)
    sizes = [_pooled(*axis, rounding, is_padded) for axis in lists]
    return Meaning(Pooling(method, window, rounding), ((*bottom[:2], *sizes),))


def _pooling_window(bottom: Shape, parameters: PoolingParameter) -> Window:
    stride = _pair("stride", _one(parameters, "stride"), _halves(parameters, "stride"), 1)
    pad = _pair("pad", _one(parameters, "pad"), _halves(parameters, "pad"), 0, 0)
    if parameters.global_pooling:
        if any(map(parameters.HasField, ("kernel_size", "kernel_h", "kernel_w"))):
            raise NetError("pools over all of its bottom, and gives a kernel as well")
        if stride != (1, 1) or pad != (0, 0):
            raise NetError("pools over all of its bottom, and gives a stride or padding as well")
        return Window((bottom[2], bottom[3]))
    kernel = _pair("kernel_size", _one(parameters, "kernel_size"), _halves(parameters, "kernel"))
    if parameters.HasField("pad_h") != parameters.HasField("pad_w"):
        raise NetError("gives one of pad_h and pad_w")
    if pad[0] >= kernel[0] or pad[1] >= kernel[1]:
        raise NetError(f"its padding {list(pad)} is not less than its kernel {list(kernel)}")
    return Window(kernel, stride, pad)


def _one(parameters: PoolingParameter, name: str) -> tuple[int, ...]:
    return (getattr(parameters, name),) if parameters.HasField(name) else ()


def _rounding(parameters: PoolingParameter) -> str:
    """`round_mode` is BVLC master's word, `ceil_mode` that of OpenCV and the SSD family."""
    rounds_down = parameters.round_mode == PoolingParameter.FLOOR
    if parameters.HasField("ceil_mode"):
        if parameters.HasField("round_mode") and rounds_down == parameters.ceil_mode:
            raise NetError("its round_mode and its ceil_mode contradict each other")
        rounds_down = not parameters.ceil_mode
    return "FLOOR" if rounds_down else "CEIL"


def _pooled(size: int, kernel: int, stride: int, pad: int, rounding: str, is_padded: bool) -> int:
    """Rounding up, the last window can begin behind the bottom; with padding (on either axis) it is left out then."""
    span = size + 2 * pad - kernel
    pooled = (span // stride if rounding == "FLOOR" else -(-span // stride)) + 1
    return pooled - 1 if is_padded and (pooled - 1) * stride >= size + pad else pooled


def _batch_norm(layer: LayerParameter, bottoms: Sequence[Shape]) -> Meaning:
    bottom, parameters = bottoms[0], layer.batch_norm_param
    channels = bottom[1] if len(bottom) > 1 else 1
    is_stored = parameters.use_global_stats if parameters.HasField("use_global_stats") else True  # the phase is TEST
    return Meaning(BatchNorm(parameters.eps, is_stored), (bottom,), ((channels,), (channels,), (1,)))


def _scale(layer: LayerParameter, bottoms: Sequence[Shape]) -> Meaning:
    parameters = layer.scale_param
    axis, covered = _covered(bottoms, parameters.axis, parameters.num_axes)
    blobs = (covered,) * (2 - len(bottoms) + parameters.bias_term)
    return Meaning(Affine(axis, True, parameters.bias_term), (bottoms[0],), blobs)


def _bias(layer: LayerParameter, bottoms: Sequence[Shape]) -> Meaning:
    parameters = layer.bias_param
    axis, covered = _covered(bottoms, parameters.axis, parameters.num_axes)
    return Meaning(Affine(axis, False, True), (bottoms[0],), (covered,) * (2 - len(bottoms)))


def _covered(bottoms: Sequence[Shape], axis: int, num_axes: int) -> tuple[int, Shape]:
    """The axis where a factor or an offset begins, and its shape: the second bottom's, or that of `num_axes` axes."""
    bottom = bottoms[0]
    if len(bottoms) > 1 and not bottoms[1]:
        return 0, ()  # a scalar: the axis is not looked at
    start = _axis(axis, len(bottom))
    count = len(bottoms[1]) if len(bottoms) > 1 else num_axes if num_axes != -1 else len(bottom) - start
    covered = bottom[start : start + count]
    if count < 0 or len(covered) < count or (len(bottoms) > 1 and covered != bottoms[1]):
        what = f"its second bottom {list(bottoms[1])}" if len(bottoms) > 1 else f"{num_axes} axes"
        raise NetError(f"{what} cannot cover {list(bottom)} from axis {start} on")
    return start, covered


def _prelu(layer: LayerParameter, bottoms: Sequence[Shape]) -> Meaning:
    bottom = bottoms[0]
    if len(bottom) < 2:
        raise NetError(f"its bottom has shape {list(bottom)}, without channels")
    return Meaning(PReLU(), (bottom,), (() if layer.prelu_param.channel_shared else (bottom[1],),))


def _softmax(layer: LayerParameter, bottoms: Sequence[Shape]) -> Meaning:
    return Meaning(Softmax(_axis(layer.softmax_param.axis, len(bottoms[0]))), (bottoms[0],))


def _eltwise(layer: LayerParameter, bottoms: Sequence[Shape]) -> Meaning:
    parameters = layer.eltwise_param
    method, coefficients = EltwiseParameter.EltwiseOp.Name(parameters.operation), tuple(parameters.coeff)
    if any(bottom != bottoms[0] for bottom in bottoms):
        raise NetError(f"its bottoms differ in shape: {', '.join(str(list(bottom)) for bottom in bottoms)}")
    if coefficients and (method == "PROD" or len(coefficients) != len(bottoms)):
        raise NetError(f"gives {len(coefficients)} coefficients for the {method} of {len(bottoms)} bottoms")
    if method == "SUM":
        coefficients = coefficients or (1.0,) * len(bottoms)
    return Meaning(Eltwise(method, coefficients), (bottoms[0],))


def _concat(layer: LayerParameter, bottoms: Sequence[Shape]) -> Meaning:
    first = bottoms[0]
    axis = _axis(_older(layer.concat_param, "concat_dim"), len(first))
    for bottom in bottoms:
        if len(bottom) != len(first) or (*bottom[:axis], *bottom[axis + 1 :]) != (*first[:axis], *first[axis + 1 :]):
            raise NetError(f"its bottoms {list(first)} and {list(bottom)} differ in more than axis {axis}")
    total = sum(bottom[axis] for bottom in bottoms)
    return Meaning(Concat(axis), ((*first[:axis], total, *first[axis + 1 :]),))


def _slice(layer: LayerParameter, bottoms: Sequence[Shape]) -> Meaning:
    bottom, parameters, count = bottoms[0], layer.slice_param, len(layer.top)
    axis = _axis(_older(parameters, "slice_dim"), len(bottom))
    points = list(parameters.slice_point)
    if not points:
        if bottom[axis] % count:
            raise NetError(f"slices {bottom[axis]} into {count} tops")
        points = [bottom[axis] // count * index for index in range(1, count)]
    ends = [0, *points, bottom[axis]]
    sizes = tuple(end - start for start, end in pairwise(ends))
    if len(sizes) != count or min(sizes) < 1:
        raise NetError(f"slices {bottom[axis]} at {points} into {count} tops")
    return Meaning(Slice(axis, sizes), tuple((*bottom[:axis], size, *bottom[axis + 1 :]) for size in sizes))


def _crop(layer: LayerParameter, bottoms: Sequence[Shape]) -> Meaning:
    (bottom, reference), parameters = bottoms, layer.crop_param
    axis, given = _axis(parameters.axis, len(bottom)), list(parameters.offset)
    count = len(bottom) - axis
    if len(given) not in (0, 1, count):
        raise NetError(f"gives {len(given)} offsets for {count} axes")
    if len(reference) < len(bottom):
        raise NetError(f"its bottom {list(bottom)} has more axes than its reference {list(reference)}")
    offsets = (0,) * axis + tuple(given if len(given) == count else (given or [0]) * count)
    top = (*bottom[:axis], *reference[axis : len(bottom)])
    for offset, size, whole in zip(offsets, top, bottom, strict=True):
        if offset + size > whole:
            raise NetError(f"crops {list(bottom)} to {list(top)} from {list(offsets)} on")
    return Meaning(Crop(offsets), (top,))


def _permute(layer: LayerParameter, bottoms: Sequence[Shape]) -> Meaning:
    bottom, given = bottoms[0], list(layer.permute_param.order)
    if len(set(given)) != len(given) or any(axis >= len(bottom) for axis in given):
        raise NetError(f"orders {len(bottom)} axes as {given}")
    order = (*given, *(axis for axis in range(len(bottom)) if axis not in given))
    return Meaning(Permute(order), (tuple(bottom[axis] for axis in order),))


def _lrn(layer: LayerParameter, bottoms: Sequence[Shape]) -> Meaning:
    bottom, parameters = bottoms[0], layer.lrn_param
    _check_rank(bottom, 4)
    if not parameters.local_size % 2:
        raise NetError(f"its local_size is {parameters.local_size}, it has to be odd")
    within = parameters.norm_region == LRNParameter.WITHIN_CHANNEL
    k = 1.0 if within else parameters.k  # within a channel Caffe's layer does not look at it
    return Meaning(LRN(within, parameters.local_size, parameters.alpha, parameters.beta, k), (bottom,))


def _mvn(layer: LayerParameter, bottoms: Sequence[Shape]) -> Meaning:
    bottom, parameters = bottoms[0], layer.mvn_param
    _check_rank(bottom, 1)
    epsilon = parameters.eps if parameters.normalize_variance else None
    top = bottom + (1,) * (4 - len(bottom))  # the layer is older than blobs of other than four axes
    return Meaning(MVN(1 if parameters.across_channels else 2, epsilon), (top,))


def _normalize(layer: LayerParameter, bottoms: Sequence[Shape]) -> Meaning:
    bottom, parameters = bottoms[0], layer.norm_param
    _check_rank(bottom, 2)
    factor = () if parameters.channel_shared else (bottom[1],)
    return Meaning(Normalize(parameters.across_spatial, parameters.eps), (bottom,), (factor,))


def _reduction(layer: LayerParameter, bottoms: Sequence[Shape]) -> Meaning:
    bottom, parameters = bottoms[0], layer.reduction_param
    axis, method = _axis(parameters.axis, len(bottom)), ReductionParameter.ReductionOp.Name(parameters.operation)
    return Meaning(Reduction(method, axis, parameters.coeff), (bottom[:axis],))


def _tile(layer: LayerParameter, bottoms: Sequence[Shape]) -> Meaning:
    bottom, parameters = bottoms[0], layer.tile_param
    axis = _axis(parameters.axis, len(bottom))
    if parameters.tiles < 1:
        raise NetError(f"asks for {parameters.tiles} tiles")
    return Meaning(
        Tile(axis, parameters.tiles), ((*bottom[:axis], bottom[axis] * parameters.tiles, *bottom[axis + 1 :]),)
    )


def _argmax(layer: LayerParameter, bottoms: Sequence[Shape]) -> Meaning:
    bottom, parameters = bottoms[0], layer.argmax_param
    axis = _axis(parameters.axis, len(bottom)) if parameters.HasField("axis") else None
    searched, count = prod(bottom[1:]) if axis is None else bottom[axis], parameters.top_k
    if not 1 <= count <= searched:
        raise NetError(f"asks for the {count} largest of {searched}")
    if axis is not None:
        top = (*bottom[:axis], count, *bottom[axis + 1 :])
    else:
        top = (bottom[0], 2 if parameters.out_max_val else 1, count) + (1,) * (len(bottom) - 3)
    return Meaning(ArgMax(axis, count, parameters.out_max_val), (top,))


@dataclass(frozen=True, slots=True)
class _Kind:
    """A type of layer, and the least and the most bottoms and tops that it can have."""

    meaning: Callable[[LayerParameter, Sequence[Shape]], Meaning]
    bottoms: tuple[float, float] = (1, 1)
    tops: tuple[float, float] = (1, 1)


_KINDS: Mapping[str, _Kind] = {
    "AbsVal": _Kind(_same(lambda layer: Pointwise("AbsVal"))),
    "ArgMax": _Kind(_argmax),
    "BNLL": _Kind(_same(lambda layer: Pointwise("BNLL"))),
    "BatchNorm": _Kind(_batch_norm),
    "Bias": _Kind(_bias, bottoms=(1, 2)),
    "Clip": _Kind(_same(_clip)),
    "Concat": _Kind(_concat, bottoms=(1, inf)),
    "Convolution": _Kind(_convolution),
    "Crop": _Kind(_crop, bottoms=(2, 2)),
    "Deconvolution": _Kind(_deconvolution),
    "Dropout": _Kind(_identity),
    "ELU": _Kind(_same(lambda layer: Pointwise("ELU", (layer.elu_param.alpha,)))),
    "Eltwise": _Kind(_eltwise, bottoms=(2, inf)),
    "Exp": _Kind(_same(_exp)),
    "Flatten": _Kind(_flatten),
    "InnerProduct": _Kind(_inner_product),
    "Input": _Kind(_input, bottoms=(0, 0), tops=(1, inf)),
    "LRN": _Kind(_lrn),
    "Log": _Kind(_same(_log)),
    "MVN": _Kind(_mvn),
    "Normalize": _Kind(_normalize),
    "PReLU": _Kind(_prelu),
    "Permute": _Kind(_permute),
    "Pooling": _Kind(_pooling),
    "Power": _Kind(_same(_power)),
    "ReLU": _Kind(_same(lambda layer: Pointwise("ReLU", (layer.relu_param.negative_slope,)))),
    "ReLU6": _Kind(_same(lambda layer: Pointwise("Clip", (0.0, 6.0)))),
    "Reduction": _Kind(_reduction),
    "Reshape": _Kind(_reshape),
    "Scale": _Kind(_scale, bottoms=(1, 2)),
    "Sigmoid": _Kind(_same(lambda layer: Pointwise("Sigmoid"))),
    "Silence": _Kind(_identity, bottoms=(1, inf), tops=(0, 0)),
    "Slice": _Kind(_slice, tops=(1, inf)),
    "Softmax": _Kind(_softmax),
    "Split": _Kind(_identity, tops=(1, inf)),
    "TanH": _Kind(_same(lambda layer: Pointwise("TanH"))),
    "Tile": _Kind(_tile),
}
