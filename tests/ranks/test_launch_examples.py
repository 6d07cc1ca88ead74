"""What `examples/slurm.sbatch` and `examples/torchrun.sh` make of the exit codes of their steps."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SRUN = """#!/bin/bash
[[ $* != *"nesf reconstruct"* || $* == *--kill-on-bad-exit=0* ]] || exit 143  # with exit code 1
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
TORCHRUN = """#!/bin/bash
while [[ $1 != nesf ]]; do shift; done
"$@" || exit 1
"""
NESF = """#!/bin/bash
echo "$1"
[ "$1" = reconstruct ] || exit 0
[ "$LISTS" = no ] || touch "$RUN/out.rejected.csv"
exit "$CODE"
"""


@pytest.mark.parametrize("script", ["slurm.sbatch", "torchrun.sh"])
@pytest.mark.parametrize(
    ("code", "lists", "goes_on"),
    [(0, "no", True), (1, "yes", True), (1, "no", False), (2, "no", False), (143, "no", False)],
)
def test_only_rejected_rows_are_passed_over(
    tmp_path: Path, script: str, code: int, lists: str, goes_on: bool
) -> None:
    for name, text in (("srun", SRUN), ("torchrun", TORCHRUN), ("nesf", NESF)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    for left in ("train.nesf", "out.csv.gz", "out.rejected.csv"):  # of an earlier run
        (tmp_path / left).touch()
    told = {"SLURM_CPUS_PER_TASK": "8", "SLURM_NNODES": "4", "GPUS": "2"}
    more = {"CODE": str(code), "LISTS": lists, "RUN": str(tmp_path)}
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", str(EXAMPLES / script), "train.nesf", "test.csv.gz", str(tmp_path)],
        env=os.environ | told | more | {"PATH": path},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    steps = ["fit", "reconstruct", *(["evaluate"] if goes_on else [])]
    assert done.stdout.split() == steps, done.stderr
    assert (done.returncode == 0) == goes_on
