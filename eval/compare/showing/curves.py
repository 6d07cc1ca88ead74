"""Charts of curves: errors against training time, speed and memory against size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eval.charts import INK
from eval.compare.showing.charting import WIDE, legend_below, logarithmic
from eval.compare.showing.summary import Outcome
from eval.compare.trainings import curve_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


Curve = tuple[Outcome, list[tuple[float, float]]]  # (s, value) of one training

_LEARNING = (
    ("val/wrong_counts_percent", "wrong atom counts, %", False),
    ("val/position_actual", "position error, actual, Å", True),
    ("val/species_actual_percent", "species error, actual, %", False),
)


def draw_learning(outcomes: Sequence[Outcome], colors: Mapping[str, str]) -> Figure:
    """Validation errors against the wall-clock time of the training."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(WIDE, 2.7), layout="constrained")
    longest = max(
        (line["wall_s"] for o in outcomes for r in o.done for line in r["training"]["curve"]),
        default=0.0,
    )
    for ax, (name, title, many_decades) in zip(figure.subplots(1, 3).flat, _LEARNING, strict=True):
        curves = _curves(outcomes, name)
        _draw_curves(ax, curves, colors, longest)
        if curves and many_decades:
            logarithmic(ax)
        elif curves:
            ax.set_ylim(bottom=0)
        ax.set_xlim(left=0)
        ax.set_title(title, loc="left")
        ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    legend_below(figure)
    return figure


def draw_property_learning(
    outcomes: Sequence[Outcome], name: str, colors: Mapping[str, str]
) -> Figure:
    """The validation error against the wall-clock time of the training."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDE * 0.62, 2.8), layout="constrained")
    ax = figure.subplots()
    curves = _curves(outcomes, name)
    _draw_curves(ax, curves, colors, max(time for _, points in curves for time, _ in points))
    logarithmic(ax)
    ax.set_xlim(left=0)
    ax.set_title("mean absolute error on validation crystals", loc="left")
    legend_below(figure)
    return figure


def _curves(outcomes: Sequence[Outcome], name: str) -> list[Curve]:
    """One figure of each training that has it."""
    return [
        (outcome, points)
        for outcome in outcomes
        for line in outcome.done
        if (points := curve_of(line["training"]["curve"], name))
    ]


def _draw_curves(
    ax: Axes, curves: Sequence[Curve], colors: Mapping[str, str], longest: float
) -> None:
    """Lines against minutes, or against seconds where the longest training took few."""
    scale, unit = (60.0, "min") if longest > 120 else (1.0, "s")
    for outcome, points in curves:
        times, values = zip(*points, strict=True)
        ax.plot(
            [time / scale for time in times],
            values,
            color=colors[outcome.model.name],
            lw=1.6,
            marker="o" if len(points) < 30 else None,
            ms=3,
            label=outcome.model.label,
        )
    ax.set_xlabel(f"training time, {unit}")
    ax.grid(alpha=0.2, lw=0.6, color=INK)


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
