"""Small modules, one for each thing that tracing has to get right. `build(name)` is what `--net` names in the tests."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tests.shared.product_modules import PRODUCTS

IMAGE = (1, 4, 9, 12)


class Fn(nn.Module):
    """A function as a module, with a convolution in front of it, so that the net holds weights."""

    def __init__(self, function: Callable[..., Tensor], channels: int = 4) -> None:
        super().__init__()
        self.function = function
        self.conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.conv(x))


class Residual(nn.Module):
    """In-place operators, a module that is called three times, and a sum of what both branches make."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.Conv2d(4, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn(self.conv1(x)))
        y = self.relu(self.conv2(y))
        y += x
        return self.relu(y)


def written_into_infinity(x: Tensor) -> Tensor:
    made = torch.full_like(x, -float("inf"))
    made[:, :, ::2] = x[:, :, ::2]
    return made.softmax(2)


class SqueezeExcitation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * F.hardsigmoid(self.expand(F.silu(self.reduce(F.adaptive_avg_pool2d(x, 1)))))


class ConvNeXtBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.LayerNorm(4, eps=1e-6)
        self.up, self.down = nn.Linear(4, 16), nn.Linear(16, 4)
        self.scale = nn.Parameter(torch.full((4, 1, 1), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x).permute(0, 2, 3, 1))
        return x + self.scale * self.down(F.gelu(self.up(y))).permute(0, 3, 1, 2)


class Shuffle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        n, c, h, w = x.shape
        x = x.view(n, 3, c // 3, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
        left, right = x.chunk(2, 1)
        return torch.cat((right.relu(), left), 1)


class Parameters(nn.Module):
    """Constants that are computed from parameters, and one of each shape that can be repeated."""

    def __init__(self) -> None:
        super().__init__()
        self.scalar, self.channel = nn.Parameter(torch.tensor(0.7)), nn.Parameter(torch.randn(4, 1, 1))
        self.row, self.whole = nn.Parameter(torch.randn(12)), nn.Parameter(torch.randn(1, 4, 9, 12))
        self.weight = nn.Parameter(torch.randn(4, 4, 3, 3))
        self.register_buffer("hidden", torch.linspace(0.5, 2, 4).view(1, 4, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight / self.weight.pow(2).sum((1, 2, 3), keepdim=True).sqrt()
        x = F.conv2d(x, weight, padding=1) * self.scalar + self.channel
        return (x / self.hidden - self.row) * self.whole + torch.tensor(0.25)


class Inplace(nn.Module):
    """A part of a tensor that is changed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        first, second = x.split((1, 3), 1)
        second.mul_(2).add_(1)
        return torch.cat((x, first), 1)


class Sequence(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(4, 6, 3, stride=2, padding="valid", dilation=2), nn.BatchNorm1d(6)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(self.conv(x)).mean(2))


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(4, 3, 3), nn.BatchNorm1d(70 * 3), nn.Linear(210, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(torch.flatten(self.conv(x), 1))).log_softmax(1)


class BehindGroups(nn.Module):
    """What follows grouped transposed convolutions, those that are written as such among them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.point = nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.ups = nn.ModuleList(nn.ConvTranspose2d(8, 8, 4, 2, 1, groups=groups, bias=False) for groups in (1, 2, 8))
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for channels in (8, 8, 8, 8, 8, 8, 8, 2))
        self.scale, self.prelu = nn.Parameter(torch.randn(1, 8, 1, 1)), nn.PReLU(8)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.conv(x)
        *first, up = [norm(up(x)) for norm, up in zip(self.norms[:3], self.ups, strict=True)]
        nearest, bilinear = (F.interpolate(x, scale_factor=2, mode=mode) for mode in ("nearest", "bilinear"))
        return (
            *first,
            up.relu(),
            self.norms[3](self.ups[2](x) * 2 + 1),
            self.ups[1](x) * self.scale,
            self.prelu(self.ups[2](x)),
            self.norms[4](self.ups[2](x).relu()),
            self.point(self.norms[5](nearest).relu()),
            self.norms[6](x.mean((2, 3), keepdim=True).expand(-1, -1, 6, 5)),
            self.norms[7](F.pixel_shuffle(x, 2)),
            F.prelu(bilinear, self.scale.view(8)),
        )


class BehindSums(nn.Module):
    """What follows sums, products and maxima of vectors, sequences and images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.first, self.second = nn.Conv2d(4, 8, 3, padding=1), nn.Linear(8, 8), nn.Linear(8, 8)
        self.rows, self.columns = nn.Conv1d(8, 8, 3, padding=1), nn.Conv1d(8, 8, 1)
        self.norms = nn.ModuleList(nn.BatchNorm1d(8) for _ in range(9))
        self.norm, self.prelu, self.scale = nn.BatchNorm2d(8), nn.PReLU(8), nn.Parameter(torch.randn(8))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.conv(x)
        v, s = x.mean((2, 3)), x.mean(2)
        joined = (
            *(self.first(v) + self.second(v), self.first(v) * self.second(v).sigmoid(), (v + self.first(v)).relu()),
            *(torch.maximum(*torch.cat([self.first(v), self.second(v)], 1).chunk(2, 1)), F.silu(self.first(v))),
            *(F.hardswish(self.second(v)), 1 / (self.first(v).abs() + 1).sqrt()),
            *(self.rows(s) + self.columns(s), F.silu(self.rows(s))),
        )
        return (
            *(norm(x) for norm, x in zip(self.norms, joined, strict=True)),
            *(
                self.prelu(self.rows(s) - self.columns(s)),
                self.prelu(v - self.first(v)),
                (v + self.first(v)) * self.scale,
            ),
            *(self.norm(x + x.relu()), 3 * x.abs().sqrt() - 1),
        )


class SmallImages(nn.Module):
    """Convolutions of each channel, of images of one pixel, row and column, and dilated ones."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.dilated = nn.Conv2d(4, 4, 3, padding=1, dilation=2, groups=4)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        parts = x.mean((2, 3), keepdim=True), x.mean(2, keepdim=True), x.amax(3, keepdim=True)
        return (*map(self.conv, parts), self.dilated(x))


class Named(nn.Module):
    """Modules whose names are those that others would get: of the input, of a second call, of a name that is taken."""

    def __init__(self) -> None:
        super().__init__()
        self.data, self.a, self.a1, self.a1_2 = (nn.Conv2d(4, 4, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.a1_2(self.a1(self.a(self.a(self.data(x)))))


class Rows(nn.Module):
    """What OpenCV would merge into an InnerProduct over rows, and `fold_batchnorm` must not."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.bn, self.fc2, self.prelu = nn.Linear(12, 4), nn.BatchNorm2d(4), nn.Linear(4, 4), nn.PReLU(4, 0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.prelu(self.fc2(self.bn(self.fc1(x))))


class Turned(nn.Module):
    """Turned dimensions that only a matrix, or kernels, read: once as they are, once behind something."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.mixed = nn.Conv2d(4, 6, 3), nn.Conv2d(6, 5, (2, 3))
        self.last, self.first = nn.Linear(6 * 7 * 10, 5), nn.Linear(4 * 9 * 12, 5)
        self.rows = nn.Linear(10 * 6, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = self.conv(x).relu()
        shuffled = y.view(-1, 2, 3, 7, 10).transpose(1, 2).reshape(y.shape)
        return (
            self.first(x.permute(0, 3, 1, 2).flatten(1)) + self.last(y.permute(0, 2, 3, 1).flatten(1)),
            self.mixed(shuffled),
            self.rows(y.permute(0, 2, 3, 1).flatten(2)),
        )


class Made(nn.Module):
    """Outputs of matrices and kernels that are turned among themselves, once behind something; and pixels, too."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix, self.conv, self.up = (
            nn.Linear(12, 10),
            nn.Conv2d(4, 6, 3),
            nn.ConvTranspose2d(4, 12, 2, bias=False),
        )
        self.vector, self.pixels = nn.Linear(4 * 9 * 12, 24), nn.Conv2d(4, 6, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (
            self.matrix(x).unflatten(-1, (2, 5)).transpose(-1, -2).flatten(-2).sigmoid(),
            F.max_pool2d(self.conv(x).relu().unflatten(1, (2, 3)).transpose(1, 2).flatten(1, 2), 2),
            self.up(x).unflatten(1, (2, 2, 3)).permute(0, 3, 1, 2, 4, 5).flatten(1, 3).sigmoid(),
            self.vector(x.flatten(1)).view(-1, 4, 6).transpose(1, 2).reshape(-1, 3, 8).sigmoid(),
            self.pixels(x).transpose(1, 2).reshape(-1, 6, 9, 12).sigmoid(),
        )


class Flattened(nn.Module):
    """A blob that is given another shape and worked on there, and used as it was, too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(4, 4, 1), nn.BatchNorm1d(432)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = self.conv(x)
        return self.bn(y.flatten(1)), (1.5 * y).sigmoid()


class Constants(nn.Module):
    """Tensors that no state dict holds, one of them large and written to in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.number = nn.Conv2d(4, 4, 1), torch.tensor(2.5)
        grid = torch.zeros(160, 12, 9)
        grid[:, :] = torch.linspace(0, 1, 9)
        self.register_buffer("grid", grid[:4].transpose(1, 2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * self.number + self.grid


class Changed(nn.Module):
    """Its input is changed in place, and what one call of a module returns is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.weight = nn.Conv2d(4, 4, 1), nn.Parameter(torch.randn(12, 5))

    def forward(self, x: Tensor) -> Tensor:
        self.conv(x)
        x.mul_(2)
        return F.linear(self.conv(x), self.weight.T)


class Several(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 3, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.conv(x)
        return {"features": y.relu(), "pooled": y.mean((2, 3))}


class ClassToken(nn.Module):
    """As in vision transformers, but for attention: a token in front of those of the image, positions added to all."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.token, self.position = (
            nn.Conv2d(4, 6, 3, 3),
            nn.Parameter(torch.randn(1, 1, 6)),
            nn.Parameter(torch.randn(1, 13, 6)),
        )
        self.norm, self.up, self.down, self.head = nn.LayerNorm(6), nn.Linear(6, 8), nn.Linear(8, 6), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.token.expand(len(x), -1, -1), x), 1) + self.position
        x = x + self.down(F.gelu(self.up(self.norm(x)))) * x.sigmoid().mean(-1, keepdim=True)
        return self.head(F.rms_norm(x, (6,))[:, 0]).log_softmax(-1)


class SequenceFirst(nn.Module):
    """The batch is the second dimension, and what is in front of it and behind it is worked on."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.mix, self.out, self.scale = (
            nn.Conv1d(4, 6, 3),
            nn.Linear(6, 8),
            nn.Linear(8, 4),
            nn.Parameter(torch.randn(13, 1, 8)),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.mix(self.conv(x).permute(2, 0, 1)) * self.scale  # length, batch, channels
        first, last = torch.cat((x, self.scale.expand(-1, x.shape[1], -1)), 0).split((11, 15), 0)
        joined = first.softmax(0) + F.layer_norm(last[2:13], (8,)) + last.flip(0)[:11] + first.mean(0)
        return (
            self.out(joined).permute(1, 2, 0),
            x[0],
            x.amax((0, 2)),
            F.glu(x, 2).permute(1, 0, 2).log_softmax(1).sum(2),
        )


def conv(*arguments: object, **keywords: object) -> Callable[[], nn.Module]:
    return lambda: nn.Conv2d(4, 8, *arguments, **keywords)  # type: ignore[arg-type]


def transposed(*arguments: object, **keywords: object) -> Callable[[], nn.Module]:
    return lambda: nn.ConvTranspose2d(4, 6, *arguments, **keywords)  # type: ignore[arg-type]


def padded(pad: tuple[int, ...], *arguments: object, **keywords: object) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.ZeroPad2d(pad), nn.Conv2d(4, 8, *arguments, **keywords))  # type: ignore[arg-type]


def fn(function: Callable[..., Tensor]) -> Callable[[], nn.Module]:
    return lambda: Fn(function)


def module(made: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """A module without weights, or whose channels are IMAGE's."""
    return lambda: nn.Sequential(nn.Conv2d(4, 4, 1), made())


def _cut_channels(x: Tensor) -> Tensor:
    return torch.cat((x[:, 1:3], x[:, ::2], x.narrow(1, 0, 1), x.select(1, 3).unsqueeze(1)), 1)


def _written(x: Tensor) -> Tensor:
    """Parts written with activations, with numbers, and with constants: at the front, in the middle, every other."""
    y = x.clone()
    y[:, 0] = x[:, 1] * 2
    y[:, :, 2:4] = 0.5
    y[..., 1::3] = x[..., 4:8]
    y[:, :, 5, 3:6] = torch.linspace(-1, 1, 3)
    y[:, [1, 3]] = x[:, 2:].relu()
    y[..., -1] += 1
    y[x < -0.3] = 0.25
    return y


def _filled(x: Tensor) -> Tensor:
    """Written to constants: zeros around an image, between channels, and others."""
    framed, between = torch.zeros(1, 4, 13, 16), torch.empty_like(x)
    framed[:, :, 2:-2, 1:13] = x
    between[:, ::2], between[:, 1::2] = x[:, 2:], x[:, :2].tanh()
    ones, grid = x.new_ones(1, 6, 9, 12), torch.linspace(0, 1, 108).view(1, 1, 9, 12).repeat(1, 3, 1, 1)
    ones[:, 1:5], grid[:, 1] = between, x[:, 0]
    rows = torch.zeros_like(x)
    rows[:, :, ::2] = x[:, :, :5]
    return (
        framed[:, :, 3:-1, 3:-1].mean(1, True) + ones.mean(1, True) * grid.sum(1, True) + rows.fill_(2).copy_(x[:, :1])
    )


def _boxes(x: Tensor) -> Tensor:
    """As detectors decode what they find, places of a grid added in place."""
    rows, columns = torch.meshgrid(torch.arange(9), torch.arange(12), indexing="ij")
    y = x.view(-1, 1, 4, 9, 12).permute(0, 1, 3, 4, 2).sigmoid()
    y[..., 0:2] = (y[..., 0:2] * 2 - 0.5 + torch.stack((columns, rows), 2).type_as(x)) * 8
    y[..., 2:4] = (y[..., 2:4] * 2) ** 2 * torch.tensor([10.0, 13.0])
    return y.view(len(x), -1, 4)


def _cut_pixels(x: Tensor) -> Tensor:
    return torch.cat((x[:, :, 1:8:2, 2:], x[:, :, :4, :10] + x.unbind(1)[0][:, None, 4:8, 1:11]), 1)


PLACES = torch.randint(0, 12, (1, 4, 9, 5), generator=torch.Generator().manual_seed(1))
MODULES: dict[str, Callable[[], nn.Module]] = {
    # convolutions
    "conv": conv(3, padding=1),
    "conv strided": conv(3, stride=2, padding=1, groups=2, bias=False),
    "conv dilated": conv(3, dilation=2, padding=2),
    "conv rectangular": conv((3, 1), stride=(2, 1), padding=(1, 0), dilation=(1, 2)),
    "conv same": conv(4, padding="same"),
    "conv same dilated": conv((2, 3), padding="same", dilation=(3, 2)),
    "conv padded on one side": padded((0, 1, 0, 1), 3, stride=2),
    "conv padded unevenly": padded((3, 1, 0, 2), (3, 2), padding=(1, 0), dilation=(2, 1)),
    "conv padded, dilated, odd": padded((1, 0, 2, 1), 3, dilation=2),
    "pad alone": module(lambda: nn.ZeroPad2d((2, 0, 1, 3))),
    "pad, then pool": module(lambda: nn.Sequential(nn.ZeroPad2d((1, 0, 1, 0)), nn.MaxPool2d(2))),
    "pad channels": fn(lambda x: F.pad(x, (0, 0, 0, 0, 1, 2))),
    "pad by two, exactly": fn(lambda x: (F.pad(x, (0, 2, 0, 2)).square() + 1e-12).rsqrt()),
    "pad, channels last": fn(lambda x: F.pad(x.permute(0, 2, 3, 1), (0, 0, 0, 3, 2, 1)).relu()),
    "pad with a number": fn(lambda x: F.pad(x, (1, 0, 2, 1), value=-1.5) + F.pad(x, (1, 0, 2, 1), value=2).relu()),
    "pad by less than nothing": fn(
        lambda x: F.pad(x, (-1, 2, 0, -3)) * F.pad(F.pad(x, (-1, 0)), (2, 0, -3, 0, 0, 0), value=0.5)
    ),
    "pad sequences alone": fn(lambda x: F.conv_transpose1d(F.pad(x.flatten(2), (1, 2)), torch.ones(4, 2, 3)).relu()),
    "pad any dimension": fn(
        lambda x: (
            F.pad(x.view(1, 4, 3, 3, 12), (1, 0, 2, 1, 0, 1, 1, 0), value=0.5).sum(2)
            + F.pad(x.flatten(1), (200, 118)).view(1, 5, 10, 15)[:, :, :6, :13]
            + F.pad(x, (1, 0, 0, 2, 1, 0))[:, :, :6]
        )
    ),
    "pad circular": module(lambda: nn.CircularPad2d((2, 1, 0, 3))),
    "pad reflection of sequences": fn(lambda x: F.pad(x.flatten(1, 2), (3, 1), "reflect").square()),
    "pad replication of volumes": fn(
        lambda x: F.pad(x.unflatten(1, (2, 2)), (1, 2, 0, 0, 1, 0), "replicate").flatten(1, 2)
    ),
    "picked by rows and columns": fn(
        lambda x: x[:, :, torch.tensor([[5], [-1], [5]]), torch.tensor([0, 7, 2, 2])].exp() + x[:, :, :3, [4, 3, 2, 1]]
    ),
    "picked pixels": fn(lambda x: x.flatten(2)[:, [3, 1], [0, 5]].tanh() + x[:, 1:3, [2, 1], [-1, 4]].mean((1, 2))),
    "upper triangle": fn(lambda x: x[(..., *torch.triu_indices(6, 7, 1))].sigmoid()),
    "windows cut out": fn(lambda x: F.unfold(x, (3, 2), padding=1, stride=(1, 2)).softmax(1)),
    "windows along a dimension": fn(
        lambda x: x.unfold(3, 4, 3).tanh().mean(-1) * x.unfold(-3, 3, 1).sum((1, 4))[:, None, :, :3]
    ),
    "picked from a column": fn(lambda x: F.pad(x.mean(3, keepdim=True).flip(2), (0, 0, 2, 0), "circular")),
    "diagonals": fn(lambda x: x.diagonal(1, 2, 3) + x.diagonal(-2, 3, 2)[..., :1]),
    "sums of all before": fn(lambda x: x.cumsum(1) + x.cumsum(-1) * x.cumsum(2).tanh()),
    "resized sequences and volumes": fn(
        lambda x: (
            F.interpolate(x.flatten(2), 9).tanh()
            + F.interpolate(x.flatten(2), size=9, mode="nearest-exact")
            + F.interpolate(x.unflatten(1, (2, 2)), (3, 4, 5), mode="trilinear").flatten(1).mean()
            + F.interpolate(x.unflatten(1, (2, 2)), (3, 4, 5)).flatten(1).amax()
        )
    ),
    "sampled by a constant grid": fn(
        lambda x: F.grid_sample(x, torch.linspace(-1.2, 1.1, 30).view(1, 5, 3, 2), align_corners=False)
    ),
    "what torch makes of other operators": fn(
        lambda x: torch.cat(
            [
                torch.addcdiv(x, x.tanh(), x.abs() + 1, value=0.5),
                x.rot90(2, (2, 3)),
                x.tile(1, 2, 1, 1),
                F.cosine_similarity(x, x.flip(1)).unsqueeze(1),
                F.pairwise_distance(x, x.flip(1), keepdim=True)[..., :1].expand(-1, -1, -1, x.shape[3]),
            ],
            1,
        )
    ),
    "powers and logarithms": fn(
        lambda x: (
            2**x
            + 0.3**x
            + x.exp2()
            + torch.hypot(x, x.flip(1))
            - x.abs().log1p()
            - (x.abs() + 1).log2()
            - (x.abs() + 1).log10()
        )
    ),
    "limits that are tensors, one of them for each channel": fn(
        lambda x: (
            x.clamp(torch.linspace(-1, 0, 4).view(4, 1, 1), x.flip(1).abs()) + x.clamp(max=x.mean(1, keepdim=True))
        )
    ),
    "pad replication, less below": module(lambda: nn.ReplicationPad2d((2, 1, 3, -1))),
    "pad reflection": module(lambda: nn.ReflectionPad2d((2, 1, 3, 0))),
    "pad replication": module(lambda: nn.ReplicationPad2d((2, 1, 0, 3))),
    "transposed": transposed(3, stride=2, padding=1),
    "transposed, output padding": transposed(3, stride=2, padding=1, output_padding=1, groups=2),
    "transposed, dilated": transposed((2, 3), stride=(2, 3), dilation=2, output_padding=(0, 1), bias=False),
    "sequence": Sequence,
    "linear over the last dimension": fn(lambda x: F.linear(x, torch.ones(5, 12), torch.ones(5)).relu()),
    "product with a matrix": fn(lambda x: (x @ torch.ones(12, 5)).relu()),
    "head": Head,
    # normalization
    "batch norm first": lambda: nn.Sequential(nn.BatchNorm2d(4, eps=1e-3), nn.ReLU(), nn.Conv2d(4, 4, 1)),
    "batch norm, five dimensions": module(lambda: nn.Sequential(nn.Unflatten(1, (4, 1)), nn.BatchNorm3d(4))),
    "batch norm without affine": module(lambda: nn.BatchNorm2d(4, affine=False)),
    "batch norm of the batch": module(lambda: nn.BatchNorm2d(4, track_running_stats=False)),
    "instance norm": module(lambda: nn.InstanceNorm2d(4, affine=True)),
    "instance norm, tracked": module(lambda: nn.InstanceNorm2d(4, track_running_stats=True)),
    "group norm": module(lambda: nn.GroupNorm(2, 4)),
    "layer norm over images": module(lambda: nn.LayerNorm((4, 9, 12))),
    "layer norm over rows": module(lambda: nn.LayerNorm(12)),
    "l2 normalize": fn(lambda x: F.normalize(x, dim=1)),
    "local response norm": fn(lambda x: F.local_response_norm(x, 3, 1.5, 0.6, 2) + F.local_response_norm(x, 5)),
    "rms norm": module(lambda: nn.Sequential(nn.RMSNorm(12), nn.RMSNorm((4, 9, 12), elementwise_affine=False))),
    "rms norm, channels last": fn(lambda x: F.rms_norm(x.permute(0, 2, 3, 1), (4,)).permute(0, 3, 1, 2) + x),
    # pooling
    "max pool": module(lambda: nn.MaxPool2d(3, 2, 1)),
    "max pool, unpadded": module(lambda: nn.MaxPool2d(3, 2)),
    "max pool, up": module(lambda: nn.MaxPool2d(3, 2, ceil_mode=True)),
    "max pool, up, padded": module(lambda: nn.MaxPool2d(3, 2, 1, ceil_mode=True)),
    "max pool, rectangular": module(lambda: nn.MaxPool2d((2, 3), (2, 1), (0, 1))),
    "max pool, stride 1": module(lambda: nn.MaxPool2d(3, 1, 1)),
    "average pool": module(lambda: nn.AvgPool2d(3, 2, 1)),
    "average pool, up": module(lambda: nn.AvgPool2d(2, ceil_mode=True)),
    "average pool without padding": module(lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False)),
    "average pool of everything": module(lambda: nn.AvgPool2d((9, 12))),
    "average pool, larger than the image": fn(lambda x: F.avg_pool2d(x[:, :, :2, :2], 3, 3, (1, 1), ceil_mode=True)),
    "adaptive average": module(lambda: nn.AdaptiveAvgPool2d((3, 4))),
    "adaptive average, uneven": module(lambda: nn.AdaptiveAvgPool2d((4, 5))),
    "adaptive average, larger": module(lambda: nn.AdaptiveAvgPool2d((9, 14))),
    "adaptive average of a sequence": lambda: nn.Sequential(nn.Conv1d(4, 4, 3), nn.AdaptiveAvgPool1d(4)),
    "max pool, indices unused": fn(lambda x: F.max_pool2d(x, 2, return_indices=True)[0]),
    "average pool, another divisor": fn(lambda x: F.avg_pool2d(x, (2, 3), 2, 1, divisor_override=5)),
    "pooled sequences": fn(
        lambda x: (
            F.max_pool1d(x.flatten(2), 3, 2, 1) + F.avg_pool1d(x.flatten(2), 3, 2, 1) * F.max_pool1d(x.flatten(2), 2)
        )
    ),
    "adaptive max": module(lambda: nn.AdaptiveMaxPool2d(1)),
    "adaptive max, uneven": fn(
        lambda x: (
            F.adaptive_max_pool2d(x, (4, 7)).relu(),
            F.adaptive_max_pool2d(x, (3, 12)).relu(),
            F.adaptive_max_pool1d(x.flatten(2), 7).relu(),
        )
    ),
    "max pool, dilated": fn(
        lambda x: (
            F.max_pool2d(x, 3, 1, 1, dilation=2).relu(),
            F.max_pool2d(x, (3, 2), 2, (1, 0), dilation=(2, 3), ceil_mode=True).relu(),
            F.max_pool1d(x.flatten(2), 3, 2, 1, dilation=2, return_indices=True)[0].relu(),
        )
    ),
    "pools with gaps, up": fn(
        lambda x: (
            F.max_pool2d(x, (2, 3), (4, 5), (1, 0), ceil_mode=True).relu(),
            F.avg_pool2d(x, 2, (4, 5), 1, ceil_mode=True).relu(),
            F.avg_pool2d(x, 2, 3, 1, ceil_mode=True, count_include_pad=False).relu(),
            F.avg_pool2d(x, (2, 3), 2, 1, ceil_mode=True, divisor_override=5).relu(),
            F.avg_pool1d(x.flatten(2), 4, 3, 1, ceil_mode=True, count_include_pad=False).relu(),
        )
    ),
    "pools of padding": fn(lambda x: (F.max_pool2d(x, (4, 2), (3, 1), (2, 1)), F.avg_pool2d(x, (2, 3), (1, 2), 1))),
    "lp pool": fn(
        lambda x: (
            F.lp_pool2d(x, 2, 3, 2).relu(),
            F.lp_pool2d(x.abs() + 0.1, 3, (2, 3), ceil_mode=True).relu(),
            F.lp_pool1d(x.flatten(2), 1.0, 2).relu(),
        )
    ),
    "pools of one image": fn(
        lambda x: (
            F.max_pool2d(x[0], 3, 2, 1) * F.adaptive_avg_pool2d(x[0], (5, 6))
            + F.conv2d(x[0], x.new_ones(4, 4, 1, 1))[:, ::2, ::2]
        )
    ),
    "volumes": lambda: nn.Sequential(
        *(nn.Conv3d(2, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.MaxPool3d((1, 2, 2))),
        *(nn.Conv3d(4, 6, (3, 2, 3), (2, 1, 2), (2, 0, 1), groups=2), nn.ReLU(), nn.Conv3d(6, 4, (3, 1, 1))),
        *(nn.Conv3d(4, 4, (1, 2, 3), padding="same", dilation=(1, 2, 1)), nn.ELU(), nn.Flatten(), nn.Linear(48, 5)),
    ),
    "volumes, each channel": lambda: nn.Sequential(
        *(
            nn.Conv3d(2, 6, 3, 1, 1, groups=2),
            nn.Conv3d(6, 6, (3, 1, 3), (1, 2, 1), (2, 0, 1), 2, groups=6, bias=False),
        ),
        *(nn.BatchNorm3d(6), nn.Hardtanh(), nn.Conv3d(6, 2, 1)),
    ),
    "volumes, transposed": lambda: nn.Sequential(
        *(nn.ConvTranspose3d(2, 4, 2, 2), nn.BatchNorm3d(4), nn.ReLU(), nn.Conv3d(4, 4, 2, 2)),
        *(nn.ConvTranspose3d(4, 6, (3, 4, 3), (1, 2, 2), (1, 1, 0), (0, 1, 1), 2, dilation=(2, 1, 1)), nn.PReLU()),
        *(nn.ConvTranspose3d(6, 3, (2, 1, 3), (3, 2, 1), (1, 0, 2), bias=False), nn.Sigmoid()),
        *(nn.ConvTranspose3d(3, 2, 1, padding=1), nn.Tanh()),
    ),
    "volumes, transposed, batch of two": lambda: nn.ConvTranspose3d(2, 2, 3, 2, 1),
    "volumes, batch of two": lambda: nn.Sequential(nn.Conv3d(2, 3, (2, 3, 1), (1, 2, 1)), nn.AdaptiveAvgPool3d(1)),
    "pooled volumes": fn(
        lambda x: (
            F.max_pool3d(x, (1, 3, 3), (2, 1, 2)).relu(),
            F.max_pool3d(x[:, None], 3, 2, 1).relu(),
            F.avg_pool3d(x[:, None], (2, 3, 3), (1, 2, 2), 1, count_include_pad=False).relu(),
            F.adaptive_avg_pool3d(x[:, None], (2, 1, 1)).relu(),
            F.adaptive_max_pool3d(x[:, None], 1).relu(),
            F.adaptive_avg_pool3d(x[:, None], (3, 4, 5)).relu(),
        )
    ),
    "means": fn(lambda x: x.mean((2, 3), keepdim=True) + x.mean(1, keepdim=True) + x.amax(1, keepdim=True)),
    "sums": fn(lambda x: x.sum(1) * 0.1 + x.sum((1, 2), keepdim=True).flatten(1)[:, None]),
    "reductions of dimensions apart": fn(
        lambda x: (
            x.mean((1, 3), keepdim=True)
            + x.sum((1, 3))[:, None, :, None] * x.amax((1, -1), keepdim=True)
            - x.var((1, 3), keepdim=True)
            + x.view(-1, 2, 2, 9, 12).mean((1, 3)).unsqueeze(2)
        )
    ),
    "smallest and largest": fn(
        lambda x: (
            x.amin((2, 3), keepdim=True) * x.max(1, keepdim=True)[0]
            + x.min(2)[0].unsqueeze(2)
            - x.max() * x.min()
            + torch.stack(torch.aminmax(x, dim=3), 3).amin(3, keepdim=True)
        )
    ),
    "places": fn(
        lambda x: (
            *(x.argmax(1), x.relu().argmax(2, keepdim=True), x.argmin(-1), x.argmax(), x.relu().flatten(2).argmin(2)),
            *(*x.flatten(2).max(2), *x.min(1, keepdim=True), x.topk(1, 1)[1], x.max(3)[1].float().mean(1)),
            F.one_hot(x.argmax(1), 4).permute(0, 3, 1, 2) * x,
        )
    ),
    "maxout": fn(lambda x: x.view(-1, 2, 2, 9, 12).max(2)[0].relu()),
    "products": fn(
        lambda x: (
            x.prod(1, keepdim=True) * x.sigmoid() + x.add(1).prod(2)[:, :, None],
            (x.abs() * 0.2 + 0.9).prod(),
            (x > -1).prod(3),
        )
    ),
    "norms": fn(
        lambda x: (
            x / x.norm(float("inf"), 1, keepdim=True)
            + x.norm(3, (2, 3), keepdim=True) * x.norm(1, (1, 3), keepdim=True)
            + torch.linalg.matrix_norm(x, keepdim=True) * torch.linalg.vector_norm(x, -float("inf"), 2, keepdim=True)
        )
    ),
    "logarithms of sums": fn(
        lambda x: (
            (40 * x).logsumexp(1, keepdim=True)
            + x.logsumexp((2, 3)).unsqueeze(-1)[..., None] * x.logsumexp((1, 3), True)
        )
    ),
    "a mean of rows": fn(lambda x: x.mean(3).relu()),
    "variances": fn(lambda x: x.var((2, 3), keepdim=True) * x + x.std(3).std() + x.var(unbiased=False)),
    "variances with means": fn(lambda x: sum(torch.var_mean(x, 1, keepdim=True)) * torch.std_mean(x, correction=0)[0]),
    # functions of elements
    "relu6": module(nn.ReLU6),
    "hardtanh": module(lambda: nn.Hardtanh(-0.3, 0.4)),
    "clamp": fn(lambda x: x.clamp(min=-0.2) + x.clamp(max=0.1)),
    "clamp far away": fn(lambda x: x.clamp(-1e4, 1e4) + x.clamp(min=-1e4) + x.clamp(max=1e4) + x.clamp(1, -1)),
    "leaky relu": module(lambda: nn.LeakyReLU(0.2)),
    "prelu": module(lambda: nn.PReLU(4, 0.3)),
    "prelu, one for all": module(lambda: nn.PReLU(1, 0.3)),
    "prelu, five dimensions": fn(lambda x: F.prelu(x.unsqueeze(-1), torch.tensor([0.1, 0.2, 0.3, 0.4]))),
    "elu": module(lambda: nn.ELU(0.7)),
    "selu": module(nn.SELU),
    "celu": module(lambda: nn.CELU(0.5)),
    "sigmoid and tanh": fn(lambda x: x.sigmoid() + x.tanh() + F.logsigmoid(x)),
    "softplus": fn(lambda x: F.softplus(x) + F.softplus(x, 2)),
    "silu": module(nn.SiLU),
    "glu": fn(lambda x: F.glu(x, 1) + F.glu(x[:, :2]).sum()),
    "mish": module(nn.Mish),
    "erf": fn(lambda x: (x.erf(), (x * 0.1).erf(), x * 0.5 * (1 + torch.erf(x / 2**0.5)))),
    "hyperbolic": fn(lambda x: ((x * 0.1).sinh(), x.sinh() - x.cosh() * 0.5)),
    "gelu": module(nn.GELU),
    "gelu, tanh": module(lambda: nn.GELU("tanh")),
    "hardswish": module(nn.Hardswish),
    "hardsigmoid": module(nn.Hardsigmoid),
    "softmax": fn(lambda x: x.softmax(1) + x.softmax(-1)),
    "log softmax": fn(lambda x: (40 * x).log_softmax(1)),
    "dropout": module(lambda: nn.Dropout(0.5)),
    # arithmetic
    "arithmetic": fn(lambda x: (2 - x) / 3 + x * x - x.abs() * (1 / (x.square() + 1)) + (-x).exp() * 0.01),
    "powers": fn(lambda x: (x.abs() + 0.1).sqrt() + (x.abs() + 0.1).log() + (x.abs() + 1).rsqrt() + x**3),
    "powers, scaled": fn(lambda x: (x.abs() + 0.1).sqrt() * 2 + 3 + 2 * x**3 + (x.abs() + 1).reciprocal().mul(4)),
    "roots, scaled": fn(lambda x: 1 / x.abs().add(1).sigmoid() * 2 + 0.5 + x.sigmoid().sqrt() * 3),
    "quotient": fn(lambda x: x / (x.abs() + 1) + 1 / (x.square() + 1)),
    "extremes": fn(lambda x: torch.maximum(x, -x) + torch.minimum(x, 2 * x)),
    "alpha": fn(lambda x: torch.add(x, x.sigmoid(), alpha=0.5) * torch.sub(x, x.tanh(), alpha=2)),
    "parameters": Parameters,
    "repeated": fn(lambda x: x + x.mean((2, 3), keepdim=True) - x.mean(1, keepdim=True) * x.amax((2, 3), keepdim=True)),
    "rows and columns repeated": fn(lambda x: x * x.mean(2, keepdim=True) + x.amax(3, keepdim=True)),
    "any dimensions repeated": fn(
        lambda x: (
            *(
                (x[:, :, None] + x[:, None, :2]).relu(),
                x.view(-1, 2, 2, 9, 12) * x.view(-1, 2, 2, 9, 12).mean((1, 3), True),
            ),
            *(x.amax(2, True)[:, :, None].expand(-1, -1, 3, 9, 12).relu(), x[:, :, :1, :1].expand(3, 4, 2, 2).relu()),
        )
    ),
    "rows beside columns": fn(
        lambda x: (
            x * x.mean(3, True).sigmoid() * x.mean(2, True).sigmoid() + x.mean(1, True) / (1 + x.amax(2, True).abs()),
            torch.maximum(x.mean(3, True), x.mean(2, True)) * torch.linspace(-1, 1, 9)[:, None] - torch.ones(4, 1, 12),
        )
    ),
    "outer": fn(lambda x: x.mean((2, 3), keepdim=True) * x.mean(1, keepdim=True)),
    "expand": fn(lambda x: torch.cat((x, x.mean((2, 3), keepdim=True).expand_as(x)), 1)),
    "distances": fn(
        lambda x: (
            F.cosine_similarity(x, x.flip(1), dim=1)[:, None] * F.pairwise_distance(x, x.relu(), keepdim=True)
            + x.diff(dim=3).sum(3, keepdim=True) * x.diff(2, 1).mean(1, True)
            + x.norm(0, 1, keepdim=True)
        )
    ),
    "all distances": fn(
        lambda x: (
            *(torch.cdist(x, x.flip(1), p) for p in (1.0, 2.0, float("inf"))),
            torch.cdist(x.flatten(2).mT, torch.linspace(-1, 1, 12).view(1, 3, 4)),
        )
    ),
    "forms of two vectors": fn(
        lambda x: F.bilinear(x.mean(3), x.amax(3), torch.linspace(-1, 1, 405).view(5, 9, 9), torch.arange(5.0))
    ),
    "einsum of one": fn(
        lambda x: (
            torch.einsum("nchw,cdk->ndhw", x, torch.ones(4, 3, 2)),
            *(torch.einsum("ncii->nci", x[..., :9]), torch.einsum("ncii->nc", x[..., :9])),
        )
    ),
    "limits that are tensors": fn(
        lambda x: x.clamp(torch.linspace(-1, 0, 12), torch.linspace(0, 1, 12)) + x.clamp(min=x.mean(1, keepdim=True))
    ),
    "powers of numbers": fn(lambda x: 2**x + 0.5**x * x.exp2() - (x.abs() + 1).log2() * (x.abs() + 1).log10()),
    "combined": fn(
        lambda x: torch.hstack(
            (torch.addcmul(x, x, x.relu(), value=0.5), torch.addcdiv(x, x, x.abs() + 1), x.narrow_copy(1, 1, 2))
        )
    ),
    # comparisons, and what they choose
    "comparisons": fn(
        lambda x: (
            (x > 0.1) * x
            + (x >= 0.1).float() * 2
            + (x < 0.3).to(x.dtype) * (x <= -0.2) * 3
            - (x.relu() == 0).type_as(x)
            + (x.relu() != 0) * x.clamp(max=0.5).eq(0.5)
        )
    ),
    "comparisons of two": fn(
        lambda x: (
            (x > x.flip(1)) * x
            + (x >= torch.linspace(-1, 1, 12)) * 2.0
            + (x.mean(1, True) < x) * (x <= x.amax(1, True))
            + (x == x.amax(2, keepdim=True)).float()
            + (torch.ones(4, 1, 1) > x).float() * (x >= 0.5)
        )
    ),
    "peaks": fn(lambda x: x * (F.max_pool2d(x, 3, 1, 1) == x).float() + (x == F.max_pool2d(x, 5, 1, 2))),
    "peaks, chosen": fn(lambda x: torch.where((x == F.max_pool2d(x, 3, 1, 1)) & (x > 0.1), x, torch.zeros_like(x))),
    "truth values": fn(lambda x: (((x > 0) & (x < 1)) | ~(x > -1) | ((x > 0.2) ^ (x < 0.4))) != (x.bool() + (x < 0))),
    "logical": fn(
        lambda x: (
            torch.logical_and(x > 0, x) * x
            + torch.logical_or(x.relu(), x < -1).float() * 2
            + torch.logical_not(x.relu()) * torch.logical_xor(x > 0.5, torch.tensor([[True] * 6 + [False] * 6]))
        )
    ),
    "any and all": fn(lambda x: (x > 1).any(1, keepdim=True).float() + (x > -1).all(2, True) * x - 2 * (x > 3).any()),
    "counts": fn(lambda x: ((x > 0).sum(1) == 3).float() + (x > 0).int().sum((2, 3)).long().float().sum()),
    "chosen": fn(
        lambda x: (
            torch.where(x > 0, x, x * 0.1)
            + torch.where(x > 0.2, 1.5, -0.3) * x
            + torch.where(x < 0, 0.25, x.tanh())
            + torch.where(torch.arange(12) > 5, x, torch.ones(9, 12))
            + torch.where(x > 0.5, torch.linspace(0, 1, 12), 0.0)
        )
    ),
    "masks that are computed": fn(
        lambda x: (
            x.masked_fill(x < 0.1, -5.0)
            + x.masked_fill(x[:, :1] > 0, 0.0) * x.masked_fill(x > 0.3, torch.tensor(2.0))
            + x.masked_fill(x < x.mean(1, keepdim=True) - 0.1, -float("inf")).softmax(1)
        )
    ),
    "no number where it is not chosen": fn(
        lambda x: (
            torch.where(x > 0, x.log(), x * 0.1)
            + torch.where(x.relu() > 0, 0.1 / (x.relu() + x.relu()), 0.0).clamp(max=2.0)
            + torch.where(x > 0, x, (500 * x).exp() - 1).masked_fill(x <= 0.3, 0.2)
            + torch.where(x.mT > 0, x.mT, x.mT.exp().log2()).mT
        )
    ),
    "infinite but where it is written": fn(written_into_infinity),
    "infinite where it is not chosen": fn(lambda x: torch.where(x > 0, x, float("inf")).amin(1) + x.mean(1)),
    "thresholds": fn(
        lambda x: F.threshold(x, 0.1, 20) * F.threshold(x, -0.1, 0) + F.hardshrink(x) + F.softshrink(x, 0.2)
    ),
    "signs": fn(
        lambda x: (
            x.sign() * x.abs().sqrt()
            + x.relu().heaviside(torch.tensor(0.3))
            + torch.fmin(x, x.fmax(x.flip(1)))
            + (x.relu() - 0.5).relu().sign()
        )
    ),
    "a mask as it is": fn(lambda x: x > 0.1),
    "written": fn(_written),
    "written to constants": fn(_filled),
    "boxes": fn(_boxes),
    "written by index": fn(
        lambda x: (
            x.index_copy(1, torch.tensor([2, 0]), x[:, :2].relu())
            + x.index_fill(2, torch.tensor([1, 8]), 0.5)
            + torch.ops.aten.index_put(x, (None, torch.tensor([1, 2])), x[:, 3:])
        )
    ),
    "constants of an activation's type": fn(
        lambda x: x * torch.arange(12).type_as(x) + torch.arange(9, dtype=x.dtype)[:, None] + x.new_tensor(2).to(x)
    ),
    # shapes
    "shuffle": Shuffle,
    "channel shuffle": fn(lambda x: F.channel_shuffle(torch.cat((x, x.relu()), 1), 2)),
    "pixel shuffle": fn(lambda x: F.pixel_shuffle(torch.cat((x, x.relu()), 1), 2)),
    "pixel unshuffle": fn(lambda x: F.pixel_unshuffle(x[:, :, :8], 2)),
    "channels cut": fn(_cut_channels),
    "pixels cut": fn(_cut_pixels),
    "split": fn(lambda x: torch.cat([part.relu() if n % 2 else part for n, part in enumerate(x.split(3, 2))], 1)),
    "flip": fn(lambda x: x.flip(1) + x.flip((2, 3)).relu() + x.flatten(2).flip(-1).view_as(x)),
    "roll": fn(lambda x: x.roll((1, -2), (2, 3)) + x.roll(-1, 1).relu()),
    "repeat": fn(lambda x: x.repeat(1, 2, 1, 3).relu() + x.repeat(1, 2, 1, 3)),
    "index": fn(lambda x: x[:, [2, 0, 1, 3, 3]] * x.index_select(1, torch.tensor([0, 1, 2, 3, 0])) + x[:, -1:]),
    "index of a column": fn(
        lambda x: x.mean(3, keepdim=True)[:, :, [3, 0]] + x.mean((2, 3), keepdim=True)[:, [3, 0, 1]][:, :1]
    ),
    "index of pixels": fn(lambda x: x[:, :, :, [0, 3, 6, -1]].relu()),
    "indices apart": fn(lambda x: x[:, [0, 1, 3], :, [2, 3, 0]].relu()),
    "rolled over": fn(lambda x: x.roll(5) * x),
    "taken by constants": fn(
        lambda x: (
            x.gather(1, PLACES[:, :1].expand(-1, 3, -1, -1) % 4).relu(),
            *(x.gather(3, PLACES).relu(), x.gather(2, PLACES[:, :2, :5, :1] % 9).relu()),
            torch.take_along_dim(x, torch.tensor([2, 0, 1])[None, :, None, None], 1).relu(),
            torch.take_along_dim(x, torch.tensor([7, 0, 30])).relu(),
        )
    ),
    "taken by what is computed": fn(
        lambda x: (
            x.gather(1, x.flip(1).argmax(1, keepdim=True)),
            torch.take_along_dim(x, torch.stack((x.argmax(3), x.argmin(3)), 3), 3),
            F.embedding(x.argmax(1), torch.linspace(-1, 1, 12).view(4, 3)),
        )
    ),
    "added by index": fn(
        lambda x: (
            x.index_add(2, torch.tensor([0, 2, 2]), x[:, :, :3], alpha=2),
            torch.ops.aten.index_put(x, (None, torch.tensor([1, 1, 0])), x[:, 1:].relu(), True),
        )
    ),
    "folded": fn(
        lambda x: (
            F.fold(F.unfold(x, 3, padding=1), (9, 12), 3, padding=1),
            F.fold(F.unfold(x, (3, 2), (1, 2), 1, (2, 3)), (9, 12), (3, 2), (1, 2), 1, (2, 3)),
        )
    ),
    "of six dimensions, and of one": fn(
        lambda x: (
            x.view(1, 2, 2, 3, 3, 12) * x.view(1, 2, 2, 3, 3, 12).relu() + x.flip(1).view(1, 2, 2, 3, 3, 12),
            torch.maximum(x.mean((1, 2, 3)), x.amax((1, 2, 3)) - 1),
        )
    ),
    "blocks": fn(lambda x: torch.block_diag(x[0, 0], x[0, 1, :3])),
    "stack": fn(lambda x: torch.stack((x, x.relu()), 2).flatten(1, 2)),
    "reshape": fn(lambda x: x.reshape(x.shape[0], 2, -1).softmax(2).view(x.shape)),
    "squeeze": fn(lambda x: x.mean(3, keepdim=True).squeeze(-1).unsqueeze(2).relu()),
    "nearest": fn(lambda x: F.interpolate(x, scale_factor=2)),
    "nearest, uneven": fn(lambda x: F.interpolate(x, size=(13, 7))),
    "nearest, by a factor": fn(lambda x: F.interpolate(x, scale_factor=3.05)),
    "bilinear": fn(lambda x: F.interpolate(x, scale_factor=2, mode="bilinear")),
    "bilinear, aligned": fn(lambda x: F.interpolate(x, size=(20, 25), mode="bilinear", align_corners=True)),
    "nearest, exact": fn(lambda x: F.interpolate(x, size=(13, 7), mode="nearest-exact")),
    "linear": fn(lambda x: F.interpolate(x.flatten(2), scale_factor=0.3, mode="linear")),
    "bicubic": fn(lambda x: F.interpolate(x, size=(13, 7), mode="bicubic")),
    "bicubic, aligned": fn(lambda x: F.interpolate(x, scale_factor=1.7, mode="bicubic", align_corners=True)),
    "places that vary together": fn(
        lambda x: (
            x[
                :, torch.tensor([0, 3, 1]).view(3, 1, 1), torch.tensor([[0, 2], [5, 2]]), torch.tensor([[1, 0], [1, 1]])
            ].sum()
            + x[:, torch.tensor([[1, 1], [1, 1]]), torch.tensor([[0, 2], [0, 2]])].mean((1, 2))
            + F.grid_sample(x, torch.linspace(-1.2, 1.2, 2 * 5 * 12).view(1, 5, 12, 2), align_corners=False).sum((1, 2))
        )
    ),
    "factors that leave the size": fn(
        lambda x: (
            F.interpolate(x[:, :, :5, :5], scale_factor=1.1, mode="bilinear", antialias=True)
            + F.interpolate(x[:, :, None, :5, :5].repeat(1, 1, 3, 1, 1), scale_factor=1.1, mode="trilinear").sum(2)
            + F.interpolate(
                x.view(1, 4, 3, 3, 12), scale_factor=(2, 1.5, 0.5), mode="trilinear", align_corners=True
            ).mean()
        )
    ),
    "bilinear, antialiased": fn(lambda x: F.interpolate(x, size=(4, 15), mode="bilinear", antialias=True)),
    "bicubic, antialiased": fn(lambda x: F.interpolate(x, scale_factor=0.6, mode="bicubic", antialias=True)),
    "bilinear, smaller": fn(lambda x: F.interpolate(x, size=(5, 7), mode="bilinear")),
    # whole structures
    "behind groups": BehindGroups,
    "behind sums": BehindSums,
    "small images": SmallImages,
    "residual": Residual,
    "squeeze and excitation": SqueezeExcitation,
    "convnext": ConvNeXtBlock,
    "in place": Inplace,
    "several outputs": Several,
    "names that are taken": Named,
    "turned": fn(
        lambda x: x.transpose(2, 3).flatten(2).softmax(2).view(x.shape) * x.permute(0, 2, 1, 3).reshape(x.shape).relu()
    ),
    "turned before a matrix and kernels": Turned,
    "turned behind matrices and kernels": Made,
    "rows": Rows,
    "flattened": Flattened,
    "constants": Constants,
    "input changed": Changed,
    "class token": ClassToken,
    "class token, batch of two": ClassToken,
    "sequence first": SequenceFirst,
    "sequence first, batch of two": SequenceFirst,
    "constants beside activations": fn(
        lambda x: torch.maximum(torch.stack((x, torch.ones(1, 4, 9, 12)), 1).flatten(1, 2), torch.linspace(-1, 1, 12))
    ),
    "constants of more dimensions": fn(
        lambda x: (
            x.mean((2, 3)) * torch.full((1, 1, 1, 1), 2.0)
            + torch.full((1, 1, 1), 3.0)
            + (x.mean((2, 3)) > torch.full((1, 1, 1), 0.1))
            * x.mean((2, 3)).maximum(torch.arange(4).view(1, 1, 4) - 1.5)
            + F.prelu(x.mean((1, 2, 3)), torch.tensor([0.2]))
        )
    ),
    "constants beside means, batch of two": fn(
        lambda x: torch.cat([x.mean().view(1), x.amax((0, 2, 3)), torch.linspace(-1, 1, 3)])
    ),
    "limits that cross": fn(lambda x: torch.clamp(x, torch.tensor(0.5), torch.linspace(-1, 1, 12))),
    "nothing joined, nothing written": fn(
        lambda x: torch.cat([x.new_zeros(1, 0, 9, 12), x, torch.zeros(0)], 1).slice_scatter(
            torch.zeros(1, 0, 9, 12), 1, 2, 2
        )
    ),
    "called alike": fn(lambda x: F.interpolate(x, (67, 67)).var((2, 3), correction=0)),
    "without a batch": fn(
        lambda x: F.linear(x[0].softmax(0) + x.mean((0, 2, 3))[:, None, None], torch.ones(5, 12)) * x[0].amax(0)[:, :1]
    ),
    "a number": fn(lambda x: x.mean()),
}
SHAPES = {
    "constants beside means, batch of two": (2, 4, 3, 3),
    "pad by two, exactly": (1, 4, 14, 14),
    "sequence": (1, 4, 15),
    "volumes": (1, 2, 5, 8, 9),
    "volumes, batch of two": (2, 2, 5, 8, 9),
    "volumes, each channel": (1, 2, 5, 8, 9),
    "volumes, transposed": (1, 2, 3, 4, 5),
    "volumes, transposed, batch of two": (2, 2, 3, 4, 5),
    "adaptive average of a sequence": (1, 4, 15),
    "class token, batch of two": (2, 4, 9, 12),
    "sequence first": (1, 4, 15),
    "sequence first, batch of two": (2, 4, 15),
    "shuffle": (1, 6, 5, 7),
    "pixel unshuffle": (1, 4, 10, 12),
}


def shape(name: str) -> tuple[int, ...]:
    return PRODUCTS[name][1] if name in PRODUCTS else SHAPES.get(name, IMAGE)


def build(name: str) -> nn.Module:
    return PRODUCTS[name][0]() if name in PRODUCTS else MODULES[name]()


def seeded(name: str) -> nn.Module:
    """The module with weights that are neither tiny nor all alike, statistics of BatchNorm included."""
    torch.manual_seed(prod(map(ord, name)) % 2**31)
    made = build(name).eval()
    for key, value in made.state_dict().items():
        if key.endswith("running_mean"):
            value.normal_(0, 0.3)
        elif key.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif value.is_floating_point() and value.ndim == 1:
            value.normal_(0.5, 0.3)
    return made
