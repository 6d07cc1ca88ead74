"""Charts of how time and memory grow: what was measured, and the power law fitted to it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMES = {
    "exact": "exact fields",
    "learned": "learned fields",
    "random": "random weights",
    "voxels": "voxels",
}
MEASURED = (  # key of a point, what it is, in which unit, and the exponent's name
    ("seconds", "time, s", 1.0, "time"),
    ("taken_memory_bytes", "memory taken, MB", 1e6, "memory"),
)
LEGEND = "points: measured · dashed: the power law fitted to the range told"


def recorded(path: Path) -> dict[str, Any]:
    """The curves in a benchmark's JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))["results"]


def draw_growth(
    ax: Axes,
    curves: Mapping[str, Mapping[str, Any]],
    axis: str,
    measured: tuple[str, str, float, str],
) -> None:
    """One panel, log-log: each curve's points and, dashed, its fitted power law.

    Args:
        ax: the panel.
        curves: by name, as the benchmarks write them.
        axis: key of the points that goes along x.
        measured: an entry of `MEASURED`.
    """
    key, label, unit, kind = measured
    for name, curve in curves.items():
        points = [(float(one[axis]), (one[key] or math.nan) / unit) for one in curve["points"]]
        slope, over = curve["exponents"][kind], curve["exponents"]["over"]
        told = NAMES.get(name, name)
        if slope is not None:
            told += rf": $\propto N^{{{slope:.2f}}}$, fitted to {over[0]:,.0f} – {over[-1]:,.0f}"
        (line,) = ax.loglog(*zip(*points, strict=True), "o-", lw=0.7, ms=4, label=told)
        if slope is not None:
            # the least-squares line in log-log goes through the mean of what it was fitted to
            logs = [(math.log(x), math.log(y)) for x, y in points if x in over]
            shift = sum(y - slope * x for x, y in logs) / len(logs)
            ends = (over[0], over[-1])
            fit = [math.exp(shift) * x**slope for x in ends]
            ax.loglog(ends, fit, "--", color=line.get_color(), lw=2.2, alpha=0.8)
    ax.set_ylabel(label)
    ax.grid(alpha=0.25, lw=0.5)
    ax.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.17))
