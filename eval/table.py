"""The result of `eval.evaluate` as a Markdown table and as CSV rows."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.scores import MATCH_METRICS, METRICS, Estimate

VALUE, ENCODER_ALONE, LATENTS_REFINED = "value", "encoder alone", "latents refined"  # columns
BIN_COLUMNS = ("wrong_count", "position_error_actual", "species_error_actual", "match_rate")

Result = dict[str, Any]  # what `eval.evaluate.evaluate` gives back


def format_table(result: Result, encoder_alone: Result | None = None, refine: int = 0) -> str:
    """A readable Markdown table: figures, intervals, failures, chance level, cell sizes.

    Args:
        result: what `eval.evaluate.evaluate` gave back.
        encoder_alone: the same of the encoder's latents, to stand beside what refined ones give.
        refine: steps by which latents were refined, at most, where both are given.
    """
    if encoder_alone is None:
        found, told = {VALUE: result}, headline(result)
    else:
        found = {ENCODER_ALONE: encoder_alone, LATENTS_REFINED: result}
        told = [f"{refined_label(refine).capitalize()}.", *headlines(found)]
    tables = (markdown(*main_rows(found)), markdown(*bin_rows(found)))
    return "\n".join([*told, "", *tables[0], "", *tables[1]])


def refined_label(refine: int) -> str:
    """What was done to latents that are refined, by so many steps at most."""
    return f"{LATENTS_REFINED} by up to {refine} steps on the crystals themselves"


def headlines(results: Mapping[str, Result]) -> list[str]:
    """What was scored, for results of the same crystals by their labels; chance is said once."""
    lines = []
    for label, result in results.items():
        chance = result["chance"] if label == list(results)[-1] else None
        first, *others = headline(result | {"chance": chance})
        lines += [f"{label.capitalize()}: {first}", *others]
    return lines


def headline(result: Result) -> list[str]:
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


def main_rows(results: Mapping[str, Result]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the main table, as text.

    Args:
        results: by the label of their column; of the same crystals, so that one chance level, the
            last one's, holds for all.
    """
    last = list(results.values())[-1]
    chance = last["chance"] or {}
    header = ["metric"]
    for label, result in results.items():
        header += [label, "95 % interval", *(["symmetry refined"] if result["refined"] else [])]
    header += ["chance"] if chance else []
    rows = []
    for metric in METRICS + MATCH_METRICS:
        if metric.name not in last["metrics"]:
            continue
        by_chance = chance.get(metric.name)
        told = format_value(by_chance["value"], metric.unit) if by_chance else ""
        cells = _figures(results, metric.name, metric.unit)
        rows.append([metric.title, *cells, *([told] if chance else [])])
        if metric.name == "position_error_actual":
            cells = _figures(results, "position_error_actual_median", "Å")
            rows.append(["position error, actual, median", *cells, *([""] if chance else [])])
    return header, rows


def _figures(results: Mapping[str, Result], name: str, unit: str) -> list[str]:
    """The cells of one metric: value, interval and, where there is one, the symmetrised value."""
    cells = []
    for result in results.values():
        estimate = result["metrics"][name]
        cells += [format_value(estimate["value"], unit), format_interval(estimate, unit)]
        if result["refined"]:
            cells.append(format_value(result["refined"][name]["value"], unit))
    return cells


def bin_rows(results: Mapping[str, Result]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the table over cell sizes, as text; a row for each label in turn.

    Args:
        results: by label, of the same crystals.
    """
    last = list(results.values())[-1]
    metrics = [m for m in METRICS + MATCH_METRICS if m.name in BIN_COLUMNS]
    metrics = [m for m in metrics if m.name in last["metrics"]]
    several = len(results) > 1
    rows = []
    for parts in zip(*(result["by_num_atoms"] for result in results.values()), strict=True):
        for label, part in zip(results, parts, strict=True):
            end = part["last"]
            size = f"{part['first']}–{end}" if end else f"{part['first']} and more"
            values = [format_value(part["metrics"][m.name]["value"], m.unit) for m in metrics]
            rows.append([size, str(part["crystals"]), *([label] if several else []), *values])
    header = ["atoms in the cell", "crystals", *(["latents"] if several else [])]
    return [*header, *(m.title for m in metrics)], rows


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


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table whose columns line up in plain text, too."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first = cells[0].ljust(widths[0])
        rest = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return f"| {' | '.join([first, *rest])} |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return [line(header), line(rule), *(line(row) for row in rows)]
