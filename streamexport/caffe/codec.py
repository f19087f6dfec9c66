"""Operations as LayerParameter, and back: the only place that knows what Caffe's fields are called and what they are taken for
where they are missing.

    encode(layer) -> LayerParameter     name, type, bottoms, tops and parameters; blobs and what is unread are the writers'
    decode(LayerParameter) -> Layer     fields that only training looks at are left behind

Most kinds are a message whose fields are the operation's attributes under other names (`_Fields`). Those that say one thing in
several ways have a pair of functions.

PoolingParameter's field 13 is `round_mode` in BVLC master (0 CEIL, 1 FLOOR) and `ceil_mode` in OpenCV and the SSD family
(false, true): the same numbers, with opposite meanings. Text needs both names; on the wire there is the number alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any

from ..errors import NetError
from ..net import operations as ops
from ..net.graph import Layer
from ..net.operations import Operation
from ..net.windows import Sizes, Window
from .caffe_pb2 import (
    CAFFE,
    ConvolutionParameter,
    EltwiseParameter,
    LayerParameter,
    LRNParameter,
    ParamSpec,
    PoolingParameter,
    ReductionParameter,
)

Said = dict[str, Any]
"""Fields of a message by name."""


def encode(layer: Layer, on_wire: bool = False) -> LayerParameter:
    """A layer without its blobs and without what is unread: name, type, bottoms, tops, parameters.

    NetError if a name is not UTF-8, or the operation is neutral.
    """
    operation = layer.operation
    codec = _CODECS.get(type(operation))
    if codec is None and not isinstance(operation, ops.Opaque):
        raise NetError(f"is a {operation.type}, which no Caffe has", tensor=f"layer {layer.name}")
    said = codec.said(operation) if codec else {}
    try:
        message = LayerParameter(
            name=layer.name or None, type=layer.type or None, bottom=layer.bottoms, top=layer.tops, **said
        )
        mode = ParamSpec.PERMISSIVE if layer.is_permissive else None
        message.param.extend(ParamSpec(name=name or None, share_mode=mode) for name in layer.shared)
    except UnicodeError as error:
        raise not_text(f"layer {layer.name}") from error
    if on_wire and message.pooling_param.HasField("ceil_mode"):
        message.pooling_param.round_mode = int(message.pooling_param.ceil_mode)  # type: ignore[assignment] # the number
        message.pooling_param.ClearField("ceil_mode")
    if layer.is_permissive and message.HasField("convolution_param"):
        message.convolution_param.engine = CAFFE  # cuDNN takes handles and streams for each of many groups
    return message


def decode(message: LayerParameter, strict: bool = True) -> Layer:
    """A layer of a prototxt. NetError, naming it, if what it says contradicts itself; unless `strict`, it is opaque then."""
    codec = _CODECS.get(ops.KINDS.get(message.type, ops.Opaque))
    try:
        operation = codec.heard(message) if codec else ops.Opaque(message.type)
    except NetError as error:
        if strict:
            error.tensor = f"layer {message.name}"
            raise
        operation = ops.Opaque(message.type)
    shared = tuple(param.name for param in message.param) if any(param.name for param in message.param) else ()
    is_permissive = any(param.share_mode == ParamSpec.PERMISSIVE for param in message.param)
    names = message.name, operation, tuple(message.bottom), tuple(message.top)
    return Layer(*names, shared=shared, is_permissive=is_permissive)


def with_ceil_mode(message: LayerParameter) -> LayerParameter:
    """What was read from the wire, for text: field 13 at 0 would be the default of `round_mode`, which nobody writes; it is
    `ceil_mode: false`."""
    pooling = message.pooling_param
    if pooling.HasField("round_mode") and pooling.round_mode == PoolingParameter.CEIL:
        pooling.ClearField("round_mode")
        pooling.ceil_mode = False
    return message


def not_text(what: str) -> NetError:
    return NetError("has a name that is not UTF-8, which protobuf does not write", tensor=what, advice="rename it")


@dataclass(frozen=True, slots=True)
class _Pair:
    """How a kind is said, and how it is heard."""

    said: Callable[[Any], Said]
    heard: Callable[[LayerParameter], Operation]


def _none(kind: type[Operation]) -> _Pair:
    """A kind without parameters."""
    return _Pair(lambda operation: {}, lambda message: kind())


def _fields(kind: type[Operation], message: str, always: Sequence[str] = (), **names: str) -> _Pair:
    """A kind whose attributes are fields of one message, by these names; defaults are written where `always` says so."""
    defaults = {field.name: field.default for field in fields(kind)}  # type: ignore[arg-type] # all kinds are dataclasses

    def said(operation: Operation) -> Said:
        values = {name: getattr(operation, name) for name in names}
        shown = {
            names[name]: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if name in always or defaults[name] is MISSING or value != defaults[name]
        }
        return {message: shown} if shown or always else {}

    def heard(layer: LayerParameter) -> Operation:
        parameters = getattr(layer, message)
        given = {field.name for field, _ in parameters.ListFields()}
        needed = [name for name, field in names.items() if field in given or defaults[name] is MISSING]
        return kind(**{name: _plain(getattr(parameters, names[name])) for name in needed})

    return _Pair(said, heard)


def _plain(value: Any) -> Any:
    return value if isinstance(value, (bool, int, float, str)) else tuple(value)


# Kinds that say one thing in several ways


def _window_said(window: Window, names: Sequence[str]) -> Said:
    """Sizes once where they are alike on both axes, else all of them for each axis."""
    assert window.is_symmetric
    pairs = {name: getattr(window, name) for name in names}
    if all(first == second for first, second in pairs.values()):
        return {"kernel_size" if name == "kernel" else name: pair[0] for name, pair in pairs.items()}
    return {f"{name}_{side}": size for name, pair in pairs.items() for side, size in zip("hw", pair, strict=True)}


def _convolution_said(operation: ops.Convolution | ops.Deconvolution) -> Said:
    window = operation.window
    said: Said = {"num_output": operation.outputs}
    if not operation.has_bias:
        said["bias_term"] = False
    if len(window.axes) == 2:
        sizes = _window_said(window, ("pad", "kernel", "stride"))
        said |= {name: [size] if name in ("pad", "kernel_size", "stride") else size for name, size in sizes.items()}
    else:
        said |= {"pad": window.pad, "kernel_size": window.kernel, "stride": window.stride}
    if max(window.dilation) > 1:
        said["dilation"] = window.dilation[:1] if window.dilation == window.dilation[:1] * 2 else window.dilation
    if operation.groups > 1:
        said["group"] = operation.groups
    if operation.axis != 1:
        said["axis"] = operation.axis
    if len(window.axes) > 2:
        said["engine"] = CAFFE  # cuDNN's layers stop at two
    return {"convolution_param": said}


def _convolution_heard(kind: Callable[..., Operation]) -> Callable[[LayerParameter], Operation]:
    def heard(layer: LayerParameter) -> Operation:
        parameters: ConvolutionParameter = layer.convolution_param
        said = parameters.kernel_size, parameters.stride, parameters.pad, parameters.dilation
        axes = max(2, *map(len, said))
        window = Window.of(
            _sizes("kernel_size", parameters.kernel_size, _halves(parameters, "kernel"), axes=axes),
            _sizes("stride", parameters.stride, _halves(parameters, "stride"), 1, axes=axes),
            _sizes("pad", parameters.pad, _halves(parameters, "pad"), 0, 0, axes),
            _sizes("dilation", parameters.dilation, None, 1, axes=axes),
        )
        return kind(parameters.num_output, window, parameters.group, parameters.bias_term, parameters.axis)

    return heard


def _pooling_said(operation: ops.Pooling) -> Said:
    said: Said = {"pool": operation.method}
    if operation.window is None:
        said["global_pooling"] = True
    else:
        names = ("kernel", "stride", "pad") if any(operation.window.pad) else ("kernel", "stride")
        said |= _window_said(operation.window, names)
    if operation.says_ceil_mode:
        said["ceil_mode"] = not operation.rounds_down
    elif operation.rounds_down:
        said["round_mode"] = "FLOOR"
    return {"pooling_param": said}


def _pooling_heard(layer: LayerParameter) -> Operation:
    parameters = layer.pooling_param
    method = PoolingParameter.PoolMethod.Name(parameters.pool)
    if method == "STOCHASTIC":
        raise NetError("pools by STOCHASTIC, which is for training")
    says_ceil_mode, rounds_down = parameters.HasField("ceil_mode"), parameters.round_mode == PoolingParameter.FLOOR
    if says_ceil_mode:
        if parameters.HasField("round_mode") and rounds_down == parameters.ceil_mode:
            raise NetError("its round_mode and its ceil_mode contradict each other")
        rounds_down = not parameters.ceil_mode
    return ops.Pooling(method, _pooling_window(parameters), rounds_down, says_ceil_mode)


def _pooling_window(parameters: PoolingParameter) -> Window | None:
    stride = _sizes("stride", _one(parameters, "stride"), _halves(parameters, "stride"), 1)
    pad = _sizes("pad", _one(parameters, "pad"), _halves(parameters, "pad"), 0, 0)
    if parameters.global_pooling:
        if any(map(parameters.HasField, ("kernel_size", "kernel_h", "kernel_w"))):
            raise NetError("pools over all of its bottom, and gives a kernel as well")
        if stride != (1, 1) or pad != (0, 0):
            raise NetError("pools over all of its bottom, and gives a stride or padding as well")
        return None
    kernel = _sizes("kernel_size", _one(parameters, "kernel_size"), _halves(parameters, "kernel"))
    if parameters.HasField("pad_h") != parameters.HasField("pad_w"):
        raise NetError("gives one of pad_h and pad_w")
    return Window.of(kernel, stride, pad)


def _one(parameters: PoolingParameter, name: str) -> tuple[int, ...]:
    return (getattr(parameters, name),) if parameters.HasField(name) else ()


def _halves(parameters: Any, name: str) -> Sizes | None:
    """What `name`_h and `name`_w say, or None if neither is there."""
    names = f"{name}_h", f"{name}_w"
    if not any(map(parameters.HasField, names)):
        return None
    return getattr(parameters, names[0]), getattr(parameters, names[1])


def _sizes(
    name: str, sizes: Sequence[int], halves: Sizes | None, default: int | None = None, least: int = 1, axes: int = 2
) -> Sizes:
    """The sizes of a window for each of its axes: as many, one for all, height and width (`halves`), or the default."""
    if halves is not None and sizes:
        raise NetError(f"gives both {name} and a part of it")
    if halves is None and not sizes and default is not None:
        sizes = (default,)
    given = halves or (tuple(sizes) * axes if len(sizes) == 1 else tuple(sizes))
    if len(given) != axes or min(given) < least:
        wanted = "two" if axes == 2 else axes
        raise NetError(f"its {name} is {list(given)}: one or {wanted} sizes of at least {least} are needed")
    return given


def _with_older(pair: _Pair, message: str, older: str) -> _Pair:
    """A kind whose axis has an older name as well."""

    def heard(layer: LayerParameter) -> Operation:
        parameters = getattr(layer, message)
        if parameters.HasField(older):
            if parameters.HasField("axis"):
                raise NetError(f"gives both axis and {older}")
            layer, axis = LayerParameter.FromString(layer.SerializeToString()), getattr(parameters, older)
            getattr(layer, message).axis = axis
        return pair.heard(layer)

    return _Pair(pair.said, heard)


def _input_heard(layer: LayerParameter) -> Operation:
    return ops.Input(tuple(tuple(shape.dim) for shape in layer.input_param.shape))


def _parameter_said(operation: ops.Parameter | ops.Const) -> Said:
    return {"parameter_param": {"shape": {"dim": list(operation.shape)}}}


def _parameter_heard(kind: Callable[..., Operation]) -> Callable[[LayerParameter], Operation]:
    return lambda layer: kind(tuple(layer.parameter_param.shape.dim))


def _reshape_said(operation: ops.Reshape) -> Said:
    said: Said = {"shape": {"dim": list(operation.sizes)}}
    said |= {"axis": operation.axis} if operation.axis else {}
    return {"reshape_param": {**said, **({"num_axes": operation.num_axes} if operation.num_axes != -1 else {})}}


def _reshape_heard(layer: LayerParameter) -> Operation:
    parameters = layer.reshape_param
    return ops.Reshape(tuple(parameters.shape.dim), parameters.axis, parameters.num_axes)


def _clip_heard(layer: LayerParameter) -> Operation:
    parameters = layer.clip_param
    if not (parameters.HasField("min") and parameters.HasField("max")):
        raise NetError("has to give min and max")
    return ops.Clip(parameters.min, parameters.max)


def _batch_norm_heard(layer: LayerParameter) -> Operation:
    parameters = layer.batch_norm_param
    is_stored = parameters.use_global_stats if parameters.HasField("use_global_stats") else True  # the phase is TEST
    return ops.BatchNorm(parameters.eps, is_stored)


def _eltwise_said(operation: ops.Eltwise) -> Said:
    coefficients = {"coeff": list(operation.coefficients)} if operation.coefficients else {}
    return {"eltwise_param": {"operation": operation.method, **coefficients}}


def _eltwise_heard(layer: LayerParameter) -> Operation:
    parameters = layer.eltwise_param
    return ops.Eltwise(EltwiseParameter.EltwiseOp.Name(parameters.operation), tuple(parameters.coeff))


def _lrn_said(operation: ops.LRN) -> Said:
    said = _LRN.said(operation)
    if operation.within_channel:
        said.setdefault("lrn_param", {})["norm_region"] = "WITHIN_CHANNEL"
    return said


def _lrn_heard(layer: LayerParameter) -> Operation:
    parameters = layer.lrn_param
    within = parameters.norm_region == LRNParameter.WITHIN_CHANNEL
    return ops.LRN(parameters.local_size, parameters.alpha, parameters.beta, within, parameters.k)


_LRN = _fields(ops.LRN, "lrn_param", size="local_size", alpha="alpha", beta="beta", k="k")


def _reduction_heard(layer: LayerParameter) -> Operation:
    parameters = layer.reduction_param
    method = ReductionParameter.ReductionOp.Name(parameters.operation)
    return ops.Reduction(method, parameters.axis, parameters.coeff)


def _argmax_heard(layer: LayerParameter) -> Operation:
    parameters = layer.argmax_param
    axis = parameters.axis if parameters.HasField("axis") else None
    return ops.ArgMax(axis, parameters.top_k, parameters.out_max_val)


def _matmul_said(operation: ops.MatMul) -> Said:
    flags = {"transA": operation.is_first_transposed, "transB": operation.is_second_transposed}
    said = {name: 1 for name, is_transposed in flags.items() if is_transposed}
    return {"matmul_param": said} if said else {}


def _matmul_heard(layer: LayerParameter) -> Operation:
    return ops.MatMul(bool(layer.matmul_param.transA), bool(layer.matmul_param.transB))


def _dummy_data_said(operation: ops.DummyData) -> Said:
    shapes = [{"dim": list(shape)} for shape in operation.shapes]
    return {"dummy_data_param": {"shape": shapes, "data_filler": [{"value": value} for value in operation.values]}}


def _dummy_data_heard(layer: LayerParameter) -> Operation:
    parameters = layer.dummy_data_param
    if other := next((filler.type for filler in parameters.data_filler if filler.type != "constant"), None):
        raise NetError(f"is filled by {other}, which is for training")
    sides = (parameters.num, parameters.channels, parameters.height, parameters.width)
    shapes = [tuple(shape.dim) for shape in parameters.shape] or list(zip(*sides, strict=False))
    return ops.DummyData(tuple(shapes), tuple(filler.value for filler in parameters.data_filler))


def _lstm_said(operation: ops.LSTM) -> Said:
    exposed = {"expose_hidden": True} if operation.exposes_states else {}
    reverse: Said = {"x_param": {"reverse": 1}} if operation.is_reversed else {}
    return {"recurrent_param": {"num_output": operation.outputs, **exposed}, **reverse}


def _lstm_heard(layer: LayerParameter) -> Operation:
    parameters = layer.recurrent_param
    return ops.LSTM(parameters.num_output, bool(layer.x_param.reverse), parameters.expose_hidden)


_RANGE = {"base": "base", "scale": "scale", "shift": "shift"}

_CODECS: Mapping[type[Operation], _Pair] = {
    **{
        kind: _none(kind)
        for kind in (ops.AbsVal, ops.BNLL, ops.Gelu, ops.ReLU6, ops.Sigmoid, ops.Silence, ops.Split, ops.TanH)
    },
    ops.ArgMax: _Pair(
        _fields(ops.ArgMax, "argmax_param", axis="axis", count="top_k", with_values="out_max_val").said, _argmax_heard
    ),
    ops.BatchNorm: _Pair(
        _fields(
            ops.BatchNorm, "batch_norm_param", ("is_stored", "epsilon"), is_stored="use_global_stats", epsilon="eps"
        ).said,
        _batch_norm_heard,
    ),
    ops.Bias: _fields(ops.Bias, "bias_param", axis="axis", num_axes="num_axes"),
    ops.Clip: _Pair(_fields(ops.Clip, "clip_param", low="min", high="max").said, _clip_heard),
    ops.Concat: _with_older(_fields(ops.Concat, "concat_param", ("axis",), axis="axis"), "concat_param", "concat_dim"),
    ops.Const: _Pair(_parameter_said, _parameter_heard(ops.Const)),
    ops.Convolution: _Pair(_convolution_said, _convolution_heard(ops.Convolution)),
    ops.Crop: _fields(ops.Crop, "crop_param", ("axis", "offsets"), axis="axis", offsets="offset"),
    ops.Deconvolution: _Pair(_convolution_said, _convolution_heard(ops.Deconvolution)),
    ops.Dropout: _fields(ops.Dropout, "dropout_param", ratio="dropout_ratio"),
    ops.DummyData: _Pair(_dummy_data_said, _dummy_data_heard),
    ops.ELU: _fields(ops.ELU, "elu_param", ("alpha",), alpha="alpha"),
    ops.Eltwise: _Pair(_eltwise_said, _eltwise_heard),
    ops.Embed: _fields(ops.Embed, "embed_param", outputs="num_output", inputs="input_dim", has_bias="bias_term"),
    ops.Exp: _fields(ops.Exp, "exp_param", **_RANGE),
    ops.Flatten: _fields(ops.Flatten, "flatten_param", axis="axis", end_axis="end_axis"),
    ops.GRU: _fields(ops.GRU, "x_param", outputs="hidden_size"),
    ops.InnerProduct: _fields(
        ops.InnerProduct,
        "inner_product_param",
        outputs="num_output",
        has_bias="bias_term",
        axis="axis",
        is_transposed="transpose",
    ),
    ops.Input: _Pair(
        lambda operation: {"input_param": {"shape": [{"dim": list(shape)} for shape in operation.shapes]}}, _input_heard
    ),
    ops.LRN: _Pair(_lrn_said, _lrn_heard),
    ops.LSTM: _Pair(_lstm_said, _lstm_heard),
    ops.Log: _fields(ops.Log, "log_param", **_RANGE),
    ops.MVN: _fields(
        ops.MVN,
        "mvn_param",
        normalizes_variance="normalize_variance",
        across_channels="across_channels",
        epsilon="eps",
    ),
    ops.MatMul: _Pair(_matmul_said, _matmul_heard),
    ops.Normalize: _fields(
        ops.Normalize, "norm_param", across_spatial="across_spatial", is_shared="channel_shared", epsilon="eps"
    ),
    ops.PReLU: _fields(ops.PReLU, "prelu_param", is_shared="channel_shared"),
    ops.Parameter: _Pair(_parameter_said, _parameter_heard(ops.Parameter)),
    ops.Permute: _fields(ops.Permute, "permute_param", order="order"),
    ops.Pooling: _Pair(_pooling_said, _pooling_heard),
    ops.Power: _fields(ops.Power, "power_param", power="power", scale="scale", shift="shift"),
    ops.ReLU: _fields(ops.ReLU, "relu_param", slope="negative_slope"),
    ops.Reduction: _Pair(
        _fields(ops.Reduction, "reduction_param", method="operation", axis="axis", coefficient="coeff").said,
        _reduction_heard,
    ),
    ops.Reshape: _Pair(_reshape_said, _reshape_heard),
    ops.Scale: _fields(ops.Scale, "scale_param", axis="axis", num_axes="num_axes", has_bias="bias_term"),
    ops.Slice: _with_older(
        _fields(ops.Slice, "slice_param", ("axis", "points"), axis="axis", points="slice_point"),
        "slice_param",
        "slice_dim",
    ),
    ops.Softmax: _fields(ops.Softmax, "softmax_param", axis="axis"),
    ops.Threshold: _fields(ops.Threshold, "threshold_param", threshold="threshold"),
    ops.Tile: _fields(ops.Tile, "tile_param", axis="axis", count="tiles"),
}
