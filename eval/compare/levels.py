"""How long a training took to reach each error level, from the learning curve of its run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# figure of the learning curve -> levels, in the figure's unit
LEVELS: Mapping[str, tuple[float, ...]] = {
    "val/wrong_counts_percent": (50, 20, 10, 5, 2, 1),
    "val/position_actual": (1.0, 0.5, 0.2, 0.1, 0.05, 0.02),
    "val/species_actual_percent": (50, 20, 10, 5),
}

Curve = Sequence[Mapping[str, Any]]


def times_to_levels(curve: Curve) -> dict[str, dict[str, float | None] | None]:
    """Wall-clock time until a validation first found an error at or below each level, s.

    Args:
        curve: the lines of a run's `curve.jsonl`; `wall_s` is the time since the training began.

    Returns:
        {figure: {level: seconds, or None if never}}; None for a figure that was never measured.
    """
    found: dict[str, dict[str, float | None] | None] = {}
    for figure, levels in LEVELS.items():
        points = curve_of(curve, figure)
        found[figure] = {
            f"{level:g}": next((time for time, value in points if value <= level), None)
            for level in levels
        }
        if not points:
            found[figure] = None
    return found


def curve_of(curve: Curve, figure: str) -> list[tuple[float, float]]:
    """(wall-clock s, value) of one figure, where it was measured and is a number."""
    points = [(line["wall_s"], line[figure]) for line in curve if line.get(figure) is not None]
    return sorted((float(t), float(v)) for t, v in points if v == v)
