"""Streams trained PyTorch weights into Caffe models, in constant memory, at the speed of a file copy.

>>> import streamexport
>>> streamexport.convert(["resnet50.pth"], "resnet50.caffemodel")       # doctest: +SKIP

`open_weights` and `open_model` open files as tables of where the bytes are; `fetch` downloads official checkpoints;
`plan` knows every byte of a conversion before it is written; `layout` makes a file of any net; `publish` and `stream`
move layouts, `open_layout` has others read them; `verify` compares; `costs` counts what a Caffe net takes, `forward`
runs it; `classify` and `evaluate` show it images.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__ as __version__

if TYPE_CHECKING:
    from .caffe.caffemodel.writing import layout as layout
    from .caffe.models import open_model as open_model
    from .checking.parity import Difference as Difference
    from .checking.parity import Parity as Parity
    from .checking.parity import parity as parity
    from .checking.verify import Report as Report
    from .checking.verify import verify as verify
    from .checkpoints import Weights as Weights
    from .checkpoints import open_weights as open_weights
    from .conversion.convert import convert as convert
    from .conversion.fetch import fetch as fetch
    from .conversion.options import Options as Options
    from .conversion.plan import Plan as Plan
    from .conversion.plan import plan as plan
    from .counting.costs import Cost as Cost
    from .counting.costs import costs as costs
    from .errors import Error as Error
    from .evaluation.evaluate import Accuracy as Accuracy
    from .evaluation.evaluate import Classifier as Classifier
    from .evaluation.evaluate import Guess as Guess
    from .evaluation.evaluate import Prediction as Prediction
    from .evaluation.evaluate import classify as classify
    from .evaluation.evaluate import evaluate as evaluate
    from .evaluation.images import ImageSet as ImageSet
    from .evaluation.images import Transform as Transform
    from .evaluation.images import open_images as open_images
    from .net.graph import Blob as Blob
    from .net.graph import Call as Call
    from .net.graph import Layer as Layer
    from .net.graph import Net as Net
    from .payload.pieces import Extent as Extent
    from .payload.pieces import Layout as Layout
    from .payload.pieces import Literal as Literal
    from .payload.pieces import Piece as Piece
    from .payload.pieces import Source as Source
    from .payload.tensors import DType as DType
    from .payload.tensors import Tensor as Tensor
    from .running.forward import forward as forward
    from .running.forward import forward_layers as forward_layers
    from .transfer.files import File as File
    from .transfer.files import publish as publish
    from .transfer.moving import stream as stream
    from .transfer.opening import open_layout as open_layout

# The same for when a program runs, by module: one that converts shall not load what shows images. No module here may be
# called like a name.
_PLACES = {
    "caffe.caffemodel.writing": "layout",
    "caffe.models": "open_model",
    "checking.parity": "Difference Parity parity",
    "checking.verify": "Report verify",
    "checkpoints": "Weights open_weights",
    "conversion.convert": "convert",
    "conversion.fetch": "fetch",
    "conversion.options": "Options",
    "conversion.plan": "Plan plan",
    "counting.costs": "Cost costs",
    "errors": "Error",
    "evaluation.evaluate": "Accuracy Classifier Guess Prediction classify evaluate",
    "evaluation.images": "ImageSet Transform open_images",
    "net.graph": "Blob Call Layer Net",
    "payload.pieces": "Extent Layout Literal Piece Source",
    "payload.tensors": "DType Tensor",
    "running.forward": "forward forward_layers",
    "transfer.files": "File publish",
    "transfer.moving": "stream",
    "transfer.opening": "open_layout",
}
_MODULES = {name: module for module, names in _PLACES.items() for name in names.split()}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    return found


def __dir__() -> list[str]:
    return [*globals(), *_MODULES]
