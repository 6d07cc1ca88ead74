"""What a run must know of its training set as a whole."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from baselines.voxel_icsg3d.grid import VoxelOptions
from baselines.voxel_icsg3d.unet import VOXEL_CHANNELS
from baselines.voxel_icsg3d.voxelize import representable, voxelize
from nesf.data.packed import PackedSet
from nesf.random import generator_for

_CHUNK = 64  # crystals at once


@dataclass(frozen=True)
class VoxelStatistics:
    """Of the voxels of a training set.

    Attributes:
        labels: (C,) voxels by atomic number, 0 the background; all 0 where the frame holds none
            of the crystals.
        mean: (4,) of each channel.
        std: (4,) of each channel.
    """

    labels: Float[Tensor, " c"]
    mean: Float[Tensor, " 4"]
    std: Float[Tensor, " 4"]


def voxel_statistics(
    crystals: PackedSet, options: VoxelOptions, num_classes: int, seed: int, limit: int = 2048
) -> VoxelStatistics:
    """Count at most `limit` crystals on a grid of at most 16³, whatever the resolution.

    Shares, means and deviations depend on it but little.

    Args:
        crystals: the training set.
        options: of the voxels.
        num_classes: classes C.
        seed: of the choice of crystals.
        limit: crystals to draw.
    """
    coarse = dataclasses.replace(options, resolution=min(16, options.resolution))
    order = torch.randperm(len(crystals), generator=generator_for(seed, "voxel statistics"))
    labels = torch.zeros(num_classes)
    sums, squares = torch.zeros(2, VOXEL_CHANNELS, dtype=torch.float64)
    for part in order[:limit].split(_CHUNK):
        batch = crystals.batch(part.tolist())
        batch = batch.select(representable(batch, coarse))
        if len(batch):
            voxels = voxelize(batch, coarse)
            labels += torch.bincount(voxels.species.flatten(), minlength=num_classes).float()
            channels = voxels.channels.double()
            sums += channels.sum((0, 2, 3, 4))
            squares += channels.square().sum((0, 2, 3, 4))
    voxel_count = labels.sum().double().clamp_min(1)
    mean = sums / voxel_count
    std = (squares / voxel_count - mean.square()).clamp_min(0).sqrt()
    return VoxelStatistics(labels, mean.float(), std.float())


def relabelled_counts(counts: Float[Tensor, " c"], share: float) -> Float[Tensor, " c"]:
    """The counts that are met where the elements of a share of the crystals are exchanged."""
    labelled = counts[1:].sum()
    spread = torch.full_like(counts, labelled.item() / (len(counts) - 1))
    spread[0] = counts[0]
    return (1 - share) * counts + share * spread
