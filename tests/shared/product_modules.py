"""Small modules that multiply activations by activations, and a small vision transformer. See `traced_modules.build`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

Shape = tuple[int, ...]


class Attention(nn.Module):
    """Self-attention over tokens, queries, keys and values from one linear layer, cut up in one of the usual ways."""

    def __init__(self, width: int, heads: int, how: str = "unbind", **options: object) -> None:
        super().__init__()
        self.heads, self.how, self.options = heads, how, options
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, count, width = x.shape
        heads, qkv = self.heads, self.qkv(x)
        if self.how in ("unbind", "select"):
            turned = qkv.view(batch, count, 3, heads, -1).permute(2, 0, 3, 1, 4)
            q, k, v = turned.unbind(0) if self.how == "unbind" else (turned[0], turned[1], turned[2])
        else:
            parts = qkv.split(width, 2) if self.how == "split" else qkv.chunk(3, -1)
            q, k, v = (part.view(batch, count, heads, -1).transpose(1, 2) for part in parts)
        if self.how == "chunk":  # by hand
            shares = (q @ k.transpose(-2, -1) * (width // heads) ** -0.5).softmax(-1)
            made = shares @ v
        else:
            made = F.scaled_dot_product_attention(q, k, v, **self.options)  # type: ignore[arg-type]
        return self.out(made.transpose(1, 2).reshape(batch, count, width))


class Wide(nn.Module):
    """Matrices of as many weights, and for as many pixels and tokens, that OpenCV had better multiply by MatMul."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.attention = nn.Conv2d(256, 256, 1), Attention(256, 8)
        self.bare = nn.Linear(256, 264, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.conv(x).flatten(2).transpose(1, 2)
        return self.attention(tokens), self.bare(x.view(1, 128, 256))


class Masked(nn.Module):
    """Masks of every shape: added and boolean, for all heads and for each, from a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.bias = nn.Parameter(torch.randn(2, 6, 6))
        self.register_buffer("hidden", torch.rand(6, 6).fill_diagonal_(1) > 0.5)
        infinite = torch.zeros(1, 1, 6, 6)
        infinite[..., 4:] = -torch.inf
        self.register_buffer("padding", infinite)

    def forward(self, x: Tensor) -> Tensor:
        q = self.linear(x).view(len(x), 6, 2, 4).transpose(1, 2)
        masks = (self.bias, self.hidden, self.padding)
        made = [F.scaled_dot_product_attention(q, q.tanh(), q, attn_mask=mask, scale=0.75) for mask in masks]
        return torch.cat(made, -1)


class Ending(nn.Module):
    """Scores whose scale is the last thing that is done to them: outputs, one of which is multiplied further."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scores = x @ self.fc(x).mT / 3
        return scores, scores @ x, self.fc(x) @ x.mT * 0.25


class Alike(nn.Module):
    """A factor that is repeated: what repeats it is called as a part of the product is."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        return x[:, :1] @ x.mT


class Hiding(nn.Module):
    """Masks of truth values that are computed; one hides all keys."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        masks = (x.mean(2) > 0, x[..., :6] > x[..., 2:], x.amax(2) > 9)
        shapes = ((len(x), 1, 6), (len(x), 6, 6), (len(x), 1, 6))
        made = [F.scaled_dot_product_attention(x, x, x, mask.view(s)) for mask, s in zip(masks, shapes, strict=True)]
        return torch.cat(made, -1)


class ByHand(nn.Module):
    """A causal mask that scores are filled by, and one that is made of the image's own zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(8, 8)
        self.register_buffer("mask", torch.ones(1, 1, 9, 9).tril())

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        q = self.q(x).view(len(x), 6, 2, 4).transpose(1, 2)
        scores = q @ q.mT.tanh()
        causal = scores.masked_fill(self.mask[:, :, :6, :6] == 0, -torch.inf).softmax(-1)
        regions = x.new_zeros(6)
        regions[4:] = 1
        apart = regions[:, None] - regions
        parted = scores + apart.masked_fill(apart != 0, -100.0)
        shifted = torch.zeros_like(scores) + torch.full_like(scores, 0.5) * torch.ones_like(scores) + scores
        return causal @ q, parted.softmax(-1) @ q, shifted + scores.new_full((6,), 2), scores.new_ones((6, 6)) @ q


class Grouped(nn.Module):
    """Four heads of queries, two of keys and values; other tokens give the keys."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv = nn.Linear(8, 16), nn.Linear(8, 16)

    def forward(self, x: Tensor) -> Tensor:
        first, second = x[:, :4], x[:, 4:]
        q = self.q(first).view(len(x), 4, 4, 4).transpose(1, 2)
        k, v = self.kv(second).view(len(x), -1, 2, 2, 4).permute(2, 0, 3, 1, 4)
        made = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return made.transpose(1, 2).flatten(2)


class MultiHead(nn.Module):
    def __init__(self, needs_weights: bool, **options: object) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, **options)  # type: ignore[arg-type]
        self.needs_weights = needs_weights

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        made, weights = self.attention(x, x * 0.5, x.tanh(), need_weights=self.needs_weights)
        return (made, weights) if self.needs_weights else (made,)


class Encoder(nn.Module):
    """torch's own transformer layer, with a causal mask."""

    def __init__(self, **options: object) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, **options)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.layer(x, src_mask=nn.Transformer.generate_square_subsequent_mask(6))
        return made


class Steps(nn.Module):
    """Steps of several sequences, beside what there is once for all steps, and shares of them: an old way of attention."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(4, 6), nn.Linear(4, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        query, keys = self.query(x[-1:]), self.key(x)
        shares = (query * keys).sum(-1, keepdim=True).softmax(0)
        return (
            (shares * keys).sum(0),
            torch.cat((keys, query.repeat(5, 1, 1)), 2).tanh(),
            torch.maximum(keys - keys.mean(0, keepdim=True), query.expand(5, -1, -1)),
            torch.bmm(keys.transpose(0, 1), query.permute(1, 2, 0)),
        )


class Matrices(nn.Module):
    """Products of activations of ranks 2 to 4, of each in all ways to hold its factors."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.matrix, self.several = nn.Parameter(torch.randn(5, 6)), nn.Parameter(torch.randn(3, 4, 6))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.linear(x)  # (2, 3, 6, 4)
        y, t = x.tanh() + 0.25, x.transpose(2, 3)
        first, second = x[:, 0], y[:, 1]
        return (
            x @ y.transpose(2, 3),
            t @ y,
            t @ y.transpose(2, 3).transpose(2, 3),
            t @ t.tanh().transpose(2, 3),
            (x.relu() @ t)[:, 1:],
            torch.bmm(first, second.transpose(1, 2)),
            torch.baddbmm(first @ first.mT, first, second.mT, beta=0.5, alpha=2),
            self.matrix @ x,
            self.several @ y,
            x @ self.several.mT.transpose(1, 2),
            x @ first[:, None].mT,
            x @ second[:, 0, :, None, None].mT.mT.squeeze(-1)[:, None],
        )


class Vectors(nn.Module):
    """Of rank 2 and 1, and what is broadcast."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.row = nn.Linear(4, 4), nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.linear(x)  # (6, 4)
        v = x[:, 0]
        return x @ x.T, x.T @ x, torch.mm(x, x.T) @ v, torch.matmul(v, x), x @ self.row, torch.addmm(x, x @ x.T, x)


class Einsum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.weight = nn.Linear(4, 4), nn.Parameter(torch.randn(4, 3, 5))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.linear(x)  # (2, 3, 6, 4)
        y = x.sigmoid()
        return (
            torch.einsum("bhqd,bhkd->bhqk", x, y),
            torch.einsum("bqhd,bkhd->bhqk", x.transpose(1, 2), y.transpose(1, 2)),
            torch.einsum("bhqk,bkhd->bqhd", x @ y.mT, y.transpose(1, 2)),
            torch.einsum("bhnd,bhne->bde", x, y),
            torch.einsum("...nd,...md", x, y),
            torch.einsum("bhnd,dce->bhnce", x, self.weight),
            torch.einsum("bhnd,bhmd,bhme->bhne", x, y, x),
            torch.einsum("bhnd,bhme->bhn", x, y),
            torch.einsum("bhii,bhn->bni", x[:, :, :4], y[..., 0]),
        )


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        made: Tensor = self.mlp(self.norm2(x)) + x  # the other way round
        return made


class SmallViT(nn.Module):
    """Patches, a class token, position embeddings, blocks, and a head on the class token."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 4, 4)
        self.token, self.position = nn.Parameter(torch.randn(1, 1, 12)), nn.Parameter(torch.randn(1, 17, 12) / 4)
        self.blocks = nn.Sequential(Block(12, 3), Block(12, 3))
        self.norm, self.head = nn.LayerNorm(12, eps=1e-6), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat((self.token.expand(len(x), -1, -1), tokens), 1) + self.position
        made: Tensor = self.head(self.norm(self.blocks(tokens))[:, 0])
        return made


PRODUCTS: dict[str, tuple[Callable[[], nn.Module], Shape]] = {
    "attention, unbind": (lambda: Attention(8, 2), (1, 6, 8)),
    "attention, select": (lambda: Attention(12, 4, "select"), (2, 5, 12)),
    "attention, split, causal": (lambda: Attention(6, 1, "split", is_causal=True), (3, 7, 6)),
    "attention, chunk, by hand": (lambda: Attention(9, 3, "chunk"), (1, 20, 9)),
    "attention, wide": (Wide, (1, 256, 8, 16)),
    "masks": (Masked, (2, 6, 8)),
    "scaled at the end": (Ending, (2, 6, 8)),
    "parts called alike": (Alike, (2, 4, 6, 8)),
    "masks of activations": (Hiding, (2, 6, 8)),
    "masks by hand": (ByHand, (1, 6, 8)),
    "grouped queries": (Grouped, (2, 9, 8)),
    "multi-head": (lambda: MultiHead(False, batch_first=True), (2, 6, 8)),
    "multi-head, tokens first": (lambda: MultiHead(False), (6, 2, 8)),
    "multi-head, weights": (lambda: MultiHead(True, batch_first=True), (1, 6, 8)),
    "encoder": (Encoder, (1, 6, 8)),
    "encoder, norm first": (lambda: Encoder(norm_first=True, activation="gelu"), (1, 6, 8)),
    "steps first": (Steps, (5, 3, 4)),
    "matrices": (Matrices, (2, 3, 6, 4)),
    "vectors": (Vectors, (6, 4)),
    "einsum": (Einsum, (2, 3, 6, 4)),
    "small vit": (SmallViT, (1, 3, 16, 16)),
    "small vit, batch": (SmallViT, (2, 3, 16, 16)),
}
