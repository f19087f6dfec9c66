"""Who computes a net: `stream`, which is our own `forward`; Caffe; OpenCV.

An engine is opened with a net and its weights, and then turns batches into what the net's output blob holds:

    with open_engine("opencv", interface("m.prototxt"), ["m.caffemodel"]) as compute:
        compute(batch)                # float32 (N, channels, height, width) -> (N, classes, ...)

Caffe and OpenCV get what Caffe would take without a word, too: random weights, where the model lacks a layer. Therefore
models are held against the prototxt before either sees them, as far as its layers are known here.
"""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from .caffe import worker
from .caffe.prototxt import read_prototxt
from .errors import EngineError, FormatError, NetError, reason

if TYPE_CHECKING:
    import subprocess

    from .caffe.caffe_pb2 import NetParameter
    from .tensors import Array

Compute = Callable[["Array"], "Array"]

CAFFE_PYTHON = "STREAMEXPORT_CAFFE_PYTHON"
"""Environment variable that names a Python interpreter in which Caffe can be imported."""


@dataclass(frozen=True)
class Interface:
    """Where images go into a net, and where its answer comes out.

    Attributes
    ----------
    prototxt : the file
    input, shape : the input blob; its channels, height and width
    output, layer : the output blob, and the layer that makes it
    is_softmax : whether that is a Softmax, so that the answer is probabilities
    """

    prototxt: str
    input: str
    shape: tuple[int, int, int]
    output: str
    layer: str
    is_softmax: bool


def interface(prototxt: str | os.PathLike[str]) -> Interface:
    """Reads a prototxt as that of a classifier.

    Raises NetError if it has several inputs or outputs, or an input that is no image; SourceError and FormatError if it
    cannot be read.
    """
    from .caffe.semantics import outputs

    file, net = os.fspath(prototxt), read_prototxt(prototxt)
    inputs = [top for layer in net.layer if layer.type == "Input" for top in layer.top]
    answers = outputs(net)
    for what, names in (("input", inputs), ("output", answers)):
        if len(names) != 1:
            found = f"{len(names)} {what}s ({', '.join(names)})" if names else f"no {what}"
            raise NetError(f"has {found}; the net of a classifier has one", file=file)
    last = next(layer for layer in reversed(net.layer) if answers[0] in layer.top)
    return Interface(file, inputs[0], _input_shape(net, file), answers[0], last.name, last.type == "Softmax")


def _input_shape(net: NetParameter, file: str) -> tuple[int, int, int]:
    layer = next(layer for layer in net.layer if layer.type == "Input")
    dims = list(layer.input_param.shape[0].dim) if layer.input_param.shape else []
    if len(dims) != 4 or min(dims) < 1:
        advice = "give the input blob four dimensions: batch, channels, height, width"
        raise NetError(
            f"its input is {dims}, which is no image", file=file, tensor=f"layer {layer.name}", advice=advice
        )
    _, channels, height, width = dims
    return channels, height, width


def open_engine(
    name: str, net: Interface, models: Sequence[str], caffe_python: str | None = None
) -> AbstractContextManager[Compute]:
    """Opens an engine, which computes until it is closed.

    Parameters
    ----------
    name : "stream", "caffe" or "opencv"
    models : all parts of one model
    caffe_python : an interpreter in which Caffe can be imported; by default what STREAMEXPORT_CAFFE_PYTHON names, or the
        one that runs this

    Raises
    ------
    EngineError : it is not there, or gives up; its last words are passed on
    Error : what `forward` raises
    """
    if name not in ENGINES:
        raise EngineError(f"there is no engine {name!r}", advice=f"choose from {', '.join(ENGINES)}")
    return ENGINES[name](net, models, caffe_python)


@contextmanager
def _stream(net: Interface, models: Sequence[str], _: str | None) -> Iterator[Compute]:
    from .forward import forward

    yield lambda batch: forward(net.prototxt, models, {net.input: batch}, (net.output,))[net.output]


def _check_models(net: Interface, models: Sequence[str]) -> None:
    """NetError if models do not hold the parameters that the prototxt asks for; the layer is named."""
    from .caffe.semantics import infer
    from .forward import parameters

    try:
        steps = infer(read_prototxt(net.prototxt, strict=True))
    except (FormatError, NetError):  # something that only its own Caffe knows, which has to judge it then
        return
    parameters(steps, models)


@contextmanager
def _opencv(net: Interface, models: Sequence[str], _: str | None) -> Iterator[Compute]:
    try:
        import cv2
    except ImportError as error:
        advice = "pip install 'opencv-python-headless<5'"
        raise EngineError("OpenCV is not installed", advice=advice) from error
    if not hasattr(cv2.dnn, "readNetFromCaffe"):
        raise EngineError(f"OpenCV {cv2.__version__} cannot read Caffe models", advice="OpenCV 4 can")
    (model,) = models if len(models) == 1 else _refuse_parts(models)
    if _is_hdf5(model):
        raise EngineError("is HDF5, which OpenCV does not read", file=model, advice="convert it to a .caffemodel")
    _check_models(net, models)
    try:
        loaded = cv2.dnn.readNetFromCaffe(net.prototxt, model)
    except cv2.error as error:
        raise EngineError(f"OpenCV cannot load it: {_reason(error)}", file=model) from error

    def compute(batch: Array) -> Array:
        try:
            loaded.setInput(batch, net.input)
            answer: Array = loaded.forward(net.layer)
        except cv2.error as error:
            raise EngineError(f"OpenCV gives up: {_reason(error)}", file=net.prototxt) from error
        return answer

    yield compute


def _refuse_parts(models: Sequence[str]) -> tuple[str]:
    what = f"OpenCV reads one model file, not {len(models)} parts"
    raise EngineError(what, file=models[0], advice="convert without --max-file-size, or use another engine")


def _is_hdf5(path: str) -> bool:
    from .readers import hdf5
    from .sources.local import LocalFile

    source = LocalFile.at(path)
    return hdf5.recognises(source.read(0, min(source.size, 512)))


def _reason(error: Exception) -> str:
    """What OpenCV says, without its version, file and line."""
    said = str(getattr(error, "err", "")) or str(error)
    return " ".join(said.split())


@contextmanager
def _caffe(net: Interface, models: Sequence[str], python: str | None) -> Iterator[Compute]:
    """Caffe in a process of its own, one for all batches, whichever interpreter has it: bad input aborts the process."""
    import subprocess
    import tempfile

    python = python or os.environ.get(CAFFE_PYTHON) or _own_caffe()
    _check_models(net, models)
    command = [python, str(Path(worker.__file__)), net.prototxt, net.input, net.output, *models]
    with tempfile.TemporaryFile() as log:
        quiet = {**os.environ, "GLOG_minloglevel": "2", "GLOG_logtostderr": "1"}  # errors, on standard error
        try:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=quiet)
        except OSError as error:
            raise EngineError(f"cannot be started: {reason(error)}", file=python) from error
        with process, _Conversation(python, process, log) as conversation:
            conversation.answer()  # the net as it is loaded
            yield conversation.ask


@dataclass(frozen=True)
class _Conversation:
    """With a worker, see `caffe.worker`; `log` is its standard error."""

    python: str
    process: subprocess.Popen[bytes]
    log: IO[bytes]

    def __enter__(self) -> _Conversation:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()  # it has nothing to lose
        with suppress(OSError):  # nor has what it did not take any more
            self._pipes()[0].close()

    def ask(self, batch: Array) -> Array:
        with suppress(BrokenPipeError):  # then there is no answer either
            worker.send(self._pipes()[0], batch)
        return self.answer()

    def answer(self) -> Array:
        array = worker.receive(self._pipes()[1])
        if array is None:
            raise EngineError(f"Caffe gives up: {self._last_words()}", file=self.python)
        return array

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        return self.process.stdin, self.process.stdout

    def _last_words(self) -> str:
        """The last line that glog wrote, or the last one at all, stack traces left out."""
        status = self.process.wait()
        self.log.seek(0)
        lines = [line.strip() for line in self.log.read().decode(errors="replace").splitlines()]
        logged = [match[1] for line in lines if (match := re.match(r"[EF]\d+ .*?\] (.*)", line))]
        others = [line for line in lines if line and not line.startswith(("***", "@"))]
        end = signal.Signals(-status).name if status < 0 else f"status {status}"
        return (logged or others or [f"without a word, {end}"])[-1]


def _own_caffe() -> str:
    spec = importlib.util.find_spec("caffe")
    if spec is None or spec.origin is None:  # without origin it is just a folder of that name
        advice = f"name a Python that has it with --caffe-python or {CAFFE_PYTHON}"
        raise EngineError("Caffe cannot be imported here", advice=advice)
    return sys.executable


ENGINES = {"stream": _stream, "caffe": _caffe, "opencv": _opencv}
