"""From exact voxels back to crystals: the inverse of `voxelize`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from baselines.voxel_icsg3d.gaussians import Atoms, at_once, squared_distances
from baselines.voxel_icsg3d.grid import VoxelOptions
from baselines.voxel_icsg3d.segment import SegmentOptions, Sites, segment, sites_of
from baselines.voxel_icsg3d.voxelize import Voxels, lattice_from_coords
from nesf.crystal import CrystalBatch
from nesf.geometry import wrap_frac
from nesf.precision import full_precision

_MAX_ROUNDS = 60
_TOLERANCE = 0.002  # voxels; the refinement stops where all steps of a round are shorter
_LONGEST_STEP = 1.0  # voxels, along each axis
_PRIOR = 1e-3  # share of the whole Gaussian's spread that is added to that of its part on the grid


def devoxelize(
    voxels: Voxels,
    refine: Literal["none", "centroid"] = "centroid",
    segmentation: SegmentOptions | None = None,
) -> CrystalBatch:
    """The crystals that voxels were made of.

    The labels are cut into one region an atom, at the borders of species and by the watershed
    where atoms of one element touch. The centroid of a region is its site to half a voxel where
    its ball of labels is whole or nearly so (label fractions up to 0.75); a ball cut by the
    margin or by a neighbour is off centre, which `refine_sites` mends.

    Args:
        voxels: from `voxelize`, or of that form.
        refine: `none`, centroids of the labels, as published; `centroid`, refined on the density.
        segmentation: of the labels; if None the defaults, but regions of convexity below 0.9 are
            split, since exact labels have no rough edges that could be taken for two atoms.

    Returns:
        B crystals on the voxels' device, lattices in standard orientation, sites in [0, 1) in the
        order of their regions, ids "0", "1", ... One whose labels are empty has no atoms.
    """
    if refine not in ("none", "centroid"):
        raise ValueError(f"refine is none or centroid, not {refine}")
    options = voxels.options
    lattice = lattice_from_coords(voxels.coords, options)
    segmentation = segmentation or SegmentOptions(min_convexity=0.9)
    found = [
        _in_cell(sites_of(segment(numbers, segmentation), numbers), options)
        for numbers in voxels.species.cpu().numpy()
    ]
    crystals = _batch(found, lattice)
    if refine == "centroid":
        crystals = refine_sites(crystals, voxels.density, options)
    return crystals.replace(frac_coords=wrap_frac(crystals.frac_coords))


def refine_sites(
    crystals: CrystalBatch, density: Float[Tensor, "b d d d"], options: VoxelOptions
) -> CrystalBatch:
    """Move sites until their Gaussians add up to the density.

    Each voxel's density is shared among the sites in proportion to their Gaussians there, and
    each site moves to the centroid of its share: expectation-maximisation of a mixture of
    Gaussians of known widths and heights (Dempster, Laird and Rubin, J. R. Stat. Soc. B 39, 1,
    1977). A bare centroid is off wherever the grid ends in the middle of a Gaussian; so the step
    is taken from the density that the sites lack, in units of the spread of that part of the
    Gaussian that lies on the grid. At the fixed point nothing is lacking: true sites are one,
    whatever the grid cuts off.

    The cost grows with the images: hundreds of them in a small cell of large ions.

    Args:
        crystals: sites off by less than the Gaussians' widths, lattices in standard orientation.
        density: (B, D, D, D) to be explained.
        options: of the grid.

    Returns:
        The crystals with refined sites, not wrapped into the cell.
    """
    with torch.no_grad(), full_precision(crystals.device):
        atoms = Atoms.of(crystals, crystals.lattice, options)
        step = at_once(atoms.width.shape[1], options.resolution, crystals.device)
        moves = torch.zeros_like(crystals.frac_coords)
        for first in range(0, len(crystals), step):
            some = slice(first, first + step)
            lattice, part = crystals.lattice[some], atoms.select(some)
            moves[some] = _moves(part, density[some].float(), lattice, moves[some], options)
    return crystals.replace(frac_coords=crystals.frac_coords + moves)


def _moves(
    atoms: Atoms,
    density: Float[Tensor, "b d d d"],
    lattice: Float[Tensor, "b 3 3"],
    moves: Float[Tensor, "b n 3"],
    options: VoxelOptions,
) -> Float[Tensor, "b n 3"]:
    """How far sites move in all rounds of `refine_sites`, in fractions of the cell."""
    axis, voxel = options.axis(density.device), options.extent / options.resolution
    place = torch.cartesian_prod(axis, axis, axis) - 0.5  # (V, 3), small: squares stay exact
    pairs = (place.unsqueeze(-1) * place.unsqueeze(-2)).flatten(1)  # (V, 9)
    features = torch.cat([torch.ones_like(place[:, :1]), place, pairs], dim=1)  # (V, 13)
    inverse_metric = torch.linalg.inv(lattice @ lattice.mT).unsqueeze(1)  # (B, 1, 3, 3)
    variance = atoms.width.square().unsqueeze(-1)  # (B, M, 1), Å²
    owner = atoms.owner.unsqueeze(-1).expand(-1, -1, 3)  # (B, M, 3)
    for _ in range(_MAX_ROUNDS):
        at = atoms.frac_coords + moves.gather(1, owner)
        each = atoms.gaussians(*squared_distances(at, lattice, options)).flatten(2)  # (B, M, V)
        total = each.sum(1)
        # no shares where there is nothing to share, in a crystal without atoms nowhere
        least = (1e-6 * total.amax(1, keepdim=True)).clamp_min(1e-12)
        lacking = (density.flatten(1) - total) / total.maximum(least)
        mass, pull, spread = _moments(each, lacking, features, at - 0.5)
        # a Gaussian nearly all cut off must not divide by zero; the fixed point stays where it is
        spread = spread + (_PRIOR * mass * variance).unsqueeze(-1) * inverse_metric
        pull = torch.zeros_like(moves).scatter_add(1, owner, variance * pull)
        spread = _sum_of_owners(spread, atoms.owner, moves.shape[1])
        step = inverse_metric @ torch.linalg.solve(spread, pull.unsqueeze(-1))
        step = step.squeeze(-1).clamp(-_LONGEST_STEP * voxel, _LONGEST_STEP * voxel)
        moves = moves + step
        if bool((step.abs() <= _TOLERANCE * voxel).all()):
            break
    return moves


def _moments(
    each: Float[Tensor, "b m v"],
    lacking: Float[Tensor, "b v"],
    features: Float[Tensor, "v 13"],
    at: Float[Tensor, "b m 3"],
) -> tuple[Float[Tensor, "b m 1"], Float[Tensor, "b m 3"], Float[Tensor, "b m 3 3"]]:
    """Of Gaussians on the grid: mass, first moment of the share lacking, second moment."""
    mass, first, second = (each @ features).split((1, 3, 9), dim=-1)
    lack, lack_first = (each @ (lacking.unsqueeze(-1) * features[:, :4])).split((1, 3), dim=-1)
    cross = first.unsqueeze(-1) * at.unsqueeze(-2)
    second = second.unflatten(-1, (3, 3)) - cross - cross.mT  # (B, M, 9) -> (B, M, 3, 3)
    second = second + mass.unsqueeze(-1) * at.unsqueeze(-1) * at.unsqueeze(-2)
    return mass, lack_first - lack * at, second


def _sum_of_owners(
    spread: Float[Tensor, "b m 3 3"], owner: Int[Tensor, "b m"], count: int
) -> Float[Tensor, "b n 3 3"]:
    """Matrices of images added up by owner; those of padding become the unit matrix."""
    flat = spread.new_zeros(len(spread), count, 9)
    flat = flat.scatter_add(1, owner.unsqueeze(-1).expand(-1, -1, 9), spread.flatten(2))
    total = flat.unflatten(-1, (3, 3))
    empty = (flat == 0).all(-1)[..., None, None]
    return torch.where(empty, torch.eye(3).to(total), total)


def _in_cell(sites: Sites, options: VoxelOptions) -> Sites:
    """Sites in fractions of the cell, of an atom and its images only the largest region.

    Of an image outside the cell the grid may hold a rim, whose centroid means nothing: regions
    in the outer half of the margin are left out. Those of one element that are periodic images
    of one another to two voxels are one atom: balls cut by the margin are off centre by less.
    """
    frac = (sites.centroids + 0.5) * (options.extent / options.resolution) - options.margin
    sites = replace(sites, centroids=frac)
    if not options.images:
        return sites
    inner = np.all(np.abs(frac - 0.5) <= 0.5 + options.margin / 2, axis=-1)
    sites = sites.select(np.flatnonzero(inner))
    if not len(sites):
        return sites
    sites = sites.select(np.argsort(-sites.sizes, kind="stable"))
    delta = sites.centroids[:, None] - sites.centroids  # (K, K, 3)
    voxels = np.abs(delta - delta.round()).max(-1) * (options.resolution / options.extent)
    same = (voxels < 2) & (sites.atomic_numbers[:, None] == sites.atomic_numbers)
    return sites.select(same.argmax(1) == np.arange(len(sites)))


def _batch(found: Sequence[Sites], lattice: Float[Tensor, "b 3 3"]) -> CrystalBatch:
    frac = [torch.from_numpy(sites.centroids) for sites in found]
    numbers = [torch.from_numpy(sites.atomic_numbers) for sites in found]
    return CrystalBatch.from_flat(
        torch.cat(frac).to(lattice),
        torch.cat(numbers).to(lattice.device),
        torch.tensor([len(sites) for sites in found], device=lattice.device),
        lattice,
        [str(i) for i in range(len(found))],
    )
