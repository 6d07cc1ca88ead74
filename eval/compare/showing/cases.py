"""Crystals worth looking at: which, what each model made of them, and their cards."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eval.cards import (
    Drawing,
    elements_legend,
    escape,
    facts_list,
    score_facts,
    select_cases,
    stage,
)
from eval.compare.plan import Comparison, Entry
from eval.compare.showing.summary import Outcome

if TYPE_CHECKING:
    from pymatgen.core import Structure

MAX_CASES = 16  # crystals drawn


@dataclass(frozen=True)
class Case:
    """A crystal worth looking at, as every model reconstructed it.

    Attributes:
        id: of the crystal.
        why: "worst of NeSF", ...
        true: the reference.
        found: by model, in the plan's order; None where there is none.
        rows: each model's scores of it.
    """

    id: str
    why: tuple[str, ...]
    true: Structure
    found: Mapping[str, Structure | None]
    rows: Mapping[str, Mapping[str, Any]]

    @property
    def drawing(self) -> Drawing:
        """What the 3-D views draw."""
        found = {f"model:{name}": structure for name, structure in self.found.items()}
        return Drawing(self.id, {"true": self.true, **found})


def find_cases(plan: Comparison, outcomes: Sequence[Outcome]) -> list[Case]:
    """The worst and the median crystals of each model, each once, with every model's answer."""
    from nesf.data.readers import read_crystals

    entries = {entry.key: entry for entry in plan.entries()}
    shown = [entries[o.model.name, o.first["seed"]] for o in outcomes if o.first]
    shown = [entry for entry in shown if entry.scores.is_file()]
    rows = {
        entry.model.name: {row["id"]: row for row in json.loads(entry.scores.read_text())["rows"]}
        for entry in shown
    }
    why: dict[str, list[str]] = {}
    for entry in shown:
        chosen = select_cases(
            list(rows[entry.model.name].values()),
            plan.scoring.worst,
            plan.scoring.median,
            random=0,
        )
        for name, case in chosen:
            why.setdefault(name, []).append(f"{case} of {entry.model.label}")
    wanted = list(why)[:MAX_CASES]
    if not wanted:
        return []
    truth, _ = read_crystals(list(plan.data.test), progress=False)
    true = {row.id: row.structure for row in truth if row.id in why}
    found = {entry.model.name: _read_found(entry, set(wanted)) for entry in shown}
    return [
        Case(
            name,
            tuple(why[name]),
            true[name],
            {model: structures.get(name) for model, structures in found.items()},
            {model: by_id[name] for model, by_id in rows.items()},
        )
        for name in wanted
        if name in true
    ]


def _read_found(entry: Entry, wanted: set[str]) -> dict[str, Structure]:
    """Some of the crystals that a model reconstructed."""
    from eval.cells import LIMITS
    from nesf.data.readers import read_crystals

    if not entry.predictions.is_file() or not entry.predictions.stat().st_size:
        return {}
    rows, _ = read_crystals([entry.predictions], LIMITS, progress=False)
    return {row.id: row.structure for row in rows if row.id in wanted}


def cases_section(
    cases: Sequence[Case], labels: Mapping[str, str], colors: Mapping[str, str]
) -> str:
    """HTML of the cards, or nothing.

    Args:
        cases: the crystals.
        labels: of the models, by name.
        colors: likewise.
    """
    if not cases:
        return ""
    cards = "".join(_case_card(case, labels, colors) for case in cases)
    return (
        '<section><h2>Crystals</h2><p class="soft">The worst and the median crystals of each '
        "model, each beside the truth and beside what the other models made of it. Drag to turn "
        "all of them, scroll to zoom. Atoms that reach through a face are drawn on "
        "the opposite one, too.</p>"
        f'<div class="cases">{cards}</div></section>'
    )


def _case_card(case: Case, labels: Mapping[str, str], colors: Mapping[str, str]) -> str:
    badges = "".join(
        f'<span class="badge {escape(text.split()[0])}">{escape(text)}</span>' for text in case.why
    )
    stages = [stage("true", "truth", f"<small>{len(case.true)} atoms</small>")]
    for model in case.found:
        dot = f'<i style="background:{colors[model]}"></i>'
        facts = facts_list(score_facts(case.rows[model]), "scores")
        stages.append(
            stage(f"model:{model}", labels[model], facts).replace(
                "<figcaption>", f"<figcaption>{dot}"
            )
        )
    return (
        f'<article class="pair case"><header><h3>{escape(case.id)}</h3>'
        f'<span class="formula">{escape(case.true.composition.reduced_formula)}</span>'
        f'<span class="badges">{badges}</span></header>'
        f'<div class="stages">{"".join(stages)}</div>'
        f"{elements_legend([case.true, *case.found.values()])}</article>"
    )
