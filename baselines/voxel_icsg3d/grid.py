"""The grid of voxels: where its centres lie, how wide the atoms on it are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from baselines.voxel_icsg3d.radii import IONIC_RADII


@dataclass(frozen=True)
class VoxelOptions:
    """How crystals become voxels.

    Voxel centres lie at fractions -margin + (1 + 2 margin)(k + 1/2) / resolution of the cell
    along each axis.

    Attributes:
        resolution: voxels along each axis, D; even.
        margin: share of the cell added on each side.
        sigma: width of every Gaussian, Å; None: the mean ionic radius of its element.
        label_fraction: a voxel within this many widths of an atom carries the Z of the nearest
            such atom. At 1, as published, the balls of labels of large ions touch; at 0.75 they
            do not in nearly all crystals.
        label_floor: the balls reach at least this many voxel edges (of the longest), so that
            none holds less than four voxel centres; 0, as published, loses small ions.
        frame: `box`, the published box of three right angles, or `cell`, the same grid in
            fractions of any cell.
        images: count the atoms' periodic images too (not published). Slow: small cells have
            hundreds of them.
    """

    resolution: int = 32
    margin: float = 0.25
    sigma: float | None = None
    label_fraction: float = 0.75
    label_floor: float = 1.12
    frame: Literal["cell", "box"] = "cell"
    images: bool = False

    def __post_init__(self) -> None:
        if self.resolution < 2 or self.resolution % 2:
            raise ValueError(f"resolution must be even and at least 2, not {self.resolution}")
        if not 0 <= self.margin <= 1:
            raise ValueError(f"margin is a share of the cell, 0 to 1, not {self.margin}")
        if self.sigma is not None and not 0 < self.sigma < math.inf:
            raise ValueError(f"sigma must be a width above 0 Å, not {self.sigma}")
        if not 0 < self.label_fraction < math.inf:
            raise ValueError(f"label_fraction must be above 0, not {self.label_fraction}")
        if not 0 <= self.label_floor < math.inf:
            raise ValueError(f"label_floor must not be negative, not {self.label_floor}")
        if self.frame not in ("cell", "box"):
            raise ValueError(f"frame is cell or box, not {self.frame}")

    @property
    def extent(self) -> float:
        """Length of the grid in fractions of the cell."""
        return 1 + 2 * self.margin

    def axis(self, device: torch.device | str | None = None) -> Float[Tensor, " d"]:
        """Fractions of the cell at the voxel centres along an axis."""
        steps = torch.arange(self.resolution, dtype=torch.float64, device=device) + 0.5
        return (steps * (self.extent / self.resolution) - self.margin).float()

    def widths(self, device: torch.device | str | None = None) -> Float[Tensor, " z"]:
        """Width of the Gaussian by Z, Å; the entry of Z = 0 is for padding."""
        radii = torch.tensor((1.0, *IONIC_RADII), device=device)
        return radii if self.sigma is None else torch.full_like(radii, self.sigma)
