"""Results of one model over its seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.compare.options import Contestant
from eval.compare.plan import Comparison

Result = Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    """One model of the comparison and what is known of it.

    Attributes:
        model: its entry in the plan.
        done: results of the seeds that went well.
        failed: results of those that did not.
        open: seeds without a result yet.
    """

    model: Contestant
    done: tuple[Result, ...]
    failed: tuple[Result, ...]
    open: int

    @property
    def failures(self) -> tuple[int, int]:
        """Test crystals that it did not give back, and all, over its seeds; 0, 0 of properties."""
        counts = [line["counts"] for line in self.done if "failures" in line.get("counts", ())]
        return sum(c["failures"] for c in counts), sum(c["reference"] for c in counts)

    @property
    def mostly_fails(self) -> bool:
        """Whether it gives back less than half of the crystals, so that its speed is no merit."""
        lost, every = self.failures
        return 2 * lost > every

    @property
    def first(self) -> Result | None:
        """The result of its first seed."""
        return self.done[0] if self.done else None


def outcomes_of(plan: Comparison, results: Sequence[Result]) -> list[Outcome]:
    """Results by model, in the plan's order; those of other models are left out."""
    known = {(line["model"], line["seed"]): line for line in results}
    outcomes = []
    for model in plan.contestants:
        keys = [entry.key for entry in plan.entries() if entry.model is model]
        lines = [known[key] for key in keys if key in known]
        done = tuple(line for line in lines if line["status"] == "done")
        failed = tuple(line for line in lines if line["status"] != "done")
        outcomes.append(Outcome(model, done, failed, len(keys) - len(lines)))
    return outcomes
