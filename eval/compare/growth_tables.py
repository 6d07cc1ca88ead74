"""Tables of how speed and memory grow, with the cell and with the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eval.compare.parts import (
    Cell,
    Row,
    Table,
    format_bytes,
    format_count,
    format_seconds,
    mark_best,
    spread_cell,
)
from eval.compare.summary import Outcome


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
        rows[0][1].append(Row(title, mark_best(times, "low")))
        rows[1][1].append(Row(title, mark_best(sizes, "low")))
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
