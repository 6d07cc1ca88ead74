"""Everything that a comparison shows, written anew from what is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.compare.cases import find_cases
from eval.compare.charting import model_colors
from eval.compare.fairness import equal_terms, unequal_terms
from eval.compare.folder import PAGE, PLOTS, TABLE_MD, TABLE_TEX
from eval.compare.page import write_comparison
from eval.compare.plan import Comparison
from eval.compare.plots import charts_of
from eval.compare.summary import outcomes_of
from eval.compare.tables import all_tables
from eval.compare.writing import document, latex_document
from nesf.atomic import atomic_write


def publish(
    plan: Comparison, results: Sequence[Mapping[str, Any]], growth: Sequence[dict[str, Any]]
) -> None:
    """Write tables, charts and the page into the comparison's folder.

    Args:
        plan: what is compared.
        results: a line for each model and seed that is done or has failed.
        growth: a line for each variant.

    Raises:
        OSError: a file cannot be written.
    """
    folder = Path(plan.output)
    outcomes = outcomes_of(plan, results)
    scored = [outcome for outcome in outcomes if outcome.done]
    tables = all_tables(scored, growth)
    terms = [*equal_terms(plan, outcomes), *unequal_terms(plan, outcomes)]
    _write(folder / TABLE_MD, document(tables, plan.title, [" ".join(terms)]))
    _write(folder / TABLE_TEX, latex_document(tables, plan.title))
    charts = charts_of(scored, growth, model_colors(plan))
    (folder / PLOTS).mkdir(exist_ok=True)
    for chart in charts:
        chart.save(folder / PLOTS)
    write_comparison(
        folder / PAGE,
        plan,
        outcomes,
        {table.name: table for table in tables},
        {chart.name: chart for chart in charts},
        find_cases(plan, outcomes),
    )


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text.encode())
