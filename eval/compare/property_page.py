"""What a page tells of predictors of a property."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
    ("mean absolute error", "mae", "", False),
    ("share of the mean's error", "mae_share", "%", False),
    ("R²", "r2", "", True),
)


def property_body(
    plan: Comparison,
    outcomes: Sequence[Outcome],
    tables: Mapping[str, Table],
    charts: Mapping[str, Chart],
) -> Body:
    """All that a page tells of a comparison for a property.

    Args:
        plan: what was compared.
        outcomes: what is known of each contestant.
        tables: by name.
        charts: by name.
    """
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
        table_section("Errors", tables.get("quality"), [charts.get("errors")], reading),
        table_section(
            "Predicted and true",
            None,
            [charts.get("scatter")],
            "Each dot is a test crystal; on the broken line, both are equal.",
        ),
        fair_section(plan, outcomes),
        table_section("Cost", tables.get("cost"), []),
        table_section("Learning", None, [charts.get("learning")]),
    )
    facts = {**facts_of(plan, outcomes), "property": plan.target}
    ranks = rank_cards(outcomes, colors, _RANKED)
    return Body(facts, ranks, sections, footer_of(plan, outcomes))
