"""A training whose decoders are compiled is the same training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from compiled_run import trained

from nesf.errors import InputError


def test_compiled_steps_are_the_same_steps(tmp_path: Path) -> None:
    here = Path(__file__).parent
    environment = {
        **os.environ,
        "CXX": sys.executable,  # anything that is there: it is not called
        "PYTHONPATH": os.pathsep.join([str(here.parent), str(here.parents[1])]),
    }
    run = subprocess.run(
        [sys.executable, str(here / "compiled_run.py"), str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    said = json.loads(run.stdout.splitlines()[-1])
    assert said["graphs"] == 2  # the decoders', and none of validation
    assert said["apart"] < 1e-4
    assert said["losses"][0] == pytest.approx(said["losses"][1], rel=1e-4)


def test_a_missing_compiler_is_told_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InputError, match=r"needs a C\+\+ compiler, and there is no no-such-comp"):
        trained(tmp_path, compiled=True)
