"""Everything that a comparison shows, written anew from what is known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from eval.compare.folder import PAGE, PLOTS, TABLE_MD, TABLE_TEX
from eval.compare.plan import Comparison, Plan
from eval.compare.showing.bodies import property_body, reconstruction_body
from eval.compare.showing.cases import find_cases
from eval.compare.showing.cells import Table
from eval.compare.showing.charting import model_colors
from eval.compare.showing.fairness import equal_terms, unequal_terms
from eval.compare.showing.page import write_only_page, write_whole_page
from eval.compare.showing.plots import Points, property_charts, reconstruction_charts
from eval.compare.showing.sections import Body
from eval.compare.showing.summary import Outcome, outcomes_of
from eval.compare.showing.tables import overview_table, property_tables, reconstruction_tables
from eval.compare.showing.writing import document, latex_document, to_markdown
from nesf.atomic import atomic_write

if TYPE_CHECKING:
    from eval.compare.contest import Contest


@dataclass(frozen=True)
class Shown:
    """What is shown of one comparison.

    Attributes:
        outcomes: what is known of each model.
        tables: all of them.
        body: for the page.
        markdown: the tables with the terms, as a document.
    """

    outcomes: list[Outcome]
    tables: list[Table]
    body: Body
    markdown: str


class Publisher:
    """Writes tables and charts of each part into its folder, and the page of all.

    Args:
        plan: what is compared.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._shown: dict[str, Shown] = {}

    def begin(self, contests: Sequence[Contest]) -> None:
        """Take in what is known of every part, where there are several."""
        for contest in contests if self.plan.several else ():
            self._shown[contest.plan.name] = publish(contest)

    def publish(self, contest: Contest) -> None:
        """Write what is known now.

        Args:
            contest: where there is news.

        Raises:
            OSError: a file cannot be written.
        """
        shown = publish(contest)
        folder = Path(self.plan.output)
        if not self.plan.several:
            write_only_page(folder / PAGE, contest.plan, shown.body)
            return
        self._shown[contest.plan.name] = shown
        parts = [(part, self._shown[part.name]) for part in self.plan.parts]
        overview = overview_table([(part, one.outcomes) for part, one in parts])
        texts = [to_markdown(overview), *(f"#{one.markdown}" for _, one in parts)]
        _write(folder / TABLE_MD, "\n\n".join([f"# {self.plan.title}", *texts]))
        tables = [
            replace(table, name=f"{part.name}-{table.name}")
            for part, one in parts
            for table in one.tables
        ]
        _write(folder / TABLE_TEX, latex_document([overview, *tables], self.plan.title))
        write_whole_page(
            folder / PAGE, self.plan, overview, {part.name: one.body for part, one in parts}
        )


def publish(contest: Contest) -> Shown:
    """Write tables and charts of one comparison into its folder.

    Args:
        contest: its plan and results.

    Raises:
        OSError: a file cannot be written.
    """
    plan, growth = contest.plan, contest.growth
    folder = Path(plan.output)
    outcomes = outcomes_of(plan, list(contest.results))
    scored = [outcome for outcome in outcomes if outcome.done]
    colors = model_colors(plan)
    if plan.predicts:
        tables = property_tables(scored)
        charts = property_charts(scored, _points(plan, scored), str(plan.target), colors)
        body = property_body(plan, outcomes, tables, charts)
    else:
        tables = reconstruction_tables(scored, growth)
        charts = reconstruction_charts(scored, growth, colors)
        cases = find_cases(plan, outcomes)
        body = reconstruction_body(plan, outcomes, tables, charts, cases)
    terms = [*equal_terms(plan, outcomes), *unequal_terms(plan, outcomes)]
    text = document(tables, plan.title, [" ".join(terms)])
    (folder / PLOTS).mkdir(parents=True, exist_ok=True)
    _write(folder / TABLE_MD, text)
    _write(folder / TABLE_TEX, latex_document(tables, plan.title))
    for chart in charts:
        chart.save(folder / PLOTS)
    return Shown(outcomes, tables, body, text)


def _points(plan: Comparison, outcomes: Sequence[Outcome]) -> dict[str, Points]:
    """True and predicted values of the first seed of each contestant."""
    entries = {entry.key: entry for entry in plan.entries()}
    found = {}
    for outcome in outcomes:
        path = entries[outcome.model.name, outcome.done[0]["seed"]].scores
        rows = json.loads(path.read_text())["rows"] if path.is_file() else []
        pair = [[row["true"], row["predicted"]] for row in rows]
        values = np.array(pair, dtype=float).reshape(-1, 2)  # (M, 2); null is NaN
        found[outcome.model.name] = (values[:, 0], values[:, 1])
    return found


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text.encode())
