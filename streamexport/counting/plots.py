"""Pictures, drawn by matplotlib. It is imported when one is asked for."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import need, one_line
from .costs import Cost

if TYPE_CHECKING:
    from matplotlib.axes import Axes

QUANTITIES = {"multiply_adds": "multiply-adds", "parameters": "parameters", "activation_bytes": "activations"}
COLOURS = ("#33618f", "#d1622b", "#2a9d8f", "#8f6bb3", "#c2a83e")
"""Of the types of layers that have arithmetic, in the order of the net."""
OTHERS = "#b4b8bd"
NAMES = 90
"""Layers' names that fit beside each other."""


def plot(costs: Sequence[Cost], title: str) -> bytes:
    """What layers cost, along the net: a PNG of 1800 x 1260 pixels. MissingError if matplotlib is not installed."""
    need("matplotlib")
    from matplotlib.figure import Figure

    figure = Figure((12, 8.4), dpi=150, layout="constrained")
    figure.suptitle(_shortened(title, 90), x=0.01, ha="left", weight="bold", parse_math=False)
    panels = figure.subplots(len(QUANTITIES), sharex=True)
    for axes, (quantity, name) in zip(panels, QUANTITIES.items(), strict=True):
        _draw(axes, costs, [getattr(cost, quantity) for cost in costs], name)
    _explain_colours(panels[0], costs)
    _name_layers(panels[-1], costs)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()


def _draw(axes: Axes, costs: Sequence[Cost], sizes: Sequence[int], name: str) -> None:
    """A bar for each layer, as high as what it costs."""
    from matplotlib.ticker import EngFormatter

    colours = _colours(costs)
    unit = "B" if name == "activations" else ""
    axes.set_title(f"{name}: {EngFormatter(unit, places=2)(sum(sizes)).strip()}", loc="left", fontsize=10)
    axes.bar(range(len(sizes)), sizes, 0.85, color=[colours.get(cost.type, OTHERS) for cost in costs])
    axes.yaxis.set_major_formatter(EngFormatter(unit))
    axes.grid(axis="y", color="#e4e6e8")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.01)


def _colours(costs: Sequence[Cost]) -> dict[str, str]:
    return dict(zip(dict.fromkeys(cost.type for cost in costs if cost.multiply_adds), COLOURS, strict=False))


def _explain_colours(axes: Axes, costs: Sequence[Cost]) -> None:
    from matplotlib.patches import Patch

    shown = _colours(costs)
    if not shown.keys() >= {cost.type for cost in costs}:
        shown["other layers"] = OTHERS
    patches = [Patch(color=colour, label=kind) for kind, colour in shown.items()]
    axes.legend(
        handles=patches, loc="lower right", bbox_to_anchor=(1, 1), ncols=len(shown) or 1, frameon=False, fontsize=9
    )


def _name_layers(axes: Axes, costs: Sequence[Cost]) -> None:
    """Names below the bars: of layers with arithmetic, as far as there is room."""
    named: list[int] = []
    for index, cost in enumerate(costs):
        if cost.multiply_adds and (not named or index - named[-1] >= len(costs) / NAMES):
            named.append(index)
    names = [_shortened(costs[index].layer, 28) for index in named]
    axes.set_xticks(named, names, rotation=90, fontsize=7, parse_math=False)  # a $ in a name is a $


def _shortened(name: str, most: int) -> str:
    name = one_line(name)
    return name if len(name) <= most else f"{name[: most - 1]}…"
