"""Streams trained PyTorch weights into Caffe models, in constant memory, at the speed of a file copy.

>>> import streamexport
>>> streamexport.convert(["resnet50.pth"], "resnet50.caffemodel")       # doctest: +SKIP

`open_weights` and `open_model` open files as tables of where the bytes are; `plan` knows every byte of a conversion
before it is written; `layout` makes a file of any net; `publish` and `stream` move layouts; `verify` compares; `costs`
counts what a Caffe net takes, `forward` runs it; `classify` and `evaluate` show it images.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .checking.parity import Difference, Parity, parity
    from .checking.verify import Report, verify
    from .conversion.convert import convert
    from .conversion.options import Options
    from .conversion.plan import Plan, plan
    from .counting.costs import Cost, costs
    from .errors import Error
    from .evaluation.evaluate import Accuracy, Classifier, Guess, Prediction, classify, evaluate
    from .evaluation.images import ImageSet, Transform, open_images
    from .extents import Extent, Layout, Literal, Piece, Source
    from .files import File, publish
    from .nets.graph import Blob, Call, Layer, Net
    from .readers import Weights, open_model, open_weights
    from .running.forward import forward, forward_layers
    from .tensors import DType, Tensor
    from .transfer import stream
    from .writers.caffemodel import layout

# Where each name is: a program that converts shall not load what shows images. No module here may be called like one.
_PLACES = {
    "checking.parity": "Difference Parity parity",
    "checking.verify": "Report verify",
    "conversion.convert": "convert",
    "conversion.options": "Options",
    "conversion.plan": "Plan plan",
    "counting.costs": "Cost costs",
    "errors": "Error",
    "evaluation.evaluate": "Accuracy Classifier Guess Prediction classify evaluate",
    "evaluation.images": "ImageSet Transform open_images",
    "extents": "Extent Layout Literal Piece Source",
    "files": "File publish",
    "nets.graph": "Blob Call Layer Net",
    "readers": "Weights open_model open_weights",
    "running.forward": "forward forward_layers",
    "tensors": "DType Tensor",
    "transfer": "stream",
    "writers.caffemodel": "layout",
}
_MODULES = {name: module for module, names in _PLACES.items() for name in names.split()}

__all__ = [
    "Accuracy",
    "Blob",
    "Call",
    "Classifier",
    "Cost",
    "DType",
    "Difference",
    "Error",
    "Extent",
    "File",
    "Guess",
    "ImageSet",
    "Layer",
    "Layout",
    "Literal",
    "Net",
    "Options",
    "Parity",
    "Piece",
    "Plan",
    "Prediction",
    "Report",
    "Source",
    "Tensor",
    "Transform",
    "Weights",
    "classify",
    "convert",
    "costs",
    "evaluate",
    "forward",
    "forward_layers",
    "layout",
    "open_images",
    "open_model",
    "open_weights",
    "parity",
    "plan",
    "publish",
    "stream",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    return found


def __dir__() -> list[str]:
    return [*globals(), *_MODULES]
