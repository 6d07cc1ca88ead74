"""A comparison under way, model by model: train, measure, score, and publish so far."""

from __future__ import annotations

import json
import math
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from eval.compare.children import TIMED_OUT, run_child
from eval.compare.folder import RESULTS
from eval.compare.lines import JsonLines
from eval.compare.plan import Comparison, Entry
from eval.compare.trainings import told_of_training, train
from nesf.atomic import atomic_write

SCHEMA_VERSION = 1
TOO_LONG = "it took longer than its limit"


@dataclass(frozen=True)
class Terms:
    """What all models of a comparison are measured on, beside its plan.

    Attributes:
        device: of trainings and all else.
        data: paths and sha256 of the data files, to be told with each result.
        lock: file descriptors that child processes inherit.
        published: called when something new is known.
    """

    device: torch.device
    data: Mapping[str, Any]
    lock: Sequence[int] = ()
    published: Callable[[Contest], None] = lambda contest: None


class Contest(ABC):
    """One comparison under way.

    Args:
        plan: what is compared.
        terms: what else is the same for all.
    """

    stage: ClassVar[str]  # what follows a training
    task: ClassVar[str]  # of `eval.compare.child`; its report carries the name, too

    def __init__(self, plan: Comparison, terms: Terms) -> None:
        self.plan, self.terms = plan, terms
        self.folder = Path(plan.output)
        self.results = JsonLines(self.folder / RESULTS, ("model", "seed"))

    @property
    def growth(self) -> list[dict[str, Any]]:
        """A line for each changed model that was measured."""
        return []

    def run(self) -> int:
        """Do what is not done yet.

        Returns:
            Exit code: 0, or 1 if a model failed.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        entries = list(self.plan.entries())
        part = f"{self.plan.name} " if self.plan.name else ""
        for number, entry in enumerate(entries, 1):
            known = self.results.get(*entry.key)
            if known is not None and known["status"] == "done":
                say(f"{part}[{number}/{len(entries)}] {entry.title}: done before")
                continue
            say(f"{part}[{number}/{len(entries)}] {entry.title}")
            self.results.append(self._result(entry))
            self.terms.published(self)
        self._measure_more()
        self.terms.published(self)
        return self._report_failures(entries)

    def _measure_more(self) -> None:
        """Measure what comes when all models are done."""
        return

    @abstractmethod
    def _measure(self, entry: Entry, report: Path) -> str | None:
        """Have the model take the test set into a report; why it failed, or None."""

    @abstractmethod
    def _figures(self, entry: Entry, report: dict[str, Any]) -> dict[str, Any]:
        """The part of a result that only this kind of comparison has."""

    def _result(self, entry: Entry) -> dict[str, Any]:
        """Train, measure and score; a failure is a result, too."""
        line = {
            "schema_version": SCHEMA_VERSION,
            "model": entry.model.name,
            "title": entry.model.label,
            "seed": entry.seed,
            "device": str(self.terms.device),
            "data": self.terms.data,
        }
        failed = train(entry, self.terms.device, _Progress(), self.terms.lock)
        if failed is not None:
            return {**line, "status": "failed", "stage": "training", "reason": failed}
        report = entry.folder / f"{self.task}.json"
        failed = None if report.is_file() else self._measure(entry, report)
        if failed is not None:
            return {**line, "status": "failed", "stage": self.stage, "reason": failed}
        told = json.loads(report.read_text())
        return {**line, "status": "done", "reason": None, **self._figures(entry, told)}

    def _told_of_model(self, entry: Entry, report: dict[str, Any]) -> dict[str, Any]:
        """Taken out of a report: what the model is, its training, and where it was measured."""
        about, machine = report.pop("model"), report.pop("machine")
        simple = entry.model.simple is not None
        return {
            "machine": machine,
            "class_path": about["class_path"],
            "parameters": about["parameters"],
            "latent_dim": about["latent_dim"],
            "training": {"curve": []} if simple else told_of_training(entry, about["metadata"]),
        }

    def _shared_job(self, entry: Entry, report: Path) -> dict[str, Any]:
        """What every job of `eval.compare.child` is told."""
        return {
            "report": str(report),
            "model": entry.weights,
            "trusted_prefixes": list(entry.model.trusted_prefixes),
            "refine": entry.model.refine,
            "device": str(self.terms.device),
            "threads": self.plan.threads,
            "batch_size": self.plan.scoring.batch_size,
        }

    def _run_child(
        self, entry: Entry, job: dict[str, Any], report: Path, limit_s: float | None = None
    ) -> str | None:
        """Run a job of `eval.compare.child`; why it failed, or None.

        Args:
            entry: the model.
            job: what only its task is told.
            report: the file that it writes.
            limit_s: it is killed after so long, s; without one, when the test set's time is over.
        """
        job = self._shared_job(entry, report) | job
        name = job["task"]
        limit_s = 60 * self.plan.scoring.limit_minutes if limit_s is None else limit_s
        entry.folder.mkdir(parents=True, exist_ok=True)
        path = entry.folder / f"{name}.job.json"
        with atomic_write(path) as file:
            file.write(json.dumps(job, indent=1).encode())
        ending = run_child(
            [sys.executable, "-m", "eval.compare.child", str(path)],
            entry.folder / f"{name}.log",
            timeout_s=limit_s,
            keep_open=self.terms.lock,
        )
        if ending.code == TIMED_OUT:
            return f"{TOO_LONG} of {limit_s:g} s"
        return None if ending.code == 0 else ending.reason

    def _report_failures(self, entries: Sequence[Entry]) -> int:
        """Tell what failed; the exit code."""
        lines = [self.results.get(*entry.key) for entry in entries]
        failed = [line for line in lines if line is not None and line["status"] == "failed"]
        for line in failed:
            seed = "" if line["seed"] is None else f", seed {line['seed']}"
            part = f"{self.plan.name}: " if self.plan.name else ""
            say(f"failed: {part}{line['model']}{seed}, in its {line['stage']}: {line['reason']}")
        if failed:
            say(f"the logs are in {self.folder / 'models'}")
        return 1 if failed else 0


def say(text: str) -> None:
    """A line on what is done now, with the time."""
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
            tell(line)


def tell(text: str) -> None:
    """A line below it."""
    print(f"         {text}", file=sys.stderr, flush=True)
