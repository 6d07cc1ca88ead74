"""How far a training has come, by steps or by time, so that schedules end where the run ends."""

from __future__ import annotations

import math

import lightning
from lightning.pytorch.callbacks import Timer

from nesf.errors import InputError


def training_progress(trainer: lightning.Trainer, step: int | None = None) -> float:
    """The share of a training that is done, from 0 to 1.

    It is the share of the steps or, where `trainer.max_time` is set, of the time, whichever is
    more: a run that its time limit will end has finished its schedule by then, too. Without a
    time limit, it is the same in every repetition of a run.

    Args:
        trainer: of a run whose data is set up.
        step: the optimizer's step; the trainer's by default.

    Raises:
        InputError: the run has no end.
    """
    total = float(trainer.estimated_stepping_batches)
    done = (trainer.global_step if step is None else step) / max(1.0, total)
    spent = time_share(trainer)
    if math.isinf(total) and spent is None:
        raise InputError(
            "the learning rate's schedule needs an end: give trainer.max_epochs, "
            "trainer.max_steps or trainer.max_time"
        )
    return min(1.0, max(done, spent or 0.0))


def time_share(trainer: lightning.Trainer) -> float | None:
    """The share of `trainer.max_time` that has passed, the same on every rank; None without one."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Timer) and (left := callback.time_remaining()) is not None:
            spent = callback.time_elapsed()
            # ranks with clocks of their own would step at different rates, and part ways
            return float(trainer.strategy.broadcast(spent / max(1e-9, spent + left)))
    return None
