"""The U-Net that reads atoms out of voxels: which are occupied, and by which element."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

VOXEL_CHANNELS = 4  # density, and the coordinates x, y, z
# how voxels lie in memory, channels innermost. A training step of the published network on a
# CPU with AMX takes 2.88 s a crystal in float32 and 1.11 s in bfloat16 with channels outermost,
# 3.31 s and 0.75 s with channels innermost; and the heads gather single voxels
LAYOUT = torch.channels_last_3d


@dataclass(frozen=True)
class UNetOutput:
    """What the U-Net says of each voxel.

    Attributes:
        species: (B, S + 1, D, D, D) logits of the atomic number, 0 for background.
        occupancy: (B, D, D, D) logits that the voxel belongs to an atom.
    """

    species: Float[Tensor, "b c d d d"]
    occupancy: Float[Tensor, "b d d d"]


class ConvBlock(nn.Module):
    """Two convolutions 3³, each followed by ReLU and batch normalisation, in this order.

    Args:
        widths: channels in, between and out.
    """

    def __init__(self, *widths: int) -> None:
        super().__init__()
        enter, middle, leave = widths
        self.first = nn.Conv3d(enter, middle, 3, padding=1)
        self.first_norm = nn.BatchNorm3d(middle)
        self.second = nn.Conv3d(middle, leave, 3, padding=1)
        self.second_norm = nn.BatchNorm3d(leave)

    def activation(self, x: Float[Tensor, "b i d d d"]) -> Float[Tensor, "b o d d d"]:
        """What the second ReLU gives: the features of the deep-feature loss."""
        x = self.first_norm(F.relu(self.first(x)))
        return F.relu(self.second(x))

    def forward(self, x: Float[Tensor, "b i d d d"]) -> Float[Tensor, "b o d d d"]:
        """(B, I, D, D, D) -> (B, O, D, D, D)."""
        return self.second_norm(self.activation(x))


class AtomUNet(nn.Module):
    """3-D U-Net with an atomic-number head and an occupancy head (Court et al. 2020).

    Court et al., "3-D inorganic crystal structure generation and property prediction via
    representation learning", J. Chem. Inf. Model. 60, 4518 (2020). At the published widths the
    levels have 32-64, 64-128 and 128-256 channels, the bottom 512-512, and the way up 512-256,
    256-128 and 128-128.

    Args:
        widths: channels; `len(widths) - 2` levels above the bottom, each of half the resolution
            of the one before.
        num_classes: atomic numbers and the background.
    """

    def __init__(
        self, widths: Sequence[int] = (32, 64, 128, 256, 512), num_classes: int = 95
    ) -> None:
        super().__init__()
        if len(widths) < 3 or min(widths) < 1:
            raise ValueError(f"a U-Net needs at least 3 positive widths, not {list(widths)}")
        levels = len(widths) - 2
        self.downscale = 2**levels
        enters = [VOXEL_CHANNELS, *widths[1:-2]]
        self.down = nn.ModuleList(
            ConvBlock(enters[i], widths[i], widths[i + 1]) for i in range(levels)
        )
        self.bottom = ConvBlock(widths[-2], widths[-1], widths[-1])
        leaves = [max(widths[i + 1], widths[2]) for i in range(levels)]  # the last is not narrowed
        below = [*leaves[1:], widths[-1]]
        self.up = nn.ModuleList(
            ConvBlock(below[i] + widths[i + 1], widths[i + 2], leaves[i]) for i in range(levels)
        )
        self.species_head = nn.Conv3d(leaves[0], num_classes, 1)
        self.occupancy_head = nn.Conv3d(leaves[0], 1, 1)
        self.to(memory_format=LAYOUT)  # type: ignore[call-overload]

    def features(self, channels: Float[Tensor, "b 4 d d d"]) -> list[Tensor]:
        """Activations of the levels and the bottom, from fine to coarse."""
        found = []
        x = channels.contiguous(memory_format=LAYOUT)
        for block in self.down:
            found.append(block.activation(x))  # type: ignore[operator]
            x = F.max_pool3d(block.second_norm(found[-1]), 2)  # type: ignore[operator]
        return [*found, self.bottom.activation(x)]

    def trunk(self, channels: Float[Tensor, "b 4 d d d"]) -> Float[Tensor, "b w d d d"]:
        """What both heads see of every voxel."""
        skips = []
        x = channels.contiguous(memory_format=LAYOUT)
        for block in self.down:
            skips.append(block(x))
            x = F.max_pool3d(skips[-1], 2)
        x = self.bottom(x)
        for block, skip in zip(reversed(self.up), reversed(skips), strict=True):
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = block(torch.cat([skip, x], dim=1))
        return x

    def forward(self, channels: Float[Tensor, "b 4 d d d"]) -> UNetOutput:
        """Logits of every voxel.

        Args:
            channels: (B, 4, D, D, D) density and coordinates (Å).
        """
        trunk = self.trunk(channels)
        return UNetOutput(self.species_head(trunk), self.occupancy_head(trunk).squeeze(1))

    def species_at(self, voxels: Float[Tensor, "m w"]) -> Float[Tensor, "m c"]:
        """Logits (M, S + 1) of M voxels of the trunk; far cheaper than of all, most are empty."""
        head = self.species_head
        return F.linear(voxels, head.weight.flatten(1), head.bias)  # (C, W, 1, 1, 1) -> (C, W)
