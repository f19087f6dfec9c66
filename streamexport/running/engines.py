"""Who computes a net: `stream`, which is our own `forward`; Caffe; OpenCV.

An engine is opened with a net, its weights, and the names of the blobs that are wanted of it; then it turns
batches, the only one or all of them by the names of the inputs, into what these blobs hold:

    with open_engine("opencv", "m.prototxt", ["m.caffemodel"], ["conv1", "prob"]) as compute:
        compute(batch)["prob"]        # float32 (N, channels, height, width) -> (N, classes, ...)

Any number of blobs may be asked for. Where a layer overwrites its bottom (ReLU and the like, in place), the blob holds what
the last layer left in it, whoever computes.

Caffe and OpenCV get what Caffe would take without a word, too: random weights, where the model lacks a layer. Therefore
models are held against the prototxt before either sees them, as far as its layers are known here.
"""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from ..caffe.prototxt import read_prototxt
from ..errors import AbsentError, EngineError, FormatError, NetError, absent, reason
from ..net.graph import Layer, Net
from ..net.inference import infer
from ..net.operations import LSTM, Input
from ..sources import Path, open_source
from ..sources.signatures import kind_of, split
from . import worker
from .forward import PreparedNet, by_name, held_by, parameters

if TYPE_CHECKING:
    import subprocess

    from ..payload.tensors import Array
    from .forward import Inputs

Compute = Callable[["Inputs"], "Mapping[str, Array]"]
"""From a batch, or one for each input by name, to the blobs that were asked for, float32, by name."""

CAFFE_PYTHON = "STREAMEXPORT_CAFFE_PYTHON"
"""Environment variable that names a Python interpreter in which Caffe can be imported."""


@dataclass(frozen=True)
class _Task:
    """What an engine is to do.

    Attributes
    ----------
    prototxt, models : the files, and what models are linked to
    net : what the prototxt says
    inputs : the net's input blobs
    blobs : those that are wanted, each once
    """

    prototxt: str
    models: Sequence[Path]
    net: Net
    inputs: Sequence[str]
    blobs: Sequence[str]

    @property
    def files(self) -> list[str]:
        """Those of the model alone. AbsentError for what is no file, as the prototxt, too, has to be one."""
        models = split(self.models)[0]
        for source in (*models, open_source(self.prototxt)):
            if source.is_far:
                what, advice = "lies behind a URL, this engine reads files", "fetch it and name the file"
                raise AbsentError(what, file=source.name, advice=advice)
        return [model.name for model in models]

    def writer(self, blob: str) -> Layer:
        """The layer that writes a blob last."""
        return next(layer for layer in reversed(self.net.layers) if blob in layer.tops)


def open_engine(
    name: str, prototxt: Path, models: Sequence[Path], blobs: Sequence[str], caffe_python: str | None = None
) -> AbstractContextManager[Compute]:
    """Opens an engine, which computes until it is closed.

    Parameters
    ----------
    name : "stream", "caffe" or "opencv"
    prototxt : the net
    models : all parts of one model, and the checkpoint if it is linked to one
    blobs : what is wanted of the net, by the names that the prototxt has for it
    caffe_python : an interpreter in which Caffe can be imported; by default what STREAMEXPORT_CAFFE_PYTHON names, or the
        one that runs this

    Raises
    ------
    EngineError : it is not there, or gives up; its last words are passed on
    NetError : the net has no input, or lacks a blob; or, from what is opened, inputs that are not the net's
    Error : what `forward` raises
    """
    if name not in ENGINES:
        raise EngineError(f"there is no engine {name!r}", advice=f"choose from {', '.join(ENGINES)}")
    return ENGINES[name](_task(os.fspath(prototxt), models, blobs), caffe_python)


def _task(prototxt: str, models: Sequence[Path], blobs: Sequence[str]) -> _Task:
    net = read_prototxt(prototxt)
    if not net.inputs:
        raise NetError("has no input, which an engine could fill", file=prototxt)
    if strange := set(blobs).difference(top for layer in net.layers for top in layer.tops):
        raise NetError(f"no layer makes {', '.join(sorted(strange))}", file=prototxt)
    return _Task(prototxt, models, net, net.inputs, list(dict.fromkeys(blobs)))


@contextmanager
def _stream(task: _Task, _: str | None) -> Iterator[Compute]:
    yield PreparedNet(task.prototxt, task.models, task.blobs).run


def _check_models(task: _Task) -> None:
    """NetError if models do not hold the parameters that the prototxt asks for; the layer is named."""
    held = parameters(task.models, task.prototxt)  # in any case: Caffe follows links, wherever they lead
    try:
        steps = infer(read_prototxt(task.prototxt, strict=True))
    except (FormatError, NetError):  # something that only its own Caffe knows, which has to judge it then
        return
    held_by(steps, held)


@contextmanager
def _opencv(task: _Task, _: str | None) -> Iterator[Compute]:
    try:
        import cv2
    except ImportError as error:
        raise AbsentError("OpenCV is not installed", advice=absent("cv2").advice) from error
    if not hasattr(cv2.dnn, "readNetFromCaffe"):
        raise AbsentError(f"OpenCV {cv2.__version__} cannot read Caffe models", advice="OpenCV 4 can")
    if any(layer.shared for layer in task.net.layers):
        what, advice = "has layers that share weights, which OpenCV does not know", "`dialect=portable` writes them out"
        raise AbsentError(what, file=task.prototxt, advice=advice)
    if any(isinstance(layer.operation, LSTM) and len(layer.bottoms) > 1 for layer in task.net.layers):
        what, advice = "has an LSTM in Caffe's words, on which OpenCV crashes", "`dialect=opencv` or portable"
        raise AbsentError(what, file=task.prototxt, advice=advice)
    (model,) = task.files if len(task.files) == 1 else _refuse_parts(task.files)
    if kind_of(open_source(model)) == "hdf5":
        raise AbsentError("is HDF5, which OpenCV does not read", file=model, advice="convert it to a .caffemodel")
    _check_models(task)
    writers = {blob: task.writer(blob) for blob in task.blobs}
    ends = set(task.net.ends)
    # A blob inside the net, whose layer is merged into the one before, is handed over too, but holds what was in its memory
    # before. So these are asked of a second net, where nothing is merged; the net's outputs are computed as ever.
    computing = []
    for is_merged, blobs in ((True, ends), (False, writers.keys() - ends)):
        if passes := _passes(layer for blob, layer in writers.items() if blob in blobs):
            try:
                loaded = cv2.dnn.readNetFromCaffe(task.prototxt, model)
            except cv2.error as error:
                raise EngineError(f"OpenCV cannot load it: {_reason(error)}", file=model) from error
            loaded.enableFusion(is_merged)
            known = set(loaded.getLayerNames())
            computing += [(loaded, [_called(layer, known) for layer in layers], layers) for layers in passes]

    def compute(inputs: Inputs) -> Mapping[str, Array]:
        given = by_name(task.inputs, inputs)
        made: dict[str, Sequence[Array]] = {}
        try:
            for loaded, names, layers in computing:
                for name, batch in given.items():
                    loaded.setInput(batch, name)
                tops = loaded.forwardAndRetrieve(names)
                made.update((layer.name, arrays) for layer, arrays in zip(layers, tops, strict=True))
        except cv2.error as error:
            raise EngineError(f"OpenCV gives up: {_reason(error)}", file=task.prototxt) from error
        return {
            blob: given[blob] if isinstance(layer.operation, Input) else made[layer.name][list(layer.tops).index(blob)]
            for blob, layer in writers.items()
        }

    yield compute


def _called(layer: Layer, known: Container[str]) -> str:
    """What OpenCV calls a layer: a convolution after its top."""
    return layer.name if layer.name in known else layer.tops[0]


def _passes(layers: Iterable[Layer]) -> list[list[Layer]]:
    """The layers to ask OpenCV for, pass by pass; it has no layers for inputs.

    Of a layer that is asked for OpenCV keeps the first top only, and the next layer may overwrite the others: if there are
    others, the pass ends with that layer.
    """
    computed = {layer.name: layer for layer in layers if not isinstance(layer.operation, Input)}.values()
    together = [layer for layer in computed if len(layer.tops) == 1]
    alone = [[layer] for layer in computed if len(layer.tops) > 1]
    return [together, *alone] if together else alone


def _refuse_parts(models: Sequence[str]) -> tuple[str]:
    what = f"OpenCV reads one model file, not {len(models)} parts"
    raise AbsentError(what, file=models[0], advice="convert without `max_file_size=`, or use another engine")


def _reason(error: Exception) -> str:
    """What OpenCV says, without its version, file and line."""
    said = str(getattr(error, "err", "")) or str(error)
    return " ".join(said.split())


@contextmanager
def _caffe(task: _Task, python: str | None) -> Iterator[Compute]:
    """Caffe in a process of its own, one for all batches, whichever interpreter has it: bad input aborts the process."""
    import subprocess
    import tempfile

    import numpy as np

    python = python or os.environ.get(CAFFE_PYTHON) or _own_caffe()
    _check_models(task)
    command = [python, worker.__file__, task.prototxt, *task.files]
    with tempfile.TemporaryFile() as log:
        quiet = {**os.environ, "GLOG_minloglevel": "2", "GLOG_logtostderr": "1"}  # errors, on standard error
        try:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=quiet)
        except OSError as error:
            raise AbsentError(f"cannot be started: {reason(error)}", file=python) from error
        with process, _Conversation(python, process, log) as conversation:
            conversation.say(np.array(task.inputs, np.str_))
            conversation.say(np.array(task.blobs, np.str_))
            conversation.answer()  # the same names, once the net is loaded

            def compute(inputs: Inputs) -> Mapping[str, Array]:
                for batch in by_name(task.inputs, inputs).values():
                    conversation.say(batch)
                return {blob: conversation.answer() for blob in task.blobs}

            yield compute


@dataclass(frozen=True)
class _Conversation:
    """With a worker, see `worker`; `log` is its standard error."""

    python: str
    process: subprocess.Popen[bytes]
    log: IO[bytes]

    def __enter__(self) -> _Conversation:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()  # it has nothing to lose
        with suppress(OSError):  # nor has what it did not take any more
            self._pipes()[0].close()

    def say(self, array: Array) -> None:
        with suppress(BrokenPipeError):  # then there is no answer either
            worker.send(self._pipes()[0], array)

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
        advice = f"name a Python that has it with `caffe_python=` or {CAFFE_PYTHON}"
        raise AbsentError("Caffe cannot be imported here", advice=advice)
    return sys.executable


ENGINES = {"stream": _stream, "caffe": _caffe, "opencv": _opencv}
