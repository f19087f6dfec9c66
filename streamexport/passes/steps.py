"""What one layer becomes, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ..net.graph import Blob, Layer
from ..net.operations import Operation, Reshape, Shape


@dataclass(frozen=True, slots=True)
class Top:
    """What a layer makes, or takes."""

    name: str
    shape: Shape


@dataclass(slots=True)
class Steps:
    """The layers that a layer becomes, each called after it and after its part in it."""

    layer: Layer
    layers: list[Layer] = field(default_factory=list)

    def several(
        self, part: str, operation: Operation, bottoms: Sequence[Top], count: int, blobs: Sequence[Blob] = ()
    ) -> list[Top]:
        """Adds a layer with so many tops."""
        name = f"{self.layer.name}.{part}"
        shapes = operation.top_shapes([bottom.shape for bottom in bottoms], count)
        tops = (name,) if count == 1 else tuple(f"{name}.{index}" for index in range(count))
        bottom_names = tuple(bottom.name for bottom in bottoms)
        self.layers.append(Layer(name, operation, bottom_names, tops, tuple(blobs), shapes=shapes))
        return list(map(Top, tops, shapes))

    def add(self, part: str, operation: Operation, *bottoms: Top, blobs: Sequence[Blob] = ()) -> Top:
        """Adds a layer with one top."""
        (top,) = self.several(part, operation, bottoms, 1, blobs)
        return top

    def reshaped(self, part: str, x: Top, shape: Shape) -> Top:
        return self.add(part, Reshape.to(shape, x.shape), x)

    def finished(self) -> list[Layer]:
        """All of them, the last one called like the layer in whose place they stand."""
        return [*self.layers[:-1], replace(self.layers[-1], name=self.layer.name, tops=self.layer.tops)]
