"""The comparison's charts: learning against time, errors with intervals, growth with size."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eval.charts import INK
from eval.compare.charting import WIDE, Chart, legend_below, logarithmic
from eval.compare.growth_plots import draw_cells, variants_drawer
from eval.compare.levels import curve_of
from eval.compare.summary import Outcome

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LEARNING = (
    ("val/wrong_counts_percent", "wrong atom counts, %", False),
    ("val/position_actual", "position error, actual, Å", True),
    ("val/species_actual_percent", "species error, actual, %", False),
)
BARS = (
    ("wrong_count", "wrong atom count, %"),
    ("position_error_actual", "position error, actual, Å"),
    ("position_error_detected", "position error, detected, Å"),
    ("species_error_actual", "species error, actual, %"),
    ("species_error_detected", "species error, detected, %"),
    ("match_rate", "StructureMatcher matches, %"),
)


def charts_of(
    outcomes: Sequence[Outcome], growth: Sequence[Mapping[str, Any]], colors: Mapping[str, str]
) -> list[Chart]:
    """Every chart for which something is known.

    Args:
        outcomes: of the models that have results.
        growth: a line for each variant.
        colors: by model.
    """
    labels = {o.model.name: o.model.label for o in outcomes}
    done = list(outcomes)
    charts = []
    if done:
        charts.append(
            Chart.of(
                "errors", "errors of each model, with intervals", lambda: draw_errors(done, colors)
            )
        )
    if any(line["training"]["curve"] for o in done for line in o.done):
        charts.append(
            Chart.of("learning", "errors against training time", lambda: _learning(done, colors))
        )
    if any(line["growth"] for o in done for line in o.done):
        charts.append(
            Chart.of(
                "cells", "speed and memory by atoms in the cell", lambda: draw_cells(done, colors)
            )
        )
    measured = [g for g in growth if g["status"] == "done" and g["model"] in labels]
    series = sorted({(g["model"], g["series"]) for g in measured})
    for model, name in series:
        part = sorted(
            (g for g in measured if (g["model"], g["series"]) == (model, name)),
            key=lambda g: g["value"],
        )
        if len(part) > 1:
            title = f"speed and memory of {labels[model]} by {name}"
            word = re.sub(r"[^a-z0-9]+", "_", f"{model} {name}".lower()).strip("_")
            charts.append(
                Chart.of(f"variants_{word}", title, variants_drawer(part, colors[model], title))
            )
    return charts


def draw_errors(outcomes: Sequence[Outcome], colors: Mapping[str, str]) -> Figure:
    """Bars with intervals, one panel a metric; the refined figure is a dot beside its bar."""
    from matplotlib.figure import Figure

    panels = [
        (name, title)
        for name, title in BARS
        if any(name in line["metrics"] for o in outcomes for line in o.done)
    ]
    rows = -(-len(panels) // 3)
    height = rows * (0.75 + 0.26 * len(outcomes))
    figure = Figure(figsize=(WIDE, height), layout="constrained")
    axes = list(figure.subplots(rows, 3, squeeze=False).flat)
    for unused in axes[len(panels) :]:
        unused.remove()
    for ax, (name, title) in zip(axes, panels, strict=False):
        chance = _chance(outcomes, name)
        for place, outcome in enumerate(outcomes):
            value, low, high = interval_of(outcome, "metrics", name)
            if value is None:
                continue
            color = colors[outcome.model.name]
            ax.barh(place, value, height=0.62, color=color, alpha=0.85)
            if low is not None and high is not None:
                ax.plot([low, high], [place, place], color=INK, lw=1.1, solid_capstyle="butt")
            refined = interval_of(outcome, "refined", name)[0]
            if refined is not None:
                ax.plot(refined, place, "D", ms=4.5, mfc="white", mec=INK, mew=0.9, zorder=5)
        if chance is not None:
            ax.axvline(chance, color=INK, lw=0.9, ls=(0, (3, 2)), alpha=0.7)
            ax.annotate(
                "chance",
                (chance, 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(3, -1),
                textcoords="offset points",
                fontsize=7,
                va="top",
                color=INK,
            )
        ax.set_title(title, loc="left")
        ax.set_yticks(range(len(outcomes)), [o.model.label for o in outcomes])
        ax.set_ylim(len(outcomes) - 0.4, -0.6)
        ax.set_xlim(left=0)
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="x", alpha=0.2, lw=0.6, color=INK)
        ax.set_axisbelow(True)
    for ax in list(figure.axes)[: len(panels)]:
        if ax.get_subplotspec().colspan.start:  # type: ignore[union-attr]
            ax.set_yticklabels([])
    return figure


def _chance(outcomes: Sequence[Outcome], name: str) -> float | None:
    for outcome in outcomes:
        for line in outcome.done:
            if line["chance"] and name in line["chance"]:
                return line["chance"][name]["value"]
    return None


def interval_of(
    outcome: Outcome, part: str, name: str
) -> tuple[float | None, float | None, float | None]:
    """Value and interval; over seeds their mean, smallest and largest."""
    found = [(line[part] or {}).get(name) for line in outcome.done]
    known = [one for one in found if one is not None and one["value"] is not None]
    if not known:
        return None, None, None
    if len(known) == 1:
        return known[0]["value"], known[0]["low"], known[0]["high"]
    values = [one["value"] for one in known]
    return sum(values) / len(values), min(values), max(values)


def _learning(outcomes: Sequence[Outcome], colors: Mapping[str, str]) -> Figure:
    """Validation errors against the wall-clock time of the training."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(WIDE, 2.7), layout="constrained")
    longest = max(
        (line["wall_s"] for o in outcomes for r in o.done for line in r["training"]["curve"]),
        default=0.0,
    )
    scale, unit = (60.0, "min") if longest > 120 else (1.0, "s")
    for ax, (figure_name, title, many_decades) in zip(
        figure.subplots(1, 3).flat, _LEARNING, strict=True
    ):
        drawn = False
        for outcome, points in _curves(outcomes, figure_name):
            times, values = zip(*points, strict=True)
            ax.plot(
                [t / scale for t in times],
                values,
                color=colors[outcome.model.name],
                lw=1.6,
                marker="o" if len(points) < 30 else None,
                ms=3,
                label=outcome.model.label,
            )
            drawn = True
        if drawn and many_decades:
            logarithmic(ax)
        elif drawn:
            ax.set_ylim(bottom=0)
        ax.set_xlim(left=0)
        ax.set_title(title, loc="left")
        ax.set_xlabel(f"training time, {unit}")
        ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        ax.grid(alpha=0.2, lw=0.6, color=INK)
    legend_below(figure)
    return figure


def _curves(
    outcomes: Sequence[Outcome], name: str
) -> Iterator[tuple[Outcome, list[tuple[float, float]]]]:
    for outcome in outcomes:
        for line in outcome.done:
            points = curve_of(line["training"]["curve"], name)
            if points:
                yield outcome, points
