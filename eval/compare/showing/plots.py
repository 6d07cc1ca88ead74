"""The comparison's charts, and those of errors: bars with intervals, predicted against true."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from eval.charts import INK
from eval.compare.showing.charting import WIDE, Chart
from eval.compare.showing.curves import (
    draw_cells,
    draw_learning,
    draw_property_learning,
    variants_drawer,
)
from eval.compare.showing.summary import Outcome
from eval.compare.trainings import curve_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BARS = (
    ("wrong_count", "wrong atom count, %"),
    ("position_error_actual", "position error, actual, Å"),
    ("position_error_detected", "position error, detected, Å"),
    ("species_error_actual", "species error, actual, %"),
    ("species_error_detected", "species error, detected, %"),
    ("match_rate", "StructureMatcher matches, %"),
)
PROPERTY_BARS = (
    ("mae", "mean absolute error"),
    ("rmse", "root of the mean squared error"),
)
_NAME, _TITLE = 24, 22  # letters in a line
_SIDE_BY_SIDE = 4  # panels of predicted against true, at most
Points = tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]


def reconstruction_charts(
    outcomes: Sequence[Outcome], growth: Sequence[Mapping[str, Any]], colors: Mapping[str, str]
) -> list[Chart]:
    """Every chart for which something is known.

    Args:
        outcomes: of the models that have results.
        growth: a line for each variant.
        colors: by model.
    """
    labels = {o.model.name: o.model.label for o in outcomes}
    charts = []
    if outcomes:
        charts.append(
            Chart.of(
                "errors",
                "errors of each model, with intervals",
                lambda: draw_errors(outcomes, colors),
            )
        )
    if any(line["training"]["curve"] for o in outcomes for line in o.done):
        charts.append(
            Chart.of(
                "learning", "errors against training time", lambda: draw_learning(outcomes, colors)
            )
        )
    if any(line["growth"] for o in outcomes for line in o.done):
        charts.append(
            Chart.of(
                "cells",
                "speed and memory by atoms in the cell",
                lambda: draw_cells(outcomes, colors),
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


def property_charts(
    outcomes: Sequence[Outcome],
    points: Mapping[str, Points],
    target: str,
    colors: Mapping[str, str],
) -> list[Chart]:
    """Every chart for which something is known.

    Args:
        outcomes: of the contestants that have results.
        points: by contestant, (M,) true and (M,) predicted values, NaN where there is none.
        target: name of the property.
        colors: by contestant.
    """
    if not outcomes:
        return []
    charts = [
        Chart.of(
            "errors",
            f"errors of {target}, with intervals",
            lambda: draw_property_errors(outcomes, colors),
        ),
        Chart.of(
            "scatter",
            f"predicted against true {target}",
            lambda: draw_scatter(outcomes, points, target, colors),
        ),
    ]
    name = f"val/mae_{target}"
    if any(curve_of(line["training"]["curve"], name) for o in outcomes for line in o.done):
        charts.append(
            Chart.of(
                "learning",
                f"error of {target} against training time",
                lambda: draw_property_learning(outcomes, name, colors),
            )
        )
    return charts


def draw_errors(outcomes: Sequence[Outcome], colors: Mapping[str, str]) -> Figure:
    """Bars with intervals, one panel a metric; the symmetrised figure is a dot beside its bar."""
    from matplotlib.figure import Figure

    panels = [
        (name, title)
        for name, title in BARS
        if any(name in line["metrics"] for o in outcomes for line in o.done)
    ]
    rows = -(-len(panels) // 3)
    lines = sum(1 + _bar_name(outcome).count("\n") for outcome in outcomes)
    height = rows * (0.9 + 0.1 * len(outcomes) + 0.16 * lines)
    figure = Figure(figsize=(WIDE, height), layout="constrained")
    axes = list(figure.subplots(rows, 3, squeeze=False).flat)
    for unused in axes[len(panels) :]:
        unused.remove()
    for ax, (name, title) in zip(axes, panels, strict=False):
        _draw_bars(ax, outcomes, name, title, colors)
        _name_bars(ax, outcomes)
    for ax in list(figure.axes)[: len(panels)]:
        if ax.get_subplotspec().colspan.start:  # type: ignore[union-attr]
            ax.set_yticklabels([])
    return figure


def draw_property_errors(outcomes: Sequence[Outcome], colors: Mapping[str, str]) -> Figure:
    """Bars with intervals: mean absolute error, and its root of the mean square."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDE, 0.75 + 0.26 * len(outcomes)), layout="constrained")
    axes = figure.subplots(1, len(PROPERTY_BARS), sharey=True)
    for ax, (name, title) in zip(axes, PROPERTY_BARS, strict=True):
        _draw_bars(ax, outcomes, name, title, colors)
    _name_bars(axes[0], outcomes)
    return figure


def _draw_bars(
    ax: Axes, outcomes: Sequence[Outcome], name: str, title: str, colors: Mapping[str, str]
) -> None:
    """One metric of every model, with symmetrised figures and the chance level where known."""
    for place, outcome in enumerate(outcomes):
        value, low, high = _interval_of(outcome, "metrics", name)
        if value is None:
            continue
        ax.barh(place, value, height=0.62, color=colors[outcome.model.name], alpha=0.85)
        if low is not None and high is not None:
            ax.plot([low, high], [place, place], color=INK, lw=1.1, solid_capstyle="butt")
        refined = _interval_of(outcome, "refined", name)[0]
        if refined is not None:
            ax.plot(refined, place, "D", ms=4.5, mfc="white", mec=INK, mew=0.9, zorder=5)
    chance = _chance(outcomes, name)
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
    ax.set_title(textwrap.fill(title, _TITLE), loc="left")
    ax.set_xlim(left=0)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", alpha=0.2, lw=0.6, color=INK)
    ax.set_axisbelow(True)


def _name_bars(ax: Axes, outcomes: Sequence[Outcome]) -> None:
    """The models' names, the first on top."""
    ax.set_yticks(range(len(outcomes)), list(map(_bar_name, outcomes)))
    ax.set_ylim(len(outcomes) - 0.4, -0.6)


def _bar_name(outcome: Outcome) -> str:
    """In lines that leave the bars room, with what is easily overlooked beside them."""
    name = textwrap.fill(outcome.model.label, _NAME)
    lost, every = outcome.failures
    return f"{name}\n({lost} of {every} failed)" if lost else name


def _chance(outcomes: Sequence[Outcome], name: str) -> float | None:
    for outcome in outcomes:
        for line in outcome.done:
            if name in (line.get("chance") or {}):
                return line["chance"][name]["value"]
    return None


def _interval_of(
    outcome: Outcome, part: str, name: str
) -> tuple[float | None, float | None, float | None]:
    """Value and interval; over seeds their mean, smallest and largest."""
    found = [(line.get(part) or {}).get(name) for line in outcome.done]
    known = [one for one in found if one is not None and one["value"] is not None]
    if not known:
        return None, None, None
    if len(known) == 1:
        return known[0]["value"], known[0]["low"], known[0]["high"]
    values = [one["value"] for one in known]
    return sum(values) / len(values), min(values), max(values)


def draw_scatter(
    outcomes: Sequence[Outcome],
    points: Mapping[str, Points],
    target: str,
    colors: Mapping[str, str],
) -> Figure:
    """A panel a contestant; on the line, predicted and true are equal."""
    from matplotlib.figure import Figure

    shown = [o for o in outcomes if o.model.name in points]
    rows = -(-max(1, len(shown)) // _SIDE_BY_SIDE)
    columns = -(-max(1, len(shown)) // rows)
    figure = Figure(figsize=(WIDE * columns / 4, 2.35 * rows + 0.2), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat
    every = np.concatenate([np.zeros(0), *(values for pair in points.values() for values in pair)])
    finite = every[np.isfinite(every)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    room = 0.04 * (high - low) or 1.0
    for ax, outcome in zip(axes, shown, strict=False):
        _scatter(ax, points[outcome.model.name], colors[outcome.model.name])
        ax.plot([low, high], [low, high], color=INK, lw=0.8, ls=(0, (3, 2)), alpha=0.7)
        ax.set_title(outcome.model.label, loc="left", fontsize=9)
        ax.set(xlim=(low - room, high + room), ylim=(low - room, high + room))
        ax.set_aspect("equal")
        ax.grid(alpha=0.2, lw=0.6, color=INK)
    for ax in list(figure.axes)[max(0, len(shown) - columns) : len(shown)]:
        ax.tick_params(labelbottom=True)  # the panel below it may be missing
    for unused in list(figure.axes)[len(shown) :]:
        unused.remove()
    figure.supxlabel(f"true {target}", fontsize=9)
    figure.supylabel("predicted", fontsize=9)
    return figure


def _scatter(ax: Axes, points: Points, color: str) -> None:
    truth, predicted = points
    known = np.isfinite(predicted)
    ax.plot(truth[known], predicted[known], "o", ms=3.2, mfc=color, mec="none", alpha=0.6)
