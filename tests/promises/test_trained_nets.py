"""Trained weights of nets with recurrence, attention and turned dimensions: what they say, whoever computes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import pytest

import streamexport
from streamexport.conversion.plan import Plan
from streamexport.running.engines import open_engine
from tests.shared import caffe_judge, trained
from tests.shared.trained import TRAINED

TOLERANCE = 1e-5
SMALL = [name for name, net in TRAINED.items() if net.is_small]
JUDGES = [("portable", "stream"), ("portable", "caffe"), ("portable", "opencv"), ("ssd", "caffe"), ("opencv", "opencv")]

Compute = Callable[..., list[np.ndarray]]


@pytest.fixture(scope="module")
def computing(real, tmp_path_factory) -> Callable[[str, str, str], AbstractContextManager[Compute]]:
    """A net in a dialect and an engine: what it computes of arrays, in the order of its module's arguments and results."""
    directory = tmp_path_factory.mktemp("trained")
    made: dict[tuple[str, str], Plan] = {}

    @contextmanager
    def opened(name: str, dialect: str, engine: str):
        if engine == "caffe":
            caffe_judge.require()
        if (name, dialect) not in made:
            net = TRAINED[name]
            model = directory / f"{name}-{dialect}.caffemodel"
            made[name, dialect] = streamexport.convert([real(*net.weights)], model, net.options(name, dialect, real))
        net, model = made[name, dialect].net, directory / f"{name}-{dialect}.caffemodel"
        with open_engine(engine, model.with_suffix(".prototxt"), [model], net.outputs) as compute:

            def answer(*given: np.ndarray) -> list[np.ndarray]:
                found = compute(dict(zip(net.inputs, given, strict=True)))
                return [found[output] for output in net.outputs]

            yield answer

    return opened


def assert_near(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for values, wanted in zip(found, expected, strict=True):
        assert values.size == wanted.size
        assert np.abs(values.reshape(wanted.shape) - wanted).max() <= TOLERANCE * np.abs(wanted).max()


@pytest.mark.parametrize(("dialect", "engine"), JUDGES)
@pytest.mark.parametrize("name", SMALL)
def test_it_computes_what_torch_computes(real, computing, name, dialect, engine):
    net = TRAINED[name]
    given = net.given(real)
    with computing(name, dialect, engine) as compute:
        assert_near(compute(*given), trained.returned(net.module(name, real), given))


def read(logits: np.ndarray, characters: str) -> str:
    """Without what is repeated, and without blanks, which are the first."""
    found = logits.reshape(-1, len(characters) + 1).argmax(1)
    kept = [one for before, one in zip([0, *found], found, strict=False) if one not in (0, before)]
    return "".join(characters[one - 1] for one in kept)


@pytest.mark.parametrize(("dialect", "engine"), JUDGES)
def test_a_line_of_text_is_read(real, computing, dialect, engine):
    import torch

    characters = torch.load(real(*TRAINED["TextLine"].weights), weights_only=True)["charset"]
    with computing("TextLine", dialect, engine) as compute:
        (logits,) = compute(*trained.line())
    assert read(logits, characters) == trained.WRITTEN


STRESSED = {"AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH"}
SOUNDS = "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH".split()
PHONEMES = ["", "", "<", ">"] + [f"{sound}{n}" for sound in SOUNDS for n in ("012" if sound in STRESSED else [""])]
PHONEMES += "UW UW0 UW1 UW2 V W Y Z ZH".split()
"""g2p-en's, in the order of their numbers; what begins a word, and what ends it, are the third and fourth."""


@pytest.mark.parametrize(("dialect", "engine"), JUDGES)
def test_a_word_is_spoken(computing, dialect, engine):
    """Nine letters into a GRU, and out of another what they sound like, one after the other."""
    with computing("Spelled", dialect, engine) as compute:
        (state,) = compute(trained.letters("streaming"))
    said = [PHONEMES.index("<")]
    with computing("Spoken", dialect, engine) as compute:
        while PHONEMES[said[-1]] != ">" and len(said) < 20:
            logits, state = compute(np.array([said[-1:]], np.float32), state.reshape(1, 256))
            said.append(int(logits.argmax()))
    assert [PHONEMES[one] for one in said[1:-1]] == "S T R IY1 M IH0 NG".split()


@pytest.mark.parametrize(("dialect", "engine"), JUDGES)
def test_a_voice_is_heard_and_silence_is_not(real, computing, dialect, engine):
    """Window after window, with the states that the net gave before."""
    sound = np.concatenate((np.zeros(2112, np.float32), trained.vowel(4096)))
    states, heard = list(np.zeros((2, 1, 128), np.float32)), []
    module, known, said = TRAINED["Voice"].module("Voice", real), list(states), []
    with computing("Voice", dialect, engine) as compute:
        for start in range(0, len(sound) - 575, 512):
            window = sound[None, start : start + 576]
            probability, *states = (array.reshape(1, -1) for array in compute(window, *states))
            expected, *known = trained.returned(module, [window, *known])
            heard.append(probability.item())
            said.append(expected.item())
    assert np.abs(np.subtract(heard, said)).max() < 1e-5
    assert max(heard[:4]) < 0.1
    assert min(heard[4:]) > 0.9


@pytest.mark.parametrize(("dialect", "engine"), JUDGES)
def test_a_molecule_dissolves_as_its_authors_say(computing, dialect, engine):
    """The number is that of the package's own test."""
    with computing("Solubility", dialect, engine) as compute:
        (found,) = compute(*trained.benzene())
    assert found.item() == pytest.approx(-1.052748441696167, rel=1e-5)
