"""Atoms as Gaussians and balls of labels on a grid, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from baselines.voxel_icsg3d.grid import VoxelOptions
from nesf.crystal import CrystalBatch
from nesf.geometry import plane_spacings

IMAGE_REACH = 5.0  # widths; beyond them an image adds less than 4e-6 of its peak
_NEAREST_STEPS = 2**16  # squared distances are compared in so many steps of the largest reach
_Z_STEPS = 128  # more than there are elements
# atoms times voxels at once: on a CPU what its cache holds, on a GPU three tensors of 64 MB
_CPU_CHUNK, _GPU_CHUNK = 2**18, 2**24


@dataclass(frozen=True)
class Atoms:
    """The Gaussians and balls of labels of B crystals, padded to M.

    Attributes:
        frac_coords: (B, M, 3) in the cell, or images around it.
        atomic_numbers: (B, M) Z, 0 where padded.
        width: (B, M) σ, Å.
        weight: (B, M) height of the Gaussian, 0 where padded.
        reach: (B, M) radius of the ball of labels, Å, -1 where padded.
        owner: (B, M) which atom of the crystal this one is an image of.
    """

    frac_coords: Float[Tensor, "b m 3"]
    atomic_numbers: Int[Tensor, "b m"]
    width: Float[Tensor, "b m"]
    weight: Float[Tensor, "b m"]
    reach: Float[Tensor, "b m"]
    owner: Int[Tensor, "b m"]

    @staticmethod
    def of(crystals: CrystalBatch, lattice: Float[Tensor, "b 3 3"], options: VoxelOptions) -> Atoms:
        """The atoms of crystals, where they are, with their images if asked for.

        Args:
            crystals: B crystals.
            lattice: (B, 3, 3) their cells in the orientation of the grid, Å.
            options: of the grid.
        """
        frac = crystals.frac_coords.float()
        edge = lattice.norm(dim=-1).amax(-1, keepdim=True) * (options.extent / options.resolution)
        floor = options.label_floor * edge
        numbers = crystals.atomic_numbers.masked_fill(~crystals.mask, 0).long()
        owner = torch.arange(numbers.shape[1], device=numbers.device).expand_as(numbers)
        if options.images:
            width = options.widths(frac.device)[numbers]
            reach = (max(IMAGE_REACH, options.label_fraction) * width).maximum(floor)
            frac, owner = _images(frac, numbers, reach, lattice, options.margin)
            numbers = numbers.gather(1, owner.clamp_min(0)).masked_fill(owner < 0, 0)
            owner = owner.clamp_min(0)
        width = options.widths(frac.device)[numbers]
        reach = (options.label_fraction * width).maximum(floor)
        return Atoms(
            frac_coords=frac,
            atomic_numbers=numbers,
            width=width,
            weight=numbers / (width.pow(3) * (2 * math.pi) ** 1.5),
            reach=reach.masked_fill(numbers == 0, -1.0),
            owner=owner,
        )

    def select(self, which: slice) -> Atoms:
        """The atoms of some of the crystals."""
        return Atoms(**{one.name: getattr(self, one.name)[which] for one in fields(self)})

    def gaussians(
        self, across: Float[Tensor, "b m r d 1"], along: Float[Tensor, "b m #r #d d"]
    ) -> Float[Tensor, "b m r d d"]:
        """Each atom's Gaussian at squared distances `across` + `along`, Å²."""
        rate = (-0.5 / self.width.square())[..., None, None, None]
        return ((across + along) * rate).exp_().mul_(self.weight[..., None, None, None])

    def density(
        self, across: Float[Tensor, "b m r d 1"], along: Float[Tensor, "b m #r #d d"]
    ) -> Float[Tensor, "b r d d"]:
        """The sum of all Gaussians at squared distances `across` + `along`, Å²."""
        if along.shape[2:4] != (1, 1):
            return self.gaussians(across, along).sum(1)
        # a box: a product of two factors, so that no voxel needs an exponential of its own
        rate = (-0.5 / self.width.square())[..., None, None, None]
        plane = (across * rate).exp_().mul_(self.weight[..., None, None, None])
        plane = plane.squeeze(-1).flatten(2)  # (B, M, R D)
        line = (along * rate).exp_()[:, :, 0, 0]  # (B, M, D)
        return torch.bmm(plane.mT, line).unflatten(1, across.shape[2:4])

    def labels(self, squared: Float[Tensor, "b m r d d"]) -> Int[Tensor, "b r d d"]:
        """The Z of the nearest atom whose ball holds each voxel, 0 where there is none.

        Distance and Z go into one number that float32 holds exactly, so that one running minimum
        does it. Of two atoms equally near (to 1e-5 of the largest squared reach) the lower Z
        wins, whatever their order.
        """
        scale = _NEAREST_STEPS / self.reach.amax(1).square()
        key = (squared * scale.view(-1, 1, 1, 1, 1)).round_().mul_(_Z_STEPS)
        key += self.atomic_numbers[..., None, None, None]
        beyond = squared > (self.reach * self.reach.abs())[..., None, None, None]
        nearest = key.masked_fill_(beyond, math.inf).amin(1)
        return torch.where(nearest.isinf(), 0.0, nearest % _Z_STEPS).long()


def _images(
    frac: Float[Tensor, "b n 3"],
    numbers: Int[Tensor, "b n"],
    reach: Float[Tensor, "b n"],
    lattice: Float[Tensor, "b 3 3"],
    margin: float,
) -> tuple[Float[Tensor, "b m 3"], Int[Tensor, "b m"]]:
    """Atoms and those of their periodic images that reach into the grid, and whose they are.

    The atoms come first, in their order; the owner is -1 where padded.
    """
    # how far outside the cell an image may lie, in fractions along each axis: (B, N, 3)
    reach = reach.unsqueeze(-1) / plane_spacings(lattice).unsqueeze(1) + margin
    most = int((reach.amax() + 1).ceil()) if reach.numel() else 0
    steps = torch.arange(-most, most + 1, device=frac.device).float()
    shifts = torch.cartesian_prod(steps, steps, steps)
    shifts = shifts[shifts.abs().sum(-1).argsort(stable=True)]  # no shift first
    moved = frac.unsqueeze(1) + shifts.view(1, -1, 1, 3)  # (B, K, N, 3)
    reach = reach.unsqueeze(1)
    inside = ((moved > -reach) & (moved < 1 + reach)).all(-1)
    kept = (inside & (numbers > 0).unsqueeze(1)).flatten(1)  # (B, K N)
    order = kept.int().argsort(dim=1, descending=True, stable=True)
    order = order[:, : max(1, int(kept.sum(1).amax()))] if len(kept) else order[:, :1]
    owner = (order % numbers.shape[1]).masked_fill(~kept.gather(1, order), -1)
    return moved.flatten(1, 2).gather(1, order.unsqueeze(-1).expand(-1, -1, 3)), owner


def at_once(atoms: int, resolution: int, device: torch.device) -> int:
    """How many crystals of so many atoms are done at once in bounded memory."""
    return max(1, _budget(device) // (max(1, atoms) * resolution**3))


def chunks(
    count: int, atoms: int, resolution: int, device: torch.device
) -> Iterator[tuple[slice, slice]]:
    """Crystals, and rows of the first axis, that are done at once in bounded memory."""
    crystals = at_once(atoms, resolution, device)
    rows = min(resolution, max(1, _budget(device) // (max(1, atoms) * resolution**2)))
    for first in range(0, count, crystals):
        for row in range(0, resolution, rows):
            yield slice(first, first + crystals), slice(row, row + rows)


def _budget(device: torch.device) -> int:
    return _CPU_CHUNK if device.type == "cpu" else _GPU_CHUNK


def squared_distances(
    frac_coords: Float[Tensor, "b m 3"],
    lattice: Float[Tensor, "b 3 3"],
    options: VoxelOptions,
    rows: slice = slice(None),
) -> tuple[Float[Tensor, "b m r d 1"], Float[Tensor, "b m #r #d d"]]:
    """Squared distances (Å²) of points to the voxel centres: the sum of the two tensors returned.

    In the standard orientation c lies along z and a in the xz plane, so that only the z component
    depends on all three fractions, and not even that where c is at right angles to a and b. What
    is left is one addition a voxel. Differences come before squares: float32 loses nothing.

    Args:
        frac_coords: (B, M, 3) points.
        lattice: (B, 3, 3) cells in standard orientation, Å.
        options: of the grid.
        rows: of the grid's first axis.
    """
    steps = options.axis(lattice.device) - frac_coords.unsqueeze(-1)  # (B, M, 3, D)
    steps = steps.unsqueeze(-1) * lattice[:, None, :, None, :]  # (B, M, 3, D, 3), Å
    a, b, c = steps.unbind(2)
    ab = a[:, :, rows].unsqueeze(3) + b.unsqueeze(2)  # (B, M, R, D, 3)
    across = ab[..., :2].square().sum(-1).unsqueeze(-1)
    if options.frame == "box":
        return across, c[..., 2].square()[:, :, None, None]
    return across, (ab[..., 2:] + c[:, :, None, None, :, 2]).square()
