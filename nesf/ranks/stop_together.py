"""SIGTERM in a training of several processes: all save and end after the same step."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import lightning
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from nesf.run_folder import LAST


class StopTogether(Checkpoint):
    """Saves `checkpoints/last.ckpt` and ends the training where any process was sent SIGTERM.

    A scheduler that cancels or requeues a job, or whose time limit is over, sends it to all
    processes, which hear of it at different steps. Lightning's own handler speaks to the other
    processes at once, in the middle of whatever they are exchanging, where both then wait for
    ever. This one only takes note; after every step the processes ask each other. One process
    alone is left to `LastCheckpoint`.
    """

    def __init__(self) -> None:
        self._asked = False
        self._seen = 0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Take the signal over from Lightning, which puts back what was there before it."""
        self._asked, self._seen = False, trainer.global_step
        if trainer.world_size > 1 and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._note)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End in the middle of an epoch."""
        stepped = trainer.global_step > self._seen  # not so while gradients are accumulated
        self._seen = trainer.global_step
        # an epoch's end is saved after its validation, as `LastCheckpoint` does
        if stepped and not trainer.is_last_batch:
            self._end(trainer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """End with an epoch."""
        if trainer.is_last_batch:
            self._end(trainer)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def _end(self, trainer: lightning.Trainer) -> None:
        if trainer.world_size == 1 or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if trainer.strategy.reduce_boolean_decision(self._asked, all=False):
            trainer.save_checkpoint(Path(trainer.default_root_dir) / LAST)
            raise SIGTERMException
