"""A callback that kills one rank of several."""

from __future__ import annotations

import os
import signal
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback


class StrikeRank(Callback):
    """Kills the process of one rank before a step, as a machine that goes down would.

    Args:
        rank: whose.
        step: steps done by then.
    """

    def __init__(self, rank: int, step: int) -> None:
        self.rank, self.step = rank, step

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step and trainer.global_rank == self.rank:
            os.kill(os.getpid(), signal.SIGKILL)
