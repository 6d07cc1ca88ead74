"""A training run of seconds, and how to start it in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from probes import run_in_child

TRAIN, VAL = 48, 9
BATCH = 8  # 6 steps an epoch
PATIENCE = 900  # s; a run takes two, where it does not share its cores


def tiny_config(data: Path, root: Path, *callbacks: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a run of 3 epochs, 18 steps, a save every 4."""
    named = [
        ("lightning.pytorch.callbacks.EMAWeightAveraging", {"decay": 0.9}),
        ("nesf.callbacks.BestCheckpoint", {}),
        ("nesf.callbacks.LastCheckpoint", {"every_steps": 4}),
        ("nesf.callbacks.FinishedModel", {}),
        ("probes.Record", {}),
    ]
    return {
        "seed_everything": 0,
        "threads": 1,
        "trainer": {
            "default_root_dir": str(root),
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 3,
            "gradient_clip_val": 1.0,
            "num_sanity_val_steps": 0,
            "log_every_n_steps": 1,
            "enable_model_summary": False,
            "callbacks": [{"class_path": c, "init_args": a} for c, a in named] + list(callbacks),
        },
        "model": {
            "class_path": "nesf.training.FieldTraining",
            "init_args": {
                "model": {
                    "class_path": "nesf.autoencoder.NeSF",
                    "init_args": {
                        "latent_dim": 16,
                        "max_atoms": 8,
                        "encoder_width": 64,
                        "position_widths": [64, 64],
                        "species_widths": [32],
                    },
                },
                "queries": {
                    "class_path": "nesf.queries.CellQueries",
                    "init_args": {"uniform": 8, "near": 8, "species": 8},
                },
                "augmentation": {"relabel": 0.5, "scale": 0.03},
                "optimizer": {"warmup_steps": 5},
                "reconstruct_every": 0,
            },
        },
        "data": {
            "class_path": "nesf.data.module.CrystalData",
            "init_args": {
                "train": [str(data / "train.nesf")],
                "val": [str(data / "val.nesf")],
                "batch_size": BATCH,
                "val_batch_size": 4,
            },
        },
    }


@dataclass(frozen=True)
class Outcome:
    """How a run ended: exit code (minus the signal that killed it) and all that it said."""

    code: int
    said: str


Fit = Callable[..., Outcome]


def launch(context: Any, argv: Sequence[str], log: Path, **limits: Any) -> Any:
    """Start `nesf ARGV` in a new process."""
    process = context.Process(target=run_in_child, args=(argv, log, log.parent), kwargs=limits)
    process.start()
    return process


def start(context: Any, argv: Sequence[str], folder: Path, **limits: Any) -> Outcome:
    """Run `nesf ARGV` in a new process and wait for it."""
    log = folder / "log"
    log.unlink(missing_ok=True)
    process = launch(context, argv, log, **limits)
    process.join(PATIENCE)
    if process.is_alive():
        process.kill()
        pytest.fail(f"hangs: nesf {' '.join(argv)}\n{log.read_text()}")
    return Outcome(process.exitcode, log.read_text())
