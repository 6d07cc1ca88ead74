"""A comparison for a property: every contestant says it of every test crystal."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from eval.compare.child import work
from eval.compare.contest import Contest, Terms, tell
from eval.compare.plan import Comparison, Entry
from eval.compare.properties import property_metrics, sets_of
from nesf.atomic import atomic_write
from nesf.errors import NesfError


class PropertyContest(Contest):
    """Has each model predict the property of the test crystals.

    Args:
        plan: what is compared, of kind `properties`.
        terms: what else is the same for all.

    Raises:
        InputError: the data lack the property.
    """

    stage = "prediction"
    task = "predict"

    def __init__(self, plan: Comparison, terms: Terms) -> None:
        super().__init__(plan, terms)
        self.sets = sets_of(plan)

    def _measure(self, entry: Entry, report: Path) -> str | None:
        """Have a model predict in a process of its own, and a simple rule here."""
        job: dict[str, Any] = {
            "task": self.task,
            "output": str(entry.predictions),
            "target": self.plan.target,
            "simple": entry.model.simple,
            "latent": entry.model.latent,
            **{name: list(getattr(self.plan.data, name)) for name in ("train", "val", "test")},
        }
        if entry.model.simple is None:
            tell("predicting the test set")
            return self._run_child(entry, job, report)
        entry.folder.mkdir(parents=True, exist_ok=True)
        try:  # the threads are those of this process, which are not to change
            work(self._shared_job(entry, report) | job | {"threads": 0})
        except NesfError as error:
            return str(error)
        return None

    def _figures(self, entry: Entry, report: dict[str, Any]) -> dict[str, Any]:
        """Costs and errors of one model; the rows of all crystals go to a file of their own."""
        truth, predicted = self.sets.truth, self._predicted(entry)
        scoring, mean = self.plan.scoring, self.sets.mean
        metrics = property_metrics(truth, predicted, mean, scoring.bootstrap, scoring.seed)
        failures = report.pop("failures")
        result = {
            "target": self.sets.target,
            "metrics": metrics,
            "counts": {"reference": len(truth), "failures": int(np.isnan(predicted).sum())},
            "settings": {
                "bootstrap": scoring.bootstrap,
                "seed": scoring.seed,
                "training_mean": mean,
                "versions": {"numpy": np.__version__},
            },
        }
        rows = [
            {"id": name, "true": true, "predicted": value if np.isfinite(value) else None}
            for name, true, value in zip(
                self.sets.test.ids, truth.tolist(), predicted.tolist(), strict=True
            )
        ]
        with atomic_write(entry.scores) as file:
            whole = {**result, "failures": failures, "rows": rows}
            file.write(json.dumps(whole, allow_nan=False).encode())
        about = self._told_of_model(entry, report)
        simple = entry.model.simple is not None
        return {
            **about,
            # a simple rule answers for all crystals while it is fitted
            "prediction": {**report, "seconds": None if simple else report["seconds"]},
            **result,
        }

    def _predicted(self, entry: Entry) -> np.ndarray:
        """(M,) what the model's table says of the test crystals, NaN where nothing."""
        with entry.predictions.open(newline="", encoding="utf-8") as file:
            told = {row["id"]: row["predicted"] for row in csv.DictReader(file)}
        return np.array([float(told.get(name) or "nan") for name in self.sets.test.ids])
