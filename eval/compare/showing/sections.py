"""What the pages of all comparisons are made of: facts, cards, sections, last lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eval.cards import Drawing, escape
from eval.compare.plan import Comparison
from eval.compare.showing.cells import Table, metric_cell
from eval.compare.showing.charting import Chart
from eval.compare.showing.fairness import equal_terms, unequal_terms
from eval.compare.showing.summary import Outcome
from eval.compare.showing.writing import to_html
from eval.page import DRAWN_WITH


@dataclass(frozen=True)
class Body:
    """All that a page tells of one comparison.

    Attributes:
        facts: names and values below the headline.
        cards: HTML of the figures that matter most.
        sections: HTML, in order.
        footer: HTML of the last lines.
        drawings: crystals, one for each card in the sections, in their order.
    """

    facts: Mapping[str, object]
    cards: str
    sections: tuple[str, ...]
    footer: str
    drawings: tuple[Drawing, ...] = ()


def facts_of(plan: Comparison, outcomes: Sequence[Outcome]) -> dict[str, object]:
    """What is known of a comparison before its figures."""
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


def rank_cards(
    outcomes: Sequence[Outcome],
    colors: Mapping[str, str],
    wanted: Sequence[tuple[str, str, str, bool]],
) -> str:
    """A card a figure with all models, the best first.

    Args:
        outcomes: what is known of each model.
        colors: by model.
        wanted: title, name and unit of each figure, and whether high is good.
    """
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


def table_section(
    title: str, table: Table | None, charts: Sequence[Chart | None], text: str = ""
) -> str:
    """A table and its charts, or nothing where there are neither."""
    drawn = [chart for chart in charts if chart is not None]
    if table is None and not drawn:
        return ""
    panels = "".join(f'<div class="panel chart-panel">{chart.svg}</div>' for chart in drawn)
    note = " ".join(part for part in (table.note if table else "", text) if part)
    return (
        f'<section><h2>{escape(title)}</h2><p class="soft">{escape(note)}</p>'
        f"{to_html(table) if table else ''}{panels}</section>"
    )


def missing_section(outcomes: Sequence[Outcome]) -> str:
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


def fair_section(plan: Comparison, outcomes: Sequence[Outcome]) -> str:
    """What was equal and what was not."""
    uneven = "".join(f"<li>{escape(text)}</li>" for text in unequal_terms(plan, outcomes))
    return (
        '<section><h2>How this was made fair</h2><div class="panel fair">'
        f"<p>{escape(' '.join(equal_terms(plan, outcomes)))}</p>"
        + (f"<p><strong>What was not equal</strong></p><ul>{uneven}</ul>" if uneven else "")
        + "</div></section>"
    )


def footer_of(plan: Comparison, outcomes: Sequence[Outcome]) -> str:
    """Data, seeds and versions."""
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
        f"All figures: {'results.jsonl' if not plan.name else plan.name + '/results.jsonl'} beside "
        f"this page. {'' if plan.predicts else DRAWN_WITH}"
    )
