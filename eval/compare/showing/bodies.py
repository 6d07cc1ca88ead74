"""What a page tells of one comparison: of models that give crystals back, or of a property."""

from __future__ import annotations

from collections.abc import Sequence

from eval.compare.plan import Comparison
from eval.compare.showing.cases import Case, cases_section
from eval.compare.showing.cells import Table
from eval.compare.showing.charting import Chart, model_colors
from eval.compare.showing.sections import (
    Body,
    facts_of,
    fair_section,
    footer_of,
    missing_section,
    rank_cards,
    table_section,
)
from eval.compare.showing.summary import Outcome

_CRYSTAL_RANKS = (
    ("wrong atom count", "wrong_count", "%", False),
    ("position error, actual", "position_error_actual", "Å", False),
    ("species error, actual", "species_error_actual", "%", False),
    ("StructureMatcher matches", "match_rate", "%", True),
)
_PROPERTY_RANKS = (
    ("mean absolute error", "mae", "", False),
    ("share of the mean's error", "mae_share", "%", False),
    ("R²", "r2", "", True),
)


def reconstruction_body(
    plan: Comparison,
    outcomes: Sequence[Outcome],
    tables: Sequence[Table],
    charts: Sequence[Chart],
    cases: Sequence[Case],
) -> Body:
    """All that a page tells of a comparison of reconstructions.

    Args:
        plan: what was compared.
        outcomes: what is known of each model.
        tables: all that there are.
        charts: likewise.
        cases: crystals to draw.
    """
    table, chart = {one.name: one for one in tables}.get, {one.name: one for one in charts}.get
    labels = {o.model.name: o.model.label for o in outcomes}
    colors = model_colors(plan)
    variants = [one for one in charts if one.name.startswith("variants")]
    sections = (
        missing_section(outcomes),
        table_section("Errors", table("quality"), [chart("errors")], _reading(plan, outcomes)),
        fair_section(plan, outcomes),
        table_section("Cost", table("cost"), []),
        table_section("Learning", table("levels"), [chart("learning")]),
        table_section("Growth with the cell", table("growth"), [chart("cells")]),
        table_section("Growth with the resolution", table("variants"), variants),
        cases_section(cases, labels, colors),
    )
    return Body(
        facts_of(plan, outcomes),
        rank_cards(outcomes, colors, _CRYSTAL_RANKS),
        sections,
        footer_of(plan, outcomes),
        tuple(case.drawing for case in cases),
    )


def _reading(plan: Comparison, outcomes: Sequence[Outcome]) -> str:
    """How to read the table of errors."""
    several = any(len(o.done) > 1 for o in outcomes)
    spread = "mean ± standard deviation over seeds" if several else "95 % bootstrap intervals"
    text = (
        f"Below each figure: {spread}. The best of each row is marked, raw and symmetrised apart. "
        "In the chart, lines are the intervals (of several seeds: the smallest and the largest)"
    )
    if plan.scoring.boxes:
        return f"{text}. Positions are compared as they are: the faces of a box are walls."
    text += (
        ", and diamonds symmetrised ones. Positions are compared with the nearest periodic image "
        "in the true cell; “as published” knows no images. Symmetrised: after projection onto the "
        "symmetry that moyopy finds in the reconstruction."
    )
    chance = next((line["chance"] for o in outcomes for line in o.done if line["chance"]), None)
    if chance:
        text += (
            " Chance is what StructureMatcher says of the true cell and elements with random "
            f"positions ({chance['crystals']} crystals)."
        )
    return text


def property_body(
    plan: Comparison,
    outcomes: Sequence[Outcome],
    tables: Sequence[Table],
    charts: Sequence[Chart],
) -> Body:
    """All that a page tells of a comparison for a property.

    Args:
        plan: what was compared.
        outcomes: what is known of each contestant.
        tables: all that there are.
        charts: likewise.
    """
    table, chart = {one.name: one for one in tables}.get, {one.name: one for one in charts}.get
    colors = model_colors(plan)
    several = any(len(o.done) > 1 for o in outcomes)
    reading = (
        "Figures are mean ± standard deviation over seeds; lines in the chart reach from the "
        "smallest to the largest."
        if several
        else "Lines in the chart are 95 % bootstrap intervals over crystals."
    )
    sections = (
        missing_section(outcomes),
        table_section("Errors", table("quality"), [chart("errors")], reading),
        table_section(
            "Predicted and true",
            None,
            [chart("scatter")],
            "Each dot is a test crystal; on the broken line, both are equal.",
        ),
        fair_section(plan, outcomes),
        table_section("Cost", table("cost"), []),
        table_section("Learning", None, [chart("learning")]),
    )
    facts = {**facts_of(plan, outcomes), "property": plan.target}
    ranks = rank_cards(outcomes, colors, _PROPERTY_RANKS)
    return Body(facts, ranks, sections, footer_of(plan, outcomes))
