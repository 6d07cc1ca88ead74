"""Which channels a crystal has in the descriptor, and what its atoms weigh in them."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from baselines.voxelnet.options import VoxelOptions
from nesf.crystal import MAX_ATOMIC_NUMBER, CrystalBatch
from nesf.reciprocal import element_weights


def channel_weights(
    crystals: CrystalBatch, options: VoxelOptions
) -> tuple[Int[Tensor, "b c"], Float[Tensor, "b c n"]]:
    """What each atom weighs in each channel that is not empty, and which channels these are.

    Returns:
        (B, C) channels of the dense descriptor, 0 where padded; (B, C, N) weights, 0 where padded.
    """
    if options.channels == "elements":
        elements, weights = element_weights(crystals)
        channels = _channel_of(options, elements.device)[elements]
        # without a channel an element weighs nothing; `unknown_elements` tells of it
        return channels.clamp_min(0), weights * (channels >= 0).unsqueeze(-1)
    table = options.element_table().to(crystals.lattice)
    numbers = torch.where(crystals.mask, crystals.atomic_numbers, 0)
    weights = table[numbers].mT  # (B, N, C) -> (B, C, N)
    channels = torch.arange(weights.shape[1], device=weights.device)
    return channels.expand(len(crystals), -1), weights


def unknown_elements(crystals: CrystalBatch, options: VoxelOptions) -> Bool[Tensor, " b"]:
    """Whether a crystal has an element without a channel."""
    numbers = torch.where(crystals.mask, crystals.atomic_numbers, 0)
    if options.channels == "property":
        return (numbers > MAX_ATOMIC_NUMBER).any(-1)
    return ((_channel_of(options, numbers.device)[numbers] < 0) & crystals.mask).any(-1)


def _channel_of(options: VoxelOptions, device: torch.device) -> Int[Tensor, " z"]:
    """The channel of each Z, -1 where it has none."""
    known = options.elements or range(1, options.num_channels + 1)
    table = torch.full((256,), -1)
    table[list(known)] = torch.arange(options.num_channels)
    return table.to(device)
