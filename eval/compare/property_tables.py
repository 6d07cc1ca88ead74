"""The tables of a comparison for a property: a row a contestant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from eval.compare.parts import (
    Cell,
    Row,
    Table,
    format_bytes,
    format_count,
    format_seconds,
    mark_best,
    metric_cell,
    spread_cell,
)
from eval.compare.summary import Outcome
from eval.table import format_interval

Column = tuple[str, tuple[Cell, ...]]


def error_table(outcomes: Sequence[Outcome]) -> Table:
    """How far the predicted values are off."""
    columns: list[Column] = []
    for title, name, unit, better in (
        ("MAE", "mae", "", "low"),
        ("share of mean's", "mae_share", "%", "low"),
        ("RMSE", "rmse", "", "low"),
        ("R²", "r2", "", "high"),
    ):
        cells = [metric_cell(o, "metrics", name, unit) for o in outcomes]
        if name == "mae":  # its interval stands in every language that tables are written in
            intervals = tuple(map(_interval, outcomes))
            alone = [
                replace(c, note="") if i.text != "–" else c
                for c, i in zip(cells, intervals, strict=True)
            ]
            columns += [(title, mark_best(alone, better)), ("95 % interval", intervals)]
        else:
            columns.append((title, mark_best(cells, better)))
    columns.append(
        _column(outcomes, "failures", lambda line: line["counts"]["failures"], str_count)
    )
    first = next(o.first for o in outcomes if o.first)
    return _transposed(
        "quality",
        f"Errors of {first['target']} on the test crystals",
        f"In the unit of the data, over all {first['counts']['reference']} test crystals; a "
        "failure is scored as the mean of the training crystals. The share is of the mean absolute "
        "error of that mean.",
        outcomes,
        columns,
    )


def cost_table(outcomes: Sequence[Outcome]) -> Table:
    """What the contestants cost: parameters, training, speed, memory."""
    columns = [
        _column(outcomes, "parameters", lambda line: line["parameters"], format_count, "low"),
        _column(outcomes, "epochs", _told("epochs"), format_count),
        _column(outcomes, "training", _told("wall_s"), format_seconds),
        _column(outcomes, "processor time", _told("cpu_s"), format_seconds),
        _column(outcomes, "one crystal", seconds_per_crystal, format_seconds, "low"),
        _column(outcomes, "peak memory", _peak_memory, format_bytes, "low"),
    ]
    return _transposed(
        "cost",
        "What it costs",
        "One crystal is the time from a crystal in memory to its value, in batches, neighbours or "
        "voxels included; peak memory is that of predicting.",
        outcomes,
        columns,
    )


def property_tables(outcomes: Sequence[Outcome]) -> list[Table]:
    """Every table; none before the first result.

    Args:
        outcomes: of the contestants that have results.
    """
    return [error_table(outcomes), cost_table(outcomes)] if outcomes else []


def seconds_per_crystal(line: Any) -> float | None:
    """Time for one prediction, s; None for a simple rule."""
    told = line["prediction"]
    return None if told["seconds"] is None else told["seconds"] / max(1, told["crystals"])


def str_count(value: float) -> str:
    """A count that is a mean over seeds."""
    return f"{value:.0f}" if value == round(value) else f"{value:.1f}"


def _interval(outcome: Outcome) -> Cell:
    """Of the mean absolute error; over several seeds there is none."""
    found = [line["metrics"]["mae"] for line in outcome.done]
    return Cell(format_interval(found[0], "") or "–") if len(found) == 1 else Cell()


def _told(name: str) -> Callable[[Any], float | None]:
    return lambda line: line["training"].get(name)


def _peak_memory(line: Any) -> int | None:
    return (
        None if line["prediction"]["seconds"] is None else line["prediction"]["peak_memory_bytes"]
    )


def _column(
    outcomes: Sequence[Outcome],
    title: str,
    get: Callable[[Any], float | None],
    show: Callable[[float], str],
    better: str | None = None,
) -> Column:
    """One figure of each contestant, the mean of its seeds."""
    cells = [
        spread_cell([float(v) for line in o.done if (v := get(line)) is not None], show)
        for o in outcomes
    ]
    return title, mark_best(cells, better)


def _transposed(
    name: str, title: str, note: str, outcomes: Sequence[Outcome], columns: Sequence[Column]
) -> Table:
    """A table of columns, the contestants grouped by how they came to know what they know."""
    kinds = (
        ("Trained for the property", lambda o: not (o.model.latent or o.model.simple)),
        ("Ridge on a latent", lambda o: o.model.latent),
        ("Simple rules", lambda o: o.model.simple is not None),
    )
    sections = []
    for kind, belongs in kinds:
        rows = [
            Row(o.model.label, tuple(cells[i] for _, cells in columns))
            for i, o in enumerate(outcomes)
            if belongs(o)
        ]
        if rows:
            sections.append((kind, tuple(rows)))
    titles = tuple(title for title, _ in columns)
    return Table(name, title, note, (("", len(columns)),), titles, tuple(sections))
