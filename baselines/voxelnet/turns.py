"""Crystals turned at random: their lattices are, so that nothing is interpolated."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from baselines.voxelnet.kept import SpectralBatch
from nesf.crystal import CrystalBatch
from nesf.precision import full_precision


def turned(crystals: CrystalBatch, turns: Float[Tensor, "b 3 3"]) -> CrystalBatch:
    """Crystals turned by orthogonal matrices Q: a vector v becomes Q v."""
    with full_precision(crystals.device):
        lattice = crystals.lattice @ turns.mT
    if isinstance(crystals, SpectralBatch):
        return crystals.replace(lattice=lattice, spectra=crystals.spectra.turned(turns))
    return crystals.replace(lattice=lattice)


def random_turns(
    count: int, turns: Literal["any", "cube"], generator: torch.Generator
) -> Float[Tensor, "b 3 3"]:
    """Random orthogonal matrices, uniform over rotations and reflections.

    Args:
        count: how many.
        turns: among all, or among the 48 of the cube.
        generator: where randomness comes from.
    """
    device = generator.device
    signs = 2.0 * torch.randint(0, 2, (count, 3), generator=generator, device=device) - 1.0
    if turns == "cube":
        order = torch.rand(count, 3, generator=generator, device=device).argsort(-1)
        return torch.eye(3, device=device)[order] * signs.unsqueeze(-1)
    # uniform unit quaternions are uniform rotations (Shoemake, Graphics Gems III, 1992)
    u, v, w = torch.rand(3, count, generator=generator, device=device)
    v, w = 2 * math.pi * v, 2 * math.pi * w
    low, high = (1 - u).sqrt(), u.sqrt()
    q = torch.stack([low * v.sin(), low * v.cos(), high * w.sin(), high * w.cos()], dim=-1)
    return _rotations(q) * signs[:, :1, None]  # -1 is the inversion


def _rotations(quaternions: Float[Tensor, "b 4"]) -> Float[Tensor, "b 3 3"]:
    a, b, c, d = quaternions.unbind(-1)
    rows = (
        torch.stack([1 - 2 * (c * c + d * d), 2 * (b * c - a * d), 2 * (b * d + a * c)], dim=-1),
        torch.stack([2 * (b * c + a * d), 1 - 2 * (b * b + d * d), 2 * (c * d - a * b)], dim=-1),
        torch.stack([2 * (b * d - a * c), 2 * (c * d + a * b), 1 - 2 * (b * b + c * c)], dim=-1),
    )
    return torch.stack(rows, dim=-2)
