"""The comparison's tables: what stands in them, whatever they are written as."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from eval.compare.growth_tables import growth_table, variants_table
from eval.compare.levels import LEVELS
from eval.compare.parts import (
    NOT_MEASURED,
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
from eval.scores import MATCH_METRICS, METRICS

_UNITS = {metric.name: metric.unit for metric in METRICS + MATCH_METRICS}
_MEDIAN = "position_error_actual_median"
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


def quality_table(outcomes: Sequence[Outcome]) -> Table:
    """How right the reconstructions are: raw, symmetry-refined, and by chance."""
    refined = any(line["refined"] for o in outcomes for line in o.done)
    chance = any(line["chance"] for o in outcomes for line in o.done)
    parts = ["metrics", *(["refined"] if refined else [])]
    sections = []
    for title, metrics in _QUALITY:
        rows = []
        for name, words, better in metrics:
            unit = _UNITS.get(name, "Å")
            by_part = [
                mark_best([metric_cell(o, part, name, unit) for o in outcomes], better)
                for part in parts
            ]
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
        tuple(("raw", "refined") * len(outcomes) if refined else ("raw",) * len(outcomes))
        + (("",) * chance),
        tuple(sections),
    )


def _lost_rows(outcomes: Sequence[Outcome], width: int, chance: bool) -> Iterable[Row]:
    """Failures and refused crystals; symmetry changes neither."""
    kinds: tuple[tuple[str, Callable[[Any], float]], ...] = (
        ("failures, of all test crystals", lambda line: line["counts"]["failures"]),
        (
            "of which it cannot represent",
            lambda line: line["reconstruction"]["cannot_represent"],
        ),
    )
    for title, get in kinds:
        cells = mark_best(
            [spread_cell([float(get(line)) for line in o.done], _plain_count) for o in outcomes],
            "low",
        )
        spread = [part for cell in cells for part in (cell, *((Cell(""),) * (width - 1)))]
        yield Row(title, (*spread, *((Cell(""),) * chance)))


def _plain_count(value: float) -> str:
    return f"{value:.0f}" if value == round(value) else f"{value:.1f}"


Get = Callable[[Any], float | None]


def cost_table(outcomes: Sequence[Outcome]) -> Table:
    """What the models cost: parameters, training, speed, memory."""
    training = (
        _row(outcomes, "parameters", lambda line: line["parameters"], format_count, "low"),
        _row(outcomes, "length of the latent", lambda line: line["latent_dim"], format_count),
        _row(outcomes, "epochs done here", _told("epochs"), format_count),
        _row(outcomes, "epochs published", _told("published_epochs"), format_count),
        _row(outcomes, "steps", _told("steps"), format_count),
        _row(outcomes, "wall-clock time", _told("wall_s"), format_seconds),
        _row(outcomes, "processor time", _told("cpu_s"), format_seconds),
        _measured(outcomes, "peak memory (CPU)", _trained_on("cpu"), format_bytes, "low"),
        _measured(outcomes, "peak memory (GPU)", _trained_on("cuda"), format_bytes, "low"),
    )
    use = tuple(
        _measured(outcomes, f"{what} ({where})", _used_on(kind, name), show, better)
        for kind, where in (("cpu", "CPU"), ("cuda", "GPU"))
        for what, name, show, better in (
            ("speed", "crystals_per_s", _speed, "high"),
            ("peak memory", "peak_memory_bytes", format_bytes, "low"),
        )
    )
    return Table(
        "cost",
        "What it costs",
        "Reconstruction is encoding and decoding of the test crystals, files left out, after a "
        "warm-up; a model that finds no atoms is done with them soon.",
        tuple((o.model.label, 1) for o in outcomes),
        (),
        (("Training", training), ("Reconstruction", use)),
    )


def _row(
    outcomes: Sequence[Outcome],
    title: str,
    get: Get,
    show: Callable[[float], str],
    better: str | None = None,
    missing: str = "–",
) -> Row:
    """One figure of each model, the mean of its seeds."""
    cells = []
    for outcome in outcomes:
        values = [float(value) for line in outcome.done if (value := get(line)) is not None]
        cells.append(spread_cell(values, show) if values else Cell(missing))
    return Row(title, mark_best(cells, better))


def _measured(
    outcomes: Sequence[Outcome], title: str, get: Get, show: Callable[[float], str], better: str
) -> Row:
    """A figure that depends on the machine, and was perhaps not measured on this kind."""
    return _row(outcomes, title, get, show, better, NOT_MEASURED)


def _told(name: str) -> Get:
    return lambda line: line["training"].get(name)


def _trained_on(kind: str) -> Get:
    """Peak memory of trainings on that kind of device."""

    def get(line: Any) -> float | int | None:
        told = line["training"]
        here = str(told.get("device") or "").startswith(kind)
        return told.get("peak_memory_bytes") if here else None

    return get


def _used_on(kind: str, name: str) -> Get:
    """A figure of reconstructions on that kind of device."""

    def get(line: Any) -> float | int | None:
        here = line["machine"]["device"].startswith(kind)
        return line["reconstruction"].get(name) if here else None

    return get


def _speed(value: float) -> str:
    return f"{value:.3g} crystals/s"


def levels_table(outcomes: Sequence[Outcome]) -> Table:
    """Training time until an error level was first seen on validation crystals."""
    titles = {
        "val/wrong_counts_percent": ("Wrong atom counts", "%"),
        "val/position_actual": ("Position error, actual", "Å"),
        "val/species_actual_percent": ("Species error, actual", "%"),
    }
    sections = []
    for figure, levels in LEVELS.items():
        title, unit = titles[figure]
        rows = []
        for level in levels:
            cells = [_level_cell(outcome, figure, f"{level:g}") for outcome in outcomes]
            rows.append(Row(f"≤ {level:g} {unit}", mark_best(cells, "low")))
        sections.append((title, tuple(rows)))
    return Table(
        "levels",
        "Training time to an error level",
        "Wall-clock time when a validation first saw an error as small as this. Validations are "
        "some epochs apart and look at a part of the validation crystals, so that times are upper "
        "bounds.",
        tuple((o.model.label, 1) for o in outcomes),
        (),
        tuple(sections),
    )


def _level_cell(outcome: Outcome, figure: str, level: str) -> Cell:
    told = [line["training"]["times_to_levels"].get(figure) for line in outcome.done]
    measured = [times[level] for times in told if times is not None]
    reached = [seconds for seconds in measured if seconds is not None]
    if not measured:
        return Cell("not measured")
    if not reached:
        return Cell("not reached")
    if len(reached) < len(measured):
        return Cell("not reached", f"by {len(measured) - len(reached)} of {len(measured)} seeds")
    return spread_cell(reached, format_seconds)


def all_tables(outcomes: Sequence[Outcome], growth: Sequence[dict[str, Any]]) -> list[Table]:
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
