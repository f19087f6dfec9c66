"""What operators of torch's become Caffe layers with: the values between them, and the net in the making.

An operator is a function whose arguments are named and ordered as ATen's, decorated with the names that it is known by:

    @operator("relu")
    def _relu(net: Lowering, x: Operand) -> Value:
        return net.pointwise("ReLU", x)

`Lowering` hands it operands: a `Value` is the top of a layer, seen through a `View`; a `Constant` is made of parameters and
of numbers alone, and becomes a blob, or a number in a layer's parameters. What cannot be expressed exactly is refused by
`UnsupportedError`; the caller says where.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from math import prod
from typing import TYPE_CHECKING, Any, TypeVar

from ..extents import Literal
from ..tensors import FLOAT32, Tensor
from . import kernels
from .graph import Blob, Call, Layer
from .views import View
from .windows import ONE_PIXEL, Axis, Window

if TYPE_CHECKING:
    import torch

Shape = tuple[int, ...]

UNMADE = "?"
"""The top of what could not be expressed, in place of which the rest is looked at."""

SMALL = 1 << 26
"""Elements of a constant that is computed while the net is traced, and of each parameter that it is computed from: 256 MiB."""
BAKED = (
    "compute it once and save that: torch.nn.utils.remove_weight_norm(module),"
    " torch.nn.utils.parametrize.remove_parametrizations(module, 'weight')"
)


class UnsupportedError(Exception):
    """Caffe has nothing that computes this. `advice` is what would work."""

    def __init__(self, what: str, advice: str | None = None) -> None:
        super().__init__(what)
        self.what, self.advice = what, advice


@dataclass(frozen=True, slots=True)
class Value:
    """What a layer makes: a top, the shape of its blob, and how torch's dimensions are made of it.

    Attributes
    ----------
    padding : zeros that are to stand around the last two dimensions, not laid out yet: top, bottom, left, right
    label : what a layer is called that brings the view about
    """

    top: str
    blob: Shape
    view: View
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    label: Label | None = None

    @property
    def shape(self) -> Shape:
        """As torch says."""
        above, below, left, right = self.padding
        if not any(self.padding):
            return self.view.shape
        *rest, height, width = self.view.shape
        return (*rest, above + height + below, left + width + right)


@dataclass(frozen=True, slots=True)
class Constant:
    """A tensor that depends on no input: a parameter or buffer, or computed from some.

    Attributes
    ----------
    origin : the state-dict names that it is made from
    tensor : where it lies, for a parameter or buffer of the checkpoint
    compute : makes it; only for small ones
    """

    shape: Shape
    origin: tuple[str, ...]
    tensor: Tensor | None
    compute: Callable[[], torch.Tensor]

    @property
    def count(self) -> int:
        return prod(self.shape)

    def value(self) -> torch.Tensor:
        """Its elements. UnsupportedError if they are too many to be held."""
        if self.count > SMALL:
            what = (
                f"computes with {', '.join(self.origin) or 'a constant'} of {self.count} elements, {SMALL} are the most"
            )
            raise UnsupportedError(what, BAKED)
        return self.compute()

    def number(self) -> float:
        """The only element."""
        return float(self.value().reshape(()))


Operand = Value | Constant | float


@dataclass(frozen=True, slots=True)
class Label:
    """What a node's layers are called after.

    Attributes
    ----------
    name : the module's path, or that of the module around it and the name of the function, numbered where several share it
    node : which one it is, by the graph's own name
    """

    name: str
    node: str = ""


Operator = Callable[..., Any]
OPERATORS: dict[str, Operator] = {}
Function = TypeVar("Function", bound=Operator)


def operator(*names: str) -> Callable[[Function], Function]:
    """Registers a function for ATen operators, by name, or by name and overload."""

    def register(function: Function) -> Function:
        for name in names:
            assert name not in OPERATORS, name
            OPERATORS[name] = function
        return function

    return register


@dataclass(slots=True)
class _Draft:
    """A layer whose name is not settled: that depends on how many others want it."""

    label: Label
    part: str
    layer: Layer


@dataclass
class Lowering:
    """The net in the making.

    Attributes
    ----------
    label : of the node whose layers are being made
    shapes : of its results, as torch says
    used : which of these are used, where there are several
    made : values that were given another shape or order before, by top, and shape or view
    """

    label: Label = Label("")
    shapes: tuple[Shape, ...] = ()
    used: frozenset[int] = frozenset()
    drafts: list[_Draft] = field(default_factory=list)
    made: dict[tuple[str, Shape | View], Value] = field(default_factory=dict)

    @property
    def shape(self) -> Shape:
        """Of the node's first result, mostly its only one."""
        return self.shapes[0]

    # Layers

    def layers(
        self,
        kind: str,
        bottoms: Sequence[Value],
        shapes: Sequence[Shape],
        parameters: Mapping[str, Any] | None = None,
        blobs: Sequence[Blob] = (),
        part: str = "",
    ) -> list[Value]:
        """Adds a layer with a top of each of these shapes; `part` tells it from others that the same node makes."""
        number = len(self.drafts)
        tops = tuple(f"{number}:{index}" for index in range(len(shapes)))
        names = tuple(value.top for value in bottoms)
        layer = Layer("", kind, names, tops, parameters or {}, tuple(blobs), shapes=tuple(shapes))
        self.drafts.append(_Draft(self.label, part, layer))
        return [Value(top, shape, View.of(shape)) for top, shape in zip(tops, shapes, strict=True)]

    def layer(
        self,
        kind: str,
        bottoms: Sequence[Value],
        shape: Shape,
        parameters: Mapping[str, Any] | None = None,
        blobs: Sequence[Blob] = (),
        part: str = "",
    ) -> Value:
        """Adds a layer with one top of this shape."""
        (top,) = self.layers(kind, bottoms, [shape], parameters, blobs, part)
        return top

    def pointwise(self, kind: str, x: Operand, parameters: Mapping[str, Any] | None = None, part: str = "") -> Value:
        """A layer that works on each element by itself, whatever the blob's shape."""
        x = self.activation(x)
        return replace(self.layer(kind, [x], x.blob, parameters, part=part), view=x.view)

    def power(self, x: Operand, power: float = 1, scale: float = 1, shift: float = 0, part: str = "") -> Value:
        """(shift + scale * x) ** power"""
        if power == 2 and (scale, shift) == (1, 0):
            x = self.activation(x)
            return self.eltwise("PROD", x, x, part=part)
        given = {"power": power, "scale": scale, "shift": shift}
        defaults = {"power": 1, "scale": 1, "shift": 0}
        changed = {name: float(value) for name, value in given.items() if value != defaults[name]}
        return self.pointwise("Power", x, {"power_param": changed}, part)

    def eltwise(self, method: str, x: Value, y: Value, coefficients: Sequence[float] = (), part: str = "") -> Value:
        """Two values of the same shape, element by element: SUM, PROD or MAX."""
        x, y = self.activation(x), self.activation(y)
        if (x.view, x.blob) != (y.view, y.blob):
            x, y = self.in_order(x), self.in_order(y)
            if x.blob != y.blob:
                y = self.reshaped(y, x.blob)
            x = replace(x, view=View.of(x.shape))
        parameters = {"eltwise_param": {"operation": method, **({"coeff": list(coefficients)} if coefficients else {})}}
        return replace(self.layer("Eltwise", [x, y], x.blob, parameters, part=part), view=x.view)

    # Operands

    def activation(self, x: Operand) -> Value:
        """An operand that depends on the input, padding laid out."""
        if not isinstance(x, Value):
            raise UnsupportedError("takes a constant where only activations can be")
        return self._laid_out(x) if any(x.padding) else x

    def in_order(self, x: Operand) -> Value:
        """A value whose elements stand in the blob in torch's order."""
        x = self.activation(x)
        return x if x.view.is_in_order else self._rearranged(x)

    def reshaped(self, x: Operand, shape: Shape, part: str = "reshape") -> Value:
        """A value whose blob has this shape, its elements in torch's order."""
        x = self.in_order(x)
        if x.blob == shape:
            return replace(x, view=View.of(shape), label=None)
        if (x.top, shape) in self.made:
            return self.made[x.top, shape]
        keeps_batch = len(shape) > 1 and shape[:1] == x.blob[:1]
        if keeps_batch and len(shape) == 2:
            made = self._brought_about(x, "Flatten", shape, {}, part)
        else:
            dims = [0, *shape[1:]] if keeps_batch else list(shape)
            made = self._brought_about(x, "Reshape", shape, {"reshape_param": {"shape": {"dim": dims}}}, part)
        self.made[x.top, shape] = made
        return made

    def image(self, x: Operand) -> Value:
        """A value whose blob has torch's own shape, which has to have four dimensions."""
        x = self.activation(x)
        if len(x.shape) != 4:
            raise UnsupportedError(f"of {len(x.shape)} dimensions: {list(x.shape)}", "batches of images have four")
        return self.reshaped(x, x.shape)

    def blob(self, constant: Operand, shape: Shape | None = None) -> Blob:
        """A constant as a blob, in another shape of as many elements if need be."""
        if not isinstance(constant, Constant):
            raise UnsupportedError("takes as a weight what depends on the input")
        shape = constant.shape if shape is None else shape
        if constant.tensor is not None:
            return Blob(shape, constant.tensor.as_float32(), origin=constant.origin)
        values = constant.value().detach().float().contiguous().numpy().astype(FLOAT32.code)
        return Blob(shape, Literal(values.tobytes()), origin=constant.origin)

    def convolution(
        self, x: Value, weight: Blob, bias: Blob | None, window: Window, groups: int = 1, part: str = ""
    ) -> Value:
        """A convolution of an image. Padding that differs on two sides becomes zeros in a larger kernel."""
        window, weight = window.symmetric(weight)
        batch, channels, *size = x.blob
        if groups == channels == weight.shape[0] and _is_misread(window, size):
            window, weight = window.enlarged(weight)
        shape = (batch, weight.shape[0], *(axis.convolved(n) for axis, n in zip(window.axes, size, strict=True)))
        if min(shape) < 1:
            raise UnsupportedError(f"leaves nothing of an image of {size}")
        return self._convolution("Convolution", x, shape, weight, bias, window, groups, part)

    def deconvolution(
        self, x: Value, weight: Blob, bias: Blob | None, window: Window, groups: int = 1, part: str = ""
    ) -> Value:
        """A transposed convolution of an image, padded alike on both sides; `weight` has inputs first, as in torch."""
        if all((axis.kernel, axis.stride) == (1, 1) for axis in window.axes) and any(axis.low for axis in window.axes):
            window, weight = window.enlarged(weight)  # OpenCV does not crop what a single pixel makes
        batch, _, *size = x.blob
        sizes = (axis.transposed(n) for axis, n in zip(window.axes, size, strict=True))
        shape = (batch, weight.shape[1] * groups, *sizes)
        return self._convolution("Deconvolution", x, shape, weight, bias, window, groups, part)

    def _convolution(
        self, kind: str, x: Value, shape: Shape, weight: Blob, bias: Blob | None, window: Window, groups: int, part: str
    ) -> Value:
        parameters = {
            "num_output": shape[1],
            **({"bias_term": False} if bias is None else {}),
            **window.parameters(),
            **({"group": groups} if groups > 1 else {}),
        }
        blobs = (weight,) if bias is None else (weight, bias)
        return self.layer(kind, [x], shape, {"convolution_param": parameters}, blobs, part)

    def mixed(self, x: Value, weight: Blob, bias: Blob | None = None, part: str = "") -> Value:
        """A 1x1 convolution: every pixel's channels multiplied by a matrix."""
        outputs = weight.shape[0]
        return self.convolution(x, replace(weight, shape=(outputs, x.blob[1], 1, 1)), bias, ONE_PIXEL, part=part)

    def _laid_out(self, x: Value) -> Value:
        """Zeros around an image: a convolution of each channel with a single one."""
        above, below, left, right = x.padding
        x = self.image(replace(x, padding=(0, 0, 0, 0)))
        channels = x.blob[1]
        window = Window((Axis(1, low=above, high=below), Axis(1, low=left, high=right)))
        return self.convolution(x, kernels.filled((channels, 1, 1, 1), 1), None, window, channels, "pad")

    def _rearranged(self, x: Value) -> Value:
        """What a view says, as a layer that `passes.dialects` puts into the words of each dialect."""
        if (x.top, x.view) in self.made:
            return self.made[x.top, x.view]
        parameters = {"blob": x.blob, "atoms": x.view.atoms, "order": x.view.order, "shape": x.shape}
        made = self._brought_about(x, "Rearrange", x.shape, {"rearrange_param": parameters}, "permute")
        self.made[x.top, x.view] = made
        return made

    def _brought_about(self, x: Value, kind: str, shape: Shape, parameters: Mapping[str, Any], part: str) -> Value:
        """A layer that carries out what a value's view says, called after the node that said so, if it is known."""
        if x.label is None:
            return self.layer(kind, [x], shape, parameters, part=part)
        mine, self.label = self.label, x.label
        made = self.layer(kind, [x], shape, parameters)
        self.label = mine
        return made

    # The end

    def finished(self, data: Layer) -> tuple[tuple[Layer, ...], dict[str, str]]:
        """The input's layer and those behind it with their names, and the tops by what they were called meanwhile.

        Layers are called after their nodes, and numbered where these make several; tops are called like layers.
        """
        names: dict[str, None] = {data.name: None}
        tops = {data.name: data.name, UNMADE: UNMADE}
        layers = [data]
        for draft in self.drafts:
            name = f"{draft.label.name}.{draft.part}" if draft.part else draft.label.name
            numbered = (f"{name}_{number}" for number in count(2))
            name = name if name not in names else next(other for other in numbered if other not in names)
            names[name] = None
            several = len(draft.layer.tops) > 1
            named = tuple(f"{name}.{index}" if several else name for index in range(len(draft.layer.tops)))
            tops.update(zip(draft.layer.tops, named, strict=True))
            bottoms = tuple(tops[bottom] for bottom in draft.layer.bottoms)
            layers.append(replace(draft.layer, name=name, bottoms=bottoms, tops=named))
        return tuple(layers), tops

    def mark(self, value: Value, call: Call) -> None:
        """Says that a value is what a call of a module returns."""
        number, _, index = value.top.partition(":")
        if index == "0":
            draft = self.drafts[int(number)]
            draft.layer = replace(draft.layer, origin=draft.layer.origin or call)


def _is_misread(window: Window, size: Sequence[int]) -> bool:
    """Whether OpenCV reads what is not the image, where a kernel of 3x3 is for one channel each: 4.14 does so at a padding of
    1, if the kernel is dilated or the image is one pixel high or wide."""
    return all(axis.kernel == 3 for axis in window.axes) and any(
        axis.low == 1 and (axis.dilation > 1 or 1 in size) for axis in window.axes
    )
