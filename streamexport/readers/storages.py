"""Tensors before their bytes are known: views of storages, as a pickle speaks of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import TensorError
from ..extents import Extent
from ..sources.decoded import Held
from ..tensors import DType, Tensor


@dataclass(frozen=True, slots=True)
class Storage:
    """`numel` elements under a key, of which a view begins at `first`; `held` where the pickle itself holds them."""

    key: str
    dtype: DType
    numel: int
    first: int = 0
    held: Extent | bytes | None = None

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Opaque:
    """A storage of elements that no blob can be made of, such as quantised ones; `kind` is torch's name for them."""

    key: str
    kind: str
    itemsize: int
    numel: int

    @property
    def nbytes(self) -> int:
        return self.numel * self.itemsize


@dataclass(frozen=True, slots=True)
class View:
    """A tensor: elements counted from the beginning of its storage. Nothing of it is checked before it is placed."""

    storage: Storage
    first: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def place(name: str, view: View, extents: Mapping[str, Extent], file: str) -> Tensor:
    """The tensor that a view describes, its storage being one of `extents`, unless the pickle of `file` holds it."""
    storage = view.storage
    if type(view.first) is not int or type(storage.first) is not int or storage.first < 0:
        raise TensorError("a storage offset is not a natural number", tensor=name)
    held = storage.held if storage.held is not None else extents[storage.key]
    extent = Extent(Held(file, len(held), held), 0, len(held)) if isinstance(held, bytes) else held
    return Tensor.in_storage(name, storage.dtype, view.shape, view.strides, extent, storage.first + view.first)
