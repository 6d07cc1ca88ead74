"""`LearningCurve`: how good a model was after how much time, as a run writes it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from nesf.json_lines import read_json_lines
from nesf.run_folder import CURVE


class LearningCurve(Callback):
    """Writes `curve.jsonl`: a line for each validation, with the time spent until then.

    A line holds `epoch`, `step`, `wall_s` and `cpu_s` of the training (validation included, time
    between the parts of a resumed run left out), and every `val/...` figure. A resumed run drops
    the lines behind its checkpoint and goes on.
    """

    def __init__(self) -> None:
        self._before = (0.0, 0.0)
        self._started = (time.monotonic(), time.process_time())

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Start the clocks, and forget what will be done again."""
        self._started = (time.monotonic(), time.process_time())
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        path = Path(trainer.default_root_dir) / CURVE
        lines, _ = read_json_lines(path)
        kept = [line for line in lines if line["step"] <= trainer.global_step]
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, kept if trainer.global_step else [], "w")

    def on_validation_epoch_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Forget the figures of the last validation, which may have had more of them."""
        for name in [name for name in trainer.logged_metrics if name.startswith("val/")]:
            del trainer.logged_metrics[name]  # type: ignore[attr-defined]

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Write one line."""
        if trainer.sanity_checking or trainer.state.fn != "fit" or not trainer.is_global_zero:
            return
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        wall, cpu = self._spent()
        figures = {k: float(v) for k, v in trainer.logged_metrics.items() if k.startswith("val/")}
        line = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step}
        times = {"wall_s": round(wall, 2), "cpu_s": round(cpu, 2)}
        _write(Path(trainer.default_root_dir) / CURVE, [line | times | figures], "a")

    def state_dict(self) -> dict[str, float]:
        """Time spent so far, s."""
        wall, cpu = self._spent()
        return {"wall_s": wall, "cpu_s": cpu}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Go on counting."""
        self._before = (state_dict["wall_s"], state_dict["cpu_s"])

    def _spent(self) -> tuple[float, float]:
        (wall, cpu), (before_wall, before_cpu) = self._started, self._before
        return before_wall + time.monotonic() - wall, before_cpu + time.process_time() - cpu


def _write(path: Path, lines: list[dict[str, int | float]], mode: str) -> None:
    with path.open(mode) as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())
