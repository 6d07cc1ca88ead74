"""A comparison of models that give crystals back: reconstruct, score, measure how it grows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.compare.contest import TOO_LONG, Contest, Terms, say, tell
from eval.compare.folder import GROWTH
from eval.compare.lines import JsonLines
from eval.compare.options import Variant
from eval.compare.plan import Comparison, Entry
from eval.evaluate import evaluate
from eval.matching import MatchOptions
from nesf.atomic import atomic_write


class ReconstructionContest(Contest):
    """Takes the test crystals through each model and back.

    Args:
        plan: what is compared.
        terms: what else is the same for all.
    """

    stage = "reconstruction"
    task = "reconstruct"

    def __init__(self, plan: Comparison, terms: Terms) -> None:
        super().__init__(plan, terms)
        self.variants = JsonLines(self.folder / GROWTH, ("model", "series", "value", "changes"))

    @property
    def growth(self) -> list[dict[str, Any]]:
        """A line for each changed model that was measured."""
        return list(self.variants)

    def _measure_more(self) -> None:
        for variant in self.plan.growth.variants if self.plan.growth.limit_s else ():
            self._grow(variant)

    def _measure(self, entry: Entry, report: Path) -> str | None:
        """Have a model reconstruct in a process of its own."""
        tell("reconstructing the test set")
        job = self._job(self.task) | {"output": str(entry.predictions)}
        return self._run_child(entry, job, report)

    def _job(self, task: str) -> dict[str, Any]:
        growth = self.plan.growth
        return {
            "task": task,
            "inputs": list(self.plan.data.test),
            "boxes": self.plan.scoring.boxes,
            "growth": {
                name: getattr(growth, name) for name in ("crystals", "batch_size", "limit_s")
            },
        }

    def _figures(self, entry: Entry, report: dict[str, Any]) -> dict[str, Any]:
        """Costs and errors of one model."""
        figures = self._score(entry, report)
        about = self._told_of_model(entry, report)
        by_num_atoms = report.pop("by_num_atoms")
        count = report["crystals"]
        seconds = report["encode_s"] + report["decode_s"]
        return {
            **about,
            "reconstruction": {
                **report,
                "cannot_represent": len(report["cannot_represent"]),
                "failures": len(report["failures"]),
                "crystals_per_s": count / seconds if seconds else None,
            },
            "growth": by_num_atoms,
            **figures,
        }

    def _score(self, entry: Entry, report: Mapping[str, Any]) -> dict[str, Any]:
        """Score the reconstructed crystals; the rows of all crystals go to a file of their own."""
        tell("scoring")
        scoring = self.plan.scoring
        reasons = {one["id"]: one["reason"] for one in report["failures"]}
        reasons |= {
            one["id"]: f"cannot be represented: {one['reason']}"
            for one in report["cannot_represent"]
        }
        written = report["crystals"] > len(report["failures"])
        result = evaluate(
            [*([entry.predictions] if written else []), *((name, None) for name in reasons)],
            self.plan.data.test,
            matching=scoring.matching,
            boxes=scoring.boxes,
            match_options=MatchOptions(timeout_s=scoring.timeout_s, workers=scoring.workers),
            refine=scoring.refine_symmetry and not scoring.boxes,
            bootstrap=scoring.bootstrap,
            seed=scoring.seed,
            workers=scoring.workers,
            progress=False,
        )
        for failure in result["failures"]:
            failure["reason"] = reasons.get(failure["id"], failure["reason"])
        with atomic_write(entry.scores) as file:
            file.write(json.dumps(result, allow_nan=False).encode())
        kept = ("metrics", "refined", "chance", "by_num_atoms", "counts", "settings")
        return {name: result[name] for name in kept}

    def _grow(self, variant: Variant) -> None:
        """Measure a changed model, once."""
        changes = json.dumps(variant.changes, sort_keys=True)
        key = (variant.model, variant.series, variant.value, changes)
        known = self.variants.get(*key)
        if known is not None and known["status"] != "failed":
            return
        done = [
            entry
            for entry in self.plan.entries()
            if entry.model.name == variant.model
            and (self.results.get(*entry.key) or {}).get("status") == "done"
        ]
        line = dict(zip(("model", "series", "value", "changes"), key, strict=True))
        line |= {"label": variant.label or f"{variant.value:g}"}
        if not done:
            self.variants.append(
                {
                    **line,
                    "status": "failed",
                    "reason": f"there is no model {variant.model} to change",
                }
            )
            return
        say(f"growth: {variant.model}, {variant.series} {line['label']}")
        entry = done[0]
        report = entry.folder / "variant.json"
        report.unlink(missing_ok=True)
        job = self._job("variant") | {"changes": dict(variant.changes)}
        # starting up and warming up take their time, too
        failed = self._run_child(entry, job, report, 2 * self.plan.growth.limit_s + 60)
        if failed is not None:
            status = "too long" if failed.startswith(TOO_LONG) else "failed"
            self.variants.append({**line, "status": status, "reason": failed})
        else:
            told = json.loads(report.read_text())
            self.variants.append({**line, "status": "done", "reason": None, **told})
