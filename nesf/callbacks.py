"""What a training run writes: checkpoints, the finished model, pictures of the fields."""

from __future__ import annotations

import json
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from nesf.atomic import atomic_write
from nesf.checkpoint import save_model
from nesf.crystal import standardised
from nesf.exact import exact_fields
from nesf.slices import cell_extent, draw_distance, slice_fields


class BestCheckpoint(ModelCheckpoint):
    """Keeps `checkpoints/best.ckpt`, the weights of the lowest validation loss.

    Args:
        folder: the run folder.
        monitor: what to compare; lower is better.
    """

    def __init__(self, folder: str, monitor: str = "val/loss") -> None:
        super().__init__(
            dirpath=Path(folder) / "checkpoints",
            filename="best",
            monitor=monitor,
            mode="min",
            save_top_k=1,
            enable_version_counter=False,
        )


class LastCheckpoint(ModelCheckpoint):
    """Writes `checkpoints/last.ckpt` every so many steps, and after each epoch.

    Args:
        folder: the run folder.
        every_steps: steps between two saves.
    """

    def __init__(self, folder: str, every_steps: int = 500) -> None:
        super().__init__(
            dirpath=Path(folder) / "checkpoints",
            filename="last",
            every_n_train_steps=every_steps,
            save_top_k=1,
            monitor=None,
            enable_version_counter=False,
        )


class FinishedModel(Callback):
    """Writes `model.safetensors`, the final weights, and keeps count of the time spent.

    Time spent goes on counting when a run is resumed.
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
        """Write the weights, which the averaging callback has put in place by now."""
        if not trainer.is_global_zero:
            return
        wall, cpu = self.spent()
        root = Path(trainer.default_root_dir)
        checkpoint: dict[str, Any] = {}
        pl_module.on_save_checkpoint(checkpoint)
        metadata = {
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
            "wall_s": round(wall, 1),
            "cpu_s": round(cpu, 1),
            "seed": pl_module.seed,
            "device": str(trainer.strategy.root_device),
            "processor": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "parameters": sum(p.numel() for p in pl_module.model.parameters()),
            "versions": {name: version(name) for name in ("nesf", "torch", "lightning")},
        }
        save_model(
            root / "model.safetensors",
            checkpoint["nesf"]["model"],
            pl_module.model.state_dict(),
            metadata,
        )
        with atomic_write(root / "training.json") as file:
            file.write(json.dumps(metadata, indent=2).encode())



class FieldPictures(Callback):
    """Pictures of exact and learned fields in TensorBoard, a plane through each crystal.

    Args:
        every: epochs between two sets of pictures.
        crystals: validation crystals to draw, the first of the set.
    """

    def __init__(self, every: int = 10, crystals: int = 3) -> None:
        self.every, self.crystals = every, crystals

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Draw, while the averaged weights are in place."""
        due = (trainer.current_epoch + 1) % self.every == 0 and not trainer.sanity_checking
        if not (due and trainer.is_global_zero and trainer.logger):
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
