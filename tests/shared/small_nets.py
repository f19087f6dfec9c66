"""Small nets as text, and random weights for them: what the tests of forward and of Caffe's semantics share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from pathlib import Path

import numpy as np

from streamexport.caffe import caffe_pb2

Shape = tuple[int, ...]
Blobs = Mapping[str, Sequence[np.ndarray]]


def layer(name: str, kind: str, bottoms: str, tops: str, parameters: str = "") -> str:
    """A layer as text; bottoms and tops separated by blanks."""
    wires = [f'bottom: "{bottom}"' for bottom in bottoms.split()] + [f'top: "{top}"' for top in tops.split()]
    return f'layer {{ name: "{name}" type: "{kind}" {" ".join(wires)} {parameters} }}\n'


def inputs(shapes: Mapping[str, Shape]) -> str:
    """Input layers."""
    return "".join(layer(name, "Input", "", name, f"input_param {{ {dims(shape)} }}") for name, shape in shapes.items())


def dims(shape: Iterable[int]) -> str:
    return f"shape {{ {' '.join(f'dim: {size}' for size in shape)} }}"


def random(shape: Shape, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def weights(kind: str, shapes: Iterable[Shape]) -> list[np.ndarray]:
    """Blobs for a layer: normal, but for BatchNorm, whose variance and divisor have to be positive."""
    made = [random(shape, seed) for seed, shape in enumerate(shapes)]
    return [np.abs(values) + np.float32(0.5) for values in made] if kind == "BatchNorm" else made


def write_model(path: Path, blobs: Blobs) -> Path:
    """A caffemodel, by protobuf."""
    net = caffe_pb2.NetParameter(name="net")
    for name, arrays in blobs.items():
        held = net.layer.add(name=name)
        for values in arrays:
            held.blobs.add(shape={"dim": values.shape}, data=values.ravel().tolist())
            assert len(held.blobs[-1].data) == prod(values.shape)
    path.write_bytes(net.SerializeToString())
    return path
