"""The comparison itself, model by model: train, reconstruct, score, and publish so far."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from eval.compare.children import TIMED_OUT, run_child
from eval.compare.folder import GROWTH, RESULTS
from eval.compare.lines import JsonLines
from eval.compare.plan import Comparison, Entry, Variant
from eval.compare.trainings import told_of_training, train
from eval.evaluate import evaluate
from eval.matching import MatchOptions
from nesf.atomic import atomic_write

SCHEMA_VERSION = 1
TOO_LONG = "it took longer than its limit"


class Contest:
    """One comparison under way.

    Args:
        plan: what is compared.
        device: of trainings and reconstructions.
        data: paths and sha256 of the data files, to be told with each result.
        lock: file descriptors that child processes inherit.
    """

    def __init__(
        self, plan: Comparison, device: torch.device, data: Mapping[str, Any], lock: Sequence[int]
    ) -> None:
        self.plan, self.device, self.data, self.lock = plan, device, data, lock
        self.folder = Path(plan.output)
        self.results = JsonLines(self.folder / RESULTS, ("model", "seed"))
        self.growth = JsonLines(self.folder / GROWTH, ("model", "series", "value", "changes"))

    def run(self) -> int:
        """Do what is not done yet.

        Returns:
            Exit code: 0, or 1 if a model failed.
        """
        entries = list(self.plan.entries())
        for number, entry in enumerate(entries, 1):
            known = self.results.get(*entry.key)
            if known is not None and known["status"] == "done":
                _say(f"[{number}/{len(entries)}] {entry.title}: done before")
                continue
            _say(f"[{number}/{len(entries)}] {entry.title}")
            self.results.append(self._result(entry))
            self.publish()
        for variant in self.plan.growth.variants if self.plan.growth.limit_s else ():
            self._grow(variant)
        self.publish()
        return self._report_failures(entries)

    def publish(self) -> None:
        """Write tables, charts and the page of what is known."""
        from eval.compare.publish import publish

        publish(self.plan, list(self.results), list(self.growth))

    def _result(self, entry: Entry) -> dict[str, Any]:
        """Train, reconstruct and score; a failure is a result, too."""
        line = {
            "schema_version": SCHEMA_VERSION,
            "model": entry.model.name,
            "title": entry.model.label,
            "seed": entry.seed,
            "device": str(self.device),
            "data": self.data,
        }
        failed = train(entry, self.device, _Progress(), self.lock)
        if failed is not None:
            return {**line, "status": "failed", "stage": "training", "reason": failed}
        report = self._reconstruct(entry)
        if isinstance(report, str):
            return {**line, "status": "failed", "stage": "reconstruction", "reason": report}
        figures = self._score(entry, report)
        model, machine = report.pop("model"), report.pop("machine")
        by_num_atoms = report.pop("by_num_atoms")
        count = report["crystals"]
        seconds = report["encode_s"] + report["decode_s"]
        return {
            **line,
            "status": "done",
            "reason": None,
            "machine": machine,
            "class_path": model["class_path"],
            "parameters": model["parameters"],
            "latent_dim": model["latent_dim"],
            "training": told_of_training(entry, model["metadata"]),
            "reconstruction": {
                **report,
                "cannot_represent": len(report["cannot_represent"]),
                "failures": len(report["failures"]),
                "crystals_per_s": count / seconds if seconds else None,
            },
            "growth": by_num_atoms,
            **figures,
        }

    def _reconstruct(self, entry: Entry) -> dict[str, Any] | str:
        """The child's report, or why there is none."""
        report = entry.folder / "reconstruct.json"
        if not report.is_file():
            _tell("reconstructing the test set")
            job = {"task": "reconstruct", "output": str(entry.predictions)}
            failed = self._measure(
                entry, job, report, "reconstruct", 60 * self.plan.scoring.limit_minutes
            )
            if failed is not None:
                return failed
        return json.loads(report.read_text())

    def _measure(
        self, entry: Entry, job: dict[str, Any], report: Path, name: str, limit_s: float
    ) -> str | None:
        """Run a job of `eval.compare.child`; why it failed, or None."""
        growth = self.plan.growth
        job |= {
            "report": str(report),
            "model": entry.weights,
            "trusted_prefixes": list(entry.model.trusted_prefixes),
            "device": str(self.device),
            "threads": self.plan.threads,
            "batch_size": self.plan.scoring.batch_size,
            "inputs": list(self.plan.data.test),
            "boxes": self.plan.scoring.boxes,
            "growth": {
                name: getattr(growth, name) for name in ("crystals", "batch_size", "limit_s")
            },
        }
        entry.folder.mkdir(parents=True, exist_ok=True)
        path = entry.folder / f"{name}.job.json"
        with atomic_write(path) as file:
            file.write(json.dumps(job, indent=1).encode())
        ending = run_child(
            [sys.executable, "-m", "eval.compare.child", str(path)],
            entry.folder / f"{name}.log",
            timeout_s=limit_s,
            keep_open=self.lock,
        )
        if ending.code == TIMED_OUT:
            return f"{TOO_LONG} of {limit_s:g} s"
        return None if ending.code == 0 else ending.reason

    def _score(self, entry: Entry, report: Mapping[str, Any]) -> dict[str, Any]:
        """Score the reconstructed crystals; the rows of all crystals go to a file of their own."""
        _tell("scoring")
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
        known = self.growth.get(*key)
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
            self.growth.append(
                {
                    **line,
                    "status": "failed",
                    "reason": f"there is no model {variant.model} to change",
                }
            )
            return
        _say(f"growth: {variant.model}, {variant.series} {line['label']}")
        entry = done[0]
        report = entry.folder / "variant.json"
        report.unlink(missing_ok=True)
        job = {"task": "variant", "changes": dict(variant.changes)}
        # starting up and warming up take their time, too
        failed = self._measure(entry, job, report, "variant", 2 * self.plan.growth.limit_s + 60)
        if failed is not None:
            status = "too long" if failed.startswith(TOO_LONG) else "failed"
            self.growth.append({**line, "status": status, "reason": failed})
        else:
            told = json.loads(report.read_text())
            self.growth.append({**line, "status": "done", "reason": None, **told})

    def _report_failures(self, entries: Sequence[Entry]) -> int:
        """Tell what failed; the exit code."""
        lines = [self.results.get(*entry.key) for entry in entries]
        failed = [line for line in lines if line is not None and line["status"] == "failed"]
        for line in failed:
            seed = "" if line["seed"] is None else f", seed {line['seed']}"
            _say(f"failed: {line['model']}{seed}, in its {line['stage']}: {line['reason']}")
        if failed:
            _say(f"the logs are in {self.folder / 'models'}")
        return 1 if failed else 0


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


class _Progress:
    """Tells what is news among the lines of a training's log, and not too often."""

    def __init__(self, interval_s: float = 15.0) -> None:
        self.interval_s = interval_s
        self._told = -math.inf

    def __call__(self, line: str) -> None:
        due = line.startswith("epoch ") and time.monotonic() - self._told > self.interval_s
        if due or line.startswith(("going on ", "nesf: ")):
            self._told = time.monotonic()
            _tell(line)


def _tell(text: str) -> None:
    print(f"         {text}", file=sys.stderr, flush=True)
