"""Two processes train as well as one, on the same crystals a step."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from probes import read_record
from tiny_run import BATCH, PATIENCE, TRAIN, Fit, launch, tiny_config

from nesf.data.packed import PackedSet

EPOCHS = 4
STEPS = EPOCHS * TRAIN // BATCH
RANKS = (0, 1)


def two_ranks(data: Path, root: Path) -> dict[str, Any]:
    pictures = {"class_path": "nesf.callbacks.FieldPictures", "init_args": {"every": EPOCHS}}
    config = tiny_config(data, root, pictures)
    config["trainer"] |= {"max_epochs": EPOCHS, "devices": 2, "strategy": "ddp"}
    config["data"]["init_args"]["batch_size"] = BATCH // 2
    config["model"]["init_args"]["reconstruct_every"] = EPOCHS
    return config


@pytest.fixture(scope="module")
def together(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was started as a user starts it, with two processes."""
    folder = tmp_path_factory.mktemp("ddp")
    (folder / "config.yaml").write_text(yaml.safe_dump(two_ranks(tiny_data, folder / "run")))
    here = Path(__file__)
    done = subprocess.run(
        [sys.executable, "-m", "nesf", "fit", f"--config={folder / 'config.yaml'}"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (here.parents[2], here.parent)))},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("epoch 1/") == 1  # one process tells
    return folder / "run"


def test_each_crystal_is_drawn_once_an_epoch(together: Path, tiny_data: Path) -> None:
    ids = Counter(PackedSet.load(tiny_data / "train.nesf").ids)
    records = [[row for row in read_record(together, rank) if "loss" in row] for rank in RANKS]
    assert [row["step"] for row in records[0]] == list(range(1, STEPS + 1))
    for epoch in range(EPOCHS):
        drawn = [n for record in records for row in record if row["epoch"] == epoch
                 for n in row["ids"]]  # fmt: skip
        assert Counter(drawn) == ids


def test_validation_is_over_all_crystals(together: Path, tiny_data: Path) -> None:
    mean = PackedSet.load(tiny_data / "val.nesf").num_atoms.mean()
    parts = [[row for row in read_record(together, rank) if "loss" not in row] for rank in RANKS]
    assert parts[0] == parts[1]
    assert len(parts[0]) == EPOCHS
    for row in parts[0]:
        assert row["val/atoms"] == pytest.approx(mean, rel=1e-6)
    assert "val/wrong_counts_percent" in parts[0][-1]


def test_two_processes_learn_what_one_learns(
    together: Path, fit: Fit, tiny_data: Path, tmp_path: Path
) -> None:
    outcome = fit(tmp_path / "run", f"--trainer.max_epochs={EPOCHS}")
    assert outcome.code == 0, outcome.said
    alone = [row for row in read_record(tmp_path / "run") if "loss" in row]
    both = [[row for row in read_record(together, rank) if "loss" in row] for rank in RANKS]
    for step, row in enumerate(alone):
        assert {name for record in both for name in record[step]["ids"]} == set(row["ids"])
        assert both[0][step]["lr"] == pytest.approx(row["lr"])
    first, last = (
        [row["val/loss"] for row in read_record(root) if "loss" not in row]
        for root in (tmp_path / "run", together)
    )
    assert first[-1] < 0.97 * first[0]  # it learns
    assert last[-1] == pytest.approx(first[-1], rel=0.03)


def test_two_processes_that_were_killed_go_on(
    together: Path, forkserver: Any, tiny_data: Path, tmp_path: Path
) -> None:
    config = two_ranks(tiny_data, tmp_path / "run")
    path = tmp_path / "config.yaml"
    strike = {"class_path": "probes.Strike", "init_args": {"where": "step", "step": 10}}
    for callbacks, code in (([strike], -9), ([], 0)):
        path.write_text(
            yaml.safe_dump(
                config | {"trainer": config["trainer"] | {
                    "callbacks": config["trainer"]["callbacks"] + callbacks}}
            )
        )  # fmt: skip
        processes = [
            launch(
                forkserver,
                ["fit", f"--config={path}", "--restart=auto"],
                tmp_path / f"log{rank}",
                environment=elsewhere | {"LOCAL_RANK": str(rank)},
            )
            for elsewhere in [{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}]
            for rank in RANKS
        ]
        for process in processes:
            process.join(PATIENCE)
        said = "".join((tmp_path / f"log{rank}").read_text() for rank in RANKS)
        assert [process.exitcode for process in processes] == [code, code], said
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == STEPS
    for rank in RANKS:
        truth = {row["step"]: row for row in read_record(together, rank) if "loss" in row}
        found = [row for row in read_record(tmp_path / "run", rank) if "loss" in row]
        assert [row["step"] for row in found] == [*range(1, 11), *range(9, STEPS + 1)]
        for row in found:
            assert row["ids"] == truth[row["step"]]["ids"]
            assert row["loss"] == pytest.approx(truth[row["step"]]["loss"], rel=1e-5)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
