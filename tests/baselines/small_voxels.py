"""A small voxel pipeline and crystals to train it on."""

from typing import Any

import torch
from crystals import random_crystals

from baselines.voxel_icsg3d.grid import VoxelOptions
from baselines.voxel_icsg3d.losses import VoxelLosses
from baselines.voxel_icsg3d.model import VoxelICSG3D
from baselines.voxel_icsg3d.training import VoxelTraining
from nesf.crystal import CrystalBatch

MODEL = {
    "voxels": {"resolution": 8},
    "unet_widths": [4, 4, 8],
    "vae_widths": [4, 8],
    "latent_dim": 8,
    "num_conditions": 4,
}


def made(count: int = 8, seed: int = 0) -> CrystalBatch:
    return random_crystals(seed, count, max_atoms=4, dtype=torch.float32)


def training(losses: VoxelLosses | None = None, **changes: Any) -> VoxelTraining:
    torch.manual_seed(0)
    arguments = {**MODEL, "voxels": VoxelOptions(resolution=8), **changes}
    return VoxelTraining(VoxelICSG3D(**arguments), losses=losses or VoxelLosses())


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)
