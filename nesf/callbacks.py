"""What a training run writes: checkpoints, the finished model, pictures."""

from __future__ import annotations

import json
import math
import os
import platform
import signal
import threading
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, WeightAveraging

from nesf import __version__
from nesf.atomic import atomic_write
from nesf.checkpoint import save_model
from nesf.crystal import standardised
from nesf.errors import InputError
from nesf.exact import exact_fields
from nesf.memory import peak_memory
from nesf.run_folder import BEST, LAST, MODEL, TRAINING
from nesf.slices import cell_extent, draw_distance, slice_fields


class BestCheckpoint(Checkpoint):
    """Keeps `checkpoints/best.ckpt` in the run folder, the weights of the lowest validation loss.

    Args:
        monitor: what to compare; lower is better.
    """

    def __init__(self, monitor: str = "val/loss") -> None:
        self.monitor = monitor
        self.best = math.inf

    def state_dict(self) -> dict[str, float]:
        """The lowest value so far; no path, so that a run folder can be moved."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Compare with what earlier parts of the run have reached."""
        self.best = state_dict["best"]

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Save where the validation was the best so far."""
        if trainer.state.fn != "fit" or trainer.sanity_checking or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        value = trainer.callback_metrics.get(self.monitor)
        if value is None:
            known = ", ".join(sorted(trainer.callback_metrics))
            raise InputError(f"BestCheckpoint cannot watch {self.monitor}; there are {known}")
        if trainer.strategy.reduce_boolean_decision(bool(value < self.best)):
            self.best = float(value)
            trainer.save_checkpoint(Path(trainer.default_root_dir) / BEST)


class LastCheckpoint(Checkpoint):
    """Writes `checkpoints/last.ckpt` in the run folder: from there a run goes on as if unbroken.

    It is written every so many steps, at the end, where a time limit stops the run and, with one
    process, on SIGTERM and Ctrl-C, which then wait for the step (or the validation) under way. A
    second Ctrl-C does not wait; then the last save stays.

    Args:
        every_steps: steps between two saves.
    """

    def __init__(self, every_steps: int = 500) -> None:
        self.every_steps = every_steps
        self._seen = 0
        self._interrupted = False

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Take over Ctrl-C."""
        self._seen, self._interrupted = trainer.global_step, False
        free = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if (
            trainer.world_size == 1
            and free
            and threading.current_thread() is threading.main_thread()
        ):
            signal.signal(signal.SIGINT, self._on_interrupt)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save in the middle of an epoch."""
        stepped = trainer.global_step > self._seen  # not so while gradients are accumulated
        self._seen = trainer.global_step
        # an epoch's end is saved after its validation, which a run resumed from here would skip
        if stepped and not trainer.is_last_batch:
            self._save(trainer, trainer.should_stop)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Save at the end of an epoch."""
        # an epoch that was cut short was saved where that happened
        if trainer.is_last_batch:
            ends = trainer.current_epoch + 1 == trainer.max_epochs
            ends |= trainer.global_step == trainer.max_steps
            self._save(trainer, ends or trainer.should_stop)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Hand Ctrl-C back."""
        self._hand_back()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: Any, exception: BaseException
    ) -> None:
        """Hand Ctrl-C back."""
        self._hand_back()

    def _save(self, trainer: lightning.Trainer, stopping: bool) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        alone = trainer.world_size == 1  # processes hear of signals at different steps
        stopping |= alone and (self._interrupted or trainer.received_sigterm)
        if stopping or trainer.global_step % self.every_steps == 0:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / LAST)
        if self._interrupted:
            raise KeyboardInterrupt

    def _on_interrupt(self, number: int, frame: Any) -> None:
        self._interrupted = True
        self._hand_back()
        # not print, in whose middle the signal may have come
        os.write(2, b"\nsaving after this step; Ctrl-C again stops at once\n")

    def _hand_back(self) -> None:
        if signal.getsignal(signal.SIGINT) == self._on_interrupt:
            signal.signal(signal.SIGINT, signal.default_int_handler)


class FinishedModel(Checkpoint):
    """Writes `model.safetensors`, the final weights, and `training.json`, which tells of the run.

    Time goes on counting when a run is resumed, from what its checkpoint told. The processor time
    is that of all threads of the first process, so that two busy threads count double.
    """

    def __init__(self) -> None:
        self.wall_s = self.cpu_s = 0.0
        self._started = (time.monotonic(), time.process_time())

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Start the clocks."""
        self._started = (time.monotonic(), time.process_time())

    def state_dict(self) -> dict[str, float]:
        """Time spent so far, s."""
        wall, cpu = self.spent()
        return {"wall_s": wall, "cpu_s": cpu}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Go on counting."""
        self.wall_s, self.cpu_s = state_dict["wall_s"], state_dict["cpu_s"]

    def spent(self) -> tuple[float, float]:
        """Wall-clock and processor time of the training so far, s."""
        wall, cpu = self._started
        return (self.wall_s + time.monotonic() - wall, self.cpu_s + time.process_time() - cpu)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Write the weights; checkpoint callbacks come last, so that they are the averaged ones."""
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._write(trainer, pl_module)

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Write the weights of a run that was killed after its last step and before its end."""
        told = Path(trainer.default_root_dir) / TRAINING
        done = told.is_file() and json.loads(told.read_text())["steps"] == trainer.global_step
        if done or not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        # resumed there, Lightning skips the end of training, where averages are put in place
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, WeightAveraging):
                callback.on_train_end(trainer, pl_module)
        self._started = (time.monotonic(), time.process_time())
        self._write(trainer, pl_module)

    def _write(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        wall, cpu = self.spent()
        root = Path(trainer.default_root_dir)
        checkpoint: dict[str, Any] = {}
        pl_module.on_save_checkpoint(checkpoint)
        metadata = {
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
            "wall_s": round(wall, 1),
            "cpu_s": round(cpu, 1),
            "processes": trainer.world_size,
            "seed": getattr(pl_module, "seed", None),
            "device": str(trainer.strategy.root_device),
            "processor": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "precision": trainer.precision,
            "peak_memory_bytes": peak_memory(trainer.strategy.root_device),
            "parameters": sum(p.numel() for p in pl_module.model.parameters()),
            "versions": {"nesf": __version__}
            | {name: version(name) for name in ("torch", "lightning")},
        }
        save_model(
            root / MODEL, checkpoint["nesf"]["model"], pl_module.model.state_dict(), metadata
        )
        with atomic_write(root / TRAINING) as file:
            file.write(json.dumps(metadata, indent=2).encode())


class FieldPictures(Callback):
    """Pictures of exact and learned fields in TensorBoard, a plane through each crystal.

    Args:
        every: epochs between two sets of pictures, drawn where such an epoch is validated.
        crystals: validation crystals to draw, the first of the set.
    """

    def __init__(self, every: int = 10, crystals: int = 3) -> None:
        self.every, self.crystals = every, crystals

    def on_validation_batch_start(
        self,
        trainer: lightning.Trainer,
        pl_module: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw, while averaged weights are in place, wherever this stands among the callbacks."""
        due = batch_idx == 0 and (trainer.current_epoch + 1) % self.every == 0
        if not due or trainer.sanity_checking or not trainer.is_global_zero or not trainer.logger:
            return
        writer = trainer.logger.experiment  # type: ignore[attr-defined]
        val = trainer.datamodule.set_named("val")  # type: ignore[attr-defined]
        batch = standardised(val.batch(range(min(self.crystals, len(val)))).to(pl_module.device))
        learned = pl_module.model.fields(pl_module.model.encode(batch), batch.lattice)
        exact = exact_fields(batch, pl_module.model.periodic, margin=pl_module.model.margin)
        for i, name in enumerate(batch.ids):
            extent = cell_extent(batch.lattice[i])
            height = float(batch.cart_coords[i, 0, 2])
            planes = [slice_fields(f.select([i]), height, extent) for f in (exact, learned)]
            figure = draw_distance(planes[0], planes[1], f"{name}, z = {height:.2f} Å")
            writer.add_figure(f"fields/{i}", figure, global_step=trainer.global_step)
