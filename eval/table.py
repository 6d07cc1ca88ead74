"""The result of `eval.evaluate` as a Markdown table and as CSV rows."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.scores import MATCH_METRICS, METRICS, Estimate

BIN_COLUMNS = ("wrong_count", "position_error_actual", "species_error_actual", "match_rate")


def format_table(result: dict[str, Any]) -> str:
    """A readable Markdown table: figures, intervals, failures, chance level, cell sizes.

    Args:
        result: what `eval.evaluate.evaluate` gave back.
    """
    return "\n".join([*headline(result), "", *_main_table(result), "", *_bins_table(result)])


def headline(result: dict[str, Any]) -> list[str]:
    """What was scored, in a few sentences."""
    counts = result["counts"]
    lines = [
        f"{counts['reference']} reference crystals, {counts['predicted']} predicted; "
        f"{counts['failures']} failures, counted as wrong in every row."
    ]
    if counts["not_in_reference"]:
        lines.append(f"{counts['not_in_reference']} predicted ids are not in the reference.")
    if counts["reference_rejected"]:
        lines.append(f"{counts['reference_rejected']} reference rows could not be scored.")
    if result["match_failures"]:
        lines.append(f"{len(result['match_failures'])} pairs could not be matched (not matched).")
    if result["chance"]:
        rate = format_value(result["chance"]["match_rate"]["value"], "%")
        lines.append(
            f"Chance: the true cell and elements with random positions match in {rate} "
            f"(of {result['chance']['crystals']} crystals)."
        )
    return lines


def main_rows(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the main table, as text."""
    refined, chance = result["refined"], result["chance"] or {}
    header = ["metric", "value", "95 % interval"]
    header += ["symmetry refined"] if refined else []
    header += ["chance"] if chance else []
    rows = []
    for metric in METRICS + MATCH_METRICS:
        estimate = result["metrics"].get(metric.name)
        if estimate is None:
            continue
        row = [metric.title, format_value(estimate["value"], metric.unit)]
        row.append(format_interval(estimate, metric.unit))
        if refined:
            row.append(format_value(refined[metric.name]["value"], metric.unit))
        if chance:
            by_chance = chance.get(metric.name)
            row.append(format_value(by_chance["value"], metric.unit) if by_chance else "")
        rows.append(row)
        if metric.name == "position_error_actual":
            median = "position_error_actual_median"
            row = ["position error, actual, median", *[""] * (len(header) - 1)]
            row[1] = format_value(result["metrics"][median]["value"], "Å")
            if refined:
                row[3] = format_value(refined[median]["value"], "Å")
            rows.append(row)
    return header, rows


def bin_rows(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the table over cell sizes, as text."""
    metrics = [m for m in METRICS + MATCH_METRICS if m.name in BIN_COLUMNS]
    metrics = [m for m in metrics if m.name in result["metrics"]]
    rows = []
    for part in result["by_num_atoms"]:
        last = part["last"]
        label = f"{part['first']}–{last}" if last else f"{part['first']} and more"
        values = [format_value(part["metrics"][m.name]["value"], m.unit) for m in metrics]
        rows.append([label, str(part["crystals"]), *values])
    return ["atoms in the cell", "crystals", *(m.title for m in metrics)], rows


def format_value(value: float | None, unit: str) -> str:
    """A figure with its unit, to the digits that mean something; a dash if there is none."""
    if value is None:
        return "–"
    digits = {"%": 2, "°": 3}.get(unit, 4)
    text = f"{value:.{digits}f}"
    return f"{text} {unit}".strip()


def format_interval(estimate: Estimate, unit: str) -> str:
    """The 95 % interval, without the unit."""
    if estimate["low"] is None or estimate["high"] is None:
        return ""
    digits = {"%": 2, "°": 3}.get(unit, 4)
    return f"{estimate['low']:.{digits}f} … {estimate['high']:.{digits}f}"


def write_rows(path: str | Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write one CSV row a crystal, atomically.

    Text that a spreadsheet would run as a formula is written behind an apostrophe.

    Args:
        path: the CSV file.
        rows: what `evaluate` gave back under "rows".
    """
    from nesf.atomic import atomic_write

    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else ["id"])
    writer.writeheader()
    for row in rows:
        writer.writerow({key: _harmless(value) for key, value in row.items()})
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())


def _harmless(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value


def _main_table(result: dict[str, Any]) -> list[str]:
    return markdown(*main_rows(result))


def _bins_table(result: dict[str, Any]) -> list[str]:
    return markdown(*bin_rows(result))


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table whose columns line up in plain text, too."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first = cells[0].ljust(widths[0])
        rest = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return f"| {' | '.join([first, *rest])} |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return [line(header), line(rule), *(line(row) for row in rows)]
