"""A run that is killed and goes on is the run that was never broken, to the last bit."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Fit
from probes import read_record
from safetensors.torch import load_file

STEPS, EPOCH_STEPS = 18, 6


@pytest.fixture(scope="module")
def records() -> dict[str, Any]:
    """The unbroken run's, once it was made."""
    return {}


@pytest.fixture
def unbroken(fit: Fit, records: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run that nothing happens to."""
    if "root" not in records:
        root = tmp_path_factory.mktemp("unbroken") / "run"
        outcome = fit(root)
        assert outcome.code == 0, outcome.said
        records["root"] = root
    return records["root"]


def break_and_resume(
    fit: Fit, root: Path, strikes: Sequence[tuple[str, int, int]]
) -> list[dict[str, int]]:
    """Kill a run here and there; what had been done and saved by then."""
    places = []
    for where, step, saved in strikes:
        outcome = fit(root, "--restart=auto", strike={"where": where, "step": step})
        assert outcome.code == -signal.SIGKILL, outcome.said
        assert saved_step(root) == saved, (where, step)
    outcome = fit(root, "--restart=auto")
    assert outcome.code == 0, outcome.said
    return places


def saved_step(root: Path) -> int | None:
    path = root / "checkpoints" / "last.ckpt"
    return torch.load(path, weights_only=True)["global_step"] if path.exists() else None


def assert_same_run(root: Path, unbroken: Path) -> None:
    truth = {(row["step"], "loss" in row): row for row in read_record(unbroken)}
    assert len(truth) == STEPS + STEPS // EPOCH_STEPS
    found = read_record(root)
    assert {(row["step"], "loss" in row) for row in found} == truth.keys()
    for row in found:
        assert row == truth[row["step"], "loss" in row]
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (root, unbroken))
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


def test_a_run_killed_again_and_again(fit: Fit, unbroken: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    strikes = [
        ("step", 2, None),  # before anything was saved
        ("step", 7, 4),  # in the epoch after the one that the save is of
        ("step", 11, 8),  # in the middle of an epoch
        ("validation", 12, 8),
        ("step", 12, 12),  # right at the beginning of an epoch
        ("step", 17, 16),
        ("end", 18, 18),  # after the last step, before the model is written
    ]
    break_and_resume(fit, root, strikes)
    assert_same_run(root, unbroken)
    told = json.loads((root / "training.json").read_text())
    assert told["steps"] == STEPS
