"""The ResNet family: ResNet, Wide ResNet, ResNeXt, and the ResNeXt WSL nets, as one parametric description.

A stem (7x7 convolution, stride 2; 3x3 max pooling, stride 2), four stages of residual blocks at 1/4 to 1/32 of the input's
size, global average pooling and a classifier. A basic block is two 3x3 convolutions; a bottleneck 1x1, 3x3 in `groups`
groups, 1x1 to four times the planes. The first block of a stage strides, in its first 3x3 convolution. Names, shapes and
the order of tensors are those of `torchvision/models/resnet.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from ..net.fitting import COUNTER, Wanted
from ..net.graph import IMAGENET, Blob, Call, Layer, Net
from ..net.operations import (
    BatchNorm,
    Convolution,
    Eltwise,
    Flatten,
    InnerProduct,
    Input,
    Pooling,
    ReLU,
    Scale,
    Softmax,
)
from ..net.windows import LONG, Window
from ..payload.pieces import Literal
from ..payload.tensors import Shaped, Tensor

Spec = tuple[str, str, tuple[int, ...]]
"""A tensor of a state dict: name, dtype, shape."""

ANCHOR = "layer1.0.conv1.weight"
"""A tensor that every net of the family has, and no other part of it by a name that ends so."""

EPSILON = 1e-5  # torch's default for BatchNorm2d
ONE = Literal(b"\x00\x00\x80\x3f")  # BatchNorm's third blob, by which Caffe divides the first two: 1.0
TAKEN_FOR_GRANTED = (
    "taken for granted, since shapes do not show it: stages stride in their first 3x3 convolution, no dilation"
)


@dataclass(frozen=True)
class Block:
    name: str
    inputs: int
    width: int
    outputs: int
    stride: int

    @property
    def has_downsample(self) -> bool:
        return self.stride != 1 or self.inputs != self.outputs


@dataclass(frozen=True)
class NormalisedConvolution:
    """A convolution without bias, and the BatchNorm behind it."""

    name: str
    norm: str
    inputs: int
    outputs: int
    kernel: int
    stride: int = 1
    groups: int = 1


@dataclass(frozen=True)
class ResNet:
    """One net of the family.

    Attributes
    ----------
    depths : blocks in each of the four stages
    groups, base_width : "32x8d" is 32 groups of base width 8
    classes : outputs of `fc`; 0 for a backbone without it
    channels : of the input
    epsilon : of BatchNorm
    """

    name: str
    bottleneck: bool
    depths: tuple[int, ...]
    groups: int = 1
    base_width: int = 64
    classes: int = 1000
    channels: int = 3
    epsilon: float = EPSILON

    def blocks(self) -> Iterator[Block]:
        inputs = 64
        for stage, depth in enumerate(self.depths):
            planes = 64 << stage
            outputs = planes * (4 if self.bottleneck else 1)
            width = planes * self.base_width // 64 * self.groups
            for index in range(depth):
                stride = 2 if stage and not index else 1
                yield Block(f"layer{stage + 1}.{index}", inputs, width, outputs, stride)
                inputs = outputs

    @property
    def features(self) -> int:
        """Channels that the classifier takes in."""
        return 512 * (4 if self.bottleneck else 1)

    def specs(self) -> Iterator[Spec]:
        """The state dict of this net, in torch's order."""
        yield from _conv_specs(self.stem())
        for block in self.blocks():
            for convolution in (*self.main(block), *self.downsample(block)):
                yield from _conv_specs(convolution)
        if self.classes:
            yield "fc.weight", "float32", (self.classes, self.features)
            yield "fc.bias", "float32", (self.classes,)

    @property
    def wanted(self) -> Wanted:
        """Its tensors."""
        return Wanted({name: shape for name, _, shape in self.specs()})

    def net(self, tensors: Mapping[str, Tensor], size: tuple[int, int, int, int]) -> Net:
        """The Caffe net, its blobs bound to `tensors`, for inputs of the given batch, channels, height, width."""
        layers = tuple(_Builder(tensors, self.epsilon).layers(self, size))
        return Net(self.name, layers, IMAGENET if self.channels == 3 else None)

    def stem(self) -> NormalisedConvolution:
        """The first convolution."""
        return NormalisedConvolution("conv1", "bn1", self.channels, 64, 7, 2)

    def main(self, block: Block) -> list[NormalisedConvolution]:
        """The convolutions of a block's main path."""
        inputs, width, outputs, at = block.inputs, block.width, block.outputs, block.name
        if self.bottleneck:
            rows = [(inputs, width, 1, 1, 1), (width, width, 3, block.stride, self.groups), (width, outputs, 1, 1, 1)]
        else:
            rows = [(inputs, outputs, 3, block.stride, 1), (outputs, outputs, 3, 1, 1)]
        return [NormalisedConvolution(f"{at}.conv{n}", f"{at}.bn{n}", *row) for n, row in enumerate(rows, 1)]

    def downsample(self, block: Block) -> list[NormalisedConvolution]:
        """The convolution of a block's other path, if there is one."""
        name = f"{block.name}.downsample"
        convolution = NormalisedConvolution(f"{name}.0", f"{name}.1", block.inputs, block.outputs, 1, block.stride)
        return [convolution] if block.has_downsample else []


def _conv_specs(convolution: NormalisedConvolution) -> Iterator[Spec]:
    outputs, kernel = convolution.outputs, convolution.kernel
    yield f"{convolution.name}.weight", "float32", (outputs, convolution.inputs // convolution.groups, kernel, kernel)
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{convolution.norm}.{part}", "float32", (outputs,)
    yield f"{convolution.norm}.{COUNTER}", "int64", ()


class _Builder:
    """Emits layers in execution order, a block's downsample convolution after its others, each top named like its layer."""

    def __init__(self, tensors: Mapping[str, Tensor], epsilon: float) -> None:
        self.tensors, self.epsilon = tensors, epsilon

    def blob(self, name: str) -> Blob:
        tensor = self.tensors[name]
        return Blob(tensor.shape, tensor.as_float32(), origin=(name,))

    def layers(self, net: ResNet, size: tuple[int, int, int, int]) -> Iterator[Layer]:
        yield Layer("data", Input((size,)), (), ("data",))
        yield from self.convolution(net.stem(), "data")
        yield _relu("relu", "bn1.scale", Call("relu"))
        yield _pooling("maxpool", "relu", Pooling("MAX", Window.of((3, 3), (2, 2), (1, 1)), rounds_down=True))
        bottom = "maxpool"
        layers: list[Layer] = []
        for block in net.blocks():
            layers += self.block(net, block, bottom)
            bottom = f"{block.name}.relu{len(net.main(block))}"
        yield from layers[:-1]
        height, width = (-(-n // 32) for n in size[2:])
        # Its shape is said where it matters: to say it costs memory, since all are checked then.
        shapes = ((size[0], net.features, height, width),) if height * width > LONG else ()
        yield replace(layers[-1], shapes=shapes)
        yield _pooling("avgpool", bottom, Pooling("AVE"))
        yield Layer("flatten", Flatten(), ("avgpool",), ("flatten",))
        if net.classes:
            blobs = (self.blob("fc.weight"), self.blob("fc.bias"))
            yield Layer("fc", InnerProduct(net.classes), ("flatten",), ("fc",), blobs, origin=Call("fc"))
            yield Layer("prob", Softmax(), ("fc",), ("prob",))

    def block(self, net: ResNet, block: Block, bottom: str) -> Iterator[Layer]:
        *inner, last = net.main(block)
        top = bottom
        for number, convolution in enumerate(inner, 1):
            yield from self.convolution(convolution, top)
            top = f"{block.name}.relu{number}"
            yield _relu(top, f"{convolution.norm}.scale", Call(f"{block.name}.relu", number - 1))
        yield from self.convolution(last, top)
        for convolution in net.downsample(block):
            yield from self.convolution(convolution, bottom)
            bottom = f"{convolution.norm}.scale"
        add = f"{block.name}.add"
        yield Layer(add, Eltwise("SUM"), (f"{last.norm}.scale", bottom), (add,))
        yield _relu(f"{block.name}.relu{len(inner) + 1}", add, Call(f"{block.name}.relu", len(inner)))

    def convolution(self, c: NormalisedConvolution, bottom: str) -> Iterator[Layer]:
        half = c.kernel // 2
        window = Window.of((c.kernel, c.kernel), (c.stride, c.stride), (half, half))
        operation = Convolution(c.outputs, window, c.groups, has_bias=False)
        yield Layer(c.name, operation, (bottom,), (c.name,), (self.blob(f"{c.name}.weight"),), origin=Call(c.name))
        statistics = (self.blob(f"{c.norm}.running_mean"), self.blob(f"{c.norm}.running_var"), Blob((1,), ONE))
        yield Layer(c.norm, BatchNorm(self.epsilon), (c.name,), (c.norm,), statistics)
        affine = (self.blob(f"{c.norm}.weight"), self.blob(f"{c.norm}.bias"))
        scale = f"{c.norm}.scale"
        yield Layer(scale, Scale(has_bias=True), (c.norm,), (scale,), affine, origin=Call(c.norm))


def _relu(name: str, bottom: str, call: Call) -> Layer:
    return Layer(name, ReLU(), (bottom,), (name,), origin=call)


def _pooling(name: str, bottom: str, pooling: Pooling) -> Layer:
    return Layer(name, pooling, (bottom,), (name,), origin=Call(name))


RESNETS = {
    net.name: net
    for net in (
        ResNet("resnet18", False, (2, 2, 2, 2)),
        ResNet("resnet34", False, (3, 4, 6, 3)),
        ResNet("resnet50", True, (3, 4, 6, 3)),
        ResNet("resnet101", True, (3, 4, 23, 3)),
        ResNet("resnet152", True, (3, 8, 36, 3)),
        ResNet("wide_resnet50_2", True, (3, 4, 6, 3), base_width=128),
        ResNet("wide_resnet101_2", True, (3, 4, 23, 3), base_width=128),
        ResNet("resnext50_32x4d", True, (3, 4, 6, 3), 32, 4),
        ResNet("resnext101_32x8d", True, (3, 4, 23, 3), 32, 8),
        ResNet("resnext101_64x4d", True, (3, 4, 23, 3), 64, 4),
        ResNet("resnext101_32x8d_wsl", True, (3, 4, 23, 3), 32, 8),
        ResNet("resnext101_32x16d_wsl", True, (3, 4, 23, 3), 32, 16),
        ResNet("resnext101_32x32d_wsl", True, (3, 4, 23, 3), 32, 32),
        ResNet("resnext101_32x48d_wsl", True, (3, 4, 23, 3), 32, 48),
    )
}


def recognise(tensors: Mapping[str, Shaped]) -> ResNet | None:
    """The net of this family that names and shapes speak of; whether all of it fits, `fitting` tells."""
    first = _shape(tensors, ANCHOR, 4)
    stem = _shape(tensors, "conv1.weight", 4)
    if first is None or stem is None:
        return None
    depths = tuple(_depth(tensors, f"layer{stage}.") for stage in (1, 2, 3, 4))
    if not all(depths):
        return None
    bottleneck = "layer1.0.conv3.weight" in tensors
    base_width, groups = 64, 1
    if bottleneck:
        grouped = _shape(tensors, "layer1.0.conv2.weight", 4)
        if grouped is None or not grouped[1]:
            return None
        base_width, groups = grouped[1], max(1, first[0] // grouped[1])
    return adapted(_named(ResNet("resnet", bottleneck, depths, groups, base_width)), tensors)


def adapted(net: ResNet, tensors: Mapping[str, Shaped]) -> ResNet:
    """`net` with as many classes and input channels as the tensors have."""
    head, stem = _shape(tensors, "fc.weight", 2), _shape(tensors, "conv1.weight", 4)
    classes = head[0] if head else net.classes if "fc.weight" in tensors else 0
    return replace(net, classes=classes, channels=stem[1] if stem else net.channels)


def _named(net: ResNet) -> ResNet:
    """The net of the table that has this shape, or `net` itself."""
    return next((known for known in RESNETS.values() if replace(known, name=net.name) == net), net)


def _depth(tensors: Mapping[str, Shaped], stage: str) -> int:
    depth = 0
    while f"{stage}{depth}.conv1.weight" in tensors:
        depth += 1
    return depth


def _shape(tensors: Mapping[str, Shaped], name: str, rank: int) -> tuple[int, ...] | None:
    shape = tensors[name].shape if name in tensors else ()
    return shape if len(shape) == rank else None
