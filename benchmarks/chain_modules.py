"""Random modules: chains of layers on images, on vectors and sequences, and on tokens. The same seed builds the same module.

A step is drawn, and built if it fits the shape that has come about; about every fourth joins two branches, of which each is a
short chain of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from random import Random

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

IMAGE = (1, 3, 12, 10)
WIDTHS = (4, 6, 8)
DEPTH = 2
"""Branches inside branches."""

MOST = 4096
"""Elements between two steps."""

Step = Callable[[Random, Sequence[int]], nn.Module]


def images(seed: int) -> nn.Module:
    """From IMAGE, 4 to 9 steps; every fourth chain ends with a classifier of vectors."""
    random = Random(seed)
    first = nn.Conv2d(3, random.choice(WIDTHS), random.choice((1, 3)), padding=random.choice((0, 1)))
    chain = Chain(random, IMAGE, [first], random.randint(4, 9), (IMAGES, EITHER))
    if random.random() < 0.25:
        chain.extend(random, [Function("mean", lambda x: x.mean((2, 3)))], random.randint(1, 4), (VECTORS, EITHER))
    return chain.eval()


def vectors(seed: int) -> nn.Module:
    """From IMAGE, pooled to a vector or a sequence, 4 to 9 steps."""
    random = Random(seed)
    first = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()]
    is_vector = random.random() < 0.5
    first.append(Function("mean", (lambda x: x.mean((2, 3))) if is_vector else (lambda x: x.mean(2))))
    return Chain(random, IMAGE, first, random.randint(4, 9), (VECTORS if is_vector else SEQUENCES, EITHER)).eval()


def tokens(seed: int) -> nn.Module:
    """From IMAGE, cut into patches, each a token of features, 3 to 7 steps; every fourth chain ends with images again."""
    random = Random(seed)
    first = nn.Conv2d(3, random.choice(WIDTHS), 3, stride=2, padding=1)
    cut = Function("patches", lambda x: x.flatten(2).transpose(1, 2))
    chain = Chain(random, IMAGE, [first, cut], random.randint(3, 7), (TOKENS, TOKENS, EITHER))
    if random.random() < 0.25:
        image = Function("an image", lambda x: x.unsqueeze(1))
        chain.extend(random, [image], random.randint(1, 3), (IMAGES, EITHER))
    return chain.eval()


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, name: str, function: Callable[..., Tensor], *weights: Tensor) -> None:
        super().__init__()
        self.name, self.function = name, function
        self.weights = nn.ParameterList(weights)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.weights)

    def extra_repr(self) -> str:
        return self.name


class Chain(nn.Module):
    """Steps one behind the other; `shape` is what the last one makes."""

    def __init__(
        self,
        random: Random,
        shape: Sequence[int],
        first: Sequence[nn.Module],
        count: int,
        tables: Sequence[Sequence[Step]],
        depth: int = 0,
    ) -> None:
        super().__init__()
        self.steps = nn.ModuleList()
        self.shape = tuple(shape)
        self.extend(random, first, count, tables, depth)

    def extend(
        self,
        random: Random,
        first: Sequence[nn.Module],
        count: int,
        tables: Sequence[Sequence[Step]],
        depth: int = 0,
    ) -> None:
        for module in first:
            self._add(module)
        while count:
            table = random.choice(tables) if depth == DEPTH or random.random() < 0.8 else [joined(tables, depth + 1)]
            module = random.choice(table)(random, self.shape)
            shape = made(module, self.shape)
            if shape is not None:
                self._add(module)
                count -= 1

    def _add(self, module: nn.Module) -> None:
        shape = made(module, self.shape)
        assert shape is not None
        self.steps.append(module)
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x)
        return x


def made(module: nn.Module, shape: Sequence[int]) -> tuple[int, ...] | None:
    """The shape that a module makes of this one; None where it does not fit, or makes too much, or nothing. On the CPU, where
    constants are, wherever the module is built: the same seed has to build the same."""
    try:
        with torch.no_grad(), torch.device("cpu"):
            made = tuple(copy.deepcopy(module).to_empty(device="cpu").eval()(torch.zeros(shape)).shape)
    except (RuntimeError, ValueError, IndexError, TypeError):
        return None
    return made if 0 < torch.Size(made).numel() <= MOST and made[0] == shape[0] else None


class Joined(nn.Module):
    """Two branches, joined."""

    def __init__(self, name: str, join: Callable[[Tensor, Tensor], Tensor], *branches: nn.Module) -> None:
        super().__init__()
        self.name, self.join = name, join
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        first, second = (branch(x) for branch in self.branches)
        return self.join(first, second)

    def extra_repr(self) -> str:
        return self.name


JOINS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sum": torch.add,
    "difference": torch.sub,
    "product": torch.mul,
    "largest": torch.maximum,
    "gated": lambda x, y: x * y.sigmoid(),
    "beside": lambda x, y: torch.cat([x, y], 1),
    "product of matrices": lambda x, y: x @ y.tanh(),
    "scores": lambda x, y: (x @ y.transpose(-2, -1)).softmax(-1),
}


def joined(tables: Sequence[Sequence[Step]], depth: int) -> Step:
    def build(random: Random, shape: Sequence[int]) -> nn.Module:
        # Never both as they are: behind x - x there is nothing but rounding.
        first = (
            nn.Identity() if random.random() < 0.4 else Chain(random, shape, [], random.randint(1, 3), tables, depth)
        )
        branches = [first, Chain(random, shape, [], random.randint(1, 3), tables, depth)]
        random.shuffle(branches)
        name = random.choice(list(JOINS))
        return Joined(name, JOINS[name], *branches)

    return build


def function(name: str, of: Callable[..., Tensor]) -> Step:
    return lambda random, shape: Function(name, of)


def weighted(name: str, of: Callable[..., Tensor], count: int = 1) -> Step:
    """A function with weights for each channel, along an axis of size 1 for each of the others."""

    def build(random: Random, shape: Sequence[int]) -> nn.Module:
        ones = [1] * (len(shape) - 2)
        return Function(name, of, *(torch.empty(shape[1], *ones) for _ in range(count)))

    return build


def _convolution(random: Random, shape: Sequence[int]) -> nn.Module:
    rank = len(shape) - 2
    kernel, channels = random.choice((1, 1, 2, 3, 3, 5)), shape[1]
    groups = random.choice([1, 1, channels, *(n for n in (2, 3, 4) if channels % n == 0)])
    outputs = groups * random.choice((1, 2)) if groups == channels else groups * random.choice((1, 2, 3, 4))
    transposed = random.random() < 0.2
    kind = {(1, False): nn.Conv1d, (1, True): nn.ConvTranspose1d, (2, False): nn.Conv2d}.get(
        (rank, transposed), nn.ConvTranspose2d
    )
    options = {"padding": random.randint(0, kernel // 2), "stride": random.choice((1, 1, 2))}
    if not transposed and random.random() < 0.2:
        options["dilation"] = 2
    return kind(channels, outputs, kernel, groups=groups, bias=random.random() < 0.5, **options)


def _norm(random: Random, shape: Sequence[int]) -> nn.Module:
    return (nn.BatchNorm1d if len(shape) < 4 else nn.BatchNorm2d)(shape[1], affine=random.random() < 0.8)


def _group_norm(random: Random, shape: Sequence[int]) -> nn.Module:
    return nn.GroupNorm(random.choice([n for n in (1, 2, 3, shape[1]) if shape[1] % n == 0]), shape[1])


def _pooling(random: Random, shape: Sequence[int]) -> nn.Module:
    kernel, stride, up = random.choice((2, 3)), random.choice((1, 2, 2, 4)), random.random() < 0.2
    pad, kind = random.choice((0, kernel // 2)), random.choice((nn.MaxPool2d, nn.AvgPool2d))
    if kind is nn.MaxPool2d:
        return nn.MaxPool2d(kernel, stride, pad, dilation=random.choice((1, 1, 2)), ceil_mode=up)
    return nn.AvgPool2d(kernel, stride, pad, up, random.random() < 0.7, random.choice((None, None, 5)))


def _volume(random: Random, shape: Sequence[int]) -> nn.Module:
    """An image's channels as the planes of a volume."""
    depth, size, stride = (random.choice((1, 2, 3)) for _ in range(3))
    pad = (depth // 2, size // 2, 0)
    transposed = (depth + size + stride) % 2 == 0  # no draw of its own: the same seeds build the same other steps
    convolve = F.conv_transpose3d if transposed else F.conv3d
    return Function(
        f"{'transposed ' * transposed}convolution in three dimensions, {depth} x {size} x 2, stride {stride}",
        lambda x, weight: convolve(x[:, None], weight, None, (stride, 1, stride), pad).flatten(1, 2),
        torch.empty(1, 2, depth, size, 2) if transposed else torch.empty(2, 1, depth, size, 2),
    )


def _planes(random: Random, shape: Sequence[int]) -> nn.Module:
    """An image's channels as planes that are pooled, in the order that torch wants them in."""
    kernel, stride = (random.choice((1, 2)), 2, 2), (random.choice((1, 2)), 1, 2)
    return Function(f"max_pool3d {kernel} {stride}", lambda x: F.max_pool3d(x.contiguous(), kernel, stride))


def _adaptive(random: Random, shape: Sequence[int]) -> nn.Module:
    kind = random.choice((nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d))
    return kind((random.choice((1, 2, 3, 5)), random.choice((1, 2, 3))))


def _linear(random: Random, shape: Sequence[int]) -> nn.Module:
    return nn.Linear(shape[-1], random.choice(WIDTHS), bias=random.random() < 0.7)


def _interpolate(random: Random, shape: Sequence[int]) -> nn.Module:
    mode = random.choice(("nearest", "nearest", "bilinear"))
    return nn.Upsample(scale_factor=2, mode=mode)


def _resized(random: Random, shape: Sequence[int]) -> nn.Module:
    size = [random.choice((n, 2 * n, n + 3, (n + 1) // 2)) for n in shape[2:]]
    mode = random.choice(("nearest", "nearest-exact", "bilinear", "bicubic"))
    options = {"align_corners": random.random() < 0.5, "antialias": random.random() < 0.3}
    if mode.startswith("nearest"):
        options = {}
    name = f"interpolate to {size}, {mode} {options}"
    return Function(name, lambda x: F.interpolate(x, size, mode=mode, **options))  # type: ignore[arg-type]


def _pad(random: Random, shape: Sequence[int]) -> nn.Module:
    sizes = [random.randint(-1, 2) for _ in range(2 * (len(shape) - 2))]
    mode = random.choice(("constant", "constant", "reflect", "replicate", "circular"))
    value = random.choice((0.0, 0.5)) if mode == "constant" else None
    name = f"pad {sizes} {mode} {value}"
    return Function(name, lambda x: F.pad(x, sizes, mode, value))


def _turned(random: Random, shape: Sequence[int]) -> nn.Module:
    order = [0, *random.sample(range(1, len(shape)), len(shape) - 1)]
    return Function(f"permute {order}", lambda x: x.permute(order))


def _cut(random: Random, shape: Sequence[int]) -> nn.Module:
    """A dimension cut in two, the parts turned and put together again: shuffles of all kinds."""
    where = random.randrange(1, len(shape))
    parts = random.choice([n for n in (1, 2, 3, 5) if shape[where] % n == 0])
    order = [0, *random.sample(range(1, len(shape) + 1), len(shape))]
    return Function(
        f"unflatten {where} by {parts}, permute {order}, flatten",
        lambda x: x.unflatten(where, (parts, -1)).permute(order).flatten(where, where + 1),
    )


def _reordered(random: Random, shape: Sequence[int]) -> nn.Module:
    where = random.randrange(1, len(shape))
    places = [random.randrange(shape[where]) for _ in range(random.randint(1, shape[where]))]
    how = random.choice(("flip", "roll", "index"))
    shift = random.randint(1, 3)
    return {
        "flip": Function(f"flip {where}", lambda x: x.flip(where)),
        "roll": Function(f"roll {where} by {shift}", lambda x: x.roll(shift, where)),
        "index": Function(f"places {places} of {where}", lambda x: x.index_select(where, torch.tensor(places))),
    }[how]


def _axis(name: str, of: Callable[[Tensor, int], Tensor]) -> Step:
    """A function along one axis, any but that of the batch."""

    def build(random: Random, shape: Sequence[int]) -> nn.Module:
        axis = random.randrange(1, len(shape))
        return Function(f"{name} along {axis}", lambda x: of(x, axis))

    return build


class SelfAttention(nn.MultiheadAttention):
    """Tokens look at each other; with a mask, none looks ahead."""

    def __init__(self, width: int, heads: int, is_causal: bool) -> None:
        super().__init__(width, heads, batch_first=True)
        self.is_causal = is_causal

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        seen = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device)
        mask = seen.triu(1) if self.is_causal else None
        made: Tensor = super().forward(x, x, x, need_weights=False, attn_mask=mask)[0]
        return made


def _attention(random: Random, shape: Sequence[int]) -> nn.Module:
    heads = random.choice([n for n in (1, 2, 4) if shape[-1] % n == 0])
    return SelfAttention(shape[-1], heads, random.random() < 0.3)


class Recurrent(nn.Module):
    """A recurrent layer's outputs, or its last state beside them."""

    def __init__(self, layer: nn.RNNBase, has_state: bool) -> None:
        super().__init__()
        self.layer, self.has_state = layer, has_state

    def forward(self, x: Tensor) -> Tensor:
        made, state = self.layer(x)
        if not self.has_state:
            return made
        last = (state[0] if isinstance(state, tuple) else state)[-1:].transpose(0, 1)
        return torch.cat([made[..., : last.shape[-1]], last], 1)

    def extra_repr(self) -> str:
        return f"has_state={self.has_state}"


def _recurrent(random: Random, shape: Sequence[int]) -> nn.Module:
    kind = random.choice((nn.LSTM, nn.LSTM, nn.GRU, nn.RNN))
    options = {"num_layers": random.choice((1, 1, 2)), "bidirectional": random.random() < 0.4}
    layer = kind(shape[-1], random.choice((3, 4, 5)), batch_first=True, bias=random.random() < 0.8, **options)
    return Recurrent(layer, random.random() < 0.3)


def _windows(random: Random, shape: Sequence[int]) -> nn.Module:
    """Attention inside windows of an image, without weights."""
    size = random.choice((2, 3))

    def attend(x: Tensor) -> Tensor:
        batch, channels, rows, columns = x.shape
        cut = x.view(batch, channels, rows // size, size, columns // size, size).permute(0, 2, 4, 3, 5, 1)
        seen = cut.reshape(-1, size * size, channels)
        made = F.scaled_dot_product_attention(seen, seen.tanh(), seen)
        return made.view(cut.shape).permute(0, 5, 1, 3, 2, 4).reshape(x.shape)

    return Function(f"attention in windows of {size}", attend)


def _written(x: Tensor, axis: int) -> Tensor:
    made = x.clone()
    made.select(axis, 0).copy_(x.select(axis, -1))
    made.narrow(axis, x.shape[axis] // 2, 1).mul_(2)
    return made


EITHER: list[Step] = [
    _norm,
    _norm,
    weighted("scale", lambda x, scale: x * scale),
    weighted("offset", lambda x, offset: x + offset),
    weighted("scale and offset", lambda x, scale, offset: x * scale + offset, 2),
    lambda random, shape: nn.PReLU(random.choice((1, shape[1]))),
    lambda random, shape: nn.Dropout(),
    *(
        (lambda random, shape, kind=kind: kind())
        for kind in (
            *(nn.ReLU, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.Sigmoid, nn.Tanh, nn.SiLU),
            *(nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Mish, nn.Softplus, nn.Softsign, nn.LogSigmoid),
        )
    ),
    lambda random, shape: nn.GELU("tanh"),
    function("2x + 0.5", lambda x: 2 * x + 0.5),
    function("x / 3", lambda x: x / 3),
    function("1 - x", lambda x: 1 - x),
    function("x^2", lambda x: x.square()),
    function("|x|", torch.abs),
    function("sqrt(|x| + 0.1)", lambda x: (x.abs() + 0.1).sqrt()),
    function("3 sqrt(|x|)", lambda x: 3 * x.abs().sqrt()),
    function("1 / (|x| + 1)", lambda x: 1 / (x.abs() + 1)),
    function("exp(-|x|)", lambda x: (-x.abs()).exp()),
    function("log(|x| + 1)", lambda x: (x.abs() + 1).log()),
    function("-0.5..1", lambda x: x.clamp(-0.5, 1)),
    function("at least 0.1", lambda x: x.clamp(min=0.1)),
    function("erf(x + 0.5)", lambda x: (x + 0.5).erf()),  # of tiny numbers alone OpenCV's TanH loses some
    function("sinh(x / 4)", lambda x: torch.sinh(x / 4)),
    _axis("multiplied", lambda x, axis: x.tanh().prod(axis, keepdim=True) + x),
    function("softmax", lambda x: x.softmax(1)),
    function("halves turned round", lambda x: torch.cat(x.chunk(2, 1)[::-1], 1)),
    function("larger half", lambda x: torch.maximum(*x.chunk(2, 1))),
    function("some channels", lambda x: x[:, 1:]),
    function("2^-|x|", lambda x: 2 ** -x.abs()),
    function("log(1 + |x|)", lambda x: x.abs().log1p()),
    function("between tensors", lambda x: x.clamp(x.flip(1) - 0.5, x.mean(1, keepdim=True) + 0.7)),
    _axis("sums of all before", lambda x, axis: x.cumsum(axis) / 3),
    _axis("windows", lambda x, axis: x.unfold(axis, 2, 1).mean(-1)),
    _axis(
        "likeness to itself turned round", lambda x, axis: F.cosine_similarity(x, x.flip(axis) + 0.3, 1).unsqueeze(1)
    ),
    _turned,
    _cut,
    _reordered,
    _axis("softmax", lambda x, axis: x.softmax(axis)),
    _axis("mean", lambda x, axis: x.mean(axis, keepdim=True)),
    _axis("less its mean", lambda x, axis: x - x.mean(axis, keepdim=True)),
    _axis("largest", lambda x, axis: x.max(axis, keepdim=True)[0]),
    _axis("less its smallest", lambda x, axis: x - x.amin(axis, keepdim=True)),
    _axis("log of the sum", lambda x, axis: x.logsumexp(axis, keepdim=True) - x),
    _axis("place of the largest", lambda x, axis: x + 0.1 * x.argmax(axis, keepdim=True)),
    _axis("sorted", lambda x, axis: x.sort(axis, descending=True)[0]),
    _axis("the two largest", lambda x, axis: x.topk(2, axis)[0]),
    _axis("taken where the two largest are", lambda x, axis: x.gather(axis, x.topk(2, axis)[1])),
    _axis("less its median", lambda x, axis: x - x.median(axis, keepdim=True)[0]),
    _axis("halves multiplied", lambda x, axis: torch.mul(*x.chunk(2, axis))),
    _axis("twice", lambda x, axis: torch.cat([x, x], axis)),
    _axis("all but the last", lambda x, axis: x.narrow(axis, 0, x.shape[axis] - 1)),
    _axis("of length one", lambda x, axis: F.normalize(x, dim=axis, eps=0.1)),
    # Without jumps where a comparison turns over, which an approximated GELU in front makes it do somewhere.
    function("what is above its mean", lambda x: (x - x.mean(1, keepdim=True)) * (x > x.mean(1, keepdim=True))),
    function("where it is largest", lambda x: x * (x == x.amax(-1, keepdim=True)) + 0.1),
    function("one or the other", lambda x: torch.where((x > 0.1) & (x <= 1), 2 * x - 0.1, x + 0.9 * (x >= 1))),
    function("hidden", lambda x: x.masked_fill(x < -0.25, -0.25)),
    function("shrunk", lambda x: F.softshrink(x, 0.05)),
    function("counted", lambda x: x + (x == x.amax(1, keepdim=True)).sum(1, keepdim=True)),
    _axis("the first written", _written),
    function("small ones written", lambda x: x.clone().index_put((x < -0.03,), torch.tensor(-0.03))),
    function("mean of the second and the last", lambda x: x - x.mean((1, -1), keepdim=True)),
    function("largest of the second and the last", lambda x: x.amax((1, -1), keepdim=True)),
    function("times its mean", lambda x: x * x.flatten(1).mean(1).reshape(-1, *[1] * (x.dim() - 1)).sigmoid()),
]
IMAGES: list[Step] = [
    *[_convolution] * 6,
    _group_norm,
    lambda random, shape: nn.InstanceNorm2d(shape[1], affine=True),
    _pooling,
    _pooling,
    _interpolate,
    lambda random, shape: nn.PixelShuffle(2),
    lambda random, shape: nn.PixelUnshuffle(2),
    lambda random, shape: nn.ChannelShuffle(2),
    lambda random, shape: nn.ReflectionPad2d(1),
    _adaptive,
    _volume,
    lambda random, shape: nn.LPPool2d(2, random.choice((2, 3)), random.choice((1, 2))),
    _planes,
    function("layer norm", lambda x: F.layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2]).permute(0, 3, 1, 2)),
    function("squeezed", lambda x: x * x.mean((2, 3), keepdim=True).sigmoid()),
    function("part of it", lambda x: x[:, :, 1:, 1:]),
    function("peaks", lambda x: x * (x == F.max_pool2d(x, 3, 1, 1)) + 0.1 * x),
    function("mean of columns", lambda x: x.mean(2, keepdim=True)),
    function(
        "rows and columns", lambda x: x * x.mean(3, True).sigmoid() - x.amax(2, True) / (1 + x.mean(1, True).abs())
    ),
    function("channels by channels", lambda x: torch.maximum(x[:, :, None], x[:, None, :2].tanh()).flatten(1, 2)),
    _pad,
    _resized,
    _windows,
    lambda random, shape: nn.LocalResponseNorm(random.choice((3, 5)), 0.5, k=random.choice((1.0, 2.0))),
    function("patches", lambda x: F.unfold(x, 2, stride=2).unflatten(1, (len(x[0]), -1))),
    function("folded", lambda x: F.fold(F.unfold(x, 3, padding=1), x.shape[2:], 3, padding=1) / 9),
    function("pixels of a diagonal", lambda x: x[:, :, [0, 1, 2, 2], [2, 1, 0, 1]].unsqueeze(2)),
    function("rows by rows", lambda x: x @ x.transpose(2, 3).tanh()),
    function("channels by rows", lambda x: torch.einsum("nchw,ncHW->nhH", x, x.sigmoid()).unsqueeze(1)),
    function("channels mixed", lambda x: torch.einsum("nchw,ndhw->ncdhw", x, x.sigmoid()).mean(2)),
    function(
        "pixels look at pixels", lambda x: F.scaled_dot_product_attention(*[x.flatten(2).mT] * 3).mT.view(x.shape)
    ),
]
VECTORS: list[Step] = [*[_linear] * 6, lambda random, shape: nn.LayerNorm(shape[-1])]
SEQUENCES: list[Step] = [
    *[_convolution] * 5,
    _linear,
    _group_norm,
    lambda random, shape: nn.LayerNorm(shape[-1]),
    lambda random, shape: random.choice((nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d))(random.choice((1, 2, 5))),
    function("turned", lambda x: x.transpose(1, 2)),
    function("part of it", lambda x: x[:, :, 1:]),
    _pad,
    lambda random, shape: nn.MaxPool1d(2, random.choice((1, 2))),
    lambda random, shape: nn.AvgPool1d(3, random.choice((1, 2)), random.choice((0, 1))),
    _recurrent,
    _attention,
]
TOKENS: list[Step] = [
    *[_linear] * 3,
    *[_attention] * 3,
    *[_recurrent] * 2,
    *[lambda random, shape: nn.LayerNorm(shape[-1])] * 2,
    lambda random, shape: nn.TransformerEncoderLayer(
        shape[-1], 1, 2 * shape[-1], activation=random.choice(("relu", "gelu")), batch_first=True
    ),
    lambda random, shape: nn.GELU(),
    lambda random, shape: nn.GLU(),
    lambda random, shape: Function(
        "a token in front",
        lambda x, token: torch.cat([token.expand(len(x), -1, -1), x], 1),
        torch.empty(1, 1, shape[-1]),
    ),
    lambda random, shape: Function("places", lambda x, places: x + places, torch.empty(1, *shape[1:])),
    function("tokens by tokens", lambda x: x @ x.transpose(1, 2).tanh() / len(x[0])),
    function("how far tokens are apart", lambda x: torch.cdist(x, x.flip(2) + 1, 1.0) / len(x[0, 0])),
    function("tokens mixed", lambda x: (x.mT @ x.softmax(1)).mT),
    function("turned", lambda x: x.transpose(1, 2)),
    function("every other", lambda x: x[:, ::2]),
]
