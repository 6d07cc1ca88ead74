"""What `examples/slurm.sbatch` makes of the exit codes of its steps."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "slurm.sbatch"
SRUN = """#!/bin/bash
[[ $* != *"nesf reconstruct"* || $* == *--kill-on-bad-exit=0* ]] || exit 143  # with exit code 1
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
NESF = """#!/bin/bash
echo "$1"
[ "$1" = reconstruct ] || exit 0
[ "$WRITES" = no ] || touch "$RUN/out.csv.gz"
exit "$CODE"
"""


@pytest.mark.parametrize(
    ("code", "writes", "goes_on"),
    [(0, "yes", True), (1, "yes", True), (1, "no", False), (2, "no", False), (143, "no", False)],
)
def test_only_rejected_rows_are_passed_over(
    tmp_path: Path, code: int, writes: str, goes_on: bool
) -> None:
    for name, text in (("srun", SRUN), ("nesf", NESF)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    told = {"SLURM_CPUS_PER_TASK": "8", "SLURM_NNODES": "4"}
    more = {"CODE": str(code), "WRITES": writes, "RUN": str(tmp_path)}
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", str(SCRIPT), "train.nesf", "test.csv.gz", str(tmp_path)],
        env=os.environ | told | more | {"PATH": path},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    steps = ["fit", "reconstruct", *(["evaluate"] if goes_on else [])]
    assert done.stdout.split() == steps, done.stderr
    assert (done.returncode == 0) == goes_on
