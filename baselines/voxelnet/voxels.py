"""Crystals to voxels of reciprocal space: absolute Fourier coefficients on a grid.

Kajita, Ohba, Jinnouchi and Asahi, "A universal 3D voxel descriptor for solid-state material
informatics with deep convolutional neural networks", Sci. Rep. 7, 16991 (2017).
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from baselines.voxelnet.grids import half_grid, whole_grid
from baselines.voxelnet.options import VoxelOptions
from baselines.voxelnet.spectra import Spectra, spectra_of
from nesf.crystal import CrystalBatch
from nesf.reciprocal import Route


@dataclass(frozen=True)
class ReciprocalVoxels:
    """Voxels of B crystals in the channels that are not empty, C of them at most.

    Attributes:
        half: (B, C, N, H, N) the first H = N/2 + 1 layers along the second axis, which tell the
            others: |h(-g)| = |h(g)|.
        channels: (B, C) which channel of the dense descriptor each is; where padded it is 0 and
            its voxels are 0, too.
        options: of the descriptor.
    """

    half: Float[Tensor, "b c n h n"]
    channels: Int[Tensor, "b c"]
    options: VoxelOptions

    @property
    def num_channels(self) -> int:
        """Of the dense descriptor."""
        return self.options.num_channels

    @property
    def values(self) -> Float[Tensor, "b c n n n"]:
        """Sums of |h|, Å⁻³ times the weights' unit.

        Axes are x, y, z, or distance, polar angle and azimuth.
        """
        return whole_grid(self.half, self.options)

    def dense(self) -> Float[Tensor, "b d n n n"]:
        """All channels, the empty ones too."""
        values = self.values
        b, _, n, _, _ = values.shape
        whole = values.new_zeros(b, self.num_channels, n, n, n)
        index = self.channels[:, :, None, None, None].expand_as(values)
        return whole.scatter_add(1, index, values)


def reciprocal_voxels(
    crystals: CrystalBatch, options: VoxelOptions, route: Route = "auto"
) -> ReciprocalVoxels:
    """Voxels of crystals, computed where they are.

    They do not change with the origin, the order of the atoms or the choice of the cell. A crystal
    turned by a rotation has the points of its reciprocal lattice turned by it; by one of the 48
    rotations and reflections of the cube, its Cartesian voxels are permuted.

    Args:
        crystals: B crystals of elements that the options give a channel.
        options: of the descriptor.
        route: of the structure factors, see `field_coefficients`.
    """
    return voxels_of(spectra_of(crystals, options, route, turnable=False), options)


def voxels_of(spectra: Spectra, options: VoxelOptions) -> ReciprocalVoxels:
    """Voxels of crystals whose coefficients are known.

    Args:
        spectra: of B crystals, of the same options.
        options: of the descriptor.
    """
    half = half_grid(spectra.vectors, spectra.sizes, spectra.owners, len(spectra), options)
    return ReciprocalVoxels(half, spectra.channels, options)
