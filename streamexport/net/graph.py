"""A net as plain values: layers in order, each with its operation and its blobs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

from ..errors import LimitError, NetError
from ..payload.pieces import Piece, Source
from ..payload.tensors import FLOAT32, Computed, DType, Stored
from .operations import Input, Operation, Parameter

LARGEST = 2**31 - 1
"""Elements of a blob: Caffe counts them with an int."""
DEFAULT_SIZE = (224, 224)
"""Height and width of an input that nobody says."""


@dataclass(frozen=True, slots=True)
class Blob:
    """A parameter of a layer.

    Attributes
    ----------
    shape : in Caffe's order, which for weights is PyTorch's
    values : the elements in row-major order, little-endian
    dtype : of the values as they are stored: float32, or float16 or float64 where a file says so
    origin : the state-dict names that it is made from
    """

    shape: tuple[int, ...]
    values: Piece
    dtype: DType = FLOAT32
    origin: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.count > LARGEST:
            raise LimitError(
                f"has {self.count} elements, Caffe's blobs hold {LARGEST}", tensor=", ".join(self.origin) or None
            )
        if self.values.size != self.count * self.dtype.itemsize:
            raise ValueError(f"blob of shape {self.shape} has {self.values.size} bytes ({self.origin})")

    @property
    def count(self) -> int:
        return prod(self.shape)


def computed(blob: Blob) -> Computed:
    """A blob's values as something to compute with."""
    if isinstance(blob.values, Computed):
        return blob.values
    return Stored(blob.values, blob.dtype, ", ".join(blob.origin))


@dataclass(frozen=True, slots=True)
class Call:
    """The n-th call, from 0, of the module at a path, while a net runs once."""

    path: str
    number: int = 0


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer in its place in a net.

    Attributes
    ----------
    operation : what it computes
    shared : for each of its blobs the name under which layers share it, "" for its own; () where it shares none. The first
        layer of a name holds the blob, unless layers write it (`written`)
    is_permissive : whether its blobs may have other shapes than those that it shares, of as many elements
    origin : the call of a module of torch's whose output is the first top; None where there is no such call
    shapes : of the tops, as torch says; () where it was not asked
    """

    name: str
    operation: Operation
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    blobs: tuple[Blob, ...] = ()
    shared: tuple[str, ...] = ()
    is_permissive: bool = False
    origin: Call | None = None
    shapes: tuple[tuple[int, ...], ...] = ()

    @property
    def type(self) -> str:
        """What Caffe calls its operation."""
        return self.operation.type

    @property
    def is_borrowing(self) -> bool:
        """Whether another layer holds all of its blobs."""
        return all(self.shared) and bool(self.shared) and not self.blobs


def written(layers: Iterable[Layer]) -> dict[str, str]:
    """The names of shared blobs that layers write while the net runs, by the top that they write over: that of a Parameter.
    No file holds such a blob."""
    tops: dict[str, str] = {}
    found: dict[str, str] = {}
    for layer in layers:
        if isinstance(layer.operation, Parameter) and layer.shared:
            tops[layer.tops[0]] = layer.shared[0]
        else:
            found.update((top, tops[top]) for top in layer.tops if top in tops)
    return found


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What a net expects of its input: channels in `order`, pixels from 0 to `white`, minus mean, divided by deviation.

    Mean and deviation are those of the channels in their order. No deviation: nothing is to be divided.
    """

    order: str
    mean: tuple[float, ...]
    deviation: tuple[float, ...] = ()
    white: int = 1

    def __str__(self) -> str:
        divided = f", divided by deviation {list(self.deviation)}" if self.deviation else ""
        return f"{self.order}, pixels 0..{self.white}, minus mean {list(self.mean)}{divided}"


IMAGENET = Preprocessing("RGB", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""What torchvision's classifiers expect."""


@dataclass(frozen=True)
class Net:
    """Layers in execution order. It alone is enough to write the prototxt.

    Attributes
    ----------
    outputs : the tops that the net is there for; () if it does not say, then they are those that no layer takes in
    left_out : for each end the softmax that it lost, and what gives it another shape or order; () for one that had none
    notes : what was taken for granted or left out when it was made, one sentence each
    unread : fields of NetParameter in wire format, as they stood in the file that the net was read from
    record : what streamexport recorded in that file when it wrote it (JSON), b"" for others
    """

    name: str
    layers: tuple[Layer, ...]
    preprocessing: Preprocessing | None = None
    outputs: tuple[str, ...] = ()
    left_out: tuple[tuple[Layer, ...], ...] = ()
    notes: tuple[str, ...] = ()
    unread: tuple[Piece, ...] = ()
    record: bytes = field(default=b"", repr=False)

    def with_layers(self, layers: tuple[Layer, ...]) -> Net:
        return replace(self, layers=layers)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The tops that the caller fills."""
        return tuple(top for layer in self.layers if isinstance(layer.operation, Input) for top in layer.tops)

    @property
    def input_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of the inputs, as far as they are declared."""
        layers = ((layer.operation, len(layer.tops)) for layer in self.layers)
        return tuple(shape for op, count in layers if isinstance(op, Input) for shape in op.declared(count))

    @property
    def image(self) -> tuple[str, tuple[int, ...]]:
        """The input that pixels are for, and its shape: the only one, or the only one of four dimensions."""
        shapes = dict(zip(self.inputs, self.input_shapes, strict=True))
        images = [name for name, shape in shapes.items() if len(shape) == 4 or len(shapes) == 1]
        if len(images) != 1:
            what = f"{len(images)} of its inputs are images ({', '.join(images)})" if images else "no input is an image"
            raise NetError(f"{what}: what is expected of pixels can be said of one", advice="leave that to the caller")
        return images[0], shapes[images[0]]

    @property
    def consumers(self) -> Mapping[str, Sequence[Layer]]:
        """Who takes each top, as often as it does; nothing for tops that nobody takes."""
        found: dict[str, list[Layer]] = {}
        for layer in self.layers:
            for bottom in layer.bottoms:
                found.setdefault(bottom, []).append(layer)
        return found

    @property
    def ends(self) -> tuple[str, ...]:
        """The outputs, or where the net does not say, the tops that nobody takes."""
        left: dict[str, None] = {}
        for layer in self.layers:  # one that writes over its bottom makes it anew
            for bottom in layer.bottoms:
                left.pop(bottom, None)
            left.update(dict.fromkeys(layer.tops))
        return self.outputs or tuple(left)

    @property
    def sources(self) -> tuple[Source, ...]:
        """Where its blobs come from."""
        return tuple(dict.fromkeys(s for layer in self.layers for blob in layer.blobs for s in blob.values.sources))

    @property
    def payload(self) -> int:
        """Bytes of all blobs."""
        return sum(blob.values.size for layer in self.layers for blob in layer.blobs)


class InexpressibleError(NetError):
    """Layers that a dialect has no words for; `places` are theirs among those that it was asked about."""

    def __init__(self, what: str, *, advice: str | None, places: Sequence[int]) -> None:
        super().__init__(what, advice=advice)
        self.places = places


Refusal = Callable[[Sequence[Layer]], InexpressibleError | None]
"""What a dialect says of layers that it cannot express, see `passes.dialects.refusal`."""
