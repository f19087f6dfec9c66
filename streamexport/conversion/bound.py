"""A checkpoint bound to its net: everything that a conversion, and whoever checks one, has to know of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from .. import families, passes
from ..checkpoints import Weights, open_checkpoints
from ..errors import Error, FaultError, NetError
from ..families.resnet import EPSILON
from ..net import batches
from ..net.fitting import Bound, listed
from ..net.graph import Net
from ..net.inference import infer
from ..net.inputs import rows_named
from ..passes import dialects, preprocessing
from ..sources import Path
from ..tracing import modules
from .options import Options


def bind(checkpoints: Sequence[Path], options: Options) -> Bound:
    """The net of one checkpoint, or of several that are parts of one, after all passes; and what it was made of.

    Raises what `open_weights` raises, and NetError where tensors, net and options do not fit.
    """
    weights, bound = _bound(checkpoints, options)
    bound = replace(bound, rows=rows_named(bound.net))
    raw = preprocessing.expect(bound.net, options.mean, options.std)
    net = passes.apply(
        raw,
        dialect=options.dialect,
        fold_batchnorm=options.fold_batchnorm,
        input_order=options.input_order,
        fold_input_scale=options.fold_input_scale,
        end=() if modules.is_named(options.net) else options.end,  # a traced one ends there already
        softmax=options.softmax,
        dtype=options.dtype or "float32",
        in_place=options.in_place,
        names=options.names,
    )
    _check_shapes(net)
    notes = (
        *net.notes,
        *_of_inputs(bound, net),
        *_of_outputs(net, options),
        *_taken_for_granted(bound.net, options),
        *([batches.said(net)] if modules.is_named(options.net) else []),
        *_of_weights(weights, bound),
    )
    net = replace(net, notes=(*notes, *_left_alone(net)))
    return replace(bound, net=net, sources=weights.sources, expects=raw.preprocessing)


def _bound(checkpoints: Sequence[Path], options: Options) -> tuple[Weights, Bound]:
    """The checkpoints, opened, and the net that their tensors are, as it is before all passes."""
    refusal = partial(dialects.refusal, dialect=options.dialect)
    architecture = families.architecture(
        options.net, options.net_args, options.eps, options.end, refusal, options.operators, options.forward_args
    )
    if options.prefix is not None:
        architecture = families.Under(options.prefix, architecture)
    weights = open_checkpoints(checkpoints, options.key, architecture.fits)
    try:
        return weights, architecture.bind(weights.tensors, options.input_shape)
    except Error as error:
        error.file = error.file or weights.sources[0].name
        if isinstance(error, NetError) and weights.unread:
            error.advice = "; ".join(filter(None, (error.advice, listed([*weights.remarks], 3))))
        raise


def _of_inputs(bound: Bound, net: Net) -> Iterator[str]:
    """Whether torch's module is given more; and what is no image, but names rows of a table."""
    unused = [name for name in bound.given.shapes if name not in net.inputs]
    if unused:
        yield f"nothing is computed from {', '.join(unused)}, which the net therefore is without"
    for name, rows in bound.rows.items():
        yield f"{name} is whole numbers from 0 to {rows - 1}, which name rows of a table"


def _of_outputs(net: Net, options: Options) -> Iterator[str]:
    if len(net.outputs) > 1:
        order = "the order of `end=`" if options.end else "torch's order"
        yield f"outputs, in {order}: {', '.join(net.outputs)}"


def _taken_for_granted(net: Net, options: Options) -> Iterator[str]:
    """What no checkpoint says of a built-in net."""
    if modules.is_named(options.net):
        return
    granted = {"`eps=`": f"epsilon {EPSILON} in BatchNorm"} if options.eps is None else {}
    if net.preprocessing is not None:
        granted |= {"`mean=`": "ImageNet's mean"} if options.mean is None else {}
        granted |= {"`std=`": "ImageNet's deviation"} if options.std is None else {}
    if granted:
        yield f"taken for granted, if {', '.join(granted)} do not say otherwise: {', '.join(granted.values())}"


def _of_weights(weights: Weights, bound: Bound) -> Iterator[str]:
    doubles = sum(tensor.dtype.name == "float64" for tensor in bound.tensors.values())
    if doubles:
        yield f"{doubles} tensors are float64 and rounded to float32"
    if weights.key:
        others = f"; {', '.join(map(repr, weights.rivals))} would fit, too: `key=`" if weights.rivals else ""
        yield f"state dict {weights.key!r} of the checkpoint{others}"


def _left_alone(net: Net) -> Iterator[str]:
    without = [top for top, softmax in zip(net.ends, net.left_out, strict=False) if not softmax]
    if without:
        yield f"no softmax, and therefore left as they are: {', '.join(without)}"


def _check_shapes(net: Net) -> None:
    """Holds shapes that torch says against those that Caffe will make of the layers."""
    if not any(layer.shapes for layer in net.layers):
        return
    for step, layer in zip(infer(net), net.layers, strict=True):
        blobs = tuple(blob.shape for blob in layer.blobs)
        is_held = step.blobs == blobs or layer.is_borrowing
        if (layer.shapes and step.tops != layer.shapes) or not is_held:
            what = f"makes {step.tops} of {step.bottoms} with {blobs}, not {layer.shapes}"
            raise FaultError(what, tensor=f"layer {layer.name}")
