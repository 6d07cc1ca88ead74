"""Charts of a comparison for a property: errors, predicted against true values, learning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from eval.charts import INK
from eval.compare.charting import WIDE, Chart, legend_below, logarithmic
from eval.compare.levels import curve_of
from eval.compare.plots import interval_of
from eval.compare.summary import Outcome

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIDE_BY_SIDE = 4  # panels, at most
Points = tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]


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
            "errors", f"errors of {target}, with intervals", lambda: draw_errors(outcomes, colors)
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
                lambda: _learning(outcomes, name, colors),
            )
        )
    return charts


def draw_errors(outcomes: Sequence[Outcome], colors: Mapping[str, str]) -> Figure:
    """Bars with intervals: mean absolute error, and its root of the mean square."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDE, 0.75 + 0.26 * len(outcomes)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for ax, (name, title) in zip(
        axes,
        (("mae", "mean absolute error"), ("rmse", "root of the mean squared error")),
        strict=True,
    ):
        for place, outcome in enumerate(outcomes):
            value, low, high = interval_of(outcome, "metrics", name)
            if value is None:
                continue
            ax.barh(place, value, height=0.62, color=colors[outcome.model.name], alpha=0.85)
            if low is not None and high is not None:
                ax.plot([low, high], [place, place], color=INK, lw=1.1, solid_capstyle="butt")
        ax.set_title(title, loc="left")
        ax.set_xlim(left=0)
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="x", alpha=0.2, lw=0.6, color=INK)
        ax.set_axisbelow(True)
    axes[0].set_yticks(range(len(outcomes)), [o.model.label for o in outcomes])
    axes[0].set_ylim(len(outcomes) - 0.4, -0.6)
    return figure


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
    every = [values for pair in points.values() for values in pair]
    finite = np.concatenate(every or [np.array([0.0, 1.0])])
    finite = finite[np.isfinite(finite)]
    low, high = float(finite.min()), float(finite.max())
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


def _learning(outcomes: Sequence[Outcome], name: str, colors: Mapping[str, str]) -> Figure:
    """The validation error against the wall-clock time of the training."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDE * 0.62, 2.8), layout="constrained")
    ax = figure.subplots()
    curves: list[tuple[Outcome, list[tuple[float, float]]]] = [
        (o, points)
        for o in outcomes
        for line in o.done
        if (points := curve_of(line["training"]["curve"], name))
    ]
    longest = max(time for _, points in curves for time, _ in points)
    scale, unit = (60.0, "min") if longest > 120 else (1.0, "s")
    for outcome, points in curves:
        style: dict[str, Any] = {"color": colors[outcome.model.name], "lw": 1.6, "ms": 3}
        marker = "o" if len(points) < 30 else None
        times = [time / scale for time, _ in points]
        label = outcome.model.label
        ax.plot(times, [value for _, value in points], marker=marker, label=label, **style)
    logarithmic(ax)
    ax.set_xlim(left=0)
    ax.set_title("mean absolute error on validation crystals", loc="left")
    ax.set_xlabel(f"training time, {unit}")
    ax.grid(alpha=0.2, lw=0.6, color=INK)
    legend_below(figure)
    return figure
