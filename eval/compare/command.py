"""`nesf compare`: train, reconstruct and score model by model, and write what is known so far."""

from __future__ import annotations

from pathlib import Path

from eval.compare.plan import Restart


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
    are still done. Tables, charts and the page are written anew after each model.

    Args:
        config: a YAML file, its keys those of eval.compare.plan.Comparison.
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
    from eval.compare.contest import Contest
    from eval.compare.folder import PAGE, only_one_comparison, prepare, terms_of
    from nesf.api import resolve_device

    target = resolve_device(plan.device)
    folder = Path(plan.output)
    terms = terms_of(plan, target.type)
    with terminating(), only_one_comparison(folder) as lock:
        prepare(folder, terms, restart)
        code = Contest(plan, target, terms["data"], lock).run()
    print(f"comparison: {folder / PAGE}")
    return code
