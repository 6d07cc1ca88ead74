"""What tables are made of: cells with their figures, rows, and how numbers are written."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from eval.compare.showing.summary import Outcome
from eval.table import format_interval, format_value

NOT_MEASURED = "not yet measured"
Get = Callable[[Any], float | int | None]  # a figure of a result


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: what it says.
        note: more of it: an interval, a count.
        value: to be compared with the others of its row; None is never the best.
        best: whether it is the best of its row.
    """

    text: str = "–"
    note: str = ""
    value: float | None = None
    best: bool = False


@dataclass(frozen=True)
class Row:
    """A line of a table.

    Attributes:
        title: what it tells.
        cells: one a column.
        head: whether it names the columns of the rows below it.
    """

    title: str
    cells: tuple[Cell, ...]
    head: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: a plain word for it.
        title: its headline.
        note: a sentence or two on how to read it.
        groups: titles of groups of columns, each with its number of columns.
        columns: titles of the columns; empty where the groups' titles suffice.
        sections: groups of rows with their titles.
    """

    name: str
    title: str
    note: str
    groups: tuple[tuple[str, int], ...]
    columns: tuple[str, ...]
    sections: tuple[tuple[str, tuple[Row, ...]], ...]


def metric_cell(outcome: Outcome, part: str, name: str, unit: str) -> Cell:
    """A figure of the evaluation: with its interval, or its spread over seeds.

    Args:
        outcome: the model.
        part: "metrics", "refined" or "chance".
        name: of the figure.
        unit: "%", "Å", "°" or "".
    """
    estimates = [(line[part] or {}).get(name) for line in outcome.done]
    found = [one for one in estimates if one is not None and one["value"] is not None]
    if not found:
        return Cell()
    values = [one["value"] for one in found]
    if len(values) == 1:
        only = found[0]
        text = format_value(values[0], unit)
        return Cell(text, format_interval(only, unit), values[0])
    return spread_cell(values, lambda value: format_value(value, unit))


def spread_cell(values: Sequence[float | int], show: Callable[[float], str]) -> Cell:
    """Mean ± standard deviation over seeds; a single value as it is.

    The deviation is that of the sample, with n - 1.
    """
    if not values:
        return Cell()
    mean = statistics.fmean(values)
    if len(values) == 1:
        return Cell(show(mean), "", mean)
    number, _, unit = show(mean).partition(" ")
    deviation = show(statistics.stdev(values)).partition(" ")[0]
    return Cell(f"{number} ± {deviation} {unit}".strip(), f"{len(values)} seeds", mean)


def figure_cells(
    outcomes: Sequence[Outcome],
    get: Get,
    show: Callable[[float], str],
    better: str | None = None,
    missing: str = "–",
) -> tuple[Cell, ...]:
    """One figure of each model, the mean of its seeds.

    Args:
        outcomes: of the models.
        get: the figure of a result, or None.
        show: how it is written.
        better: "low", "high", or None where there is no best.
        missing: what stands where no seed has it.
    """
    cells = []
    for outcome in outcomes:
        values = [float(value) for line in outcome.done if (value := get(line)) is not None]
        cells.append(spread_cell(values, show) if values else Cell(missing))
    return mark_best(cells, better, outcomes)


def metric_cells(
    outcomes: Sequence[Outcome], part: str, name: str, unit: str, better: str
) -> tuple[Cell, ...]:
    """One figure of the evaluation of each model, the best marked; see `metric_cell`."""
    return mark_best([metric_cell(outcome, part, name, unit) for outcome in outcomes], better)


def model_rows(
    outcomes: Sequence[Outcome], columns: Sequence[Sequence[Cell]]
) -> list[tuple[Outcome, Row]]:
    """A row a model.

    Args:
        outcomes: of the models.
        columns: each with a cell a model.
    """
    return [
        (outcome, Row(outcome.model.label, tuple(cells[i] for cells in columns)))
        for i, outcome in enumerate(outcomes)
    ]


def contestant_table(
    name: str,
    title: str,
    note: str,
    outcomes: Sequence[Outcome],
    columns: Sequence[tuple[str, Sequence[Cell]]],
) -> Table:
    """A row a contestant, grouped by how they came to know the property.

    Args:
        name: of the table.
        title: its headline.
        note: how to read it.
        outcomes: of the contestants.
        columns: titles, and a cell a contestant.
    """
    kinds = (
        ("Trained for the property", lambda model: not (model.latent or model.simple)),
        ("Ridge on a latent", lambda model: model.latent),
        ("Simple rules", lambda model: model.simple is not None),
    )
    rows = model_rows(outcomes, [cells for _, cells in columns])
    sections = [
        (kind, tuple(row for outcome, row in rows if belongs(outcome.model)))
        for kind, belongs in kinds
    ]
    titles = tuple(title for title, _ in columns)
    known = tuple(section for section in sections if section[1])
    return Table(name, title, note, (("", len(columns)),), titles, known)


def mark_best(
    cells: Sequence[Cell], better: str | None, outcomes: Sequence[Outcome] = ()
) -> tuple[Cell, ...]:
    """The cells with the best of them marked; those that read the same are equally good.

    Args:
        cells: of one kind, one a model.
        better: "low", "high", or None where there is no best.
        outcomes: of the models, for figures of which a model that mostly fails is never the best.
    """
    barred = [outcome.mostly_fails for outcome in outcomes] or [False] * len(cells)
    known = [c for c, out in zip(cells, barred, strict=True) if c.value is not None and not out]
    if better is None or len(known) < 2:
        return tuple(cells)
    choose = min if better == "low" else max
    top = choose(known, key=lambda cell: float(cell.value or 0.0))
    if all(cell.text == top.text for cell in known):
        return tuple(cells)
    return tuple(
        replace(c, best=c.value is not None and c.text == top.text and not out)
        for c, out in zip(cells, barred, strict=True)
    )


def format_seconds(seconds: float | int) -> str:
    """A time with a unit that suits it."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    if seconds < 3600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def format_bytes(count: float | int) -> str:
    """A size in GiB or MiB."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def format_mean(count: float | int) -> str:
    """A small count that may be a mean over seeds."""
    return f"{count:.0f}" if count == round(count) else f"{count:.1f}"


def format_count(number: float | int) -> str:
    """A count with thousands apart."""
    return f"{number:,.0f}"
