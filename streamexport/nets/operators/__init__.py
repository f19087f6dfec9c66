"""ATen's operators as Caffe layers, one function each, by kind. Importing this registers all of them."""

from . import activations, arithmetic, convolutions, normalizations, poolings, reductions, resizing, shapes

__all__ = [
    "activations",
    "arithmetic",
    "convolutions",
    "normalizations",
    "poolings",
    "reductions",
    "resizing",
    "shapes",
]
