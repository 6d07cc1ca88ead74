"""`nesf compare`: train, reconstruct and score model by model, and write what is known so far."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from eval.compare.plan import Restart

if TYPE_CHECKING:
    from eval.compare.contest import Contest, Terms
    from eval.compare.plan import Comparison


def compare(
    config: str,
    output: str | None = None,
    restart: Restart = "no",
    device: str | None = None,
    seed: int | None = None,
    budget_minutes: float | None = None,
) -> int:
    """Train (or load) models on equal terms, score them, and show them side by side.

    The file names data, seeds, budget and models (see configs/compare). Every model trains in a
    process of its own, one after another; a training that fails is a failed row, and the others
    are still done. Tables, charts and the page are written anew after each model. Models that
    give crystals back and models that predict a property compete in parts of their own, on one
    page.

    Args:
        config: a YAML file, its keys those of eval.compare.plan.Comparison, or parts, a list
            of such comparisons.
        output: the folder of results, instead of the file's.
        restart: where the folder holds a comparison: auto goes on with it and repeats nothing
            that is done, fresh removes it and begins anew, no stops with a message.
        device: cpu, cuda, cuda:0, ... or auto, instead of the file's.
        seed: train with this one, instead of the file's seeds.
        budget_minutes: wall-clock time of each training, instead of the file's.
    """
    from eval.compare.read_plan import read_plan

    plan = read_plan(
        config,
        {
            "output": output,
            "device": device,
            "seeds": None if seed is None else [seed],
            "budget_minutes": budget_minutes,
        },
    )
    from eval.compare.children import terminating
    from eval.compare.contest import Terms
    from eval.compare.folder import PAGE, only_one_comparison, prepare, terms_of
    from eval.compare.kinds import check_plan
    from eval.compare.showing.publish import Publisher
    from nesf.device import resolve_device

    target = resolve_device(plan.device)
    folder = Path(plan.output)
    terms = terms_of(plan, target.type)
    check_plan(plan)
    with terminating(), only_one_comparison(folder) as lock:
        prepare(folder, terms, restart)
        publisher = Publisher(plan)
        contests = []
        for part in plan.parts:
            data = (terms["parts"][part.name] if plan.several else terms)["data"]
            contests.append(_contest(part, Terms(target, data, lock, publisher.publish)))
        publisher.begin(contests)
        code = max([contest.run() for contest in contests])
    print(f"comparison: {folder / PAGE}")
    return code


def _contest(part: Comparison, terms: Terms) -> Contest:
    """A comparison of its kind."""
    if part.predicts:
        from eval.compare.predicting import PropertyContest

        return PropertyContest(part, terms)
    from eval.compare.reconstructing import ReconstructionContest

    return ReconstructionContest(part, terms)
