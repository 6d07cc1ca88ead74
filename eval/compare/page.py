"""`compare.html`: all that a comparison found, on one page that opens offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from eval.cards import escape, facts_list
from eval.compare.cases import Case, cases_section
from eval.compare.charting import Chart, model_colors
from eval.compare.fairness import equal_terms, unequal_terms
from eval.compare.parts import Table, metric_cell
from eval.compare.plan import Comparison
from eval.compare.summary import Outcome
from eval.compare.writing import to_html
from eval.report import DRAWN_WITH, write_page


def write_comparison(
    path: Path,
    plan: Comparison,
    outcomes: Sequence[Outcome],
    tables: Mapping[str, Table],
    charts: Mapping[str, Chart],
    cases: Sequence[Case],
) -> None:
    """Write the page, atomically.

    Args:
        path: the file.
        plan: what was compared.
        outcomes: what is known of each model.
        tables: by name.
        charts: by name.
        cases: crystals to draw.

    Raises:
        OSError: the file cannot be written.
    """
    labels = {o.model.name: o.model.label for o in outcomes}
    colors = model_colors(plan)
    variants = [name for name in charts if name.startswith("variants")]
    sections = [
        _missing_section(outcomes),
        _section("Errors", tables.get("quality"), [charts.get("errors")], _reading(plan, outcomes)),
        _fair_section(plan, outcomes),
        _section("Cost", tables.get("cost"), []),
        _section("Learning", tables.get("levels"), [charts.get("learning")]),
        _section("Growth with the cell", tables.get("growth"), [charts.get("cells")]),
        _section(
            "Growth with the resolution",
            tables.get("variants"),
            [charts[name] for name in variants],
        ),
        cases_section(cases, labels, colors),
    ]
    write_page(
        path,
        title=plan.title,
        summary=facts_list(_facts(plan, outcomes), "facts"),
        cards=_cards(outcomes, colors),
        sections=sections,
        footer=_footer(plan, outcomes),
        drawings=[case.drawing for case in cases],
        style="compare.css",
    )


def _facts(plan: Comparison, outcomes: Sequence[Outcome]) -> dict[str, object]:
    first = next((o.first for o in outcomes if o.first), None)
    facts: dict[str, object] = {"models": ", ".join(o.model.label for o in outcomes)}
    if first:
        machine = first["machine"]
        facts["test crystals"] = first["counts"]["reference"]
        facts["device"] = f"{machine['device']}, {machine['device_name']}"
    facts["seeds"] = ", ".join(map(str, plan.seeds))
    if plan.budget_minutes is not None:
        facts["training"] = f"{plan.budget_minutes:g} min each"
    return facts


def _cards(outcomes: Sequence[Outcome], colors: Mapping[str, str]) -> str:
    """Four figures, each with all models, the best first."""
    wanted = (
        ("wrong atom count", "wrong_count", "%", False),
        ("position error, actual", "position_error_actual", "Å", False),
        ("species error, actual", "species_error_actual", "%", False),
        ("StructureMatcher matches", "match_rate", "%", True),
    )
    made = []
    for title, name, unit, high in wanted:
        cells = [(metric_cell(o, "metrics", name, unit), o.model) for o in outcomes]
        known = [(cell, model) for cell, model in cells if cell.value is not None]
        known.sort(key=lambda one: float(one[0].value or 0.0), reverse=high)
        items = "".join(
            f'<li><i style="background:{colors[model.name]}"></i><span>{escape(model.label)}</span>'
            f"<b>{escape(cell.text)}</b></li>"
            for cell, model in known
        )
        if known:
            made.append(
                f'<div class="card"><div class="name">{escape(title)}</div>'
                f'<ol class="ranks">{items}</ol></div>'
            )
    return f'<div class="cards">{"".join(made)}</div>' * bool(made)


def _reading(plan: Comparison, outcomes: Sequence[Outcome]) -> str:
    """How to read the table of errors."""
    several = any(len(o.done) > 1 for o in outcomes)
    spread = "mean ± standard deviation over seeds" if several else "95 % bootstrap intervals"
    text = (
        f"Below each figure: {spread}. The best of each row is marked, raw and refined apart. In "
        "the chart, lines are the intervals (of several seeds: the smallest and the largest)"
    )
    if plan.scoring.boxes:
        return f"{text}. Positions are compared as they are: the faces of a box are walls."
    text += (
        ", and diamonds refined figures. Positions are compared with the nearest periodic image in "
        "the true cell; “as published” knows no images. Refined figures are after projection onto "
        "the symmetry that moyopy finds in the reconstruction."
    )
    chance = next((line["chance"] for o in outcomes for line in o.done if line["chance"]), None)
    if chance:
        text += (
            " Chance is what StructureMatcher says of the true cell and elements with random "
            f"positions ({chance['crystals']} crystals)."
        )
    return text


def _section(
    title: str, table: Table | None, charts: Sequence[Chart | None], text: str = ""
) -> str:
    drawn = [chart for chart in charts if chart is not None]
    if table is None and not drawn:
        return ""
    panels = "".join(f'<div class="panel chart-panel">{chart.svg}</div>' for chart in drawn)
    note = " ".join(part for part in (table.note if table else "", text) if part)
    return (
        f'<section><h2>{escape(title)}</h2><p class="soft">{escape(note)}</p>'
        f"{to_html(table) if table else ''}{panels}</section>"
    )


def _missing_section(outcomes: Sequence[Outcome]) -> str:
    """What is not in the tables, before anything is read from them."""
    items = [
        f"<li><strong>{escape(o.model.label)}</strong>{_of_seed(line['seed'])}: failed in its "
        f"{escape(line['stage'])} – {escape(line['reason'])}</li>"
        for o in outcomes
        for line in o.failed
    ]
    items += [
        f"<li><strong>{escape(o.model.label)}</strong>: {o.open} not done yet</li>"
        for o in outcomes
        if o.open
    ]
    if not items:
        return ""
    return (
        f'<section class="missing"><h2>Not in these tables</h2><ul>{"".join(items)}</ul></section>'
    )


def _of_seed(seed: int | None) -> str:
    return "" if seed is None else f", seed {seed}"


def _fair_section(plan: Comparison, outcomes: Sequence[Outcome]) -> str:
    uneven = "".join(f"<li>{escape(text)}</li>" for text in unequal_terms(plan, outcomes))
    return (
        '<section><h2>How this was made fair</h2><div class="panel fair">'
        f"<p>{escape(' '.join(equal_terms(plan, outcomes)))}</p>"
        + (f"<p><strong>What was not equal</strong></p><ul>{uneven}</ul>" if uneven else "")
        + "</div></section>"
    )


def _footer(plan: Comparison, outcomes: Sequence[Outcome]) -> str:
    first = next((o.first for o in outcomes if o.first), None)
    versions = {**first["machine"]["versions"], **first["settings"]["versions"]} if first else {}
    told = ", ".join(f"{name} {number}" for name, number in versions.items())
    data = ""
    if first:
        hashes = [
            f"{one['path']} (sha256 {one['sha256'][:12]}…)"
            for files in first["data"].values()
            for one in files
        ]
        data = f"Data: {', '.join(hashes)}. "
    return escape(
        f"{data}{plan.scoring.bootstrap} bootstrap resamples, seed {plan.scoring.seed}; {told}. "
        f"All figures: results.jsonl beside this page. {DRAWN_WITH}"
    )
