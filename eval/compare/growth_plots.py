"""Charts of how speed and memory grow, with the cell and with the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eval.charts import INK
from eval.compare.charting import WIDE, legend_below, logarithmic
from eval.compare.summary import Outcome

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_cells(outcomes: Sequence[Outcome], colors: Mapping[str, str]) -> Figure:
    """Seconds a crystal, and memory, against the mean number of atoms of each bin."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDE, 2.7), layout="constrained")
    speed, memory = figure.subplots(1, 2)
    for outcome in outcomes:
        bins = outcome.done[0]["growth"]
        if bins:
            _two_lines(speed, memory, bins, "mean_atoms", colors[outcome.model.name], outcome)
    for ax in (speed, memory):
        ax.set_xlabel("atoms in the cell")
    _finish_growth(speed, memory)
    legend_below(figure)
    return figure


def variants_drawer(
    lines: Sequence[Mapping[str, Any]], color: str, title: str
) -> Callable[[], Figure]:
    """Draws one series of variants: seconds a crystal, and memory, against what is varied.

    Args:
        lines: of the variants, by value.
        color: of the model.
        title: of the chart.
    """

    def draw() -> Figure:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(WIDE, 2.6), layout="constrained")
        speed, memory = figure.subplots(1, 2)
        _two_lines(speed, memory, lines, "value", color, None)
        for ax in (speed, memory):
            ax.set_xlabel(str(lines[0]["series"]))
            ax.set_xticks([line["value"] for line in lines], [line["label"] for line in lines])
        _finish_growth(speed, memory)
        figure.suptitle(title, fontsize=10, x=0.01, ha="left")
        return figure

    return draw


def _two_lines(
    speed: Axes,
    memory: Axes,
    lines: Sequence[Mapping[str, Any]],
    x: str,
    color: str,
    outcome: Outcome | None,
) -> None:
    label = outcome.model.label if outcome else None
    style: dict[str, Any] = {"color": color, "lw": 1.6, "marker": "o", "ms": 4, "label": label}
    speed.plot(
        [g[x] for g in lines], [1e3 * (g["encode_s"] + g["decode_s"]) for g in lines], **style
    )
    known = [g for g in lines if g["working_memory_bytes"]]
    memory.plot([g[x] for g in known], [g["working_memory_bytes"] / 2**20 for g in known], **style)


def _finish_growth(speed: Axes, memory: Axes) -> None:
    speed.set_title("time for one crystal, ms", loc="left")
    memory.set_title("working memory, MiB", loc="left")
    for ax in (speed, memory):
        ax.grid(alpha=0.2, lw=0.6, color=INK)
        logarithmic(ax)
