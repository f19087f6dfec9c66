"""What Caffe and its relatives say differently.

Nets come with things that not all of them know, and leave in words that the dialect's readers do:

    Pooling that rounds sizes down, PyTorch's way; Caffe's own is to round up
        portable    where the size that was traced leaves nothing to round, a pooling as any other; else pool rounding up, then
                    crop to the size of a pooling without padding that comes out right, or of a convolution, where there is no
                    such pooling
        bvlc        `round_mode: FLOOR`, which BVLC master alone knows
        opencv, ssd `ceil_mode: false`
    Clip, which is BVLC master's
        opencv, ssd `ReLU6` between 0 and 6; else as in portable
        portable    ReLU of the distance from the upper limit, where the lower one is 0; else maxima with limits
    Rearrange, which is nobody's: the elements of a blob in another order (`tracing.views`)
        opencv, ssd Reshape, `Permute`, Reshape
        portable, bvlc  exchanges of neighbouring dimensions, by Slice and Concat or by convolutions with an identity, or a
                    1x1 convolution that picks channels (`passes.exchanges`)
    Embed, which is Caffe's
        portable, opencv  a matrix times a vector with a single 1, for each number, which has to be whole
    Eltwise of one axis, or of more than five, which OpenCV refuses
        portable, opencv, ssd  of two
    Gelu, which is OpenCV's
        portable, bvlc, ssd  x times the sigmoid of x times a power of a polynomial
    Threshold, which is Caffe's
        portable, opencv, ssd  ReLU of what is above it, to the power of next to nothing (the SSD family has it, OpenCV not)
    ArgMax, which is Caffe's
        portable, opencv  by how many come before each element (`passes.ranking`)
    Deconvolution of volumes, which is Caffe's
        portable, opencv  Deconvolutions of their planes (`passes.volumes`)
    MatMul, which is OpenCV's
        portable, bvlc, ssd  a convolution with the other activation as its weights, or sums of products (`passes.products`)
    Recurrent, which is nobody's: see `recurrence`

Without padding Caffe's size is ceil((n - k) / s) + 1, PyTorch's with padding p is floor((n + 2p - K) / s) + 1. They agree at
every n for k = K + s - 1 - 2p, because floor((x + s - 1) / s) = ceil(x / s).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import prod

from ..errors import NetError
from ..net import kernels
from ..net.graph import InexpressibleError, Layer, Net
from ..net.operations import (
    ArgMax,
    Clip,
    Convolution,
    Crop,
    Deconvolution,
    Eltwise,
    Embed,
    Gelu,
    MatMul,
    Operation,
    Permute,
    Pooling,
    Power,
    Rearrange,
    Recurrent,
    ReLU,
    ReLU6,
    Reshape,
    Shape,
    Sigmoid,
    Threshold,
)
from ..net.windows import Window
from . import embedding, exchanges, naming, opencv, products, ranking, recurrence, volumes

DIALECTS = ("portable", "bvlc", "opencv", "ssd")
HAVE_PERMUTE = ("opencv", "ssd")


def express(net: Net, dialect: str) -> Net:
    """The net in the words of one dialect; it computes the same. NetError, naming all of them, where layers cannot."""
    if refused := refusal(net.layers, dialect):
        raise refused
    layers: list[Layer] = []
    renamed: dict[str, str] = {}
    shapes, names = _shapes(net.layers), naming.taken(net)
    multiplied = [layer for layer in net.layers if isinstance(layer.operation, MatMul)]
    said = [
        products.note(multiplied, [[shapes.get(name, ()) for name in layer.bottoms] for layer in multiplied], dialect),
        _note_on_sizes(net, shapes) if dialect == "portable" else None,
    ]
    for layer in net.layers:
        bottoms = [shapes.get(bottom, ()) for bottom in layer.bottoms]
        layer = replace(layer, bottoms=tuple(renamed.get(bottom, bottom) for bottom in layer.bottoms))
        made = naming.unlike(layer, partial(_expressed, bottoms=bottoms, dialect=dialect), names)
        if not isinstance(layer.operation, Recurrent):  # whose tops are called as they were
            if made[-1].tops != layer.tops:
                renamed[layer.tops[0]] = made[-1].tops[0]
            made[-1] = replace(made[-1], origin=layer.origin, shapes=layer.shapes)
        layers += made
    outputs = tuple(renamed.get(top, top) for top in net.outputs)
    return replace(net, layers=tuple(layers), outputs=outputs, notes=(*net.notes, *filter(None, said)))


def refusal(layers: Sequence[Layer], dialect: str) -> InexpressibleError | None:
    """What names all layers that the dialect cannot express; None if there are none."""
    found: dict[int, NetError] = {}
    shapes = _shapes(layers)
    for place, layer in enumerate(layers):
        try:
            _expressed(layer, [shapes.get(bottom, ()) for bottom in layer.bottoms], dialect)
        except NetError as error:
            found[place] = error
    if not found:
        return None
    first, *_ = found.values()
    names = ", ".join(f"{error.tensor}: {error.what}" for error in found.values())
    return InexpressibleError(f"dialect {dialect} cannot express {names}", advice=first.advice, places=list(found))


def _shapes(layers: Iterable[Layer]) -> dict[str, Shape]:
    """Of the tops, as far as they are known."""
    return {top: shape for layer in layers for top, shape in zip(layer.tops, layer.shapes, strict=False)}


def _expressed(layer: Layer, bottoms: Sequence[Shape], dialect: str) -> list[Layer]:
    if isinstance(layer.operation, MatMul):
        steps = products.product(layer, bottoms, dialect)
        return [made for step in steps for made in (_expressed(step, (), dialect) if step is not layer else [step])]
    if isinstance(layer.operation, ArgMax) and dialect not in ("bvlc", "ssd"):
        return [made for step in ranking.ranked(layer, bottoms[0]) for made in _expressed(step, (), dialect)]
    if isinstance(layer.operation, Embed) and dialect not in ("bvlc", "ssd"):
        return embedding.picked(layer, bottoms[0])
    if isinstance(layer.operation, Pooling):
        return list(_pooling(layer, bottoms, dialect))
    if isinstance(layer.operation, Deconvolution) and len(layer.operation.window.axes) > 2:
        return [layer] if dialect in ("bvlc", "ssd") else volumes.planes(layer, bottoms[0])
    express_one = _EXPRESSIONS.get(type(layer.operation))
    return list(express_one(layer, dialect)) if express_one else [layer]


def _note_on_sizes(net: Net, shapes: Mapping[str, Shape]) -> str | None:
    """On poolings that round down, and are written as those that round up; None if there are none."""
    whole = [layer.name for layer in net.layers if _is_whole(layer, [shapes.get(name, ()) for name in layer.bottoms])]
    if not whole:
        return None
    return (
        f"poolings ({', '.join(whole[:3])}{', ...' * (len(whole) > 3)}) round nothing at this size: trace others anew"
    )


def _is_whole(layer: Layer, bottoms: Sequence[Shape]) -> bool:
    """Whether a pooling that rounds down has nothing to round at the size that was traced."""
    pooling = layer.operation
    if not isinstance(pooling, Pooling) or not pooling.rounds_down or not all(bottoms):
        return False
    return replace(pooling, rounds_down=False).top_shapes(bottoms, 1) == layer.shapes


def _pooling(layer: Layer, bottoms: Sequence[Shape], dialect: str) -> Iterator[Layer]:
    pooling = layer.operation
    assert isinstance(pooling, Pooling)
    if not pooling.rounds_down or dialect == "bvlc":
        yield layer
    elif dialect != "portable":
        yield replace(layer, operation=replace(pooling, says_ceil_mode=True))
    elif _is_whole(layer, bottoms):
        yield replace(layer, operation=replace(pooling, rounds_down=False))
    else:
        yield from _cropped(layer, pooling)


def _cropped(layer: Layer, pooling: Pooling) -> Iterator[Layer]:
    window = pooling.window
    assert window is not None
    kernel, stride, pad = window.kernel, window.stride, window.pad
    reference = [k + s - 1 - 2 * p for k, s, p in zip(kernel, stride, pad, strict=True)]
    # Along an axis of stride 1 nothing is rounded: there a reference that would be empty may be the pooling itself, padding
    # and all. Caffe then drops windows that begin behind the image, which has to leave the other axis alone.
    padded = [p if s == 1 and r < 1 else 0 for s, p, r in zip(stride, pad, reference, strict=True)]
    down, right = (k if p else r for k, p, r in zip(kernel, padded, reference, strict=True))
    size, crop = f"{layer.name}.size", f"{layer.name}.crop"
    # Not the shapes that torch says: those are the cropped one's.
    yield replace(layer, operation=replace(pooling, rounds_down=False), origin=None, shapes=())
    if min(down, right) < 1 or (any(padded) and (down < stride[0] or right < stride[1])):  # convolutions round down
        zeros = kernels.filled((1, layer.shapes[0][1], *kernel), 0)
        yield Layer(size, Convolution(1, window, has_bias=False), layer.bottoms, (size,), (zeros,))
    else:
        sized = Pooling("MAX", Window.of((down, right), stride, (padded[0], padded[1])))
        yield Layer(size, sized, layer.bottoms, (size,))
    yield Layer(crop, Crop(2, (0,)), (*layer.tops, size), (crop,))


def _eltwise(layer: Layer, dialect: str) -> Iterator[Layer]:
    (shape,) = layer.shapes or ((1, 1),)
    if dialect not in opencv.READ_BY_OPENCV or 2 <= len(shape) <= 5:
        yield layer
        return
    flat = (*(shape[:1] or (1,)), prod(shape[1:]))
    bottoms = tuple(f"{layer.name}.flat{index}" for index in range(len(layer.bottoms)))
    for bottom, name in zip(layer.bottoms, bottoms, strict=True):
        yield Layer(name, Reshape.to(flat, shape), (bottom,), (name,), shapes=(flat,))
    made = f"{layer.name}.made"
    yield replace(layer, name=made, bottoms=bottoms, tops=(made,), origin=None, shapes=(flat,))
    yield replace(layer, operation=Reshape.to(shape, flat), bottoms=(made,))


def _clip(layer: Layer, dialect: str) -> Iterator[Layer]:
    """h - ReLU(h - ReLU(x)) between 0 and h; else -max(-max(x, l), -h).

    A distance from a limit is rounded to the limit's last place: no limits but those near the values are subtracted.
    """
    clip = layer.operation
    assert isinstance(clip, Clip)
    low, high = clip.low, clip.high
    if dialect == "bvlc":
        yield layer
        return
    if dialect in HAVE_PERMUTE and (low, high) == (0, 6):
        yield replace(layer, operation=ReLU6())
        return
    name, bottom = layer.name, layer.bottoms[0]
    negated, flipped = Power(scale=-1.0), Power(scale=-1.0, shift=high)
    if low == 0 and high <= NEAR:
        steps: list[tuple[str, Operation, tuple[str, ...]]] = [
            ("above", ReLU(), ()),
            ("high", flipped, ()),
            ("below", ReLU(), ()),
            ("", flipped, ()),
        ]
    else:
        steps = [
            ("low", Power(scale=0.0, shift=low), ()),
            ("above", Eltwise("MAX"), (bottom,)),
            ("negated", negated, ()),
            ("high", Power(scale=0.0, shift=-high), ()),
            ("below", Eltwise("MAX"), (f"{name}.negated",)),
            ("", negated, ()),
        ]
    for part, operation, others in steps:
        made = f"{name}.{part}" if part else name
        yield Layer(made, operation, (*others, bottom), (made,), shapes=layer.shapes)
        bottom = made


NEAR = 8
"""A limit up to which ReLU6 and its like are composed of distances from it."""


GELU = (2.1385234, 0.32786588, 2.7111595, 0.23539596)
"""x sigmoid(x (c + (a + b x²)²) ^ p) is within 3.1e-6 of GELU for these a, b, c, p: least squares on [0, 9], weights moved
towards the largest deviations. Beyond it the sigmoid is 0 or 1."""


def _gelu(layer: Layer, dialect: str) -> Iterator[Layer]:
    if dialect == "opencv":
        yield layer
        return
    name, (bottom,) = layer.name, layer.bottoms

    def step(part: str, operation: Operation, *bottoms: str) -> Layer:
        made = f"{name}.{part}" if part else name
        return Layer(made, operation, bottoms, (made,), shapes=layer.shapes)

    shift, scale, least, power = GELU
    yield step("square", Eltwise("PROD"), bottom, bottom)
    yield step("shifted", Power(scale=scale, shift=shift), f"{name}.square")
    yield step("fourth", Eltwise("PROD"), f"{name}.shifted", f"{name}.shifted")
    yield step("root", Power(power, shift=least), f"{name}.fourth")
    yield step("odd", Eltwise("PROD"), f"{name}.root", bottom)
    yield step("sigmoid", Sigmoid(), f"{name}.odd")
    yield step("", Eltwise("PROD"), bottom, f"{name}.sigmoid")


VANISHING = 1e-20
"""A power to which every positive float is 1, and 0 is 0."""


def _threshold(layer: Layer, dialect: str) -> Iterator[Layer]:
    """A difference of floats has the sign that it should have, however small it is."""
    step = layer.operation
    assert isinstance(step, Threshold)
    if dialect == "bvlc":
        yield layer
        return
    name, bottoms = layer.name, layer.bottoms
    steps: list[tuple[str, Operation]] = [(f"{name}.positive", ReLU()), (name, Power(VANISHING))]
    if step.threshold:
        steps.insert(0, (f"{name}.above", Power(shift=-step.threshold)))
    for made, operation in steps:
        yield Layer(made, operation, bottoms, (made,), shapes=layer.shapes)
        bottoms = (made,)


def _rearrange(layer: Layer, dialect: str) -> Iterator[Layer]:
    moved = layer.operation
    assert isinstance(moved, Rearrange)
    blob, shape, atoms, order = moved.blob, moved.shape, moved.atoms, moved.order
    if blob[0] == 1 and atoms[0] != 1:  # a batch of one is no atom of a view
        atoms, order = (1, *atoms), (0, *(atom + 1 for atom in order))
    if dialect in HAVE_PERMUTE:
        if end := exchanges.images(moved, atoms, order):
            atoms, order = (*atoms[:end], *blob[2:]), (*order[:end], end, end + 1)
        turned = tuple(atoms[atom] for atom in order)
        steps = exchanges.reshaped(f"{layer.name}.split", blob, atoms, bool(end))
        steps.append(Layer(f"{layer.name}.turn", Permute(order), (), (), shapes=(turned,)))
        steps += exchanges.reshaped(f"{layer.name}.join", turned, shape, bool(end))
    else:
        steps = exchanges.express(layer, atoms, order)
    bottoms = layer.bottoms
    for step in steps[:-1]:
        yield replace(step, bottoms=step.bottoms or bottoms, tops=step.tops or (step.name,))
        bottoms = (step.name,)
    yield replace(steps[-1], name=layer.name, bottoms=steps[-1].bottoms or bottoms, tops=layer.tops)


_EXPRESSIONS: Mapping[type[Operation], Callable[[Layer, str], Iterator[Layer]]] = {
    Clip: _clip,
    Eltwise: _eltwise,
    Gelu: _gelu,
    Threshold: _threshold,
    Rearrange: _rearrange,
    Recurrent: recurrence.express,
}
