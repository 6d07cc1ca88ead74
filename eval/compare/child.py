"""`python -m eval.compare.child JOB.json`: one measurement in a process of its own."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

from nesf.atomic import atomic_write
from nesf.errors import NesfError

TASKS = {
    "reconstruct": "eval.compare.measuring:reconstruct_set",
    "variant": "eval.compare.measuring:measure_variant",
    "predict": "eval.compare.property_measuring:predict_set",
}


def main(path: str) -> int:
    """Do what a job file says, and write its report.

    Args:
        path: of the job: "task" (one of `TASKS`), "report" (a file), and what the task's function
            takes.
    """
    job = json.loads(Path(path).read_text())
    module, _, name = TASKS[job["task"]].partition(":")
    task = getattr(importlib.import_module(module), name)
    try:
        report = task(job)
    except NesfError as error:
        print(" ".join(str(error).split()))
        return 2
    with atomic_write(job["report"]) as file:
        file.write(json.dumps(report, indent=1, allow_nan=False).encode())
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
