"""Weights of which several layers have the same: a module that is called more than once, the heads of a detector.

Caffe shares blobs by a name (`param { name }`); the first layer owns them, and the others are left out of the model file.
OpenCV does not know that. So where a model is for both, or for OpenCV alone, every layer has its own.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import replace

from ..net.graph import Blob, Layer, Net
from ..payload.tensors import Computed

SHARING = ("bvlc", "ssd")


def share(net: Net, dialect: str) -> Net:
    """The net with blobs of trained weights stored once, where the dialect has words for it; else with a note."""
    owners = dict(_owners(net))
    if not owners:
        return net
    if dialect not in SHARING:
        count = sum(layer.blobs[0].values.size for layer in net.layers if layer.name in owners)
        what = f"weights of {len(owners)} layers ({count} bytes and more) are written again"
        why = f"OpenCV does not know shared ones, dialects {' and '.join(SHARING)} have them once"
        return replace(net, notes=(*net.notes, f"{what}: {why}"))
    owned = set(owners.values())
    return net.with_layers(tuple(_shared(layer, owners.get(layer.name), layer.name in owned) for layer in net.layers))


def _owners(net: Net) -> Iterator[tuple[str, str]]:
    """Layers that have all weights of an earlier one, each with the first such."""
    first: dict[object, list[Layer]] = {}
    for layer in net.layers:
        if not layer.blobs or not all(blob.origin for blob in layer.blobs):
            continue
        alike = first.setdefault((layer.type, tuple((blob.origin, blob.shape, blob.dtype) for blob in layer.blobs)), [])
        owner = next((other for other in alike if all(map(_is_same, other.blobs, layer.blobs))), None)
        if owner is None:
            alike.append(layer)
        else:
            yield layer.name, owner.name


def _is_same(blob: Blob, other: Blob) -> bool:
    """Whether two blobs hold the same elements: what is computed from the same in the same way is the same."""
    if isinstance(blob.values, Computed) and isinstance(other.values, Computed):
        return pickle.dumps(blob.values) == pickle.dumps(other.values)
    return blob.values == other.values


def _shared(layer: Layer, owner: str | None, is_owner: bool) -> Layer:
    if owner is None and not is_owner:
        return layer
    names = tuple(f"{owner or layer.name}.{index}" for index in range(len(layer.blobs)))
    return replace(layer, shared=names, blobs=() if owner else layer.blobs)
