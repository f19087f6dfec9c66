"""Arguments and lines of output that several commands share."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from .. import families
from ..caffe.caffemodel.writing import CAFFE_LIMIT
from ..conversion.options import Options
from ..errors import NetError
from ..net.inputs import InputShape
from ..passes import dialects, folding, naming, precision

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that decide what is in a model. Those not given are absent, see `chosen`."""

    def add(flag: str, text: str, **rest: object) -> None:
        parser.add_argument(flag, default=argparse.SUPPRESS, help=text, **rest)  # type: ignore[arg-type]

    add(
        "--net",
        "a built-in net (`streamexport nets`), by default recognised; or what builds your PyTorch module, which is traced:"
        " MODULE:CALLABLE or FILE.py:CALLABLE",
        metavar="NET",
    )
    add("--net-args", "a JSON object of arguments for it", metavar="JSON")
    add(
        "--operators",
        "a file of yours that says what operators of torch's become, see docs/tracing.md",
        metavar="FILE.py",
    )
    add("--key", "the state dict inside the checkpoint, where there are several", metavar="PATH")
    add("--prefix", "take only the tensors whose names begin with it, without it", metavar="PREFIX")
    add("--dialect", "whose Caffe will run it (default: portable, which all of them run)", choices=dialects.DIALECTS)
    add(
        "--names",
        "layer names: torch's modules (default) or the classic conv1, batch_norm1, ...",
        choices=naming.STYLES,
    )
    add("--dtype", "of convolution and inner-product weights (default: float32)", choices=precision.STORED)
    add("--fold-batchnorm", "merge BatchNorm and Scale into the convolutions", action="store_true")
    add("--input-order", "of the image's channels (default: rgb)", choices=folding.ORDERS)
    add("--fold-input-scale", "take pixels 0..255 less their mean: no division is left", action="store_true")
    add(
        "--mean",
        "subtracted from the channels, 0..1 (default for built-in nets: ImageNet's)",
        metavar="R,G,B",
        type=numbers,
    )
    add("--std", "what they are divided by then (the same)", metavar="R,G,B", type=numbers)
    add("--eps", "BatchNorm's epsilon in built-in nets (default: 1e-5)", metavar="E", type=float)
    add(
        "--end",
        "cut the net behind this layer or module, by torch's name; several become outputs, in that order",
        action="append",
        metavar="LAYER",
    )
    add("--no-softmax", "leave out the softmax that an output is", dest="softmax", action="store_false")
    add("--in-place", "let layers write over their bottoms where they may", action="store_true")
    add(
        "--input-shape",
        "of the input blob (default: 1,3,224,224); for each of several, by the names of your module's arguments or in their"
        " order",
        metavar="[NAME=]N,C,H,W",
        type=shape,
        action="append",
    )
    add("--forward-args", "a JSON object of other arguments that your module's forward is given", metavar="JSON")


def add_check_hash(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--check-hash",
        action="store_true",
        help="refuse a checkpoint whose SHA-256 does not begin as its name says: -3e41cc8a.pth",
    )


def chosen(arguments: argparse.Namespace, base: Options | None = None) -> Options:
    """`base`, or the defaults, with what was given on the command line."""
    given = {name: value for name, value in vars(arguments).items() if name in Options.__dataclass_fields__}
    if "input_shape" in given:
        named = given.get("net", families.AUTO), given.get("net_args")
        given["input_shape"] = shapes(given["input_shape"], lambda: families.takes(*named))
    return Options(**{**(vars(base) if base else {}), **given})


def shape(text: str) -> tuple[str, tuple[int, ...]]:
    """The name of an input, "" if it is not said, and its shape."""
    found = re.fullmatch(r"(?:([^=]+)=)?(\d+(?:,\d+)*)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no shape like 1,3,224,224 or x=1,3,224,224")
    return found[1] or "", tuple(map(int, found[2].split(",")))


def shapes(given: Sequence[tuple[str, tuple[int, ...]]], takes: Callable[[], str]) -> InputShape:
    """By the names of inputs, or in their order. NetError, which says what the net takes, if neither can be."""
    names = [name for name, _ in given]
    if not any(names):
        return tuple(size for _, size in given)
    if not all(names):
        raise NetError("--input-shape says the names of some inputs, and of others none", advice=takes())
    if twice := [name for name in names if names.count(name) > 1]:
        raise NetError(f"--input-shape gives {twice[0]} two shapes", advice=takes())
    return dict(given)


def numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(map(float, text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers like 103.94,116.78,123.68") from None


def size(text: str) -> int:
    """Bytes: 1000000, 512MiB, 2GB, or `caffe` for the largest file that stock Caffe loads."""
    if text == "caffe":
        return CAFFE_LIMIT
    match = re.fullmatch(r"(\d+) ?([A-Za-z]*)", text)
    if not match or match[2].upper() not in UNITS:
        raise argparse.ArgumentTypeError(f"{text!r} is no size like 1000000, 512MiB, 2GB or caffe")
    return int(match[1]) * UNITS[match[2].upper()]


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


@dataclass(frozen=True)
class Bar:
    """A progress bar: called with how much more is done, and told, once that is known, how much there is."""

    update: Callable[[int], object] = lambda _: None
    expect: Callable[[int], object] = lambda _: None

    def __call__(self, count: int) -> object:
        return self.update(count)


@contextmanager
def progress(total: int, what: str, quiet: bool, unit: str = "B") -> Iterator[Bar]:
    """A progress bar with rate and remaining time where somebody watches standard error. Bytes are counted in KiB, MiB."""
    if quiet or not sys.stderr.isatty():
        yield Bar()
        return
    from tqdm import tqdm

    is_bytes = unit == "B"
    with tqdm(total=total, desc=what, unit=unit, unit_scale=is_bytes, unit_divisor=1024, leave=False) as bar:
        yield Bar(bar.update, bar.reset)


def speed(count: int, seconds: float) -> str:
    """Bytes, time, rate and the peak of resident memory so far."""
    rate = count / 2**30 / max(seconds, 1e-9)
    return f"{count} bytes in {seconds:.2f} s ({rate:.2f} GiB/s), peak memory {peak_memory() / 2**20:.1f} MiB"


def peak_memory() -> int:
    """Most bytes that this process had resident. Linux counts it; elsewhere what getrusage says."""
    try:
        with open("/proc/self/status") as status:  # noqa: PTH123
            return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << (0 if sys.platform == "darwin" else 10)
