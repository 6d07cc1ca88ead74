"""Tables of cost: training, speed, memory, and how they grow with the cell and the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from eval.compare.showing.cells import (
    NOT_MEASURED,
    Cell,
    Get,
    Row,
    Table,
    contestant_table,
    figure_cells,
    format_bytes,
    format_count,
    format_seconds,
    mark_best,
    spread_cell,
)
from eval.compare.showing.summary import Outcome
from eval.compare.trainings import LEVELS


def cost_table(outcomes: Sequence[Outcome]) -> Table:
    """What the models cost: parameters, training, speed, memory."""
    training = (
        _row(outcomes, "parameters", lambda line: line["parameters"], format_count, "low"),
        _row(outcomes, "length of the latent", lambda line: line["latent_dim"], format_count),
        _row(outcomes, "epochs done here", _of_training("epochs"), format_count),
        _row(outcomes, "epochs published", _of_training("published_epochs"), format_count),
        _row(outcomes, "steps", _of_training("steps"), format_count),
        _row(outcomes, "wall-clock time", _of_training("wall_s"), format_seconds),
        _row(outcomes, "processor time", _of_training("cpu_s"), format_seconds),
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
        "warm-up. A model that finds no atoms is done with them soon: one that gives back less "
        "than half of them is never the best.",
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
) -> Row:
    return Row(title, figure_cells(outcomes, get, show, better))


def _measured(
    outcomes: Sequence[Outcome], title: str, get: Get, show: Callable[[float], str], better: str
) -> Row:
    """A figure that depends on the machine, and was perhaps not measured on this kind."""
    return Row(title, figure_cells(outcomes, get, show, better, NOT_MEASURED))


def _of_training(name: str) -> Get:
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


def property_cost_table(outcomes: Sequence[Outcome]) -> Table:
    """What the contestants cost: parameters, training, speed, memory."""
    wanted: tuple[tuple[str, Get, Callable[[float], str], str | None], ...] = (
        ("parameters", lambda line: line["parameters"], format_count, "low"),
        ("epochs", _of_training("epochs"), format_count, None),
        ("training", _of_training("wall_s"), format_seconds, None),
        ("processor time", _of_training("cpu_s"), format_seconds, None),
        ("one crystal", _seconds_per_crystal, format_seconds, "low"),
        ("peak memory", _predicting_memory, format_bytes, "low"),
    )
    return contestant_table(
        "cost",
        "What it costs",
        "One crystal is the time from a crystal in memory to its value, in batches, neighbours or "
        "voxels included; peak memory is that of predicting.",
        outcomes,
        [(title, figure_cells(outcomes, get, show, better)) for title, get, show, better in wanted],
    )


def _seconds_per_crystal(line: Any) -> float | None:
    """Time for one prediction, s; None for a simple rule."""
    told = line["prediction"]
    return None if told["seconds"] is None else told["seconds"] / max(1, told["crystals"])


def _predicting_memory(line: Any) -> int | None:
    told = line["prediction"]
    return None if told["seconds"] is None else told["peak_memory_bytes"]


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


def growth_table(outcomes: Sequence[Outcome]) -> Table | None:
    """Time and memory of reconstruction by the size of the cell."""
    known = [o for o in outcomes if o.first and o.first["growth"]]
    bins = sorted({(g["first"], g["last"]) for o in known for g in o.first["growth"]}, key=str)  # type: ignore[index]
    if not bins:
        return None
    rows: list[tuple[str, list[Row]]] = [("Time for one crystal", []), ("Working memory", [])]
    for first, last in sorted(bins, key=lambda one: one[0]):
        title = f"{first}–{last} atoms" if last else f"{first} atoms and more"
        times, sizes = [], []
        for outcome in outcomes:
            found = [g for g in (outcome.first or {}).get("growth", ()) if g["first"] == first]
            seconds = [g["encode_s"] + g["decode_s"] for g in found]
            memory = [g["working_memory_bytes"] for g in found]
            times.append(spread_cell(seconds, format_seconds))
            sizes.append(spread_cell([float(m) for m in memory if m is not None], format_bytes))
        rows[0][1].append(Row(title, mark_best(times, "low", outcomes)))
        rows[1][1].append(Row(title, mark_best(sizes, "low", outcomes)))
    return Table(
        "growth",
        "How it grows with the cell",
        "Encoding and decoding of a batch of crystals of this size; working memory is the peak "
        "beyond what model and data hold.",
        tuple((o.model.label, 1) for o in outcomes),
        (),
        tuple((title, tuple(part)) for title, part in rows),
    )


def variants_table(outcomes: Sequence[Outcome], growth: Sequence[dict[str, Any]]) -> Table | None:
    """Time and memory of changed models."""
    labels = {o.model.name: o.model.label for o in outcomes}
    sections: dict[str, list[Row]] = {}
    for line in sorted(growth, key=lambda one: (one["series"], one["model"], one["value"])):
        if line["model"] not in labels:
            continue
        title = f"{labels[line['model']]}: {line['series']}"
        rows = sections.setdefault(title, [])
        if line["status"] != "done":
            rows.append(Row(line["label"], (Cell(line["reason"]), *(Cell(""),) * 4)))
            continue
        memory = line["working_memory_bytes"]
        cells = (
            Cell(format_count(line["parameters"])),
            Cell(line["weights"]),
            Cell(format_seconds(line["encode_s"]) if line["crystals"] else "–"),
            Cell(format_seconds(line["decode_s"]) if line["crystals"] else "–"),
            Cell("–" if memory is None else format_bytes(memory)),
        )
        rows.append(Row(line["label"], cells))
    if not sections:
        return None
    return Table(
        "variants",
        "How it grows with the model's resolution",
        "Each variant in a process of its own, on the same crystals. With random weights, where "
        "the trained ones do not fit, decoding may find little to do; its time is then a lower "
        "bound.",
        (("", 5),),
        ("parameters", "weights", "encode one", "decode one", "working memory"),
        tuple((title, tuple(rows)) for title, rows in sections.items()),
    )
