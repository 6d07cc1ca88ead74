"""`python -m eval.compare.child JOB.json`: one measurement in a process of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from nesf.atomic import atomic_write
from nesf.errors import NesfError


def main(path: str) -> int:
    """Do what a job file says, and write its report.

    Args:
        path: of the job: "task" (`reconstruct` or `variant`), "report" (a file), and what the
            function of `eval.compare.measuring` takes.
    """
    from eval.compare.measuring import measure_variant, reconstruct_set

    job = json.loads(Path(path).read_text())
    task = {"reconstruct": reconstruct_set, "variant": measure_variant}[job["task"]]
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
