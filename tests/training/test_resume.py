"""A run that is killed and goes on is the run that was never broken."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from ordinary_user import NOBODY
from probes import read_record
from safetensors.torch import load_file
from tiny_run import Fit
from torch import nn

from nesf.optimizer import MuonAdamW

STEPS, EPOCH_STEPS = 18, 6
KILLED = -signal.SIGKILL
# float32 sums differ in the last bit where tensors lie elsewhere in memory
CLOSE = {"rel": 1e-6, "abs": 1e-6}


@pytest.fixture(scope="module")
def made() -> dict[str, Path]:
    """Runs that several tests look at."""
    return {}


@pytest.fixture
def unbroken(fit: Fit, made: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run that nothing happens to."""
    if "unbroken" not in made:
        root = tmp_path_factory.mktemp("unbroken") / "run"
        outcome = fit(root)
        assert outcome.code == 0, outcome.said
        made["unbroken"] = root
    return made["unbroken"]


def strike(where: str, step: int, number: int = signal.SIGKILL, times: int = 1) -> dict[str, Any]:
    arguments = {"where": where, "step": step, "number": int(number), "times": times}
    return {"class_path": "probes.Strike", "init_args": arguments}


def saved_step(root: Path) -> int | None:
    path = root / "checkpoints" / "last.ckpt"
    return torch.load(path, weights_only=True)["global_step"] if path.exists() else None


def assert_same_run(root: Path, unbroken: Path) -> None:
    truth = {(row["step"], "loss" in row): row for row in read_record(unbroken)}
    assert len(truth) == STEPS + STEPS // EPOCH_STEPS
    found = [(row["step"], "loss" in row, row) for row in read_record(root)]
    assert truth.keys() <= {(step, trained) for step, trained, _ in found}
    for step, trained, row in found:
        if trained or step % EPOCH_STEPS == 0:  # a run that is stopped validates once more
            wanted = dict(truth[step, trained])
            assert row.pop("ids", None) == wanted.pop("ids", None)
            assert row == pytest.approx(wanted, **CLOSE)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (root, unbroken))
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-6, atol=1e-6)


def test_a_run_killed_again_and_again(fit: Fit, unbroken: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    for where, step, saved in [
        ("step", 2, None),  # before anything was saved
        ("step", 7, 4),  # in the epoch after the one that the save is of
        ("step", 11, 8),  # in the middle of an epoch
        ("validation", 12, 8),
        ("step", 12, 12),  # right at the beginning of an epoch
        ("end", 18, 18),  # after the last step, before the model is written
    ]:
        outcome = fit(root, "--restart=auto", probe=strike(where, step))
        assert outcome.code == KILLED, outcome.said
        assert saved_step(root) == saved, (where, step)
    outcome = fit(root, "--restart=auto")
    assert outcome.code == 0, outcome.said
    assert_same_run(root, unbroken)


def test_killed_while_it_saves_to_another_file_system(
    fit: Fit, unbroken: Path, other_file_system: Path
) -> None:
    root = other_file_system / "run"
    for where, step, saved in [("half", 8, 4), ("whole", 16, 12)]:
        outcome = fit(root, "--restart=auto", probe=strike(where, step))
        assert outcome.code == KILLED, outcome.said
        assert saved_step(root) == saved
        assert list((root / "checkpoints").glob(".*.tmp"))
    outcome = fit(root, "--ckpt_path=last")
    assert outcome.code == 0, outcome.said
    assert_same_run(root, unbroken)
    assert sorted(p.name for p in (root / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]


def test_signals_save_and_stop(fit: Fit, unbroken: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    for number, times, where, step, code, saved in [
        (signal.SIGINT, 1, "step", 6, 130, 7),
        (signal.SIGTERM, 1, "step", 9, 143, 10),
        (signal.SIGINT, 1, "validation", 12, 130, 12),
        (signal.SIGINT, 2, "step", 14, 130, 12),  # impatient: the last save stays
    ]:
        outcome = fit(root, "--restart=auto", probe=strike(where, step, number, times))
        assert outcome.code == code, outcome.said
        assert saved_step(root) == saved
        assert "Traceback" not in outcome.said
        assert (number != signal.SIGINT) or "go on with --restart auto" in outcome.said
    assert fit(root, "--restart=auto").code == 0
    assert_same_run(root, unbroken)


def test_a_run_that_ran_out_of_time_can_be_used_and_continued(
    fit: Fit, unbroken: Path, tmp_path: Path
) -> None:
    root = tmp_path / "run"
    outcome = fit(root, probe={"class_path": "probes.Stop", "init_args": {"step": 10}})
    assert outcome.code == 0, outcome.said
    first = json.loads((root / "training.json").read_text())
    assert first["steps"] == saved_step(root) == 10
    assert (root / "model.safetensors").is_file()
    shutil.move(root, tmp_path / "moved")
    root = tmp_path / "moved"
    assert fit(root, "--restart=auto").code == 0
    assert_same_run(root, unbroken)
    told = json.loads((root / "training.json").read_text())
    assert told["steps"] == STEPS
    for clock in ("wall_s", "cpu_s"):
        assert told[clock] > first[clock] > 0
    # nothing is left to do, and nothing is done
    again = (root / "model.safetensors").stat().st_mtime_ns
    assert fit(root, "--restart=auto").code == 0
    assert (root / "model.safetensors").stat().st_mtime_ns == again


def test_a_checkpoint_that_does_not_fit_is_one_sentence(
    fit: Fit, unbroken: Path, tmp_path: Path
) -> None:
    root = tmp_path / "run"
    shutil.copytree(unbroken, root)
    wider = "--model.init_args.model.init_args.latent_dim=24"
    outcome = fit(root, "--restart=auto", wider)
    assert (outcome.code, outcome.said.count("\n")) == (2, 1)
    assert "latent_dim: 16 there, 24 here" in outcome.said
    last = root / "checkpoints" / "last.ckpt"
    damaged = bytearray(last.read_bytes())
    damaged[len(damaged) // 2] ^= 4
    last.write_bytes(damaged)
    outcome = fit(root, "--restart=auto")
    assert (outcome.code, outcome.said.count("\n")) == (2, 1)
    assert "last.ckpt is damaged" in outcome.said


def test_a_run_goes_on_with_its_own_data(fit: Fit, unbroken: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(unbroken, root)
    train = yaml.safe_load((root / "config.yaml").read_text())["data"]["init_args"]["train"][0]
    shutil.copy(train, tmp_path / "other.nesf")
    other = f"--data.train=[{tmp_path / 'other.nesf'}]"
    before = (root / "config.yaml").read_bytes()
    outcome = fit(root, "--restart=auto", other, "--data.seed=3")
    assert (outcome.code, outcome.said.count("\n")) == (2, 1)
    assert f"was begun with data.train [{train}], data.seed 0, and not with" in outcome.said
    assert f"data.train [{tmp_path / 'other.nesf'}], data.seed 3: give the same" in outcome.said
    assert (root / "config.yaml").read_bytes() == before
    # what decides nothing may change, and so may all where it is said
    assert fit(root, "--restart=auto", "--data.val_fraction=0.2").code == 0
    assert fit(root, "--ckpt_path=last", other).code == 0


def test_a_full_disk_is_one_sentence(fit: Fit, tmp_path: Path) -> None:
    root = tmp_path / "run"
    outcome = fit(root, file_limit=1_000_000)
    assert outcome.code == 2, outcome.said
    assert outcome.said.splitlines()[-1].startswith("nesf: no space left to write")
    assert "last.ckpt" in outcome.said
    assert "Traceback" not in outcome.said
    assert not list((root / "checkpoints").iterdir())


def test_a_folder_that_may_not_be_written_is_one_sentence(
    fit: Fit, tiny_data: Path, tmp_path: Path
) -> None:
    for folder in (tmp_path, *tmp_path.parents[:3], tiny_data, tiny_data.parent):
        if folder != Path("/tmp"):
            folder.chmod(folder.stat().st_mode | 0o055)
    outcome = fit(tmp_path / "run", user=NOBODY)
    assert (outcome.code, outcome.said.count("\n")) == (2, 1), outcome.said
    assert "permission denied" in outcome.said


def test_step_counts_are_restored_beside_their_parameters() -> None:
    here = nn.Linear(4, 4)
    here(torch.ones(4)).sum().backward()
    optimizer = MuonAdamW(here)
    optimizer.step()
    elsewhere = MuonAdamW(nn.Linear(4, 4, device="meta"))
    elsewhere.load_state_dict(optimizer.state_dict())
    devices = {v.device.type for state in elsewhere.state.values() for v in state.values()}
    assert devices == {"meta"}
