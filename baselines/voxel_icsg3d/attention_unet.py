"""The U-Net with attention gates that tells of each voxel of a density which element is there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.voxel_icsg3d.unet import LAYOUT, ConvBlock


class AttentionGate(nn.Module):
    """Dims those voxels of a skip connection that the coarser level has no use for.

    Oktay et al., "Attention U-Net: Learning where to look for the pancreas", arXiv:1804.03999
    (2018), eq. 1 and 2.

    Args:
        fine: channels of the skip connection.
        coarse: channels of the level below.
    """

    def __init__(self, fine: int, coarse: int) -> None:
        super().__init__()
        width = max(1, fine // 2)
        self.from_fine = nn.Conv3d(fine, width, 1, bias=False)
        self.from_coarse = nn.Conv3d(coarse, width, 1)
        self.score = nn.Conv3d(width, 1, 1)

    def forward(
        self, skip: Float[Tensor, "b f d d d"], below: Float[Tensor, "b c e e e"]
    ) -> Float[Tensor, "b f d d d"]:
        """The skip connection, each voxel times its share of attention.

        Args:
            skip: (B, F, D, D, D).
            below: (B, C, E, E, E), coarser.
        """
        # the 1³ convolution commutes with the repetition, and is cheaper before it
        wanted = F.interpolate(self.from_coarse(below), size=skip.shape[2:], mode="nearest")
        return skip * self.score(F.relu(self.from_fine(skip) + wanted)).sigmoid()


class AttentionUNet(nn.Module):
    """3-D U-Net with attention gates on its skip connections (Hoffmann et al., arXiv:1909.00949).

    Args:
        widths: channels of each level from fine to coarse, the last of the bottom; each level
            has half the resolution of the one before, rounded up.
        num_classes: elements and the background, 95 as published.
    """

    def __init__(self, widths: Sequence[int] = (32, 64, 128, 256), num_classes: int = 95) -> None:
        super().__init__()
        if len(widths) < 2 or min(widths) < 1:
            raise ValueError(f"an attention U-Net needs 2 positive widths, not {list(widths)}")
        *levels, bottom = widths
        self.down = nn.ModuleList(
            ConvBlock(enter, width, width)
            for enter, width in zip([1, *levels[:-1]], levels, strict=True)
        )
        self.bottom = ConvBlock(levels[-1], bottom, bottom)
        below = [*widths[1:]]
        self.gates = nn.ModuleList(map(AttentionGate, levels, below))
        self.up = nn.ModuleList(
            ConvBlock(coarse + width, width, width)
            for coarse, width in zip(below, levels, strict=True)
        )
        self.head = nn.Conv3d(levels[0], num_classes, 1)
        self.to(memory_format=LAYOUT)  # type: ignore[call-overload]

    @torch.no_grad()
    def set_frequencies(self, shares: Float[Tensor, " c"], independent: bool) -> None:
        """Begin with the classes' frequencies, whatever the voxel.

        Args:
            shares: (C,) share of the voxels in each class.
            independent: whether each class has a probability of its own (sigmoid), or all share
                one (softmax).
        """
        shares = shares.clamp(1e-6, 1 - 1e-6)
        self.head.weight.mul_(0.1)
        assert self.head.bias is not None
        self.head.bias.copy_(shares.logit() if independent else shares.log())

    def trunk(self, density: Float[Tensor, "b d d d"]) -> Float[Tensor, "b w d d d"]:
        """What the head sees of every voxel, from standardised densities."""
        skips = []
        x = density.unsqueeze(1).contiguous(memory_format=LAYOUT)
        for block in self.down:
            skips.append(block(x))
            x = F.max_pool3d(skips[-1], 2, ceil_mode=True)
        x = self.bottom(x)
        levels = zip(reversed(self.up), reversed(self.gates), reversed(skips), strict=True)
        for block, gate, skip in levels:
            kept = gate(skip, x)
            x = F.interpolate(x, size=skip.shape[2:], mode="nearest")
            x = block(torch.cat([kept, x], dim=1))
        return x

    def classes_at(self, voxels: Float[Tensor, "m w"]) -> Float[Tensor, "m c"]:
        """Logits (M, C) of M voxels of the trunk."""
        return F.linear(voxels, self.head.weight.flatten(1), self.head.bias)  # (C, W, 1, 1, 1)

    def forward(self, density: Float[Tensor, "b d d d"]) -> Float[Tensor, "b c d d d"]:
        """Logits (B, C, D, D, D) of every voxel; class 0 is the background, class Z an element.

        Args:
            density: (B, D, D, D) standardised.
        """
        return self.head(self.trunk(density))
