"""What a page tells of models that give crystals back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eval.compare.cases import Case, cases_section
from eval.compare.charting import Chart, model_colors
from eval.compare.parts import Table
from eval.compare.plan import Comparison
from eval.compare.sections import (
    Body,
    facts_of,
    fair_section,
    footer_of,
    missing_section,
    rank_cards,
    table_section,
)
from eval.compare.summary import Outcome

_RANKED = (
    ("wrong atom count", "wrong_count", "%", False),
    ("position error, actual", "position_error_actual", "Å", False),
    ("species error, actual", "species_error_actual", "%", False),
    ("StructureMatcher matches", "match_rate", "%", True),
)


def reconstruction_body(
    plan: Comparison,
    outcomes: Sequence[Outcome],
    tables: Mapping[str, Table],
    charts: Mapping[str, Chart],
    cases: Sequence[Case],
) -> Body:
    """All that a page tells of a comparison.

    Args:
        plan: what was compared.
        outcomes: what is known of each model.
        tables: by name.
        charts: by name.
        cases: crystals to draw.
    """
    labels = {o.model.name: o.model.label for o in outcomes}
    colors = model_colors(plan)
    variants = [name for name in charts if name.startswith("variants")]
    sections = (
        missing_section(outcomes),
        table_section(
            "Errors", tables.get("quality"), [charts.get("errors")], _reading(plan, outcomes)
        ),
        fair_section(plan, outcomes),
        table_section("Cost", tables.get("cost"), []),
        table_section("Learning", tables.get("levels"), [charts.get("learning")]),
        table_section("Growth with the cell", tables.get("growth"), [charts.get("cells")]),
        table_section(
            "Growth with the resolution",
            tables.get("variants"),
            [charts[name] for name in variants],
        ),
        cases_section(cases, labels, colors),
    )
    return Body(
        facts_of(plan, outcomes),
        rank_cards(outcomes, colors, _RANKED),
        sections,
        footer_of(plan, outcomes),
        tuple(case.drawing for case in cases),
    )


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
