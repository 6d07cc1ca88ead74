"""What a training run tells in a log, where a progress bar would fill pages."""

from __future__ import annotations

import time
from typing import Any

import lightning
from lightning.pytorch.callbacks import ProgressBar


class ProgressLines(ProgressBar):
    """One line an epoch, at most every so often.

    Args:
        interval_s: least time between the lines of two epochs, s; validated epochs always tell.
        long_s: time after which an epoch tells in its middle, s.
    """

    def __init__(self, interval_s: float = 10.0, long_s: float = 60.0) -> None:
        super().__init__()
        self.interval_s, self.long_s = interval_s, long_s
        self._enabled = True
        self._started = self._told = time.monotonic()
        self._validated = False

    def enable(self) -> None:
        """Tell."""
        self._enabled = True

    def disable(self) -> None:
        """Be quiet, as all processes but the first."""
        self._enabled = False

    def on_train_start(self, *_: Any) -> None:
        """Start the clock."""
        self._started = self._told = time.monotonic()

    def on_validation_end(self, *_: Any) -> None:
        """Remember that there is news."""
        self._validated = True

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:  # type: ignore[override]
        """Tell in the middle of a long epoch."""
        if time.monotonic() - self._told > self.long_s:
            self._tell(trainer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Tell of the epoch."""
        last = trainer.current_epoch + 1 == trainer.max_epochs
        if self._validated or last or time.monotonic() - self._told > self.interval_s:
            self._tell(trainer)

    def _tell(self, trainer: lightning.Trainer) -> None:
        names = ["train/loss", "val/loss"] if self._validated else ["train/loss"]
        metrics = trainer.callback_metrics
        losses = ", ".join(f"{name} {metrics[name]:.4g}" for name in names if name in metrics)
        minutes = (time.monotonic() - self._started) / 60
        epochs = f"/{trainer.max_epochs}" if (trainer.max_epochs or -1) > 0 else ""
        if self._enabled:
            print(
                f"epoch {trainer.current_epoch + 1}{epochs}, step {trainer.global_step}, "
                f"{minutes:.1f} min: {losses}",
                flush=True,
            )
        self._told, self._validated = time.monotonic(), False
