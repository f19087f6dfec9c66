"""Streams trained PyTorch weights into Caffe models, in constant memory, at the speed of a file copy.

>>> import streamexport
>>> streamexport.convert(["resnet50.pth"], "resnet50.caffemodel")       # doctest: +SKIP

`open_weights` and `open_model` open files as tables of where the bytes are; `plan` knows every byte of a conversion
before it is written; `layout` makes a file of any net; `publish` and `stream` move layouts; `verify` compares; `costs`
counts what a Caffe net takes, `forward` runs it; `classify` and `evaluate` show it images.
"""

__version__ = "0.1.0"

from .starting import ending_quietly

with ending_quietly():
    from .convert import Options, Plan, convert, plan
    from .costs import Cost, costs
    from .errors import Error
    from .evaluate import Accuracy, Classifier, Guess, Prediction, classify, evaluate
    from .extents import Extent, Layout, Literal, Piece, Source
    from .files import File, publish
    from .forward import forward, forward_layers
    from .images import ImageSet, Transform, open_images
    from .nets.graph import Blob, Call, Layer, Net
    from .parity import Difference, Parity, parity
    from .readers import Weights, open_model, open_weights
    from .tensors import DType, Tensor
    from .transfer import stream
    from .verify import Report, verify
    from .writers.caffemodel import layout

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
