"""Which state dict of a checkpoint is meant, where it holds several dicts with tensors in them.

The one that a net fits, if somebody says what net that is; else one of those with the most tensors, since what lies loose
beside a state dict (a best accuracy, class weights, a generator's state) is little. Where that leaves several, the outermost
with the most usual name is taken: the model itself, not its average.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ..errors import FormatError, NetError
from ..payload.tensors import Shaped
from .state_dict import Candidate
from .storages import View

Fits = Callable[[Mapping[str, Shaped]], bool]
"""Whether tensors, by name, are those of a net."""

USUAL_KEYS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "module",
    "params",
    "weights",
)
MOST = 12
"""State dicts that a message lists."""
LONGEST = 100
"""Characters of a key that a message shows."""


def choose(
    found: Sequence[Candidate], key: str | None, fits: Fits | None, file: str
) -> tuple[Candidate, tuple[Candidate, ...]]:
    """The state dict that is meant, and others that the net fits as well.

    Parameters
    ----------
    found : all dicts that hold tensors
    key : the path, if it is said
    fits : whether the net that is looked for has such tensors

    Raises
    ------
    NetError : there is none, none of that path, or several that nothing tells apart; they are listed
    """
    if key is not None:
        return _called(found, key, file), ()
    if not found:
        raise NetError("holds no state dict", file=file, advice="save model.state_dict() with torch")
    fitting = [candidate for candidate in found if fits is not None and _is_sound(candidate) and fits(candidate.views)]
    meant = fitting or _largest(found)
    lowest = min(map(_rank, meant))
    first, *others = (candidate for candidate in meant if _rank(candidate) == lowest)
    if others and not (fitting and all(other.views == first.views for other in others)):
        raise NetError("holds several state dicts", file=file, advice=_choices(meant))
    _called(found, first.key, file)
    return first, tuple(candidate for candidate in fitting if candidate.views != first.views)


def _called(found: Sequence[Candidate], key: str, file: str) -> Candidate:
    called = [candidate for candidate in found if candidate.is_called(key)]
    if len(called) > 1:
        raise FormatError(f"holds two state dicts called {key!r}", file=file)
    if not called:
        raise NetError(f"has no state dict {key!r}", file=file, advice=_choices(found))
    return called[0]


def _is_sound(candidate: Candidate) -> bool:
    """Whether all shapes are shapes: they come from a pickle, and are checked when a tensor is placed."""
    return all(type(size) is int and size >= 0 for view in candidate.views.values() for size in view.shape)


def _largest(found: Sequence[Candidate]) -> list[Candidate]:
    """Those that have at least half as many weights as the one with the most."""
    counts = [sum(map(_is_weight, candidate.views.values())) for candidate in found]
    most = max(counts)
    return [candidate for candidate, count in zip(found, counts, strict=True) if 2 * count >= most]


def _is_weight(view: View) -> bool:
    return view.storage.dtype.is_floating and any(size != 1 for size in view.shape)


def _rank(candidate: Candidate) -> tuple[int, int]:
    """How far out a dict is, and how usual its name; the root is farthest out."""
    name = candidate.path[-1] if candidate.path else ""
    return len(candidate.path), USUAL_KEYS.index(name) if name in USUAL_KEYS else len(USUAL_KEYS)


def _choices(found: Sequence[Candidate]) -> str:
    listed = [
        f"{_shown(candidate)} ({len(candidate.views)} tensors, {_size(candidate)} bytes)" for candidate in found[:MOST]
    ]
    return f"choose with `key=`: {', '.join(listed)}" + (f" and {len(found) - MOST} more" if len(found) > MOST else "")


def _shown(candidate: Candidate) -> str:
    return ".".join(key[:LONGEST] for key in candidate.path) or repr("")


def _size(candidate: Candidate) -> int:
    """Bytes of the storages."""
    storages = {view.storage.key: view.storage for view in candidate.views.values()}
    return sum(storage.nbytes for storage in storages.values())
