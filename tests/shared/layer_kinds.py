"""Every kind of layer that is written, as a layer of a net and as what torch says that it computes.

`KINDS` has for each kind the ways in which operators and passes write it. A way is asked for a layer behind a blob, puts it
into a `Bench`, and returns what the layer makes: the name of its top, and its elements, computed by torch in float64. Ways
that need a second blob take one that another layer makes, so that engines may merge that one too.

Sizes are small and alike on purpose (4 channels, 4 rows, inner products with 4 outputs): what is merged into the wrong
dimension fits there then, and nothing but the numbers tells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from streamexport.net import operations as ops
from streamexport.net.graph import Blob, Layer
from streamexport.net.operations import Input, Operation
from streamexport.net.windows import Axis, Window
from streamexport.payload.pieces import Literal

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Held:
    """A top, and what stands in it."""

    top: str
    value: Tensor

    @property
    def shape(self) -> Shape:
        return tuple(self.value.shape)


@dataclass
class Bench:
    """A net in the making, with inputs of whatever shape is asked for.

    Attributes
    ----------
    dtype : in which torch computes
    knows_shapes : whether layers say what shapes their tops have
    is_positive : whether all numbers from now on are positive, inputs and weights alike
    """

    dtype: torch.dtype = torch.float64
    knows_shapes: bool = True
    is_positive: bool = False
    inputs: dict[str, Held] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)

    def input(self, shape: Shape) -> Held:
        """The input of this shape."""
        name = "x".join(["plus" if self.is_positive else "data", *map(str, shape)])
        if name not in self.inputs:
            self.inputs[name] = Held(name, self.random(shape))
            self.layers.append(Layer(name, Input((shape,)), (), (name,), shapes=(shape,) if self.knows_shapes else ()))
        return self.inputs[name]

    def layer(
        self,
        operation: Operation,
        bottoms: Sequence[Held],
        values: Tensor | Sequence[Tensor],
        blobs: Sequence[Tensor] = (),
    ) -> Held:
        """Adds a layer that makes these values; what comes back is the first."""
        many = [values] if isinstance(values, Tensor) else list(values)
        name = f"{operation.type.lower()}_{len(self.layers)}"
        tops = tuple(name if len(many) == 1 else f"{name}.{index}" for index in range(len(many)))
        shapes = tuple(tuple(value.shape) for value in many) if self.knows_shapes else ()
        held = tuple(Blob(tuple(blob.shape), Literal(blob.float().numpy().tobytes())) for blob in blobs)
        names = tuple(bottom.top for bottom in bottoms)
        self.layers.append(Layer(name, operation, names, tops, held, shapes=shapes))
        return Held(tops[0], many[0])

    def random(self, shape: Shape, seed: int = 0) -> Tensor:
        """Numbers that float32 holds: normal ones, or from 0.5 to 1.5."""
        generator = torch.Generator().manual_seed(seed + 31 * prod(shape) + len(shape))
        function = torch.rand if self.is_positive else torch.randn
        return function(shape, generator=generator).to(self.dtype) + (0.5 if self.is_positive else 0)

    def other(self, shape: Shape) -> Held:
        """A second operand: the top of a layer that nobody else takes."""
        x = self.input(shape)
        return self.layer(ops.TanH(), [x], x.value.tanh())


Make = Callable[[Bench, Held], Held]


@dataclass(frozen=True)
class Way:
    """One way to write a kind of layer.

    Attributes
    ----------
    fits : whether a bottom of this shape will do
    is_positive : whether it takes no others
    """

    name: str
    make: Make
    fits: Callable[[Shape], bool]
    is_positive: bool = False


KINDS: dict[str, list[Way]] = {}


def image(shape: Shape) -> bool:
    return len(shape) == 4


def large(shape: Shape) -> bool:
    return len(shape) == 4 and min(shape[1:]) >= 2


def volume(shape: Shape) -> bool:
    return len(shape) == 5


def any_rank(shape: Shape) -> bool:
    return 2 <= len(shape) <= 5


def even(shape: Shape) -> bool:
    return shape[1] % 2 == 0


def way(kind: str, fits: Callable[[Shape], bool], label: str = "", is_positive: bool = False) -> Callable[[Make], Make]:
    def register(make: Make) -> Make:
        KINDS.setdefault(kind, []).append(Way(f"{kind} {label}".strip(), make, fits, is_positive))
        return make

    return register


def pointwise(
    operation: Operation, function: Callable[[Tensor], Tensor], label: str = "", is_positive: bool = False
) -> None:
    """A way that works on each element by itself."""

    @way(operation.type, any_rank, label, is_positive)
    def make(net: Bench, x: Held) -> Held:
        return net.layer(operation, [x], function(x.value))


pointwise(ops.AbsVal(), torch.abs)
pointwise(ops.BNLL(), F.softplus)
pointwise(ops.Clip(0.0, 6.0), lambda x: x.clamp(0, 6), "0..6")
pointwise(ops.Clip(0.0, 1.0), lambda x: x.clamp(0, 1), "0..1")
pointwise(ops.Clip(-0.5, 0.75), lambda x: x.clamp(-0.5, 0.75), "-0.5..0.75")
pointwise(ops.ELU(0.75), lambda x: F.elu(x, 0.75))
pointwise(ops.Exp(), torch.exp)
pointwise(ops.Gelu(), F.gelu)
pointwise(ops.Log(), torch.log, is_positive=True)
pointwise(ops.ReLU(), F.relu)
pointwise(ops.ReLU(0.125), lambda x: F.leaky_relu(x, 0.125), "leaky")
pointwise(ops.ReLU6(), F.relu6)
pointwise(ops.Sigmoid(), torch.sigmoid)
pointwise(ops.TanH(), torch.tanh)
pointwise(ops.Threshold(0.125), lambda x: (x > 0.125).to(x.dtype), "0.125")
pointwise(ops.Power(scale=2.0, shift=0.5), lambda x: 2 * x + 0.5, "2x + 0.5")
pointwise(ops.Power(scale=3.0), lambda x: 3 * x, "3x")
pointwise(ops.Power(shift=-0.25), lambda x: x - 0.25, "x - 0.25")
pointwise(ops.Power(scale=0.0, shift=0.75), lambda x: 0 * x + 0.75, "0x + 0.75")
pointwise(ops.Power(3.0), lambda x: x**3, "x^3")
pointwise(ops.Power(2.0, 0.5, 1.0), lambda x: (0.5 * x + 1) ** 2, "(0.5x + 1)^2")
pointwise(ops.Power(-0.5), lambda x: x**-0.5, "x^-0.5", True)
pointwise(ops.Power(-0.5, shift=0.125), lambda x: (x + 0.125) ** -0.5, "(x + 0.125)^-0.5", True)
pointwise(ops.Power(0.5, 2.0), lambda x: (2 * x) ** 0.5, "(2x)^0.5", True)


@way("PReLU", lambda shape: any_rank(shape) and not volume(shape))  # Caffe refuses it
def _prelu(net: Bench, x: Held) -> Held:
    slopes = net.random((x.shape[1],))
    return net.layer(ops.PReLU(), [x], F.prelu(x.value, slopes), [slopes])


@way("BatchNorm", lambda shape: len(shape) in (2, 4, 5))
def _batch_norm(net: Bench, x: Held) -> Held:
    channels = (x.shape[1],)
    mean, variance = -net.random(channels), net.random(channels, seed=1).abs() + 0.5
    made = F.batch_norm(x.value, mean, variance, eps=1e-3)
    return net.layer(ops.BatchNorm(1e-3), [x], made, [mean, variance, torch.ones(1)])


def scale(has_bias: bool) -> Make:
    def make(net: Bench, x: Held) -> Held:
        shape = (x.shape[1], *[1] * (len(x.shape) - 2))
        blobs = [net.random(shape, seed=5)] + ([net.random(shape, seed=6)] if has_bias else [])
        made = x.value * blobs[0] + (blobs[1] if has_bias else 0)
        return net.layer(ops.Scale(has_bias=has_bias), [x], made, [blob.reshape(-1) for blob in blobs])

    return make


way("Scale", any_rank, "with bias")(scale(True))
way("Scale", any_rank)(scale(False))


@way("Scale", lambda shape: len(shape) in (3, 4), "of two bottoms")
def _scale_by(net: Bench, x: Held) -> Held:
    factor = net.other(x.shape[:2])
    made = x.value * factor.value.reshape(*x.shape[:2], *[1] * (len(x.shape) - 2))
    return net.layer(ops.Scale(0), [x, factor], made)


@way("Scale", lambda shape: len(shape) == 2, "that multiplies another")
def _scale_of(net: Bench, x: Held) -> Held:
    whole = net.other((*x.shape, 4, 3))
    return net.layer(ops.Scale(0), [whole, x], whole.value * x.value[..., None, None])


def convolution(
    kind: type[ops.Convolution | ops.Deconvolution],
    kernel: int,
    groups: int,
    has_bias: bool,
    channels: int = 4,
    **options: int,
) -> Make:
    def make(net: Bench, x: Held) -> Held:
        inputs, parts = x.shape[1], groups or x.shape[1]
        outputs = channels if groups else inputs
        axes, is_forward = len(x.shape) - 2, kind is ops.Convolution
        first, second = (outputs, inputs) if is_forward else (inputs, outputs)
        weight = net.random((first, second // parts, *[kernel] * axes)) / (inputs // parts * kernel)
        bias = net.random((outputs,)) if has_bias else None
        stride, padding, dilation = (options.get(n, d) for n, d in (("stride", 1), ("padding", 0), ("dilation", 1)))
        window = Window((Axis(kernel, stride, padding, padding, dilation),) * axes)
        blobs = [weight] if bias is None else [weight, bias]
        functions: Any = {2: (F.conv_transpose2d, F.conv2d), 3: (F.conv_transpose3d, F.conv3d)}[axes]
        made = functions[is_forward](x.value, weight, bias, groups=parts, **options)
        return net.layer(kind(outputs, window, parts, has_bias), [x], made, blobs)

    return make


def halves(shape: Shape) -> bool:
    return image(shape) and even(shape)


way("Convolution", image, "1x1")(convolution(ops.Convolution, 1, 1, False))
way("Convolution", image, "3x3 with bias")(convolution(ops.Convolution, 3, 1, True, padding=1))
way("Convolution", image, "to one channel")(convolution(ops.Convolution, 1, 1, True, channels=1))
way("Convolution", image, "to six, dilated")(convolution(ops.Convolution, 3, 1, False, 6, padding=2, dilation=2))
way("Convolution", halves, "of two groups")(convolution(ops.Convolution, 3, 2, True, padding=1, stride=2))
way("Convolution", halves, "of two groups, 1x1")(convolution(ops.Convolution, 1, 2, False))
way("Convolution", large, "depthwise")(convolution(ops.Convolution, 3, 0, False, padding=1))
way("Convolution", large, "depthwise with bias")(convolution(ops.Convolution, 3, 0, True, padding=1))
way("Convolution", volume, "1x1x1 with bias")(convolution(ops.Convolution, 1, 1, True))
way("Convolution", volume, "3x3x3 of two groups")(convolution(ops.Convolution, 3, 2, False, padding=1))
way("Convolution", volume, "3x3x3 depthwise")(convolution(ops.Convolution, 3, 0, True, padding=1))
way("Deconvolution", volume, "2x2x2")(convolution(ops.Deconvolution, 2, 1, False, stride=2))
way("Deconvolution", volume, "3x3x3 of two groups with bias")(convolution(ops.Deconvolution, 3, 2, True, padding=1))
way("Deconvolution", image, "4x4")(convolution(ops.Deconvolution, 4, 1, False, stride=2, padding=1))
way("Deconvolution", image, "2x2 with bias")(convolution(ops.Deconvolution, 2, 1, True, 6, stride=2))
way("Deconvolution", halves, "of two groups")(convolution(ops.Deconvolution, 4, 2, False, stride=2, padding=1))
way("Deconvolution", halves, "of two groups with bias")(convolution(ops.Deconvolution, 3, 2, True, padding=1))
way("Deconvolution", image, "depthwise")(convolution(ops.Deconvolution, 2, 0, False, stride=2))
way("Deconvolution", image, "depthwise with bias")(convolution(ops.Deconvolution, 2, 0, True, stride=2))


def inner_product(outputs: int, has_bias: bool, axis: int) -> Make:
    def make(net: Bench, x: Held) -> Held:
        rows = x.value.flatten(axis)
        weight = net.random((outputs, rows.shape[-1])) / 2
        bias = net.random((outputs,)) if has_bias else None
        blobs = [weight] if bias is None else [weight, bias]
        return net.layer(ops.InnerProduct(outputs, has_bias, axis), [x], F.linear(rows, weight, bias), blobs)

    return make


way("InnerProduct", any_rank, "with bias")(inner_product(4, True, 1))
way("InnerProduct", any_rank, "to six")(inner_product(6, False, 1))
for rank, axis in ((3, 2), (4, 3)):
    label = f"over axis {axis} of {rank}"
    way("InnerProduct", lambda shape, rank=rank: len(shape) == rank, label)(inner_product(4, False, axis))
    way("InnerProduct", lambda shape, rank=rank: len(shape) == rank, label + " with bias")(inner_product(5, True, axis))


def pooling(function: Callable[[Tensor], Tensor], *sizes: Any, **how: Any) -> Make:
    def make(net: Bench, x: Held) -> Held:
        return net.layer(ops.Pooling(*sizes, **how), [x], function(x.value))

    return make


def square(kernel: int, stride: int, pad: int = 0) -> Window:
    return Window.of((kernel, kernel), (stride, stride), (pad, pad))


way("Pooling", large, "MAX")(pooling(lambda x: F.max_pool2d(x, 2, 1), "MAX", square(2, 1)))
way("Pooling", large, "MAX, padded")(
    pooling(lambda x: F.max_pool2d(x, 3, 2, 1), "MAX", square(3, 2, 1), rounds_down=True)
)
way("Pooling", large, "AVE")(pooling(lambda x: F.avg_pool2d(x, 2, 1), "AVE", square(2, 1)))
way("Pooling", image, "AVE of all")(pooling(lambda x: x.mean((2, 3), True), "AVE"))
way("Pooling", image, "MAX of all")(pooling(lambda x: x.amax((2, 3), True), "MAX"))
way("Pooling", image, "AVE of columns")(
    lambda net, x: pooling(lambda value: value.mean(2, True), "AVE", Window.of((x.shape[2], 1), (x.shape[2], 1)))(
        net, x
    )
)


@way("MVN", image)
def _mvn(net: Bench, x: Held) -> Held:
    centred = x.value - x.value.mean((2, 3), keepdim=True)
    return net.layer(ops.MVN(normalizes_variance=False), [x], centred)


def softmax(axis: int) -> Make:
    return lambda net, x: net.layer(ops.Softmax(axis), [x], x.value.softmax(axis))


way("Softmax", any_rank)(softmax(1))
way("Softmax", lambda shape: len(shape) in (3, 4), "over axis 2")(softmax(2))


def eltwise(method: str, function: Callable[..., Tensor], is_first: bool = True, *coefficients: float) -> Make:
    def make(net: Bench, x: Held) -> Held:
        y = net.other(x.shape)
        bottoms = [x, y] if is_first else [y, x]
        made = function(*(bottom.value for bottom in bottoms))
        return net.layer(ops.Eltwise(method, coefficients), bottoms, made)

    return make


way("Eltwise", any_rank, "SUM")(eltwise("SUM", torch.add))
way("Eltwise", any_rank, "SUM, second")(eltwise("SUM", torch.add, False))
way("Eltwise", any_rank, "difference")(eltwise("SUM", lambda x, y: x - 0.25 * y, True, 1.0, -0.25))
way("Eltwise", any_rank, "PROD")(eltwise("PROD", torch.mul))
way("Eltwise", any_rank, "MAX")(eltwise("MAX", torch.maximum))


@way("Eltwise", any_rank, "of itself")
def _square(net: Bench, x: Held) -> Held:
    return net.layer(ops.Eltwise("PROD"), [x, x], x.value**2)


def concat(axis: int, is_first: bool = True) -> Make:
    def make(net: Bench, x: Held) -> Held:
        y = net.other(x.shape)
        bottoms = [x, y] if is_first else [y, x]
        made = torch.cat([bottom.value for bottom in bottoms], axis)
        return net.layer(ops.Concat(axis), bottoms, made)

    return make


way("Concat", any_rank)(concat(1))
way("Concat", any_rank, "second")(concat(1, False))
way("Concat", lambda shape: len(shape) in (3, 4), "over axis 2")(concat(2))


@way("MatMul", any_rank)
def _matmul(net: Bench, x: Held) -> Held:
    y = net.other(x.shape)
    return net.layer(ops.MatMul(False, True), [x, y], x.value @ y.value.mT)


@way("MatMul", any_rank, "second")
def _matmul_second(net: Bench, x: Held) -> Held:
    y = net.other(x.shape)
    return net.layer(ops.MatMul(True), [y, x], y.value.mT @ x.value)


@way("Const", lambda shape: len(shape) == 3)
def _const(net: Bench, x: Held) -> Held:
    matrix = net.random((1, 3, x.shape[2]), 5)
    held = net.layer(ops.Const(tuple(matrix.shape)), [], matrix, [matrix])
    return net.layer(ops.MatMul(False, True), [x, held], x.value @ matrix.mT)


def recurrent(kind: str, recurrence: torch.nn.LSTM | torch.nn.GRU) -> Make:
    """Of as many numbers as come in."""

    def make(net: Bench, x: Held) -> Held:
        module = recurrence.to(net.dtype)
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        blobs = [net.random(tuple(getattr(module, name).shape), seed) for seed, name in enumerate(names)]
        made, _ = torch.func.functional_call(module, dict(zip(names, blobs, strict=True)), (x.value,))
        return net.layer(ops.Recurrent(4, kind, x.shape), [x], made, blobs)

    return make


for _kind, _module in (("lstm", torch.nn.LSTM(4, 4)), ("gru", torch.nn.GRU(4, 4))):
    way(_kind.upper(), lambda shape: len(shape) == 3 and shape[2] == 4)(recurrent(_kind, _module))


@way("Concat", any_rank, "with itself")
def _twice(net: Bench, x: Held) -> Held:
    made = torch.cat([x.value, x.value], 1)
    return net.layer(ops.Concat(), [x, x], made)


def sliced(axis: int, point: int) -> Make:
    def make(net: Bench, x: Held) -> Held:
        parts = x.value.split([point, x.shape[axis] - point], axis)
        return net.layer(ops.Slice(axis, (point,)), [x], parts)

    return make


way("Slice", lambda shape: any_rank(shape) and shape[1] > 2)(sliced(1, 2))
way("Slice", lambda shape: len(shape) in (3, 4) and shape[2] > 1, "over axis 2")(sliced(2, 1))


@way("Crop", large)
def _crop(net: Bench, x: Held) -> Held:
    reference = net.other((*x.shape[:2], x.shape[2] - 1, x.shape[3] - 1))
    return net.layer(ops.Crop(2, (0,)), [x, reference], x.value[:, :, :-1, :-1])


@way("Flatten", any_rank)
def _flatten(net: Bench, x: Held) -> Held:
    return net.layer(ops.Flatten(), [x], x.value.flatten(1))


@way("Split", any_rank)
def _split(net: Bench, x: Held) -> Held:
    return net.layer(ops.Split(), [x], x.value)


def reshape(shape_of: Callable[[Shape], Shape]) -> Make:
    def make(net: Bench, x: Held) -> Held:
        shape = shape_of(x.shape)
        sizes = (0, *shape[1:]) if shape[0] == x.shape[0] else shape
        return net.layer(ops.Reshape(sizes), [x], x.value.reshape(shape))

    return make


way("Reshape", any_rank, "to an image")(reshape(lambda shape: (*shape[:2], 1, prod(shape[2:]))))
way("Reshape", any_rank, "to a sequence")(reshape(lambda shape: (*shape[:2], prod(shape[2:]))))
way("Reshape", any_rank, "to rows")(reshape(lambda shape: (prod(shape[:2]), *shape[2:3], 1, *(shape[3:] or (1,)))))


def permute(*order: int) -> Make:
    def make(net: Bench, x: Held) -> Held:
        return net.layer(ops.Permute(order), [x], x.value.permute(order))

    return make


way("Permute", lambda shape: len(shape) == 3)(permute(0, 2, 1))
way("Permute", image)(permute(0, 2, 3, 1))


@way("Rearrange", lambda shape: large(shape) and even(shape))
def _shuffle(net: Bench, x: Held) -> Held:
    """Channels of two groups in turn."""
    batch, channels, *rest = x.shape
    atoms, order = (2, channels // 2, *rest), (1, 0, 2, 3)
    if batch != 1:
        atoms, order = (batch, *atoms), (0, 2, 1, 3, 4)
    return net.layer(ops.Rearrange(x.shape, atoms, order, x.shape), [x], F.channel_shuffle(x.value, 2))


@way("Recurrent", lambda shape: len(shape) == 3)
def _recurrent(net: Bench, x: Held) -> Held:
    """Unrolled, as all engines have it."""
    recurrence = torch.nn.RNN(x.shape[2], 4)
    values = [
        net.random(tuple(weight.shape), seed).to(net.dtype) for seed, weight in enumerate(recurrence.parameters())
    ]
    for weight, value in zip(recurrence.parameters(), values, strict=True):
        weight.data = value
    with torch.no_grad():
        made, _ = recurrence(x.value)
    return net.layer(ops.Recurrent(4, "rnn_tanh", x.shape), [x], made, values)


@way("LRN", image)
def _lrn(net: Bench, x: Held) -> Held:
    """With 1 beside the squares, for which OpenCV takes any other number, too."""
    return net.layer(ops.LRN(3, 0.5), [x], F.local_response_norm(x.value, 3, 0.5, 0.75, 1.0))
