"""Tensors that say where their elements lie, and the kinds of computed bytes made from them.

A `Tensor` is a view of a storage: an extent, a shape, and strides in elements. It is checked against its storage when
it is made. `as_float32` turns it into the bytes of a Caffe blob: the extent itself where the bytes are those already,
else a computed piece:

- `Stored`: elements as some piece holds them;
- `Strided`: the elements of any view in row-major order: transposed, sliced, expanded;
- `Cast`: the same numbers in another dtype.

All produce any range on their own, out of buffers whose size does not depend on the tensor's. numpy is imported when
the first of them renders.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache, cached_property
from math import prod
from threading import local
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import LimitError, TensorError
from .pieces import Extent, Piece, Source, check_range
from .strides import FEW, block, read_box, runs

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]


class DType(Enum):
    """An element type, by torch's name: bytes per element, and numpy's little-endian code for its bits.

    A closed set, so that what was pickled or copied is the member that it was. bfloat16, which numpy lacks, is the upper
    half of a float32: its code is that of the 16 bits.
    """

    float64 = 8, "<f8"
    float32 = 4, "<f4"
    float16 = 2, "<f2"
    bfloat16 = 2, "<u2"
    int64 = 8, "<i8"
    int32 = 4, "<i4"
    int16 = 2, "<i2"
    int8 = 1, "|i1"
    uint8 = 1, "|u1"
    bool = 1, "|b1"
    complex64 = 8, "<c8"
    complex128 = 16, "<c16"

    def __init__(self, itemsize: int, code: str) -> None:
        self.itemsize, self.code = itemsize, code
        self.is_floating = "float" in self.name


DTYPES = DType.__members__
FLOAT32, FLOAT16, BFLOAT16, FLOAT64 = (DTYPES[name] for name in ("float32", "float16", "bfloat16", "float64"))


class Shaped(Protocol):
    """A tensor, as far as a net is recognised by it."""

    @property
    def shape(self) -> tuple[int, ...]: ...


@dataclass(frozen=True, slots=True)
class Tensor:
    """A strided view of bytes in a source.

    Attributes
    ----------
    name : its name in the state dict
    shape, strides : in elements; strides are never negative and may be zero (expanded dimensions)
    extent : from the first byte of the first element to the last byte of the one farthest from it
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    extent: Extent

    def __post_init__(self) -> None:
        if self.extent.length != span(self.shape, self.strides) * self.dtype.itemsize:
            raise TensorError(f"shape {self.shape} does not fit {self.extent.length} bytes", tensor=self.name)

    @classmethod
    def in_storage(
        cls,
        name: str,
        dtype: DType,
        shape: Sequence[int],
        strides: Sequence[int],
        storage: Extent,
        first: int = 0,
    ) -> Tensor:
        """The view of `storage` that begins at element `first`. TensorError if it reaches outside the storage."""
        where: dict[str, Any] = {"file": storage.source.name, "tensor": name, "offset": storage.offset}
        if len(shape) > 64:  # torch's own limit
            raise TensorError(f"has {len(shape)} dimensions", **where)
        if not all(type(n) is int and 0 <= n < 1 << 63 for n in (*shape, *strides, first)) or prod(shape) >= 1 << 63:
            raise TensorError("a size, stride or offset is not a natural number of 63 bits", **where)
        if len(shape) != len(strides):
            raise TensorError(f"{len(shape)} sizes but {len(strides)} strides", **where)
        needed = (first + span(shape, strides)) * dtype.itemsize if 0 not in shape else 0
        if needed > storage.length:
            raise TensorError(
                f"shape {list(shape)} with strides {list(strides)} from element {first} needs {needed} bytes,"
                f" its storage holds {storage.length}",
                **where,
            )
        start = first * dtype.itemsize if needed else 0
        return cls(name, dtype, tuple(shape), tuple(strides), storage.part(start, max(start, needed)))

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of its elements, each counted once per index."""
        return self.numel * self.dtype.itemsize

    @property
    def is_contiguous(self) -> bool:
        if 0 in self.shape:
            return True
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if size != 1 and stride != expected:
                return False
            expected *= size
        return True

    def as_float32(self) -> Piece:
        """Its elements in row-major order as little-endian float32, `4 * numel` bytes.

        Exact for float32, float16 and bfloat16; float64 is rounded to nearest. TensorError for other dtypes.
        """
        if not self.dtype.is_floating:
            raise TensorError(
                f"holds {self.dtype.name}, a Caffe blob holds floating-point numbers",
                file=self.extent.source.name,
                tensor=self.name,
                offset=self.extent.offset,
                advice="convert it to float32 before saving the checkpoint",
            )
        if self.dtype == FLOAT32 and self.is_contiguous:
            return self.extent
        elements = Stored(self.extent, self.dtype, self.name) if self.is_contiguous else Strided(self)
        return elements if self.dtype == FLOAT32 else Cast(elements, FLOAT32)


def span(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Elements from a view's first to its farthest, both included; 0 for an empty view."""
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Row-major strides in elements."""
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))


class Computed(ABC):
    """Bytes that are the little-endian elements of an array made on demand, range by range.

    Attributes
    ----------
    name : the tensor or blob, for messages
    dtype : of the elements that it makes
    count : elements in all
    """

    name: str
    dtype: DType
    count: int

    @abstractmethod
    def elements(self, first: int, last: int) -> Array:
        """Elements [first, last) as a new one-dimensional array; memory in proportion to `last - first`."""

    @abstractmethod
    def extents(self, first: int, last: int) -> Sequence[Extent]:
        """What `elements` reads for the same range, which is not empty; see `Piece.reads`."""

    @property
    @abstractmethod
    def sources(self) -> tuple[Source, ...]: ...

    @property
    def size(self) -> int:
        return self.count * self.dtype.itemsize

    def reads(self, start: int, stop: int) -> Sequence[Extent]:
        check_range(self.size, start, stop)
        itemsize = self.dtype.itemsize
        return self.extents(start // itemsize, -(-stop // itemsize)) if start < stop else ()

    def render(self, start: int, stop: int, into: memoryview) -> None:
        check_range(self.size, start, stop, into)
        if start == stop:
            return
        _keep_freed_memory()
        itemsize = self.dtype.itemsize
        first, last = start // itemsize, -(-stop // itemsize)
        data = self.elements(first, last).data.cast("B")
        into[:] = data[start - first * itemsize : stop - first * itemsize]


@cache
def _keep_freed_memory() -> None:
    """Has glibc keep up to 4 MiB that was freed, which it would else return after every range and fault in for the next.

    It keeps twice as much as the largest block that was ever mapped and freed: mallopt(3), M_MMAP_THRESHOLD. Nothing of
    this one becomes resident.
    """
    import numpy as np

    np.empty(2 << 20, "u1")


class Stored(Computed):
    """The elements that a piece holds as they are: the beginning of a chain of computations."""

    def __init__(self, values: Piece, dtype: DType, name: str) -> None:
        self.values, self.dtype, self.name, self.count = values, dtype, name, values.size // dtype.itemsize

    @property
    def sources(self) -> tuple[Source, ...]:
        return self.values.sources

    def extents(self, first: int, last: int) -> Sequence[Extent]:
        return self.values.reads(first * self.dtype.itemsize, last * self.dtype.itemsize)

    def elements(self, first: int, last: int) -> Array:
        import numpy as np

        array = np.empty(last - first, self.dtype.code)
        if array.size:
            itemsize = self.dtype.itemsize
            self.values.render(first * itemsize, last * itemsize, array.data.cast("B"))
        return array


class Strided(Computed):
    """The elements of a view in row-major order, whatever its strides.

    A range is cut into boxes (at most two per dimension and one more). Where what lies together in the source is far apart in
    the view, as in a transpose, more rows than were asked for are read at once, and kept for whoever asks for the next.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.name, self.dtype, self.count = tensor, tensor.name, tensor.dtype, tensor.numel

    @property
    def sources(self) -> tuple[Source, ...]:
        return self.tensor.extent.sources

    @cached_property
    def block(self) -> int:
        """Elements that are read at once, whole rows; 1 where a range is as well read alone."""
        return block(self.tensor.shape, self.tensor.strides, self.dtype.itemsize)

    def extents(self, first: int, last: int) -> Sequence[Extent]:
        if not self._is_alone(first, last):
            first, last = first // self.block * self.block, min(-(-last // self.block) * self.block, self.count)
        strides, extent, itemsize = self.tensor.strides, self.tensor.extent, self.dtype.itemsize
        return [
            read
            for corner, shape in boxes(self.tensor.shape, first, last)
            for offset, length in runs(self._offset(corner), strides, shape, itemsize)
            for read in extent.reads(offset, offset + length)
        ]

    def elements(self, first: int, last: int) -> Array:
        array = self._read(first, last) if self._is_alone(first, last) else self._from_blocks(first, last)
        if last == self.count and _ahead.held is not None and _ahead.held[0] is self:
            _ahead.held = None
        return array

    def _is_alone(self, first: int, last: int) -> bool:
        """Whether a range is read by itself, and no block around it."""
        return last - first >= self.block or last - first <= FEW

    def _offset(self, corner: Sequence[int]) -> int:
        """Where an element lies in the extent."""
        return self.dtype.itemsize * sum(map(int.__mul__, corner, self.tensor.strides))

    def _from_blocks(self, first: int, last: int) -> Array:
        import numpy as np

        array = np.empty(last - first, self.dtype.code)
        at = first
        while at < last:
            begin, held = self._held(at)
            stop = min(last, begin + len(held))
            array[at - first : stop - first] = held[at - begin : stop - begin]
            at = stop
        return array

    def _held(self, at: int) -> tuple[int, Array]:
        """The first element of the block that `at` lies in, and its elements: kept until a thread wants another block."""
        begin, held = at // self.block * self.block, _ahead.held
        if held is None or held[:2] != (self, begin):
            _ahead.held = held = None  # so that there are never two of them
            _ahead.held = held = self, begin, self._read(begin, min(begin + self.block, self.count))
        return begin, held[2]

    def _read(self, first: int, last: int) -> Array:
        import numpy as np

        array, strides, extent = np.empty(last - first, self.dtype.code), self.tensor.strides, self.tensor.extent
        at = 0
        for corner, shape in boxes(self.tensor.shape, first, last):
            size = prod(shape)
            offset = extent.offset + self._offset(corner)
            read_box(extent.source, offset, strides, array[at : at + size].reshape(shape))
            at += size
        return array


class _Ahead(local):
    """What a thread has read of a view beyond what it was asked for: one block for each thread, however many views."""

    held: tuple[Strided, int, Array] | None = None


_ahead = _Ahead()


class Cast(Computed):
    """The numbers of another computed piece in another dtype. LimitError where a finite number would overflow."""

    def __init__(self, values: Computed, dtype: DType) -> None:
        self.values, self.name, self.dtype, self.count = values, values.name, dtype, values.count

    @property
    def sources(self) -> tuple[Source, ...]:
        return self.values.sources

    def extents(self, first: int, last: int) -> Sequence[Extent]:
        return self.values.extents(first, last)

    def elements(self, first: int, last: int) -> Array:
        import numpy as np

        array = self.values.elements(first, last)
        if self.values.dtype == BFLOAT16:
            array = (array.astype("<u4") << np.uint32(16)).view("<f4")
        with np.errstate(over="raise", invalid="ignore"):
            halves = rounded_to_half(array) if self.dtype == FLOAT16 and array.dtype == "<f4" else None
            if halves is not None:
                return halves
            try:
                return array.astype(self.dtype.code, copy=False)
            except FloatingPointError:
                raise self._overflow(array, first) from None

    def _overflow(self, array: Array, first: int) -> LimitError:
        import numpy as np

        with np.errstate(over="ignore"):
            lost = np.isinf(array.astype(self.dtype.code)) & np.isfinite(array)
        index = int(lost.argmax())
        return LimitError(
            f"element {first + index} is {array[index]:g}, too large for {self.dtype.name}",
            file=self.sources[0].name if self.sources else None,
            tensor=self.name,
            advice="keep it in float32" if self.dtype == FLOAT16 else "rescale it before saving the checkpoint",
        )


def rounded_to_half(array: Array) -> Array | None:
    """float32 as float16, to nearest and ties to even like numpy's cast; None unless all are finite and stay so.

    That cast takes twice as long, and 80 times where halves are subnormal. Here |x|, of exponent e, is added to 2^(e+13),
    where float32 has the precision that half has at |x|: the processor rounds, and the sum ends with the significand,
    n = |x| / 2^(e-10). The half is n + (e + 14 << 10) and the sign. A half is subnormal below the exponent -14, and e is
    never less.
    """
    import numpy as np

    magnitude = np.abs(array)
    if not magnitude.max(initial=0) < 65520:  # from there on, rounded to infinity
        return None
    total = magnitude.view("<u4")
    high = total & np.uint32(0xFF << 23)  # 2^e
    power = high.view("<f4")
    np.clip(power, np.float32(2**-14), np.float32(2**15), out=power)
    power *= np.float32(2**13 + 2)  # the 2 becomes 2 << 10: with e + 13 + 127 that is e + 14, modulo 2^6
    magnitude += power
    high >>= np.uint32(13)
    total += high
    np.right_shift(array.view("<u4"), np.uint32(16), out=high)
    high &= np.uint32(0x8000)
    total |= high
    return total.astype("<u2").view("<f2")


def boxes(shape: Sequence[int], first: int, last: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Cuts the row-major range [first, last) of an index space into boxes in order: (corner, shape) of each."""
    if first == last:
        return
    if not shape:
        yield (), ()
        return
    row = prod(shape[1:])
    head, tail = -(-first // row), last // row  # the rows [head, tail) are whole
    if head > tail:  # all of it lies within one row
        for corner, box in boxes(shape[1:], first - tail * row, last - tail * row):
            yield (tail, *corner), (1, *box)
        return
    for corner, box in boxes(shape[1:], first - (head - 1) * row, row) if first < head * row else ():
        yield (head - 1, *corner), (1, *box)
    if head < tail:
        yield (head, *(0 for _ in shape[1:])), (tail - head, *shape[1:])
    for corner, box in boxes(shape[1:], 0, last - tail * row):
        yield (tail, *corner), (1, *box)
