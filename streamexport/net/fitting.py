"""Which tensors of a checkpoint are a net's, whatever stands before their names.

Training code wraps nets, and saves the names of the wrappers: `module.` of DataParallel, also in the middle of a name where
a part was wrapped; `model.`, `backbone.` and the like of what the net was a part of. Names that only wrappers have are
overlooked on both sides. What else stands before all of a net's names is found by the names: each name of the checkpoint
that ends with one of the net's votes for what is before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, TypeVar

from ..errors import NetError
from ..payload.pieces import Source
from ..payload.tensors import Shaped, Tensor
from .graph import Net, Preprocessing
from .inputs import Arguments

if TYPE_CHECKING:
    import torch

Shape = tuple[int, ...]
Shapes = Mapping[str, Shaped]
S = TypeVar("S", bound=Shaped)

WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
COUNTER = "num_batches_tracked"  # of BatchNorm in training; nothing computes with it
COUNTERS = frozenset({COUNTER, "n_averaged", "total_ops", "total_params"})
"""Last parts of the names of numbers that are counted in training, by averaging, or by profilers."""
MOST = 8
"""Misfits that a message lists."""
MOST_PREFIXES = 32
"""Prefixes under which a net is looked for."""


@dataclass(frozen=True)
class Wanted:
    """The tensors of a net.

    Attributes
    ----------
    shapes : by name, in the net's order
    tied : names that are one tensor
    """

    shapes: Mapping[str, Shape]
    tied: Sequence[Sequence[str]] = ()


@dataclass(frozen=True)
class Fit:
    """How a checkpoint's tensors are a net's.

    Attributes
    ----------
    prefix : what stands before the net's names, wrappers apart
    names : of the tensors in the checkpoint, by the net's names
    tied : those of the net's names that the checkpoint has not, but for a tensor that has another name too
    misfits : what is missing or has another shape; nothing, if the net fits
    extra : names in the checkpoint that are no part of the net
    """

    prefix: str
    names: Mapping[str, str]
    tied: tuple[str, ...]
    misfits: tuple[str, ...]
    extra: tuple[str, ...]

    def notes(self, net: str) -> Iterator[str]:
        """What was taken off, taken for something else, and left out."""
        other = {name: found for name, found in self.names.items() if name not in self.tied and found != name}
        before = {found.removesuffix(name) if found.endswith(name) else None for name, found in other.items()}
        if len(before) == 1 and None not in before and len(other) == len(self.names) - len(self.tied):
            yield f"{before.pop()!r} is taken off the checkpoint's names"
        elif other:
            name, found = next(iter(other.items()))
            yield f"what wrappers add is taken off the checkpoint's names: {name} is {found} there"
        if self.tied:
            pairs = [f"{name} is {self.names[name]}" for name in self.tied]
            yield f"one tensor in the module, by one name in the checkpoint: {listed(pairs, 3)}"
        extra = [name for name in self.extra if not name.endswith(COUNTER)]
        if extra:
            yield f"left out, no part of {net}: {listed(extra, 3)}"


@dataclass(frozen=True)
class Bound:
    """A net whose blobs are a checkpoint's tensors.

    Attributes
    ----------
    net : the Caffe net
    tensors : the net's, by its own names
    make : builds the PyTorch module that computes the same, in evaluation mode
    given : what its `forward` is given
    sources : the files that the checkpoint stands in, where they are known
    expects : what the module expects of its input, where that is known
    rows : of the smallest table of which an input names rows, by the input
    """

    net: Net
    tensors: Mapping[str, Tensor]
    make: Callable[[], torch.nn.Module]
    given: Arguments
    sources: tuple[Source, ...] = ()
    expects: Preprocessing | None = None
    rows: Mapping[str, int] = field(default_factory=dict)


def under(tensors: Mapping[str, S], prefix: str) -> dict[str, S]:
    """The tensors whose names begin with a prefix, which is taken off; `module.` and the like may be left out of it.

    NetError, saying what there is, if there are none.
    """
    prefix = prefix if prefix.endswith(".") else f"{prefix}."
    bare = _unwrapped(tensors)
    for names, start in (({name: name for name in tensors}, prefix), (bare, _bare(prefix))):
        found = {
            name.removeprefix(start): tensors[own] for name, own in names.items() if start and name.startswith(start)
        }
        if found:
            return found
    firsts = dict.fromkeys(f"{name.partition('.')[0]}." for name in bare if "." in name)
    advice = f"names begin with {listed(list(firsts), MOST)}" if firsts else None
    raise NetError(f"has no tensors under {prefix!r}", advice=advice)


def prefixes(names: Collection[str], tensors: Iterable[str]) -> list[str]:
    """What stands before a net's names in a checkpoint: at most of them, or at half as many; at the most first.

    Just "" if nothing can be said. Wrappers are left out.
    """
    wanted = frozenset(map(_bare, names))
    deepest = max((name.count(".") for name in wanted), default=0)
    votes: Counter[str] = Counter()
    for name in map(_bare, tensors):
        start = len(name) + 1
        for _ in range(deepest + 1):
            start = name.rfind(".", 0, start - 1) + 1
            if name[start:] in wanted:
                votes[name[:start]] += 1
            if not start:
                break
    most = max(votes.values(), default=0)
    voted = sorted(votes, key=lambda prefix: (-votes[prefix], prefix))
    return [prefix for prefix in voted[:MOST_PREFIXES] if 2 * votes[prefix] >= most] or [""]


def fits(tensors: Shapes, among: Iterable[str], wanted: Callable[[Shapes], Wanted | None]) -> list[Fit]:
    """How tensors are those of a net, under each of some prefixes: those without misfits, or if there are none, all.

    Parameters
    ----------
    tensors : of the checkpoint
    among : the prefixes
    wanted : the tensors that the net has, given those under a prefix; None if it is another net
    """
    bare = _unwrapped(tensors)
    found = []
    for prefix in among:
        held = {name.removeprefix(prefix): own for name, own in bare.items() if name.startswith(prefix)}
        asked = wanted({name: tensors[own] for name, own in held.items()})
        if asked is not None:
            found.append(_fit(prefix, held, tensors, asked))
    whole = [fit for fit in found if not fit.misfits]
    plain = [fit for fit in whole if not fit.prefix]
    return plain or whole or found


def only(found: Sequence[Fit], tensors: Mapping[str, Tensor], net: str) -> Fit:
    """The fit that is meant. NetError, listing the prefixes, if a net fits under several that hold different tensors."""
    first, *others = found
    if not first.misfits and any(_held(other, tensors) != _held(first, tensors) for other in others):
        under = ", ".join(f"{fit.prefix!r} ({len(fit.names)} tensors)" for fit in found)
        raise NetError(f"holds {net} under several prefixes", advice=f"choose with `prefix=`: {under}")
    return first


def bound(fit: Fit, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The net's tensors, by its own names."""
    return {name: tensors[own] for name, own in fit.names.items()}


def listed(items: Sequence[str], most: int) -> str:
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")


def is_counter(name: str, tensor: Shaped) -> bool:
    """Whether a tensor is a number that nothing computes with."""
    return name.rpartition(".")[2] in COUNTERS and all(size == 1 for size in tensor.shape)


def _fit(prefix: str, held: Mapping[str, str], tensors: Shapes, wanted: Wanted) -> Fit:
    names = _matched(prefix, held, tensors, wanted.shapes)
    kept = {name: next((other for other in group if other in names), name) for group in wanted.tied for name in group}
    tied = tuple(name for name in wanted.shapes if name not in names and kept.get(name, name) != name)
    used = frozenset(names.values())
    extra = tuple(name for name in tensors if name not in used)
    names |= {name: names[kept[name]] for name in tied}
    misfits = [
        f"{name} is {list(tensors[names[name]].shape)}, not {list(shape)}"
        for name, shape in wanted.shapes.items()
        if name in names and not name.endswith(COUNTER) and tensors[names[name]].shape != shape
    ]
    for name in wanted.shapes:
        if name not in names and not name.endswith(COUNTER):
            near = get_close_matches(name, extra, 1, 0.7) if len(misfits) < MOST else []
            misfits.append(f"{name} is missing" + (f" (there is {near[0]})" if near else ""))
    return Fit(prefix, names, tied, tuple(misfits), extra)


def _held(fit: Fit, tensors: Mapping[str, Tensor]) -> dict[str, object]:
    """Where the elements of a net's tensors lie."""
    return {name: (t.extent, t.shape, t.strides) for name, t in bound(fit, tensors).items()}


def _matched(prefix: str, held: Mapping[str, str], tensors: Shapes, wanted: Iterable[str]) -> dict[str, str]:
    """The checkpoint's names by the net's: the very same first, then those that are without wrappers."""
    exact = {name: prefix + name for name in wanted if prefix + name in tensors}
    taken = frozenset(exact.values())
    left = {bare: own for bare, own in held.items() if own not in taken}
    return exact | {name: left.pop(_bare(name)) for name in wanted if name not in exact and _bare(name) in left}


def _unwrapped(names: Iterable[str]) -> dict[str, str]:
    """The names by what is left of them without the parts of wrappers; as they are where two would become one."""
    own = tuple(names)
    bare = {_bare(name): name for name in own}
    return bare if len(bare) == len(own) else {name: name for name in own}


def _bare(name: str) -> str:
    parts = name.split(".")
    if WRAPPERS.isdisjoint(parts):
        return name
    return ".".join(part for part in parts if part not in WRAPPERS)


def no_end(name: str, known: Sequence[str]) -> NetError:
    """What says that a net has nothing of this name."""
    near = get_close_matches(name, known, 3)
    advice = f"did you mean {' or '.join(near)}?" if near else f"the last one is {known[-1]}" if known else None
    return NetError(f"there is no layer {name!r} to end with", advice=advice)
