"""What was equal between the models and what was not, in sentences made of plan and results."""

from __future__ import annotations

from collections.abc import Sequence

from eval.compare.plan import Comparison
from eval.compare.showing.cells import format_count, format_seconds
from eval.compare.showing.summary import Outcome, Result


def equal_terms(plan: Comparison, outcomes: Sequence[Outcome]) -> list[str]:
    """What every model had in common."""
    trained = [o for o in outcomes if o.model.config and o.done]
    lost = "counts as wrong in every row"
    if plan.predicts:
        lost = (
            "is scored as if the mean of the training crystals had been said of it, and counted as "
            "a failure"
        )
    sentences = [
        "All models were scored on the same test crystals "
        f"({', '.join(plan.data.test)}) by the same code; a crystal that a model gave nothing for "
        f"{lost}."
    ]
    simple = [o for o in outcomes if o.model.simple and o.done]
    if simple:
        sentences.append(
            f"{_names(simple)} {'knows' if len(simple) == 1 else 'know'} the same training "
            "crystals and nothing else; the penalty of a ridge regression on the composition is "
            "chosen by leave-one-out."
        )
    if trained:
        seeds = ", ".join(map(str, plan.seeds))
        sentences.append(
            f"{_names(trained)} trained here on the same crystals ({', '.join(plan.data.train)}), "
            f"validated on the same ({', '.join(plan.data.val)})"
            f"{' unless told otherwise below' if any(o.model.val for o in trained) else ''}, with "
            f"{'the same seeds' if len(plan.seeds) > 1 else 'the same seed'} ({seeds}), one "
            "training at a time."
        )
        if plan.budget_s is not None:
            sentences.append(
                f"Each training had {format_seconds(plan.budget_s)} of wall-clock time, validation "
                "included; epochs are as many as fit into it, and their published number stands "
                "beside them. The schedules of our own models end with the time. Augmentation is "
                "each model's own choice, and costs it time."
            )
    machines = sorted({_machine(x) for o in outcomes if not o.model.simple for x in o.done})
    if machines:
        done = "Predicted" if plan.predicts else "Reconstructed"
        sentences.append(f"{done} and timed on {'; '.join(machines)}.")
    return sentences


def _machine(line: Result) -> str:
    machine = line["machine"]
    many = f", {_threads(machine['threads'])}" if machine["device"] == "cpu" else ""
    return f"{machine['device']} ({machine['device_name']}{many})"


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count != 1)}"


def unequal_terms(plan: Comparison, outcomes: Sequence[Outcome]) -> list[str]:
    """What was not equal, model by model."""
    sentences = []
    for outcome in outcomes:
        name = outcome.model.label
        if outcome.model.note:
            sentences.append(f"{name}: {outcome.model.note}")
        for line in outcome.failed:
            seed = "" if line["seed"] is None else f" with seed {line['seed']}"
            sentences.append(f"{name}{seed} failed in its {line['stage']}: {line['reason']}.")
        if outcome.open:
            sentences.append(f"{name}: {outcome.open} of its seeds are not done yet.")
        if outcome.model.latent:
            sentences += _on_latents(outcome)
        if outcome.model.val:
            sentences.append(f"{name} is validated on {', '.join(outcome.model.val)}.")
        if outcome.model.refine:
            sentences.append(
                f"{name} has its latents fitted to the test crystals themselves, up to "
                f"{outcome.model.refine} steps each where the encoder's do not give them back; "
                "this is part of its encoding time."
            )
        if outcome.model.weights is not None:
            sentences.append(_given(outcome))
        if outcome.model.config is None:
            continue
        sentences += _uneven_training(plan, outcome)
    networks = [o for o in outcomes if o.model.simple is None]
    hows = {str(line["training"].get("precision")) for o in networks for line in o.done}
    if len(hows) > 1:
        each = ", ".join(
            f"{o.model.label} in {o.first['training'].get('precision', 'unknown precision')}"
            for o in networks
            if o.first
        )
        sentences.append(f"They trained in different precision: {each}.")
    sizes = [(o.first["parameters"], o.model.label) for o in networks if o.first]
    if len(sizes) > 1 and max(sizes)[0] > 1.5 * min(sizes)[0]:
        ratio = max(sizes)[0] / min(sizes)[0]
        sentences.append(
            f"Sizes were not matched: {max(sizes)[1]} has {ratio:.1f} times the parameters of "
            f"{min(sizes)[1]}."
        )
    return sentences


def _on_latents(outcome: Outcome) -> list[str]:
    """How a latent came to compete for a property."""
    if outcome.first is None:
        return []
    fit = outcome.first["prediction"]["fit"]
    lost = fit["not_represented"]
    return [
        f"{outcome.model.label} is a ridge regression on the {outcome.first['latent_dim']} numbers "
        f"of the latents of {format_count(fit['trained_on'])} training crystals, its penalty "
        "chosen on the validation crystals; the encoder was told no property."
        + (f" {lost} of these crystals have no latent and were left out." if lost else "")
    ]


def _given(outcome: Outcome) -> str:
    """A model with given weights had its own training."""
    told = outcome.first["training"] if outcome.first else {}
    known = []
    if told.get("wall_s"):
        known.append(f"{format_seconds(told['wall_s'])} of wall-clock time")
    elif told.get("cpu_s"):
        known.append(f"{format_seconds(told['cpu_s'])} of processor time")
    if told.get("epochs"):
        known.append(f"{format_count(told['epochs'])} epochs")
    if told.get("device"):
        threads = f", {_threads(told['threads'])}" if told.get("threads") else ""
        known.append(f"on {told['device']}{threads}")
    had = ", ".join(known) if known else "of which its file tells nothing"
    return (
        f"{outcome.model.label} was not trained here but given as {outcome.model.weights}, with "
        f"its own training: {had}."
    )


def _uneven_training(plan: Comparison, outcome: Outcome) -> list[str]:
    """Trainings that ended before the budget did, or far from the published epochs."""
    sentences = []
    name = outcome.model.label
    for line in outcome.done:
        told = line["training"]
        wall = told.get("wall_s")
        if plan.budget_s and wall and wall < 0.9 * plan.budget_s:
            sentences.append(
                f"{name} ended by itself after {format_seconds(wall)}, before its time was over."
            )
            break
        if plan.budget_s and wall and wall > 1.1 * plan.budget_s + 5:
            sentences.append(
                f"{name} took {format_seconds(wall)}, since a training stops only after the step "
                "or the validation under way."
            )
            break
    first = outcome.first
    published = outcome.model.published_epochs
    if first and published and first["training"].get("epochs") is not None:
        done = first["training"]["epochs"]
        sentences.append(
            f"{name} did {format_count(done)} of the {format_count(published)} epochs it was "
            "published with."
        )
    if plan.budget_s is None:
        sentences.append(f"{name} trained for as long as its own configuration says.")
    return sentences


def _names(outcomes: Sequence[Outcome]) -> str:
    names = [o.model.label for o in outcomes]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
