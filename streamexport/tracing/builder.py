"""The net in the making: layers whose names are not settled, and what was made before.

Nothing here knows torch or its operators: `node.Scope` adds layers, `finished` names them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import count

from ..net.graph import Call, Layer
from .operands import Label, Value
from .views import Shape, View


@dataclass(slots=True)
class _Draft:
    """A layer whose name is not settled: that depends on how many others want it."""

    label: Label
    part: str
    layer: Layer


@dataclass(slots=True)
class Builder:
    """Layers in the order in which they were added; their tops are numbered meanwhile.

    Attributes
    ----------
    inputs : Input layers of one top each, called like it, which stand in front of all others
    known : values that were given another shape or order before, by top, and shape or view
    """

    inputs: Sequence[Layer] = ()
    known: dict[tuple[str, Shape | View], Value] = field(default_factory=dict)
    _drafts: list[_Draft] = field(default_factory=list)
    _makers: dict[str, _Draft] = field(default_factory=dict)

    @property
    def batch(self) -> int:
        """Images that the net takes at once: what all inputs begin with; 1 where they differ, and nothing can be said."""
        first, *others = {layer.shapes[0][0] for layer in self.inputs} or {1}
        return 1 if others else first

    def add(self, label: Label, part: str, layer: Layer) -> tuple[str, ...]:
        """Adds a layer that is called after a node, and tops of it: one for each of its shapes."""
        tops = tuple(f"{len(self._drafts)}:{index}" for index in range(len(layer.shapes)))
        draft = _Draft(label, part, replace(layer, tops=tops))
        self._drafts.append(draft)
        self._makers[tops[0]] = draft
        return tops

    def mark(self, value: Value, call: Call) -> None:
        """Says that a value is what a call of a module returns. Only first tops are."""
        if (draft := self._makers.get(value.top)) is not None:
            draft.layer = replace(draft.layer, origin=draft.layer.origin or call)

    def maker(self, top: str) -> Layer | None:
        """The layer whose first top that is; None for inputs."""
        draft = self._makers.get(top)
        return None if draft is None else draft.layer

    def finished(self) -> tuple[tuple[Layer, ...], dict[str, str]]:
        """The inputs' layers and those behind them with their names, and the tops by what they were called meanwhile.

        Layers are called after their nodes, and numbered where these make several; tops are called like layers.
        """
        names = {layer.name: None for layer in self.inputs}
        tops = {name: name for name in names}
        layers = [*self.inputs]
        for draft in self._drafts:
            name = f"{draft.label.name}.{draft.part}" if draft.part else draft.label.name
            numbered = (f"{name}_{number}" for number in count(2))
            name = name if name not in names else next(other for other in numbered if other not in names)
            names[name] = None
            several = len(draft.layer.tops) > 1
            named = tuple(f"{name}.{index}" if several else name for index in range(len(draft.layer.tops)))
            tops.update(zip(draft.layer.tops, named, strict=True))
            bottoms = tuple(tops[bottom] for bottom in draft.layer.bottoms)
            layers.append(replace(draft.layer, name=name, bottoms=bottoms, tops=named))
        return tuple(layers), tops

    def nodes(self, places: Sequence[int]) -> set[str]:
        """The graph's names of the nodes that added the layers at these places of what `finished` returns."""
        return {self._drafts[place - len(self.inputs)].label.node for place in places}
