"""ATen's operators as Caffe layers, one function each, by kind. Importing this registers all of them.

What is imported from here is what a file of the user's own operators is written with, see docs/tracing.md.
"""

from ..node import Node, Scope
from ..operands import Constant, Operand, UnsupportedError, Value
from . import (
    activations,
    arithmetic,
    assigning,
    choosing,
    comparisons,
    convolutions,
    distances,
    extremes,
    filling,
    gathering,
    indexing,
    normalizations,
    padding,
    poolings,
    products,
    recurrent,
    reductions,
    resizing,
    shapes,
)
from .registry import operator

__all__ = [
    "Constant",
    "Node",
    "Operand",
    "Scope",
    "UnsupportedError",
    "Value",
    "activations",
    "arithmetic",
    "assigning",
    "choosing",
    "comparisons",
    "convolutions",
    "distances",
    "extremes",
    "filling",
    "gathering",
    "indexing",
    "normalizations",
    "operator",
    "padding",
    "poolings",
    "products",
    "recurrent",
    "reductions",
    "resizing",
    "shapes",
]
