"""A rank that is killed, or asked to end, ends a training on several, which then goes on."""

from __future__ import annotations

import copy
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


class Pair:
    """Starts a training on two ranks, each in a process of its own.

    Args:
        context: of multiprocessing.
        data: packed crystals.
        folder: for the run and what its processes say.
    """

    def __init__(self, context: Any, data: Path, folder: Path) -> None:
        self.context, self.folder, self.root = context, folder, folder / "run"
        self.logs = [folder / f"log{rank}" for rank in range(2)]
        self.config = tiny_config(data, self.root)
        self.config["trainer"] |= {"devices": 2, "strategy": "ddp"}
        self.config["data"]["init_args"]["batch_size"] = BATCH // 2

    def __call__(self, **strike: int) -> list[Any]:
        """Start them, with a signal for one of them where there are arguments of `StrikeRank`."""
        config, path = copy.deepcopy(self.config), self.folder / "config.yaml"
        if strike:
            probe = {"class_path": "rank_probes.StrikeRank", "init_args": strike}
            config["trainer"]["callbacks"].append(probe)
        path.write_text(yaml.safe_dump(config))
        for log in self.logs:
            log.unlink(missing_ok=True)
        words = ["fit", f"--config={path}", "--restart=auto"]
        return [
            launch(self.context, words, log, environment=environment)
            for log, environment in zip(self.logs, environments(), strict=True)
        ]

    def saved_step(self) -> int:
        """Where the run goes on from."""
        saved = torch.load(self.root / "checkpoints" / "last.ckpt", weights_only=True)
        return saved["global_step"]

    def finish(self, expected: list[int]) -> None:
        """Let the run go on to its end, and look which steps it has taken."""
        for process, log in zip(self(), self.logs, strict=True):
            process.join(PATIENCE)
            assert process.exitcode == 0, log.read_text()
        for rank in range(2):
            steps = [row["step"] for row in read_record(self.root, rank) if "loss" in row]
            assert steps == expected
        assert (self.root / "model.safetensors").is_file()


@pytest.fixture
def pair(forkserver: Any, tiny_data: Path, tmp_path: Path) -> Pair:
    return Pair(forkserver, tiny_data, tmp_path)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_the_training_which_goes_on(pair: Pair, victim: int) -> None:
    processes = pair(rank=victim, step=10)
    processes[victim].join(PATIENCE)
    assert processes[victim].exitcode == -signal.SIGKILL, pair.logs[victim].read_text()
    killed = time.monotonic()
    processes[1 - victim].join(BOUND_S)
    said = pair.logs[1 - victim].read_text()
    assert processes[1 - victim].exitcode == 2, said
    assert time.monotonic() - killed < BOUND_S
    assert "go on with --restart auto" in said.splitlines()[-1]
    assert "Traceback" not in said
    assert pair.saved_step() == 8
    pair.finish([*range(1, 11), *range(9, STEPS + 1)])


@pytest.mark.parametrize(("victim", "step", "saved"), [(0, 9, 10), (1, 11, 12)])
def test_ranks_save_and_end_together(pair: Pair, victim: int, step: int, saved: int) -> None:
    processes = pair(rank=victim, step=step, number=int(signal.SIGTERM))  # step 12 ends an epoch
    for process, log in zip(processes, pair.logs, strict=True):
        process.join(PATIENCE)
        if process.is_alive():
            for each in processes:
                each.kill()
            pytest.fail(f"hangs:\n{log.read_text()}")
        assert process.exitcode == 128 + signal.SIGTERM, log.read_text()
        assert "Traceback" not in log.read_text()
    assert pair.saved_step() == saved
    pair.finish([*range(1, STEPS + 1)])
