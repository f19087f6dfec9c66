"""What a net holds besides what was trained: matrices that pick elements, resize images, and put dimensions in order."""

from __future__ import annotations

from dataclasses import replace

from ..net.graph import Net

MUCH = 1 << 20
"""Bytes from which on it is said."""


def weighed(net: Net) -> Net:
    """The net with a note, if more of it is computed from nothing than comes from the checkpoint.

    Matrices that pick elements at places that vary in two dimensions together, as those of a grid do, have as many columns
    as there are pixels, and as many rows.
    """
    sizes = {
        layer.name: sum(blob.values.size for blob in layer.blobs if not blob.origin)
        for layer in net.layers
        if layer.blobs
    }
    made = sum(sizes.values())
    if made < MUCH or 2 * made <= net.payload:
        return net
    largest = max(sizes, key=lambda name: sizes[name])
    what = f"{made} of {net.payload} bytes of weights are not the checkpoint's: they pick elements, resize or reorder"
    return replace(net, notes=(*net.notes, f"{what}; {sizes[largest]} of them are {largest}'s"))
