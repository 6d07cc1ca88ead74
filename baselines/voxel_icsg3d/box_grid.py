"""A cube of voxels with the atoms of a box in it: one density, and one class a voxel.

The representation of Hoffmann et al., "Data-driven approach to encoding and decoding 3-D crystal
structures", arXiv:1909.00949 (2019). Nothing here is periodic: a box holds the atoms it was cut
with, and none beyond its faces.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from nesf.crystal import CrystalBatch
from nesf.precision import full_precision

_NEAREST_STEPS = 2**20  # squared distances are compared in so many steps of the squared radius
_Z_STEPS = 128  # more than there are elements


@dataclass(frozen=True)
class BoxGrid:
    """How the atoms of a box become voxels.

    Voxel k of an axis has its centre at (k + 1/2) side / resolution.

    Attributes:
        side: edge of the box, Å.
        resolution: voxels along each axis, D.
        sigma: width of every atom's Gaussian, Å.
        label_radius: a voxel whose centre is so near an atom (Å) carries its Z, that of the
            nearest where there are several.
    """

    side: float = 10.0
    resolution: int = 30
    sigma: float = 1.0
    label_radius: float = 0.65

    def __post_init__(self) -> None:
        for name in ("side", "sigma", "label_radius"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a length above 0 Å, not {getattr(self, name)}")
        if self.resolution < 4:
            raise ValueError(f"resolution must be at least 4, not {self.resolution}")
        if self.label_radius < self.voxel * math.sqrt(3) / 2:
            raise ValueError(
                f"balls of {self.label_radius} Å can miss all voxels of {self.voxel:.3f} Å; give a "
                "larger label_radius or a larger resolution"
            )

    @property
    def voxel(self) -> float:
        """Edge of a voxel, Å."""
        return self.side / self.resolution

    def axis(self, device: torch.device | str | None = None) -> Float[Tensor, " d"]:
        """(D,) coordinates of the voxel centres along an axis, Å, in double precision."""
        steps = torch.arange(self.resolution, dtype=torch.float64, device=device)
        return (steps + 0.5) * self.voxel


def axis_gaussians(
    crystals: CrystalBatch, grid: BoxGrid, dtype: torch.dtype = torch.float32
) -> tuple[Float[Tensor, "b 3 m d"], Float[Tensor, "b 3 m d"]]:
    """One-dimensional Gaussians of the atoms along each axis, and their arguments.

    An atom's Gaussian is the product of its three, so that a voxel costs no exponential.

    Returns:
        (B, 3, M, D) normal densities, 1/Å, and (B, 3, M, D) distances from atom to voxel, Å.
    """
    at = rearrange(crystals.frac_coords.to(dtype) * grid.side, "b m a -> b a m 1")
    offset = grid.axis(crystals.device).to(dtype) - at
    gaussian = (-0.5 * (offset / grid.sigma).square()).exp()
    return gaussian / (grid.sigma * math.sqrt(2 * math.pi)), offset


def superpose(
    gaussians: Float[Tensor, "b 3 m d"], weight: Float[Tensor, "b m"]
) -> Float[Tensor, "b d d d"]:
    """The sum over atoms of weight times the product of their three Gaussians."""
    x, y, z = gaussians.unbind(1)
    plane = torch.einsum("bmx,bmy->bmxy", x * weight.unsqueeze(-1), y)
    d = x.shape[-1]
    return torch.bmm(plane.flatten(2).mT, z).unflatten(1, (d, d))  # (B, D D, D) -> (B, D, D, D)


def box_density(crystals: CrystalBatch, grid: BoxGrid) -> Float[Tensor, "b d d d"]:
    """Sums of normal densities weighted by Z, electrons per Å³.

    Not truncated: as products of one-dimensional factors, far tails cost one multiplication.

    Args:
        crystals: B boxes.
        grid: of the voxels.
    """
    with full_precision(crystals.device):
        gaussians, _ = axis_gaussians(crystals, grid)
        return superpose(gaussians, crystals.atomic_numbers.to(gaussians))


def box_labels(crystals: CrystalBatch, grid: BoxGrid) -> Int[Tensor, "b d d d"]:
    """The Z of the nearest atom within `label_radius` of each voxel, 0 where there is none.

    Each atom writes to the few voxels around it: distance and Z make one integer, whose minimum
    decides, so that the order of atoms does not matter and lower Z win ties.

    Args:
        crystals: B boxes.
        grid: of the voxels.
    """
    d, device = grid.resolution, crystals.device
    at = crystals.frac_coords.float() * d - 0.5  # (B, M, 3) in voxels
    reach = math.floor(grid.label_radius / grid.voxel + 0.5)
    steps = torch.arange(-reach, reach + 1, device=device)
    around = torch.cartesian_prod(steps, steps, steps)  # (K, 3)
    voxel = at.round().long().unsqueeze(2) + around  # (B, M, K, 3)
    squared = (voxel - at.unsqueeze(2)).square().sum(-1) * (grid.voxel / grid.label_radius) ** 2
    written = (squared <= 1) & ((voxel >= 0) & (voxel < d)).all(-1) & crystals.mask.unsqueeze(-1)
    key = (squared * _NEAREST_STEPS).round().long() * _Z_STEPS
    key = key + crystals.atomic_numbers.unsqueeze(-1)
    place = (voxel[..., 0] * d + voxel[..., 1]) * d + voxel[..., 2]
    place = place + torch.arange(len(crystals), device=device).view(-1, 1, 1) * d**3
    nearest = torch.full((len(crystals) * d**3,), _NEAREST_STEPS * _Z_STEPS * 2, device=device)
    nearest.scatter_reduce_(0, place[written], key[written], "amin")
    labels = (nearest % _Z_STEPS).masked_fill(nearest >= _NEAREST_STEPS * _Z_STEPS * 2, 0)
    return labels.view(len(crystals), d, d, d)
