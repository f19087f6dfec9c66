"""Tensors before their bytes are known: views of storages, as a pickle speaks of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import TensorError
from ..payload.pieces import Extent, Piece, Source
from ..payload.tensors import DTYPES, DType, Tensor, contiguous_strides
from ..sources.decoded import Held


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


@dataclass(frozen=True)
class Nowhere(Source):
    """Where the bytes of a tensor are that cannot be read: who asks for them is told why."""

    name: str
    size: int
    tensor: str
    why: str
    advice: str
    offset: int

    @property
    def error(self) -> TensorError:
        where: dict[str, Any] = {"file": self.name, "tensor": self.tensor, "offset": self.offset}
        return TensorError(self.why, advice=self.advice, **where)

    def read_into(self, offset: int, into: memoryview) -> None:
        raise self.error

    def fileno(self) -> None:
        return None

    def check(self) -> None:
        pass


class Unreadable(Tensor):
    """A tensor that is there, and whose elements cannot be read. Its dtype says nothing."""

    __slots__ = ()

    @classmethod
    def of(cls, shape: tuple[int, ...], source: Nowhere) -> Unreadable:
        extent = Extent(source, 0, source.size)
        return cls(source.tensor, DTYPES["uint8"], shape, contiguous_strides(shape), extent)

    def as_float32(self) -> Piece:
        assert isinstance(self.extent.source, Nowhere)
        raise self.extent.source.error


def place(name: str, view: View, extents: Mapping[str, Extent], file: str) -> Tensor:
    """The tensor that a view describes, its storage being one of `extents`, unless the pickle of `file` holds it."""
    storage = view.storage
    if type(view.first) is not int or type(storage.first) is not int or storage.first < 0:
        raise TensorError("a storage offset is not a natural number", tensor=name)
    held = storage.held if storage.held is not None else extents[storage.key]
    extent = Extent(Held(file, len(held), held), 0, len(held)) if isinstance(held, bytes) else held
    return Tensor.in_storage(name, storage.dtype, view.shape, view.strides, extent, storage.first + view.first)
