"""The comparison's tables, and those of errors; whatever they are written as."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from eval.compare.plan import Comparison
from eval.compare.showing.cells import (
    Cell,
    Get,
    Row,
    Table,
    contestant_table,
    figure_cells,
    format_mean,
    format_seconds,
    metric_cell,
    metric_cells,
    model_rows,
    spread_cell,
)
from eval.compare.showing.cost_tables import (
    cost_table,
    growth_table,
    levels_table,
    property_cost_table,
    variants_table,
)
from eval.compare.showing.summary import Outcome
from eval.scores import MATCH_METRICS, METRICS
from eval.table import format_interval

_UNITS = {metric.name: metric.unit for metric in METRICS + MATCH_METRICS}
_MEDIAN = "position_error_actual_median"
# the figures that matter most: (title, metric, unit, better)
_OF_CRYSTALS = (
    ("wrong atom count", "wrong_count", "%", "low"),
    ("position error", "position_error_actual", "Å", "low"),
    ("wrong species", "species_error_actual", "%", "low"),
    ("matches", "match_rate", "%", "high"),
)
_OF_A_PROPERTY = (
    ("MAE", "mae", "", "low"),
    ("share of mean's", "mae_share", "%", "low"),
    ("RMSE", "rmse", "", "low"),
    ("R²", "r2", "", "high"),
)
# (section, [(metric, title, better)]): the published table comes first
_QUALITY: tuple[tuple[str, tuple[tuple[str, str, str], ...]], ...] = (
    (
        "The published table",
        (
            ("wrong_count", "wrong atom count", "low"),
            ("position_error_actual", "position error, actual", "low"),
            ("position_error_detected", "position error, detected", "low"),
            ("species_error_actual", "species error, actual", "low"),
            ("species_error_detected", "species error, detected", "low"),
        ),
    ),
    (
        "The same, as published: no periodic images",
        (
            ("position_error_actual_published", "position error, actual", "low"),
            ("position_error_detected_published", "position error, detected", "low"),
            ("species_error_actual_published", "species error, actual", "low"),
            ("species_error_detected_published", "species error, detected", "low"),
        ),
    ),
    (
        "Whole crystals",
        (
            ("match_rate", "StructureMatcher matches", "high"),
            ("match_rmse", "RMSE of the matched", "low"),
            (_MEDIAN, "position error, actual, median", "low"),
            ("count_mae", "atom count, mean abs. error", "low"),
        ),
    ),
    (
        "Cells",
        (
            ("length_mae", "lengths, mean abs. error", "low"),
            ("angle_mae", "angles, mean abs. error", "low"),
            ("volume_error", "volume, mean abs. error", "low"),
        ),
    ),
)


def reconstruction_tables(
    outcomes: Sequence[Outcome], growth: Sequence[dict[str, Any]]
) -> list[Table]:
    """Every table for which something is known, the published one first.

    Args:
        outcomes: of the models that have results; there may be none yet.
        growth: a line for each variant.
    """
    if not outcomes:
        return []
    tables = [quality_table(outcomes), cost_table(outcomes), levels_table(outcomes)]
    more = (growth_table(outcomes), variants_table(outcomes, growth))
    return tables + [table for table in more if table is not None]


def property_tables(outcomes: Sequence[Outcome]) -> list[Table]:
    """Every table; none before the first result.

    Args:
        outcomes: of the contestants that have results.
    """
    return [error_table(outcomes), property_cost_table(outcomes)] if outcomes else []


def quality_table(outcomes: Sequence[Outcome]) -> Table:
    """How right the reconstructions are: raw, symmetrised, and by chance."""
    refined = any(line["refined"] for o in outcomes for line in o.done)
    chance = any(line["chance"] for o in outcomes for line in o.done)
    parts = ["metrics", *(["refined"] if refined else [])]
    sections = []
    for title, metrics in _QUALITY:
        rows = []
        for name, words, better in metrics:
            unit = _UNITS.get(name, "Å")
            by_part = [metric_cells(outcomes, part, name, unit, better) for part in parts]
            if not any(cell.value is not None for cells in by_part for cell in cells):
                continue
            cells = [cell for pair in zip(*by_part, strict=True) for cell in pair]
            if chance:
                known = metric_cell(outcomes[0], "chance", name, unit)
                cells.append(known if known.value is not None else Cell(""))
            rows.append(Row(words, tuple(cells)))
        if rows:
            sections.append((title, tuple(rows)))
    sections.append(("Not reconstructed", tuple(_lost_rows(outcomes, len(parts), chance))))
    return Table(
        "quality",
        "Reconstruction errors on the test crystals",
        "Every test crystal counts in every row, whatever became of it.",
        tuple((o.model.label, len(parts)) for o in outcomes) + ((("chance", 1),) * chance),
        tuple(("raw", "symmetrised") * len(outcomes) if refined else ("raw",) * len(outcomes))
        + (("",) * chance),
        tuple(sections),
    )


def _lost_rows(outcomes: Sequence[Outcome], width: int, chance: bool) -> Iterable[Row]:
    """Failures and refused crystals; symmetry changes neither."""
    kinds: tuple[tuple[str, Get], ...] = (
        ("failures, of all test crystals", lambda line: line["counts"]["failures"]),
        (
            "of which it cannot represent",
            lambda line: line["reconstruction"]["cannot_represent"],
        ),
    )
    for title, get in kinds:
        cells = figure_cells(outcomes, get, format_mean, "low")
        spread = [part for cell in cells for part in (cell, *((Cell(""),) * (width - 1)))]
        yield Row(title, (*spread, *((Cell(""),) * chance)))


def error_table(outcomes: Sequence[Outcome]) -> Table:
    """How far the predicted values are off."""
    columns: list[tuple[str, tuple[Cell, ...]]] = []
    for title, name, unit, better in _OF_A_PROPERTY:
        cells = metric_cells(outcomes, "metrics", name, unit, better)
        if name == "mae":  # its interval stands in every language that tables are written in
            intervals = tuple(map(_interval, outcomes))
            alone = [
                replace(c, note="") if i.text != "–" else c
                for c, i in zip(cells, intervals, strict=True)
            ]
            columns += [(title, tuple(alone)), ("95 % interval", intervals)]
        else:
            columns.append((title, cells))
    lost = figure_cells(outcomes, lambda line: line["counts"]["failures"], format_mean)
    columns.append(("failures", lost))
    first = next(o.first for o in outcomes if o.first)
    return contestant_table(
        "quality",
        f"Errors of {first['target']} on the test crystals",
        f"In the unit of the data, over all {first['counts']['reference']} test crystals; a "
        "failure is scored as the mean of the training crystals. The share is of the mean absolute "
        "error of that mean.",
        outcomes,
        columns,
    )


def _interval(outcome: Outcome) -> Cell:
    """Of the mean absolute error; over several seeds there is none."""
    found = [line["metrics"]["mae"] for line in outcome.done]
    return Cell(format_interval(found[0], "") or "–") if len(found) == 1 else Cell()


def overview_table(parts: Sequence[tuple[Comparison, Sequence[Outcome]]]) -> Table:
    """The figures that matter most of every part, a row a model.

    Args:
        parts: each with what is known of its models.
    """
    sections = []
    for plan, outcomes in parts:
        wanted = _OF_A_PROPERTY if plan.predicts else _OF_CRYSTALS
        columns = [
            metric_cells(outcomes, "metrics", name, unit, better)
            for _, name, unit, better in wanted
        ]
        columns += [tuple(map(_lost_cell, outcomes)), tuple(map(_time_cell, outcomes))]
        names = (*(title for title, *_ in wanted), "failures", "training")
        head = Row("", tuple(Cell(name) for name in names), head=True)
        rows = [row for _, row in model_rows(outcomes, columns)]
        sections.append((plan.title, (head, *rows)))
    width = len(_OF_CRYSTALS) + 2
    return Table(
        "overview",
        "All parts",
        "Failures are counted in every figure.",
        (("", width),),
        ("",) * width,
        tuple(sections),
    )


def _lost_cell(outcome: Outcome) -> Cell:
    """Of how many test crystals a model made nothing."""
    if not outcome.done:
        return Cell("failed" if outcome.failed else "not done yet")
    first = outcome.done[0]["counts"]
    lost = [float(line["counts"]["failures"]) for line in outcome.done]
    return spread_cell(lost, lambda value: f"{value:g} of {first['reference']}")


def _time_cell(outcome: Outcome) -> Cell:
    """Wall-clock time of a training, here or before."""
    times = [
        float(line["training"]["wall_s"]) for line in outcome.done if line["training"].get("wall_s")
    ]
    cell = spread_cell(times, format_seconds)
    given = outcome.model.weights is not None and times
    return Cell(f"{cell.text}, before" if given else cell.text)
