"""Small plans, models and crystals for the tests of `nesf compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from crystals import random_crystals

from eval.compare.plan import Comparison
from eval.compare.read_plan import read_plan
from nesf.crystal import CrystalBatch

PLAN: dict[str, Any] = {
    "output": "out",
    "data": {"train": ["a.csv"], "val": ["b.csv"], "test": ["c.csv"]},
    "models": [{"name": "one", "config": "one.yaml", "overrides": ["--trainer.max_epochs=3"]}],
}


def one_plan(folder: Path, **changes: Any) -> Comparison:
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump({**PLAN, **changes}))
    return read_plan(path).parts[0]


OBLIQUE = 3  # test crystals that no orthogonal box holds
SPLITS = {"train": (0, 24), "val": (24, 30), "test": (30, 40)}
CALLBACKS = [
    {"class_path": "nesf.callbacks.LastCheckpoint"},
    {"class_path": "nesf.curve.LearningCurve"},
    {"class_path": "nesf.callbacks.FinishedModel"},
]
NESF = {
    "class_path": "nesf.training.FieldTraining",
    "init_args": {
        "model": {
            "class_path": "nesf.autoencoder.NeSF",
            "init_args": {
                "latent_dim": 8,
                "max_atoms": 8,
                "encoder_width": 16,
                "position_widths": [16],
                "species_widths": [16],
            },
        },
        "queries": {
            "class_path": "nesf.queries.CellQueries",
            "init_args": {"uniform": 4, "near": 4, "species": 4},
        },
        "reconstruct_every": 1,
    },
}
VOXELS = {
    "class_path": "baselines.voxel_icsg3d.training.VoxelTraining",
    "init_args": {
        "model": {
            "class_path": "baselines.voxel_icsg3d.model.VoxelICSG3D",
            "init_args": {
                "voxels": {"resolution": 8, "frame": "box"},
                "unet_widths": [4, 4, 8],
                "vae_widths": [4, 8],
                "latent_dim": 8,
                "num_conditions": 4,
            },
        },
        "reconstruct_every": 1,
    },
}


def made_crystals() -> CrystalBatch:
    """40 crystals of up to four atoms; all cells but the last three have right angles."""
    crystals = random_crystals(7, 40, max_atoms=4, dtype=torch.float32)
    lengths = crystals.lattice.norm(dim=-1).clamp(3.0, 6.0)
    right = torch.diag_embed(lengths)
    oblique = right[-OBLIQUE:].clone()
    oblique[:, 1, 0] = 1.0
    lattice = torch.cat([right[:-OBLIQUE], oblique])
    names = [f"c-{i}" for i in range(len(crystals) - 1)] + ["</script><img src=x>"]
    return crystals.replace(lattice=lattice, ids=tuple(names))


def fit_config(folder: Path, name: str, model: dict[str, Any]) -> str:
    """A `nesf fit` configuration of two epochs."""
    trainer = {
        "default_root_dir": "elsewhere",
        "max_epochs": 2,
        "num_sanity_val_steps": 0,
        "enable_model_summary": False,
        "callbacks": CALLBACKS,
    }
    data = {
        "class_path": "nesf.data.module.CrystalData",
        "init_args": {"train": ["elsewhere"], "val": ["elsewhere"], "batch_size": 8},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"trainer": trainer, "model": model, "data": data}))
    return str(path)
