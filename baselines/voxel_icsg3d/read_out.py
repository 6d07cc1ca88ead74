"""From the U-Net's voxels to the sites of crystals, and from sites to a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from baselines.voxel_icsg3d.segment import SegmentOptions, segment, sites_of
from baselines.voxel_icsg3d.voxelize import WRAP_MARGIN, VoxelOptions
from nesf.crystal import CrystalBatch
from nesf.geometry import plane_spacings, wrap_frac
from nesf.reconstruction.reconstruct import MAX_LENGTH, MIN_PLANE_SPACING, Reconstruction


@dataclass(frozen=True)
class FoundSites:
    """The sites of one crystal.

    Attributes:
        frac_coords: (K, 3) fractions of the cell, some in its margin.
        atomic_numbers: (K,) by majority vote of a segment's voxels.
        share: (K,) of the occupied voxels.
        confidence: mean occupancy probability of the occupied voxels, times the mean share of
            voxels that voted with the majority; 0 without sites.
    """

    frac_coords: Float[np.ndarray, "k 3"]
    atomic_numbers: Int[np.ndarray, " k"]
    share: Float[np.ndarray, " k"]
    confidence: float


def find_sites(
    occupancy: Float[Tensor, "b d d d"],
    occupied: Bool[Tensor, "b d d d"],
    species: Int[Tensor, "b d d d"],
    options: VoxelOptions,
    segmentation: SegmentOptions,
) -> Iterator[FoundSites]:
    """Segment the voxels of each crystal, one after another on the CPU.

    Args:
        occupancy: (B, D, D, D) probability that a voxel belongs to an atom.
        occupied: (B, D, D, D) where it is high enough.
        species: (B, D, D, D) atomic numbers, where occupied.
        options: of the grid.
        segmentation: of the segments.
    """
    grids = [t.float().cpu().numpy() if t.is_floating_point() else t.cpu().numpy()
             for t in (occupancy, occupied, species)]  # fmt: skip
    for probability, atoms, numbers in zip(*grids, strict=True):
        # plain centroids, as published: weighted by density, touching atoms drag each other along
        sites = sites_of(segment(atoms, segmentation), numbers)
        # voxel k lies at -margin + extent (k + 1/2) / D
        steps = (sites.centroids + 0.5) * (options.extent / options.resolution)
        frac = steps - options.margin
        # with images, each atom comes once more for each image in the margin
        inside = (frac >= -WRAP_MARGIN) & (frac < 1 - WRAP_MARGIN)
        keep = inside.all(-1) | (not options.images)
        confidence = 0.0
        if keep.any():
            confidence = float(probability[atoms].mean() * sites.purity[keep].mean())
        yield FoundSites(
            frac[keep],
            sites.atomic_numbers[keep],
            sites.sizes[keep] / max(1, int(atoms.sum())),
            min(1.0, confidence),
        )


def pack(found: Sequence[FoundSites | None], lattice: Float[Tensor, "b 3 3"]) -> Reconstruction:
    """The sites of B crystals as one reconstruction; None is a crystal without sites.

    The pipeline has no measure of how far a site scatters: `site_spread` is 0. Nor does it claim
    an atom count: `count_agrees` is None.
    """
    counts = [0 if sites is None else len(sites.frac_coords) for sites in found]
    some = [sites for sites in found if sites is not None]

    def joined(name: str, empty: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        rows = [np.zeros(empty), *(getattr(sites, name) for sites in some)]
        return torch.from_numpy(np.concatenate(rows)).to(lattice.device, dtype)

    crystals = CrystalBatch.from_flat(
        wrap_frac(joined("frac_coords", (0, 3), lattice.dtype)),
        joined("atomic_numbers", (0,), torch.long),
        torch.tensor(counts, device=lattice.device, dtype=torch.long),
        lattice,
        [str(i) for i in range(len(found))],
    )
    size = lattice.new_zeros(crystals.mask.shape)
    size[crystals.mask] = joined("share", (0,), lattice.dtype)
    confidence = [0.0 if sites is None else sites.confidence for sites in found]
    return Reconstruction(
        crystals,
        torch.zeros_like(size),
        size,
        None,
        torch.tensor(confidence, device=lattice.device, dtype=lattice.dtype),
    )


def usable(lattice: Float[Tensor, "b 3 3"]) -> Bool[Tensor, " b"]:
    """Cells that can hold atoms: finite, with a volume, of a bearable size."""
    finite = lattice.isfinite().flatten(1).all(-1)
    sound = torch.where(finite.view(-1, 1, 1), lattice, torch.eye(3).to(lattice))
    thick = plane_spacings(sound).amin(-1) >= MIN_PLANE_SPACING
    return finite & thick & (sound.norm(dim=-1).amax(-1) <= MAX_LENGTH)
