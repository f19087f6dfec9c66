"""streamexport eval: what a Caffe net sees in images, and how often it is right."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from typing import Any

from ..errors import one_line
from ..evaluation.evaluate import Accuracy, Classifier, Prediction, classify, evaluate
from ..evaluation.images import CROPS, MEAN, ORDERS, SCALE, Transform, open_images
from ..running.engines import CAFFE_PYTHON, ENGINES
from . import arguments
from .saying import say


def register(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Prints the five likeliest classes of images, or how often they are right. Images become what torch's"
        " nets expect; older nets for Caffe want something like"
        " `--crop square --resize 224 --order bgr --mean 103.94,116.78,123.68 --scale 0.017`."
    )
    parser.add_argument("--proto", "--prototxt", dest="prototxt", required=True, metavar="FILE", help="the net")
    parser.add_argument(
        "--model",
        dest="models",
        action="extend",
        nargs="+",
        required=True,
        metavar="FILE",
        help="its weights: the model file, or all of its parts; and the checkpoint that it is linked to",
    )
    shown = parser.add_mutually_exclusive_group(required=True)
    shown.add_argument("--image", dest="image", action="extend", nargs="+", metavar="FILE", help="print the top five")
    shown.add_argument(
        "--images",
        metavar="DIR",
        help="print accuracy: folders of images, one for each class; images named NAME_LABEL.jpg; or a text file of"
        " lines `path label`",
    )
    parser.add_argument("--labels", metavar="FILE", help="the classes' names, one a line, such as Caffe's synset.txt")
    parser.add_argument("--engine", choices=ENGINES, default="stream", help="who computes (default: stream, our own)")
    parser.add_argument(
        "--caffe-python", metavar="PATH", help=f"a Python that can import Caffe (default: what {CAFFE_PYTHON} names)"
    )
    _add_transform(parser)
    parser.add_argument("--json", action="store_true", help="for programs, on one line")
    parser.add_argument("--quiet", action="store_true", help="no notes and no progress bar")
    parser.set_defaults(run=run)


def _add_transform(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is done to images (default: what torch's nets expect)")
    group.add_argument(
        "--crop",
        choices=CROPS,
        default="center",
        help="resize by the shorter side (center, default), the square in the middle, or the whole image whatever its"
        " sides (none); then the middle of the input's size is cut out",
    )
    group.add_argument(
        "--resize",
        type=int,
        metavar="N",
        help="to how many pixels (default: 256 for an input of 224 with `center`, the input's size else)",
    )
    group.add_argument("--order", choices=ORDERS, default="rgb", help="of the channels (default: rgb)")
    group.add_argument(
        "--mean",
        type=arguments.numbers,
        metavar="A,B,C",
        help="subtracted from pixels of 0..255, channels in that order (default: ImageNet's; with --scale, 0)",
    )
    group.add_argument(
        "--scale",
        type=arguments.numbers,
        metavar="S",
        help="they are multiplied by it then, one for all or one for each (default: ImageNet's; with --mean, 1)",
    )


def run(given: argparse.Namespace) -> int:
    classifier = Classifier(given.prototxt, given.models, _transform(given), given.engine, given.caffe_python)
    problems = _accuracy(classifier, given) if given.images else _top(classifier, given)
    for note in () if given.quiet else classifier.notes:
        say(note)
    for path, problem in problems.items():
        say(f"{path}: {problem}; skipped")
    if problems:
        count = arguments.plural(len(problems), "image")
        say(f"{count} could not be read")
    return 1 if problems else 0


def _transform(given: argparse.Namespace) -> Transform:
    """What was asked for. Mean and scale belong together: torch's apply where neither is given."""
    if given.mean is None and given.scale is None:
        step = 1 if given.order == "rgb" else -1
        return Transform(given.crop, given.resize, given.order, MEAN[::step], SCALE[::step])
    return Transform(given.crop, given.resize, given.order, given.mean or (0.0,), given.scale or (1.0,))


def _top(classifier: Classifier, given: argparse.Namespace) -> Mapping[str, str]:
    """Prints the top five of each image; returns what is wrong with those that cannot be read."""
    predictions = []
    for prediction in classify(classifier, given.image, given.labels):
        predictions.append(prediction)
        if not given.json and prediction.guesses:
            _print_top(prediction, is_named=len(given.image) > 1)
    if given.json:
        print(json.dumps({"engine": classifier.engine, "images": [_described(p) for p in predictions]}))
    return {prediction.image: prediction.problem for prediction in predictions if not prediction.guesses}


def _print_top(prediction: Prediction, is_named: bool) -> None:
    if is_named:
        print(f"{one_line(prediction.image)}:")
    for guess in prediction.guesses:
        print(f"{guess.probability:.2f} - '{one_line(guess.name)}'")


def _described(prediction: Prediction) -> dict[str, Any]:
    top = [{"class": g.index, "name": g.name, "probability": g.probability} for g in prediction.guesses]
    return {"image": prediction.image, "top": top, "problem": prediction.problem or None}


def _accuracy(classifier: Classifier, given: argparse.Namespace) -> Mapping[str, str]:
    """Prints accuracies; returns what is wrong with the images that cannot be read."""
    images = open_images(given.images)
    start = time.monotonic()
    with arguments.progress(len(images.paths), "evaluating", given.quiet, " images") as progress:
        found = evaluate(classifier, images, given.labels, progress)
    seconds = time.monotonic() - start
    if given.json:
        print(json.dumps(_counts(found, classifier.engine)))
    else:
        _print_accuracy(found)
    if not given.quiet:
        say(f"{arguments.plural(found.images, 'image')} in {seconds:.1f} s, computed by {classifier.engine}")
    return found.problems


def _counts(found: Accuracy, engine: str) -> dict[str, Any]:
    accuracies = {
        name: {"count": count, "accuracy": count / found.images if found.images else None}
        for name, count in (("top1", found.top1), ("top5", found.top5))
    }
    return {"engine": engine, "images": found.images, **accuracies, "problems": dict(found.problems)}


def _print_accuracy(found: Accuracy) -> None:
    for name, count in (("top-1", found.top1), ("top-5", found.top5)):
        if found.images:
            print(f"{name} {100 * count / found.images:.2f} % ({count} of {found.images})")
