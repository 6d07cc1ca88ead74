"""Schedules that end where the run ends."""

import lightning
import pytest
from lightning.pytorch.callbacks import Timer

from nesf.errors import InputError
from nesf.progress import time_share, training_progress


class PassedTimer(Timer):
    """A timer that has run for so many seconds."""

    def __init__(self, passed: float, limit: float | None) -> None:
        super().__init__()
        self._duration, self._offset = limit, passed  # type: ignore[assignment]


class PlacedTrainer(lightning.Trainer):
    """A trainer that says where it stands."""

    global_step = 0  # type: ignore[assignment]
    estimated_stepping_batches = 0.0  # type: ignore[assignment]


def trainer(step: int, steps: float, *callbacks: Timer) -> lightning.Trainer:
    made = PlacedTrainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        callbacks=list(callbacks),
    )
    made.global_step, made.estimated_stepping_batches = step, steps  # type: ignore[misc]
    return made


def test_steps_alone():
    assert training_progress(trainer(25, 100)) == 0.25
    assert training_progress(trainer(25, 100), step=50) == 0.5
    assert training_progress(trainer(250, 100)) == 1


def test_whichever_limit_comes_first():
    assert training_progress(trainer(10, 100, PassedTimer(90, 120))) == pytest.approx(0.75)
    assert training_progress(trainer(80, 100, PassedTimer(30, 120))) == pytest.approx(0.8)
    assert training_progress(trainer(1, float("inf"), PassedTimer(300, 120))) == 1


def test_time_without_limit_counts_for_nothing():
    assert time_share(trainer(1, 10, PassedTimer(5, None))) is None
    assert training_progress(trainer(1, 10, PassedTimer(5, None))) == 0.1


def test_a_run_without_end_is_refused():
    with pytest.raises(InputError, match="needs an end: give trainer"):
        training_progress(trainer(0, float("inf")))
