"""The models that the contract is held against, small and untrained, and what they are given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from stand_in_model import StandIn
from torch import nn

from baselines.voxel_icsg3d.hoffmann import VoxelHoffmann
from baselines.voxel_icsg3d.model import VoxelICSG3D
from baselines.voxel_icsg3d.voxelize import VoxelOptions
from nesf.autoencoder import NeSF
from nesf.boxes.cut import BoxMode, BoxOptions
from nesf.crystal import CrystalBatch

MAX_ATOMS = 8


def _nesf(**arguments: Any) -> nn.Module:
    return NeSF(
        latent_dim=16,
        max_atoms=MAX_ATOMS,
        encoder_width=64,
        position_widths=[32, 32],
        species_widths=[32],
        **arguments,
    )


def _voxels(frame: Literal["box", "cell"], **arguments: Any) -> nn.Module:
    return VoxelICSG3D(
        VoxelOptions(resolution=16, frame=frame),
        latent_dim=16,
        vae_widths=(4, 4, 8, 8),
        unet_widths=(4, 4, 8, 8),
        **arguments,
    )


def _boxes(mode: BoxMode) -> nn.Module:
    return VoxelHoffmann(
        # room for the unit cells of `right_angled` in any rotation
        BoxOptions(side=14.0, mode=mode, capacity=1024),
        resolution=18,
        label_radius=0.75,
        latent_dim=16,
        vae_widths=(4, 4, 8),
        unet_widths=(4, 8),
    )


MODELS: dict[str, Callable[[], nn.Module]] = {
    "nesf": _nesf,
    "nesf, periodic": lambda: _nesf(periodic=True),
    "nesf, variational": lambda: _nesf(variational=True),
    "nesf, published": lambda: NeSF(
        latent_dim=16,
        max_atoms=MAX_ATOMS,
        encoder="published",
        conditioning="concat",
        coordinates="cartesian",
        harmonics=0,
        position_widths=[32, 32],
        species_widths=[32],
    ),
    "voxels in the box": lambda: _voxels("box"),
    "voxels in the cell": lambda: _voxels("cell", lattice_readout="head"),
    "voxels, released behaviour": lambda: _voxels("box", lattice_readout="released"),
    "boxes, unit cell": lambda: _boxes("unit"),
    "boxes, repeating": lambda: _boxes("repeat"),
    "stand-in": lambda: StandIn(max_atoms=MAX_ATOMS),
}


def make(name: str) -> Any:
    """A model in evaluation mode, its weights seeded."""
    torch.manual_seed(0)
    return MODELS[name]().eval().requires_grad_(False)


def right_angled(seed: int, count: int = 6) -> CrystalBatch:
    """Crystals in orthogonal cells, which every representation holds."""
    generator = torch.Generator().manual_seed(seed)
    lengths = 3 + 4 * torch.rand(count, 3, generator=generator)
    num_atoms = torch.randint(1, MAX_ATOMS + 1, (count,), generator=generator)
    total = int(num_atoms.sum())
    return CrystalBatch.from_flat(
        0.9 * torch.rand(total, 3, generator=generator),
        torch.randint(1, 95, (total,), generator=generator),
        num_atoms,
        torch.diag_embed(lengths),
        [f"made-{i}" for i in range(count)],
    )
