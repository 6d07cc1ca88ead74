"""The published augmentation: the same crystal, turned by 90 degrees at random."""

from __future__ import annotations

from itertools import permutations, product

import torch
from jaxtyping import Float, Int
from torch import Tensor

from baselines.voxel_icsg3d.voxelize import VoxelOptions
from nesf.crystal import CrystalBatch, standardised
from nesf.precision import full_precision


def axis_rotations(frame: str) -> tuple[Int[Tensor, "k 3"], Float[Tensor, "k 3"]]:
    """Orders and signs of the cell axes that make a proper rotation.

    A box has the 24 rotations of the cube. In a cell of any angles, turning one vector around
    would change the angles; left are the 3 cyclic orders, and the 3 others together with an
    inversion: 6 other settings of the same crystal.

    Returns:
        (K, 3) which old axis becomes each new one, and (K, 3) its sign.
    """
    signs = list(product((1.0, -1.0), repeat=3)) if frame == "box" else [(1.0,) * 3, (-1.0,) * 3]
    identity = torch.eye(3)
    found = [
        (order, sign)
        for order in permutations(range(3))
        for sign in signs
        if torch.linalg.det(identity[list(order)] * torch.tensor(sign)[:, None]) > 0
    ]
    orders, kept = zip(*found, strict=True)
    return torch.tensor(orders), torch.tensor(kept)


def rotate(
    crystals: CrystalBatch, options: VoxelOptions, generator: torch.Generator
) -> CrystalBatch:
    """Each crystal in a random one of its rotations, its lattice in standard orientation.

    Exact where rotating voxels would be: the atoms move and are drawn anew.
    """
    orders, signs = (t.to(crystals.device) for t in axis_rotations(options.frame))
    chosen = torch.randint(
        len(orders), (len(crystals),), generator=generator, device=generator.device
    ).to(crystals.device)
    order, sign = orders[chosen], signs[chosen].to(crystals.frac_coords)
    along = order.unsqueeze(1).expand_as(crystals.frac_coords)  # (B, 3) -> (B, N, 3)
    frac = crystals.frac_coords.gather(2, along) * sign.unsqueeze(1)
    rows = order.unsqueeze(-1).expand(-1, -1, 3)  # (B, 3) -> (B, 3, 3)
    lattice = crystals.lattice.gather(1, rows) * sign.unsqueeze(-1)  # right-handed as before
    with full_precision(crystals.device):
        return standardised(crystals.replace(frac_coords=frac, lattice=lattice))
