"""Crystals as voxels: a density, three coordinate channels and a species label for every voxel.

The representation of ICSG3D (Court et al., J. Chem. Inf. Model. 60, 4518, 2020,
doi:10.1021/acs.jcim.0c00464): each atom is a Gaussian as wide as its mean ionic radius on a grid
over the cell and a margin around it. `inverse.devoxelize` goes the way back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from baselines.voxel_icsg3d.gaussians import Atoms, chunks, squared_distances
from baselines.voxel_icsg3d.grid import VoxelOptions
from nesf.crystal import CrystalBatch, standardised
from nesf.geometry import lattice_to_parameters, plane_spacings, wrap_frac
from nesf.precision import full_precision

__all__ = [
    "WRAP_MARGIN",
    "VoxelOptions",
    "Voxels",
    "lattice_from_coords",
    "refusals",
    "representable",
    "voxel_coords",
    "voxelize",
]

WRAP_MARGIN = 0.02  # atoms that jitter around a cell face stay on one side of the cell
RIGHT_ANGLE_TOLERANCE = 0.1  # degrees
MIN_PLANE_SPACING = 0.1  # Å; flatter cells are not crystals


@dataclass(frozen=True)
class Voxels:
    """B crystals on grids of D³ voxels.

    Attributes:
        density: (B, D, D, D) sum of Z/σ³ exp(-d²/2σ²) / (2π)^1.5 over the atoms.
        coords: (B, 3, D, D, D) Cartesian coordinates (Å) of the voxel centres from the corner of
            the grid, the cell in standard orientation.
        species: (B, D, D, D) atomic number, 0 where there is no atom.
        options: what they were made with.
    """

    density: Float[Tensor, "b d d d"]
    coords: Float[Tensor, "b 3 d d d"]
    species: Int[Tensor, "b d d d"]
    options: VoxelOptions

    def __len__(self) -> int:
        return self.density.shape[0]

    @property
    def channels(self) -> Float[Tensor, "b 4 d d d"]:
        """Density and coordinates, the input of the networks."""
        return torch.cat([self.density.unsqueeze(1), self.coords], dim=1)

    @property
    def occupancy(self) -> Bool[Tensor, "b d d d"]:
        """Voxels that belong to an atom."""
        return self.species > 0

    @property
    def device(self) -> torch.device:
        """Where the tensors live."""
        return self.density.device

    def to(self, device: torch.device | str) -> Voxels:
        """A copy on `device`."""
        return replace(
            self,
            density=self.density.to(device),
            coords=self.coords.to(device),
            species=self.species.to(device),
        )


def voxelize(crystals: CrystalBatch, options: VoxelOptions | None = None) -> Voxels:
    """Put crystals on grids.

    Which crystals a frame holds: `cell`, all that have a volume; `box`, cells of three right
    angles (`representable`), any other being drawn as if its angles were right. The labels tell
    atoms of one element apart where their balls do not melt into one another, and atoms of any
    kind where each has voxels of its own: see `label_fraction`, `label_floor` and `resolution`.

    Args:
        crystals: B crystals on any device; atoms are wrapped into the cell.
        options: every knob.

    Returns:
        float32 voxels on the crystals' device, made in full precision under autocast too.
    """
    options = options or VoxelOptions()
    with torch.no_grad(), full_precision(crystals.device):
        lattice = _frame_lattice(crystals, options)
        frac = wrap_frac(crystals.frac_coords, WRAP_MARGIN)
        atoms = Atoms.of(crystals.replace(frac_coords=frac), lattice, options)
        density, species = _rasterise(atoms, lattice, options)
        return Voxels(density, voxel_coords(lattice, options), species, options)


def voxel_coords(
    lattice: Float[Tensor, "b 3 3"], options: VoxelOptions
) -> Float[Tensor, "b 3 d d d"]:
    """Cartesian coordinates (Å) of the voxel centres, counted from the corner of the grid."""
    steps = options.axis(lattice.device) + options.margin
    along = rearrange(lattice, "b k c -> k b c 1") * steps  # (3, B, 3, D), axis k by coordinate c
    return along[0][..., None, None] + along[1][..., None, :, None] + along[2][..., None, None, :]


def lattice_from_coords(
    coords: Float[Tensor, "b 3 d d d"],
    options: VoxelOptions,
    readout: Literal["fit", "released"] = "fit",
) -> Float[Tensor, "b 3 3"]:
    """The cells that coordinate channels speak of.

    Args:
        coords: (B, 3, D, D, D) coordinate channels, Å, exact or predicted.
        options: of the grid; the box frame reads lengths only.
        readout: `fit`, the slopes of a least-squares plane through each channel, or `released`,
            the lengths from the range of each channel as in the authors' code: between the
            outer voxel centres, so short by 1/D, and with right angles.

    Returns:
        (B, 3, 3) cell vectors as rows, Å, in the dtype given or float32.
    """
    if readout not in ("fit", "released"):
        raise ValueError(f"readout is fit or released, not {readout}")
    with full_precision(coords.device):
        coords = coords if coords.dtype == torch.float64 else coords.float()
        if readout == "released":
            flat = coords.flatten(2)  # (B, 3, D³)
            return torch.diag_embed((flat.amax(-1) - flat.amin(-1)) / options.extent)
        steps = options.axis(coords.device).to(coords)
        steps = steps - steps.mean()
        slope = steps / steps.square().sum()
        # the axes are orthogonal: the slope along each is that of the means over the others
        rows = [(coords.mean(axes) * slope).sum(-1) for axes in ((3, 4), (2, 4), (2, 3))]
        lattice = torch.stack(rows, dim=1)  # (B, 3, 3), axis by coordinate
        if options.frame == "box":
            return torch.diag_embed(lattice.diagonal(dim1=1, dim2=2))
        return lattice


def refusals(crystals: CrystalBatch, options: VoxelOptions | None = None) -> list[str | None]:
    """Why each crystal cannot be put on the grid, in one sentence, or None if it can."""
    held = representable(crystals, options).tolist()
    if all(held):
        return [None] * len(held)
    lattice = crystals.lattice.detach().double()
    solid, angles = _has_volume(lattice).tolist(), lattice_to_parameters(lattice)[1].rad2deg()
    return [
        None if fits else _refusal(name, volume, corners)
        for name, fits, volume, corners in zip(
            crystals.ids, held, solid, angles.tolist(), strict=True
        )
    ]


def _refusal(name: str, has_volume: bool, angles: Sequence[float]) -> str:
    if not has_volume:
        return f"crystal {name} has a cell without a volume"
    shown = ", ".join(f"{angle:.1f}" for angle in angles)
    return (
        f"crystal {name} has cell angles of {shown} degrees, and the box frame holds right angles "
        "only; use frame cell"
    )


def representable(
    crystals: CrystalBatch, options: VoxelOptions | None = None
) -> Bool[Tensor, " b"]:
    """Which crystals can be put on the grid: those without a refusal.

    Nothing leaves the device, which a training step would have to wait for.
    """
    options = options or VoxelOptions()
    lattice = crystals.lattice.detach().double()
    held = _has_volume(lattice)
    if options.frame == "box":
        skew = (lattice_to_parameters(lattice)[1].rad2deg() - 90).abs().amax(-1)
        held &= skew <= RIGHT_ANGLE_TOLERANCE
    return held


def _has_volume(lattice: Float[Tensor, "b 3 3"]) -> Bool[Tensor, " b"]:
    return plane_spacings(lattice).amin(-1) >= MIN_PLANE_SPACING  # not where it is NaN


def _frame_lattice(crystals: CrystalBatch, options: VoxelOptions) -> Float[Tensor, "b 3 3"]:
    if options.frame == "box":
        return torch.diag_embed(lattice_to_parameters(crystals.lattice)[0].float())
    # angles in float64: float32 is off by 1e-4 Å where they are near 0 or 180 degrees
    return standardised(crystals.to(dtype=torch.float64)).lattice.float()


def _rasterise(
    atoms: Atoms, lattice: Float[Tensor, "b 3 3"], options: VoxelOptions
) -> tuple[Float[Tensor, "b d d d"], Int[Tensor, "b d d d"]]:
    (count, size), resolution = atoms.width.shape, options.resolution
    density = lattice.new_zeros(count, resolution, resolution, resolution)
    species = torch.zeros_like(density, dtype=torch.long)
    for which, rows in chunks(count, size, resolution, lattice.device):
        part = atoms.select(which)
        across, along = squared_distances(part.frac_coords, lattice[which], options, rows)
        density[which, rows] = part.density(across, along)
        species[which, rows] = part.labels(across + along)
    return density, species
