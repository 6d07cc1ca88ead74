"""The report of a run: one HTML file that opens offline, with figures, charts and 3-D cells."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from eval.cards import (
    CrystalPair,
    escape,
    facts_list,
    pairs_section,
    select_cases,
)
from eval.charts import Curve, FieldSlice, history_charts, read_history, slice_chart
from eval.page import DRAWN_WITH, write_page
from eval.table import (
    ENCODER_ALONE,
    LATENTS_REFINED,
    VALUE,
    bin_rows,
    format_interval,
    format_value,
    headline,
    headlines,
    main_rows,
    refined_label,
)

__all__ = ["CrystalPair", "FieldSlice", "read_history", "select_cases", "write_report"]


def write_report(
    path: str | Path,
    *,
    title: str,
    metrics: Mapping[str, Any],
    summary: Mapping[str, object] | None = None,
    history: Mapping[str, Curve] | None = None,
    pairs: Sequence[CrystalPair] = (),
    field_slices: Sequence[FieldSlice] = (),
    nearest: Mapping[str, tuple[str, float] | None] | None = None,
    encoder_alone: Mapping[str, Any] | None = None,
    refine: int = 0,
) -> None:
    """Write a report as one self-contained HTML file, atomically.

    Args:
        path: the file to write.
        title: its headline.
        metrics: what `eval.evaluate.evaluate` gave back.
        summary: facts on the run (model, data, time, ...), shown below the title.
        history: learning curves by tag, as `read_history` gives them.
        pairs: crystals to draw.
        field_slices: planes through the fields.
        nearest: what `eval.fingerprint.nearest_training_crystals` found for the true crystals.
        encoder_alone: where `metrics` are those of refined latents, the same of the encoder's:
            both are shown wherever there are figures.
        refine: steps by which latents were refined, at most.

    Raises:
        OSError: the file cannot be written.
    """
    found = {VALUE: dict(metrics)}
    if encoder_alone is not None:
        found = {ENCODER_ALONE: dict(encoder_alone), refined_label(refine): dict(metrics)}
    sections = [
        _metrics_section(found),
        _history_section(history or {}),
        pairs_section(pairs),
        _slices_section(field_slices, encoder_alone is not None),
        _novelty_section(nearest or {}),
        _failures_section(found),
    ]
    write_page(
        path,
        title=title,
        summary=facts_list(summary or {}, "facts"),
        cards=_cards(found),
        sections=sections,
        footer=_footer(metrics),
        drawings=[pair.drawing for pair in pairs],
    )


def _cards(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The four figures that matter most, of each result; the shares given as what is right."""
    titles = {
        "wrong_count": "right atom counts",
        "species_error_actual": "right elements (true atoms)",
    }
    cards = [
        _card(title, {label: _right(one["metrics"][name]) for label, one in results.items()})
        for name, title in titles.items()
    ]
    cards.append(
        _card(
            "position error, median",
            {label: _position(one["metrics"]) for label, one in results.items()},
        )
    )
    if all("match_rate" in one["metrics"] for one in results.values()):
        rates = {label: _matches(one) for label, one in results.items()}
        cards.append(_card("StructureMatcher matches", rates))
    return f'<div class="cards">{"".join(cards)}</div>'


def _right(wrong: Mapping[str, float | None]) -> tuple[str, str]:
    """The share that is right, and its interval."""
    turned = {"value": "value", "low": "high", "high": "low"}
    right = {
        key: None if wrong[other] is None else 100.0 - wrong[other]  # type: ignore[operator]
        for key, other in turned.items()
    }
    return format_value(right["value"], "%"), format_interval(right, "%")


def _position(figures: Mapping[str, Any]) -> tuple[str, str]:
    """The median position error, and the mean."""
    middle = format_value(figures["position_error_actual_median"]["value"], "Å")
    return middle, f"mean {format_value(figures['position_error_actual']['value'], 'Å')}"


def _matches(result: Mapping[str, Any]) -> tuple[str, str]:
    """The share that matches, its interval and what chance gives."""
    rate = result["metrics"]["match_rate"]
    note = format_interval(rate, "%")
    if result["chance"]:
        note += f" · chance {format_value(result['chance']['match_rate']['value'], '%')}"
    return format_value(rate["value"], "%"), note


def _card(name: str, figures: Mapping[str, tuple[str, str]]) -> str:
    """A card of one metric: value and note by label, which is shown where there are several."""
    lines = ""
    for label, (value, note) in figures.items():
        note = note.replace(" %", "\u00a0%")  # a unit stays on its figure's line
        if len(figures) > 1:
            lines += f'<div class="of">{escape(label)}</div>'
        lines += f'<div class="value">{escape(value)}</div><div class="note">{escape(note)}</div>'
    return f'<div class="card"><div class="name">{escape(name)}</div>{lines}</div>'


def _table(
    header: Sequence[str], rows: Sequence[Sequence[str]], figures: Collection[str] = ()
) -> str:
    """A table; the columns named `figures` are what is looked for."""
    begin = ['<td class="figure">' if name in figures else "<td>" for name in header]
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(
        f"<tr>{''.join(f'{td}{escape(cell)}</td>' for td, cell in zip(begin, row, strict=True))}"
        "</tr>"
        for row in rows
    )
    return f'<div class="panel"><table><tr>{head}</tr>{body}</table></div>'


def _metrics_section(results: Mapping[str, dict[str, Any]]) -> str:
    told, sizes = headline(next(iter(results.values()))), results
    if len(results) > 1:
        told = headlines(results)
        sizes = dict(zip((ENCODER_ALONE, LATENTS_REFINED), results.values(), strict=True))
    return (
        f'<section><h2>Reconstruction</h2><p class="soft">{escape(" ".join(told))} Intervals are '
        "95 % bootstrap intervals over crystals. Positions are compared with the nearest periodic "
        "image in the true cell; the rows “as published” know no images.</p>"
        f"{_table(*main_rows(results), results)}{_table(*bin_rows(sizes))}</section>"
    )


def _history_section(history: Mapping[str, Curve]) -> str:
    charts = "".join(f'<div class="panel">{chart}</div>' for chart in history_charts(history))
    return f'<section><h2>Learning</h2><div class="charts">{charts}</div></section>' * bool(charts)


def _slices_section(slices: Sequence[FieldSlice], refined: bool) -> str:
    if not slices:
        return ""
    whose = " The learned fields are those of the encoder's latents, not refined." * refined
    panels = "".join(
        f'<div class="panel"><h3>{escape(piece.name)} '
        f'<span class="soft">{escape(piece.title)}</span></h3>{slice_chart(piece)}</div>'
        for piece in slices
    )
    return (
        '<section><h2>Fields</h2><p class="soft">Planes through the position field (how far the '
        "nearest atom is) and the species field (of which element it is); of fields that know the "
        "atoms of one cell only, as far as the cell goes. Dots are true atoms in "
        f'the plane.{whose}</p><div class="slices">{panels}</div></section>'
    )


def _novelty_section(nearest: Mapping[str, tuple[str, float] | None]) -> str:
    """How far the crystals are from those that the run was trained on."""
    known = {id_: one for id_, one in nearest.items() if one}
    if not known:
        return ""
    ordered = sorted(known.items(), key=lambda item: -item[1][1])
    rows = [[id_, other, f"{distance:.3f}"] for id_, (other, distance) in ordered]
    middle = median(distance for _, distance in known.values())
    table = _table(["crystal", "nearest training crystal", "distance"], rows)
    return (
        '<section><h2>Novelty</h2><p class="soft">How far the nearest training crystal is, by '
        "fingerprints that no rotation or choice of the cell changes: 0 is the same crystal, 1.41 "
        f"one with nothing in common. Median {middle:.3f} over {len(known)} of {len(nearest)} "
        f"crystals.</p><details><summary>all crystals, the newest first</summary>{table}"
        "</details></section>"
    )


def _failures_section(results: Mapping[str, Mapping[str, Any]]) -> str:
    several = len(results) > 1
    failed = [
        [item["id"], *([label] if several else []), item["reason"]]
        for label, one in results.items()
        for item in (*one["failures"], *one["match_failures"])
    ]
    if not failed:
        return ""
    table = _table(["crystal", *(["latents"] if several else []), "reason"], failed)
    return (
        f"<section><h2>Failures</h2><details><summary>{len(failed)} listed</summary>"
        f"{table}</details></section>"
    )


def _footer(metrics: Mapping[str, Any]) -> str:
    settings = metrics["settings"]
    versions = ", ".join(f"{name} {number}" for name, number in settings["versions"].items())
    return escape(
        f"Seed {settings['seed']}, {settings['bootstrap']} bootstrap resamples; {versions}. "
        f"{DRAWN_WITH}"
    )
