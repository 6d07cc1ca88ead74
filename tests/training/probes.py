"""Callbacks that watch a run from inside or kill it, and the process that such a run happens in."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from nesf import sealed
from nesf.cli import main
from nesf.crystal import CrystalBatch
from nesf.queries import QueryBlock, QuerySampler, TrainingQueries

RECORD = "record.{rank}.jsonl"


@dataclass(frozen=True)
class FewQueries(QuerySampler):
    """A sampler of somebody else's package, which notes the margins that it was asked with.

    Attributes:
        count: of queries a crystal, for either field.
    """

    count: int = 4
    margins: ClassVar[set[float]] = set()

    def __call__(
        self, crystals: CrystalBatch, generator: torch.Generator, margin: float
    ) -> TrainingQueries:
        self.margins.add(margin)
        device = crystals.device
        query = torch.rand(len(crystals), self.count, 3, generator=generator, device=device)
        block = QueryBlock(torch.arange(len(crystals), device=device), query @ crystals.lattice)
        return TrainingQueries((block,), (block,))


def run_in_child(
    argv: Sequence[str],
    log: Path,
    folder: Path,
    file_limit: int | None = None,
    user: int | None = None,
    environment: dict[str, str] | None = None,
) -> None:
    """Run `nesf ARGV` in this process, its output in a file, under limits of the disk."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(folder)
    os.environ.update(environment or {})
    if file_limit is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    if user is not None:
        os.seteuid(user)
    sys.exit(main(argv))


def read_record(folder: Path, rank: int = 0) -> list[dict[str, Any]]:
    """What `Record` wrote, the parts of a resumed run one after another."""
    return [json.loads(line) for line in (folder / RECORD.format(rank=rank)).open()]


class Record(Callback):
    """Writes loss, learning rate and crystals of every step, and the result of each validation.

    `val/atoms` is the mean atom count of the validation crystals, a sum over all processes.
    """

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._write(
            trainer,
            epoch=trainer.current_epoch,
            step=trainer.global_step,
            loss=outputs["loss"].item(),
            lr=trainer.optimizers[0].param_groups[0]["lr"],
            ids=list(batch.ids),
        )

    def on_validation_batch_end(
        self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: Any, *_: Any
    ) -> None:
        module.log_mean({"val/atoms": batch.num_atoms.float().mean()}, len(batch))

    def on_validation_end(self, trainer: lightning.Trainer, module: Any) -> None:
        metrics = {k: v.item() for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
        self._write(trainer, epoch=trainer.current_epoch, step=trainer.global_step, **metrics)

    def _write(self, trainer: lightning.Trainer, **values: Any) -> None:
        path = Path(trainer.default_root_dir) / RECORD.format(rank=trainer.global_rank)
        with path.open("a") as file:
            file.write(json.dumps(values) + "\n")


class Strike(Callback):
    """Sends a signal to its own process.

    Args:
        where: `step` (before it), `validation` (in its middle), `end` (after the last save),
            `half` (a checkpoint is half written), `whole` (written, but not in place).
        step: steps done by then.
        number: of the signal; by default SIGKILL, which nothing outlives.
        times: it is sent.
    """

    def __init__(self, where: str, step: int, number: int = 9, times: int = 1) -> None:
        self.where, self.step, self.number, self.times = where, step, number, times

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            self._strike("step")

    def on_validation_batch_start(
        self, trainer: lightning.Trainer, module: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        if trainer.global_step == self.step and batch_idx == 1:
            self._strike("validation")

    def on_train_end(self, *_: Any) -> None:
        self._strike("end")

    def on_save_checkpoint(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step and self.where in ("half", "whole"):
            self._break_writing()

    def _strike(self, where: str) -> None:
        if where == self.where:
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)

    def _break_writing(self) -> None:
        whole = sealed.atomic_write

        @contextmanager
        def broken(path: Path) -> Any:
            with whole(path) as file:
                if self.where == "half":
                    yield _HalfWriter(file)
                else:
                    yield file
                    file.flush()
                    self._strike("whole")

        sealed.atomic_write = broken


class Stop(Callback):
    """Stops the training after a step, as the timer of `max_time` does.

    Args:
        step: the last one.
    """

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        trainer.should_stop = trainer.global_step == self.step


class AllTrained(Callback):
    """Fails where a parameter has no gradient: several processes would wait for it forever."""

    def on_after_backward(self, trainer: lightning.Trainer, module: Any) -> None:
        idle = [name for name, p in module.named_parameters() if p.grad is None]
        assert not idle, idle


class _HalfWriter:
    def __init__(self, file: Any) -> None:
        self.file = file

    def write(self, data: Any) -> None:
        self.file.write(data[: len(data) // 2])
        self.file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
