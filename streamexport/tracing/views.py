"""Rearrangements of dimensions that have not been carried out.

torch turns and cuts up tensors freely (view, permute, transpose, flatten); Caffe can give a blob another shape, and little
more. Most rearrangements come to nothing: they are undone, or the next operator can work around them. So they are kept as
a `View`, and become layers only where somebody needs the elements in order.

A view cuts a blob's elements into *atoms*: factors of its shape, in the blob's row-major order. Each of torch's dimensions
is a row-major product of some of them. With atoms (N, 2, C/2, H, W), a channel shuffle is the dimensions
((0), (2, 1), (3), (4)).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import gcd, prod

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class View:
    """How torch's dimensions are made of a blob's elements.

    Attributes
    ----------
    atoms : sizes of the atoms, more than 1 each; their product is the number of elements
    dims : for each dimension the atoms that it is made of, the slowest first; none for a size of 1
    """

    atoms: Shape
    dims: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, shape: Shape) -> View:
        """The view of elements that are in order."""
        atoms = tuple(size for size in shape if size != 1)
        numbers = iter(range(len(atoms)))
        return cls(atoms, tuple(() if size == 1 else (next(numbers),) for size in shape))

    @property
    def shape(self) -> Shape:
        return tuple(prod(self.atoms[atom] for atom in dim) for dim in self.dims)

    @property
    def order(self) -> tuple[int, ...]:
        """The atoms as they follow each other in the dimensions."""
        return tuple(atom for dim in self.dims for atom in dim)

    @property
    def is_contiguous(self) -> bool:
        return all(first < second for first, second in pairwise(self.order))

    def permuted(self, order: Sequence[int]) -> View:
        """Dimension n is dimension order[n] of this one."""
        return View(self.atoms, tuple(self.dims[axis] for axis in order))

    def reshaped(self, shape: Shape) -> View | None:
        """The same sequence of elements in another shape; None if no atoms make up its dimensions."""
        if self.is_contiguous:
            return View.of(shape)
        left = deque((atom, self.atoms[atom]) for atom in self.order)
        parts: list[list[int]] = [[] for _ in self.atoms]  # sizes that each atom is cut into
        dims: list[list[tuple[int, int]]] = []
        for size in shape:
            dim = []
            while size > 1:
                atom, available = left.popleft()
                taken = gcd(size, available)
                if taken == 1 or (taken < available and taken < size):
                    return None
                dim.append((atom, len(parts[atom])))
                parts[atom].append(taken)
                size //= taken
                if taken < available:
                    left.appendleft((atom, available // taken))
            dims.append(dim)
        starts = [sum(map(len, parts[:atom])) for atom in range(len(parts))]
        numbered = tuple(tuple(starts[atom] + part for atom, part in dim) for dim in dims)
        return View(tuple(size for sizes in parts for size in sizes), numbered)._joined()

    def squeezed(self, shape: Shape) -> View:
        """The same in a shape that differs by dimensions of size 1 alone: they come and go."""
        view = self.reshaped(shape)
        assert view is not None
        return view

    def _joined(self) -> View:
        """The same with neighbours made one that follow each other in a dimension."""
        following = {pair for dim in self.dims for pair in pairwise(dim) if pair[1] == pair[0] + 1}
        atoms: list[int] = []
        number: list[int] = []
        for atom, size in enumerate(self.atoms):
            if (atom - 1, atom) in following:
                atoms[-1] *= size
            else:
                atoms.append(size)
            number.append(len(atoms) - 1)
        dims = (tuple(dict.fromkeys(number[atom] for atom in dim)) for dim in self.dims)
        return View(tuple(atoms), tuple(dims))
