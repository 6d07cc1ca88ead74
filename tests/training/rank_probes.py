"""A callback that sends a signal to one rank of several."""

from __future__ import annotations

import os
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback


class StrikeRank(Callback):
    """Sends a signal to the process of one rank before a step.

    Args:
        rank: whose.
        step: steps done by then.
        number: of the signal; by default SIGKILL, as if its machine had gone down.
    """

    def __init__(self, rank: int, step: int, number: int = 9) -> None:
        self.rank, self.step, self.number = rank, step, number

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step and trainer.global_rank == self.rank:
            os.kill(os.getpid(), self.number)
