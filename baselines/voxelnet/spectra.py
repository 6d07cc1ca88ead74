"""The absolute Fourier coefficients of crystals at their own reciprocal points, kept to be turned.

Turned by Q, a crystal has its reciprocal points at Q g, and there the coefficients that it had at
g. They are found once; a turn moves the points alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from baselines.voxelnet.channels import channel_weights
from baselines.voxelnet.grids import reach
from baselines.voxelnet.options import VoxelOptions
from nesf.crystal import CrystalBatch
from nesf.data.packed_tensors import members
from nesf.precision import full_precision
from nesf.reciprocal import Route, field_coefficients, reciprocal_points


@dataclass(frozen=True)
class Spectra:
    """Absolute coefficients of B crystals at K points in all, crystal after crystal.

    Attributes:
        vectors: (3, K) one of each pair g and -g, and g = 0, Å⁻¹.
        sizes: (C, K) |h| in each channel, Å⁻³ times the weights' unit, 0 where the crystal has
            fewer channels; half of it at g = 0, which is its own partner.
        offsets: (B + 1,) where each crystal's points begin; the last is K.
        channels: (B, C) which channel of the dense descriptor each is, 0 where padded.
        widths: (B,) channels of each crystal.
    """

    vectors: Float[Tensor, "3 k"]
    sizes: Float[Tensor, "c k"]
    offsets: Int[Tensor, " bounds"]
    channels: Int[Tensor, "b c"]
    widths: Int[Tensor, " b"]

    def __len__(self) -> int:
        return len(self.channels)

    @property
    def owners(self) -> Int[Tensor, " k"]:
        """The crystal of each point."""
        return torch.repeat_interleave(self.offsets.diff())

    def turned(self, turns: Float[Tensor, "b 3 3"]) -> Spectra:
        """Of the crystals turned by orthogonal matrices Q: a vector g becomes Q g."""
        # a matrix for each point; so few products are quicker term by term
        columns = rearrange(turns, "b i j -> j i b").to(self.vectors)
        x, y, z = (column.index_select(1, self.owners) for column in columns)  # (3, K)
        vectors = x * self.vectors[0]
        vectors = vectors.addcmul_(y, self.vectors[1]).addcmul_(z, self.vectors[2])
        return Spectra(vectors, self.sizes, self.offsets, self.channels, self.widths)

    def select(self, index: Int[Tensor, " i"]) -> Spectra:
        """Of the crystals at `index`, with as many channels as these have."""
        index = index.to(self.offsets.device)
        points, counts = members(self.offsets, index)
        widths = self.widths[index]
        most = max(1, int(widths.max())) if len(widths) else 1
        return Spectra(
            self.vectors.index_select(1, points),
            self.sizes[:most].index_select(1, points),
            _offsets(counts),
            self.channels[index, :most],
            widths,
        )

    def to(self, device: torch.device | str | None, dtype: torch.dtype | None) -> Spectra:
        """A copy on `device`, with everything that is no integer in `dtype`."""
        return Spectra(
            self.vectors.to(device=device, dtype=dtype),
            self.sizes.to(device=device, dtype=dtype),
            self.offsets.to(device=device),
            self.channels.to(device=device),
            self.widths.to(device=device),
        )

    @staticmethod
    def join(parts: Sequence[Spectra]) -> Spectra:
        """One after another, as many channels as the crystal with the most has."""
        most = max(len(part.sizes) for part in parts)
        pad = torch.nn.functional.pad
        return Spectra(
            torch.cat([part.vectors for part in parts], dim=1),
            torch.cat([pad(p.sizes, (0, 0, 0, most - len(p.sizes))) for p in parts], dim=1),
            _offsets(torch.cat([part.offsets.diff() for part in parts])),
            torch.cat([pad(p.channels, (0, most - len(p.sizes))) for p in parts]),
            torch.cat([part.widths for part in parts]),
        )


def _offsets(counts: Int[Tensor, " b"]) -> Int[Tensor, " bounds"]:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def radius(options: VoxelOptions) -> float:
    """Of the ball of the points that can come into the grid in some turn, Å⁻¹."""
    return reach(options) * (math.sqrt(3) if options.kind == "cartesian" else 1.0)


def spectra_of(
    crystals: CrystalBatch, options: VoxelOptions, route: Route = "auto", turnable: bool = True
) -> Spectra:
    """The coefficients that the grid of a crystal is made of.

    Args:
        crystals: B crystals of elements that the options give a channel; cells with a volume.
        options: of the descriptor.
        route: of the structure factors, see `field_coefficients`.
        turnable: with the points that come into the grid when the crystal is turned; without them
            a cartesian grid needs but a third of the points.
    """
    with full_precision(crystals.device):
        if turnable or options.kind == "spherical":
            points = reciprocal_points(crystals.lattice, radius(options), "ball")
        else:
            points = reciprocal_points(crystals.lattice, reach(options), "cube")
        channels, weights = channel_weights(crystals, options)
        found = field_coefficients(crystals, points, weights, options.sigma, route).abs()
        # a point stands for its partner, too
        found = found * (points.multiplicity / 2).unsqueeze(1)
    numbers = torch.arange(1, weights.shape[1] + 1, device=weights.device)
    return Spectra(
        rearrange(points.vectors[points.mask], "k i -> i k").contiguous(),
        rearrange(rearrange(found, "b c g -> b g c")[points.mask], "k c -> c k").contiguous(),
        _offsets(points.mask.sum(-1)),
        channels,
        ((weights != 0).any(-1) * numbers).amax(-1) if len(crystals) else numbers[:0],
    )
