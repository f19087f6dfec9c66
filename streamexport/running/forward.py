"""Runs a Caffe net on the CPU, layer by layer, without ever holding its weights.

A prototxt says what is computed (`net.operations`), model files hold the weights, torch does the arithmetic
(`running.compute`). A layer's weights are read when its turn comes, a buffer at a time, and forgotten; a layer's tops are
forgotten when no layer needs them any more. What the process needs is torch, the few tops that live at one time, and the
buffer.

Everything that can be checked without computing is checked before the first layer runs: that every layer is known, that
shapes fit, and that the models hold every parameter in the shape that the prototxt asks for. Caffe itself keeps random
weights, without a word, where a layer's name does not stand in the model.

A `PreparedNet` is what is known before the inputs are: the prototxt and the models' headers, read once, and the shapes that
follow from the last inputs. It runs as often as one likes; weights are read anew each time.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from ..caffe import identity
from ..caffe.models import open_models
from ..caffe.prototxt import read_prototxt
from ..errors import NetError, need
from ..net.graph import Blob, Layer, written
from ..net.inference import Step, fits, infer
from ..net.kernels import filled
from ..net.operations import Input, Parameter, Shape
from ..payload.pieces import Literal

if TYPE_CHECKING:
    import torch

    from ..payload.tensors import Array

    Path = str | os.PathLike[str]
    Inputs = Mapping[str, Array] | Array
    Tops = dict[str, Array]


def forward(prototxt: Path, models: Sequence[Path], inputs: Inputs, outputs: Collection[str] = ()) -> Tops:
    """What a net computes.

    Parameters
    ----------
    prototxt : the net
    models : the files that hold its weights: all parts of one model, and the checkpoint if it is linked to one
    inputs : arrays by the names of the input blobs, or the array for the only one. The net works with their shapes, which
        need not be those that it declares; they are converted to float32
    outputs : the blobs wanted, by default those that no layer takes in; layers behind the last of them are not run

    Returns
    -------
    float32 arrays by blob

    Raises
    ------
    NetError : net, models and inputs do not fit together; the layer is named
    Error : a file cannot be read, see `errors`; or torch is not installed
    """
    return PreparedNet(prototxt, models, outputs).run(inputs)


def forward_layers(prototxt: Path, models: Sequence[Path], inputs: Inputs) -> Iterator[tuple[Layer, Tops]]:
    """The same layer by layer: each layer, in order, and its tops by name.

    The arrays are the caller's own. Those that the caller does not keep are forgotten.
    """
    return PreparedNet(prototxt, models).layers(inputs)


class PreparedNet:
    """A net that can be run any number of times: parameters as for `forward`, and all of its errors.

    Blobs that a later layer overwrites in place hold what the last layer left.
    """

    def __init__(self, prototxt: Path, models: Sequence[Path], outputs: Collection[str] = ()) -> None:
        need("torch")
        net = read_prototxt(prototxt, strict=True)
        given = net.inputs  # all of them, needed or not
        makers = {top: index for index, layer in enumerate(net.layers) for top in layer.tops}
        if strange := set(outputs).difference(makers):
            raise NetError(f"no layer makes {', '.join(sorted(strange))}", file=os.fspath(prototxt))
        if outputs:
            net = net.with_layers(net.layers[: max(makers[name] for name in outputs) + 1])
        self._net, self._inputs, self._parameters = net, given, parameters(models, prototxt)
        self._outputs = frozenset(outputs or net.ends)
        self._shapes: dict[str, tuple[int, ...]] | None = None
        self._steps: tuple[Step, ...] = ()
        self._held: Mapping[str, tuple[Blob, ...]] = {}

    def run(self, inputs: Inputs) -> Tops:
        """The outputs asked for, by name."""
        found: Tops = {}
        for _, tops in self._computed(inputs, self._outputs):
            found.update(tops)
        return found

    def layers(self, inputs: Inputs) -> Iterator[tuple[Layer, Tops]]:
        """Each layer with all of its tops, see `forward_layers`."""
        return self._computed(inputs, {top for layer in self._net.layers for top in layer.tops})

    def _computed(self, inputs: Inputs, wanted: Collection[str]) -> Iterator[tuple[Layer, Tops]]:
        """Checks everything, then computes as its caller asks for more."""
        given = by_name(self._inputs, inputs)
        shapes = {name: values.shape for name, values in given.items()}
        if shapes != self._shapes:
            steps = infer(self._net, shapes)
            self._held = held_by(steps, self._parameters)
            self._shapes, self._steps = shapes, steps
        return _run(self._steps, self._held, given, wanted)


def by_name(names: Sequence[str], inputs: Inputs) -> dict[str, Array]:
    """Copies of the inputs, of all of them and no others, in float32, in the order of their names."""
    import numpy as np

    if not isinstance(inputs, Mapping):
        if len(names) != 1:
            raise NetError(f"the net has {len(names)} inputs: {', '.join(names)}", advice="give them by name")
        inputs = {names[0]: inputs}
    if set(inputs) != set(names):
        raise NetError(f"given are the inputs {', '.join(inputs) or 'none'}; the net has {', '.join(names) or 'none'}")
    return {name: np.array(inputs[name], np.float32, order="C") for name in names}


def parameters(models: Sequence[Path], prototxt: Path) -> dict[str, tuple[Blob, ...]]:
    """The blobs of the models by layer, of those that have any. NetError if they say that they are another net's."""
    model = open_models(models)
    if models:
        identity.check_pair(prototxt, model, os.fspath(models[0]))
    return {layer.name: layer.blobs for layer in model.layers if layer.blobs}


def held_by(steps: Iterable[Step], parameters: Mapping[str, tuple[Blob, ...]]) -> Mapping[str, tuple[Blob, ...]]:
    """The blobs of each step by its layer, those that it borrows among them.

    NetError if they are not what the steps need; the layer is named.
    """
    held: dict[str, tuple[Blob, ...]] = {}
    shared: dict[str, Blob] = {}
    steps = list(steps)
    unheld = set(written(step.layer for step in steps).values())
    for step in steps:
        layer = step.layer
        blobs = parameters.get(layer.name, ())
        if layer.shared and not blobs:
            if isinstance(layer.operation, Parameter) and unheld.issuperset(layer.shared):
                shared[layer.shared[0]] = filled(layer.operation.shape, 0)  # as Caffe fills it
            blobs = tuple(shared[name] for name in layer.shared if name in shared)
        if layer.is_permissive:
            blobs = tuple(_shaped(blob, shape) for blob, shape in zip(blobs, step.blobs, strict=False))
        _check_blobs(step, blobs)
        # Caffe has one blob of a name; what a later layer's own would be, it would copy over that of all.
        shared.update((name, blob) for name, blob in zip(layer.shared, blobs, strict=False) if name)
        held[layer.name] = blobs
    return held


def _shaped(blob: Blob, shape: Shape) -> Blob:
    """A blob in another shape, if that has as many elements."""
    return replace(blob, shape=shape) if blob.count == prod(shape) else blob


def _check_blobs(step: Step, blobs: Sequence[Blob]) -> None:
    name, expected = f"layer {step.layer.name}", step.blobs
    if expected and not blobs:
        raise NetError("has parameters, and no model file holds them", tensor=name)
    if len(blobs) != len(expected):
        raise NetError(f"has {len(blobs)} blobs in the model, the prototxt asks for {len(expected)}", tensor=name)
    for index, (blob, shape) in enumerate(zip(blobs, expected, strict=True)):
        if not fits(blob.shape, shape):
            what = f"blob {index} has shape {list(blob.shape)} in the model, the prototxt asks for {list(shape)}"
            raise NetError(what, tensor=name)


def _run(
    steps: Sequence[Step],
    parameters: Mapping[str, tuple[Blob, ...]],
    inputs: Mapping[str, Array],
    wanted: Collection[str],
) -> Iterator[tuple[Layer, Tops]]:
    """Computes the steps, and yields each with copies of those of its tops that are wanted."""
    import torch

    from .compute import compute
    from .task import Buffer, Parameters, Task, empty

    last_use = {name: index for index, step in enumerate(steps) for name in step.layer.bottoms}
    alive: dict[str, torch.Tensor] = {}
    writes = written(step.layer for step in steps)
    current: dict[str, Blob] = {}  # what layers wrote into shared blobs
    buffer = Buffer()
    for index, step in enumerate(steps):
        layer = step.layer
        if isinstance(layer.operation, Input):
            tops = [torch.from_numpy(inputs[name]) for name in layer.tops]
        else:
            bottoms = [alive[name] for name in layer.bottoms]
            for name in set(layer.bottoms):
                if last_use[name] == index:
                    del alive[name]
            is_spare = bool(bottoms) and not _is_shared(bottoms[0], (*bottoms[1:], *alive.values()))
            held = parameters.get(layer.name, ())
            if not current.keys().isdisjoint(layer.shared):
                held = tuple(current.get(name, blob) for name, blob in zip(layer.shared, held, strict=True))
            weights = Parameters(held, step.blobs, buffer)
            try:
                with torch.inference_mode():  # not around `yield`, where it would hold for the caller as well
                    tops = compute(layer.operation, Task(bottoms, step.tops, weights, is_spare))
            except (RuntimeError, MemoryError, IndexError) as error:
                raise NetError(f"cannot be computed: {error}", tensor=f"layer {layer.name}") from error
            del bottoms
        named = dict(zip(layer.tops, tops, strict=True))
        for name in writes.keys() & named.keys():
            current[writes[name]] = Blob(tuple(named[name].shape), Literal(named[name].numpy().tobytes()))
        alive.update((name, top) for name, top in named.items() if last_use.get(name, -1) > index)
        yield layer, {name: empty(top.shape).copy_(top).numpy() for name, top in named.items() if name in wanted}
        del tops, named
    for source in {source for blobs in parameters.values() for blob in blobs for source in blob.values.sources}:
        source.check()


def _is_shared(tensor: torch.Tensor, others: Iterable[torch.Tensor]) -> bool:
    """Whether one of the others has memory in common with a tensor."""
    address = tensor.untyped_storage().data_ptr()
    return any(other.untyped_storage().data_ptr() == address for other in others)
