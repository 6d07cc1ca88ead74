"""Crystals to voxels of reciprocal space: absolute Fourier coefficients on a grid.

Kajita, Ohba, Jinnouchi and Asahi, "A universal 3D voxel descriptor for solid-state material
informatics with deep convolutional neural networks", Sci. Rep. 7, 16991 (2017).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from baselines.voxelnet.grids import deposit, fill, reach
from baselines.voxelnet.options import VoxelOptions
from nesf.crystal import CrystalBatch
from nesf.precision import full_precision
from nesf.reciprocal import Route, element_weights, field_coefficients, reciprocal_points


@dataclass(frozen=True)
class ReciprocalVoxels:
    """Voxels of B crystals in the channels that are not empty, C of them at most.

    Attributes:
        values: (B, C, N, N, N) sums of |h|, Å⁻³ times the weights' unit. Axes are x, y, z, or
            distance, polar angle and azimuth.
        channels: (B, C) which channel of the dense descriptor each is; where padded it is 0 and
            its voxels are 0, too.
        num_channels: of the dense descriptor.
    """

    values: Float[Tensor, "b c n n n"]
    channels: Int[Tensor, "b c"]
    num_channels: int

    def dense(self) -> Float[Tensor, "b d n n n"]:
        """All channels, the empty ones too."""
        b, _, n, _, _ = self.values.shape
        whole = self.values.new_zeros(b, self.num_channels, n, n, n)
        index = self.channels[:, :, None, None, None].expand_as(self.values)
        return whole.scatter_add(1, index, self.values)


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
    with full_precision(crystals.device):
        points = reciprocal_points(
            crystals.lattice, reach(options), "cube" if options.kind == "cartesian" else "ball"
        )
        channels, weights = channel_weights(crystals, options)
        found = field_coefficients(crystals, points, weights, options.sigma, route).abs()
        # a pair gives |h| to g and to -g, and `fill` mirrors what it is given
        found = found * (points.multiplicity / 2).unsqueeze(1)
        values = fill(found, deposit(points.vectors, options), options)
    return ReciprocalVoxels(values, channels, options.num_channels)


def channel_weights(
    crystals: CrystalBatch, options: VoxelOptions
) -> tuple[Int[Tensor, "b c"], Float[Tensor, "b c n"]]:
    """What each atom weighs in each channel that is not empty, and which channels these are.

    Returns:
        (B, C) channels of the dense descriptor, 0 where padded; (B, C, N) weights, 0 where padded.
    """
    if options.channels == "elements":
        elements, weights = element_weights(crystals)
        channels = _channel_of(options, elements.device)[elements]
        # without a channel an element weighs nothing; `unknown_elements` tells of it
        return channels.clamp_min(0), weights * (channels >= 0).unsqueeze(-1)
    table = options.element_table().to(crystals.lattice)
    numbers = torch.where(crystals.mask, crystals.atomic_numbers, 0)
    weights = table[numbers].mT  # (B, N, C) -> (B, C, N)
    channels = torch.arange(weights.shape[1], device=weights.device)
    return channels.expand(len(crystals), -1), weights


def unknown_elements(crystals: CrystalBatch, options: VoxelOptions) -> Tensor:
    """(B,) whether a crystal has an element without a channel."""
    numbers = torch.where(crystals.mask, crystals.atomic_numbers, 0)
    if options.channels == "property":
        return (numbers > 94).any(-1)
    return ((_channel_of(options, numbers.device)[numbers] < 0) & crystals.mask).any(-1)


def _channel_of(options: VoxelOptions, device: torch.device) -> Int[Tensor, " z"]:
    """The channel of each Z, -1 where it has none."""
    known = options.elements or range(1, options.num_channels + 1)
    table = torch.full((256,), -1)
    table[list(known)] = torch.arange(options.num_channels)
    return table.to(device)
