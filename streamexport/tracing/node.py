"""What an operator is given: a place in the net where its layers go, and what torch says of its results.

A `Scope` adds layers that are called after one node, and knows nothing of that node's results. Whatever needs a shape is
given one, so that operators can be made of each other: a helper takes a `Scope`, and an operator, too, unless it has to know
what torch makes of its arguments. Then it takes a `Node`, which is a scope with the shapes of the results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ..net import kernels
from ..net.graph import Blob, Layer
from ..net.operations import Convolution, Deconvolution, Eltwise, Flatten, Operation, Power, Rearrange, Reshape
from ..net.windows import ONE_PIXEL, Axis, Window
from ..payload.pieces import Literal
from ..payload.tensors import FLOAT32
from . import weights
from .builder import Builder
from .operands import Constant, Label, Operand, UnsupportedError, Value
from .streams import Streamed
from .views import Shape, View


@dataclass(frozen=True, slots=True)
class Scope:
    """Adds layers to a net, called after one node."""

    label: Label
    builder: Builder = field(default_factory=Builder)

    # Layers

    def layers(
        self,
        operation: Operation,
        bottoms: Sequence[Value],
        count: int,
        blobs: Sequence[Blob] = (),
        part: str = "",
    ) -> list[Value]:
        """Adds a layer with so many tops; `part` tells it from others that the same node makes."""
        names = tuple(value.top for value in bottoms)
        shapes = operation.top_shapes([value.blob for value in bottoms], count)
        layer = Layer("", operation, names, (), tuple(blobs), shapes=shapes)
        tops = self.builder.add(self.label, part, layer)
        return [Value(top, shape, View.of(shape)) for top, shape in zip(tops, shapes, strict=True)]

    def layer(
        self, operation: Operation, bottoms: Sequence[Value], blobs: Sequence[Blob] = (), part: str = ""
    ) -> Value:
        """Adds a layer with one top."""
        (top,) = self.layers(operation, bottoms, 1, blobs, part)
        return top

    def pointwise(self, operation: Operation, x: Operand, part: str = "") -> Value:
        """A layer that works on each element by itself, whatever the blob's shape."""
        x = self.activation(x)
        return replace(self.layer(operation, [x], part=part), view=x.view)

    def power(self, x: Operand, power: float = 1, scale: float = 1, shift: float = 0, part: str = "") -> Value:
        """(shift + scale * x) ** power"""
        if power == 2 and (scale, shift) == (1, 0):
            x = self.activation(x)
            return self.eltwise("PROD", x, x, part=part)
        return self.pointwise(Power(float(power), float(scale), float(shift)), x, part)

    def eltwise(self, method: str, x: Operand, y: Operand, coefficients: Sequence[float] = (), part: str = "") -> Value:
        """Two values of the same shape, element by element: SUM, PROD or MAX."""
        x, y = self.activation(x), self.activation(y)
        if (x.view, x.blob) != (y.view, y.blob):
            x, y = self.contiguous(x), self.contiguous(y)
            if x.blob != y.blob:
                y = self.reshaped(y, x.blob)
            x = replace(x, view=View.of(x.shape))
        return replace(self.layer(Eltwise(method, tuple(coefficients)), [x, y], part=part), view=x.view)

    def convolution(
        self, x: Value, weight: Blob, bias: Blob | None, window: Window, groups: int = 1, part: str = ""
    ) -> Value:
        """A convolution of an image or a volume. Padding that differs on two sides becomes zeros in a larger kernel."""
        window, weight = kernels.symmetric(window, weight)
        _, channels, *size = x.blob
        if groups == channels == weight.shape[0] and _is_misread(window, size):
            window, weight = kernels.bordered(window, weight)
        if any(axis.convolved(n) < 1 for axis, n in zip(window.axes, size, strict=True)):
            raise UnsupportedError(f"leaves nothing of an image of {size}")
        blobs = (weight,) if bias is None else (weight, bias)
        operation = Convolution(weight.shape[0], window, groups, bias is not None)
        return self.layer(operation, [x], blobs, part)

    def deconvolution(
        self, x: Value, weight: Blob, bias: Blob | None, window: Window, groups: int = 1, part: str = ""
    ) -> Value:
        """A transposed one, padded alike on both sides; `weight` has inputs first, as in torch."""
        window, weight = kernels.cropped(window, weight)
        blobs = (weight,) if bias is None else (weight, bias)
        operation = Deconvolution(weight.shape[1] * groups, window, groups, bias is not None)
        return self.layer(operation, [x], blobs, part)

    def pointwise_convolution(self, x: Value, weight: Blob, bias: Blob | None = None, part: str = "") -> Value:
        """A 1x1 convolution: every pixel's channels multiplied by a matrix."""
        outputs = weight.shape[0]
        return self.convolution(x, replace(weight, shape=(outputs, x.blob[1], 1, 1)), bias, ONE_PIXEL, part=part)

    # Operands

    def activation(self, x: Operand) -> Value:
        """An operand that depends on the input, with its padding."""
        if not isinstance(x, Value):
            raise UnsupportedError("takes a constant where only activations can be")
        return self._pad(x) if any(x.padding) else x

    def contiguous(self, x: Operand) -> Value:
        """A value whose elements stand in the blob in torch's order."""
        x = self.activation(x)
        return x if x.view.is_contiguous else self._permute(x)

    def reshaped(self, x: Operand, shape: Shape, part: str = "reshape") -> Value:
        """A value whose blob has this shape, its elements in torch's order."""
        x = self.contiguous(x)
        if x.blob == shape:
            return replace(x, view=View.of(shape), label=None)
        known = self.builder.known
        if (x.top, shape) in known:
            return known[x.top, shape]
        if len(shape) == 2 and shape[0] == x.blob[0]:
            made = self._carried_out(x, Flatten(), part)
        else:
            made = self._carried_out(x, Reshape.to(shape, x.blob), part)
        known[x.top, shape] = made
        return made

    def image(self, x: Operand) -> Value:
        """A value whose blob has torch's own shape, which has to have four dimensions."""
        x = self.activation(x)
        if len(x.shape) != 4:
            raise UnsupportedError(f"of {len(x.shape)} dimensions: {list(x.shape)}", "batches of images have four")
        return self.reshaped(x, x.shape)

    def viewed(self, x: Operand, shape: Shape) -> Value:
        """The same elements in another shape, as torch's `view`: no layer, unless they have to be in order for it."""
        x = self.activation(x)
        view = x.view.reshaped(shape)
        if view is None:
            x = self.contiguous(x)
            view = View.of(shape)
        return replace(x, view=view, label=self.label)

    def blob(self, constant: Operand, shape: Shape | None = None) -> Blob:
        """A constant as a blob, in another shape of as many elements if need be."""
        if not isinstance(constant, Constant):
            raise UnsupportedError("takes as a weight what depends on the input")
        shape = constant.shape if shape is None else shape
        if constant.tensor is not None:
            return Blob(shape, constant.tensor.as_float32(), origin=constant.origin)
        if constant.made is not None:
            name = ", ".join(constant.origin)
            return Blob(shape, Streamed(weights.elements(constant), constant.count, name), origin=constant.origin)
        values = constant.value().detach().float().contiguous().numpy().astype(FLOAT32.code)
        return Blob(shape, Literal(values.tobytes()), origin=constant.origin)

    def _pad(self, x: Value) -> Value:
        """Zeros around an image or a sequence: a convolution of each channel with a single one."""
        above, below, left, right = x.padding
        batch, channels, *size = x.view.shape
        image = self.reshaped(replace(x, padding=(0, 0, 0, 0)), (batch, channels, *[1] * (2 - len(size)), *size))
        window = Window((Axis(1, low=above, high=below), Axis(1, low=left, high=right)))
        made = self.convolution(image, kernels.filled((channels, 1, 1, 1), 1), None, window, channels, "pad")
        return replace(made, view=View.of(x.shape))

    def _permute(self, x: Value) -> Value:
        """What a view says, as a layer that `passes.dialects` puts into the words of each dialect."""
        known = self.builder.known
        if (x.top, x.view) not in known:
            atoms, order = x.view.atoms, x.view.order
            if self.builder.batch == 1:  # an atom that stays in front, wherever the module has its dimension
                atoms, order = (1, *atoms), (0, *(atom + 1 for atom in order))
            moved = Rearrange(x.blob, atoms, order, x.shape)
            known[x.top, x.view] = self._carried_out(x, moved, "permute")
        return known[x.top, x.view]

    def _carried_out(self, x: Value, operation: Operation, part: str) -> Value:
        """A layer that carries out what a value's view says, called after the node that said so, if it is known."""
        if x.label is None:
            return self.layer(operation, [x], part=part)
        return Scope(x.label, self.builder).layer(operation, [x])


@dataclass(frozen=True, slots=True)
class Node(Scope):
    """One call of an operator.

    Attributes
    ----------
    shapes : of its results, as torch says
    used : which of these are used, where there are several
    dtype : of its first result, as torch calls it
    taken : the types of the tensors that it takes, in their order
    """

    shapes: tuple[Shape, ...] = ()
    used: frozenset[int] = frozenset()
    dtype: str = "float32"
    taken: tuple[str, ...] = ()

    @property
    def shape(self) -> Shape:
        """Of its first result, mostly its only one."""
        return self.shapes[0]


def _is_misread(window: Window, size: Sequence[int]) -> bool:
    """Whether OpenCV reads what is not the image, or misses zeros, where a kernel of 3x3 is for one channel each: 4.14 does so
    at a padding of 1, if the kernel is dilated or the image is one pixel high or wide; at more it takes Winograd's way, which
    makes 1e-5 of the zeros around an image."""
    return window.kernel == (3, 3) and any(
        axis.low > 1 or (axis.low == 1 and (axis.dilation > 1 or 1 in size)) for axis in window.axes
    )
