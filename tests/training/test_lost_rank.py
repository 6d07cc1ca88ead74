"""A rank that is killed ends a training on several of them, which then goes on."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from probes import read_record
from test_ddp import free_port
from tiny_run import BATCH, PATIENCE, TRAIN, launch, tiny_config

STEPS = 3 * TRAIN // BATCH
BOUND_S = 60  # the other rank ends at once where its core is not shared


def environments() -> list[dict[str, str]]:
    """What torchrun tells two ranks of one machine."""
    both = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "none"}  # fmt: skip
    return [both | {"RANK": rank, "LOCAL_RANK": rank} for rank in "01"]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_the_training_which_goes_on(
    forkserver: Any, tiny_data: Path, tmp_path: Path, victim: int
) -> None:
    config = tiny_config(tiny_data, tmp_path / "run")
    config["trainer"] |= {"devices": 2, "strategy": "ddp"}
    config["data"]["init_args"]["batch_size"] = BATCH // 2
    path = tmp_path / "config.yaml"
    strike = {"class_path": "rank_probes.StrikeRank", "init_args": {"rank": victim, "step": 10}}
    callbacks = config["trainer"]["callbacks"]

    def start() -> tuple[list[Any], list[str]]:
        path.write_text(yaml.safe_dump(config))
        logs = [tmp_path / f"log{rank}" for rank in range(2)]
        for log in logs:
            log.unlink(missing_ok=True)
        words = ["fit", f"--config={path}", "--restart=auto"]
        processes = [
            launch(forkserver, words, log, environment=environment)
            for log, environment in zip(logs, environments(), strict=True)
        ]
        return processes, logs

    config["trainer"]["callbacks"] = [*callbacks, strike]
    processes, logs = start()
    processes[victim].join(PATIENCE)
    assert processes[victim].exitcode == -signal.SIGKILL, logs[victim].read_text()
    killed = time.monotonic()
    processes[1 - victim].join(BOUND_S)
    said = logs[1 - victim].read_text()
    assert processes[1 - victim].exitcode == 2, said
    assert time.monotonic() - killed < BOUND_S
    assert "go on with --restart auto" in said.splitlines()[-1]
    assert "Traceback" not in said
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 8

    config["trainer"]["callbacks"] = callbacks
    processes, logs = start()
    for process, log in zip(processes, logs, strict=True):
        process.join(PATIENCE)
        assert process.exitcode == 0, log.read_text()
    for rank in range(2):
        steps = [row["step"] for row in read_record(tmp_path / "run", rank) if "loss" in row]
        assert steps == [*range(1, 11), *range(9, STEPS + 1)]
    assert (tmp_path / "run" / "model.safetensors").is_file()
