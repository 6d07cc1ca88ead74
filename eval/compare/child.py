"""`python -m eval.compare.child JOB.json`: one measurement in a process of its own."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nesf.atomic import atomic_write
from nesf.errors import NesfError

TASKS = {
    "reconstruct": "eval.compare.measuring.reconstruction:reconstruct_set",
    "variant": "eval.compare.measuring.reconstruction:measure_variant",
    "predict": "eval.compare.measuring.prediction:predict_set",
}


def work(job: Mapping[str, Any]) -> None:
    """Do a job, and write its report.

    Args:
        job: "task" (one of `TASKS`), "report" (a file), and what the task's function takes.

    Raises:
        NesfError: it cannot be done.
    """
    module, _, name = TASKS[job["task"]].partition(":")
    report = getattr(importlib.import_module(module), name)(job)
    with atomic_write(job["report"]) as file:
        file.write(json.dumps(report, indent=1, allow_nan=False).encode())


def main(path: str) -> int:
    """Do what a job file says.

    Args:
        path: of the job.

    Returns:
        Exit code: 0, or 2 with the reason printed.
    """
    try:
        work(json.loads(Path(path).read_text()))
    except NesfError as error:
        print(" ".join(str(error).split()))
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
