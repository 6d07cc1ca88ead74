"""The Fourier coefficients of periodic Gaussian fields: a crystal as seen from reciprocal space.

Atoms of weight w_j blurred by σ make the field Σ_j w_j (2πσ²)^(-3/2) exp(-|r - r_j|²/2σ²), summed
over all images. Its coefficient at a vector g of the reciprocal lattice is

    h(g) = (1/V) Σ_j w_j exp(-σ²|g|²/2) exp(-i g·r_j)

with the sum over one cell (Kajita et al., Sci. Rep. 7, 16991, 2017). Nothing is cut off: the sum
is exact. |h| as a function of g knows nothing of the origin, the order of the atoms or the cell
that the crystal is written in: in a larger cell there are more vectors g, and h vanishes at all
new ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor

from nesf.crystal import CrystalBatch
from nesf.precision import full_precision
from nesf.reciprocal_fft import structure_factors_fft

# atoms times vectors that are held at once: 64 MB for each of some tensors in float32
_AT_ONCE = 1 << 24
# atoms times vectors of one crystal from which on the FFT is the faster (one CPU core)
FFT_FROM = 1 << 21

Route = Literal["sum", "fft", "auto"]


@dataclass(frozen=True)
class ReciprocalPoints:
    """Points of the reciprocal lattices of B crystals, one of each pair g and -g, and g = 0.

    Attributes:
        indices: (B, G, 3) whole multiples of the reciprocal cell vectors, 0 where padded.
        vectors: (B, G, 3) g, Å⁻¹ (with the factor 2π), 0 where padded.
        multiplicity: (B, G) 2 for pairs, 1 for g = 0, 0 where padded.
    """

    indices: Int[Tensor, "b g 3"]
    vectors: Float[Tensor, "b g 3"]
    multiplicity: Float[Tensor, "b g"]

    @property
    def mask(self) -> Bool[Tensor, "b g"]:
        """True for real points; they come first in every row."""
        return self.multiplicity > 0


def reciprocal_points(
    lattice: Float[Tensor, "b 3 3"], reach: float, region: Literal["ball", "cube"] = "ball"
) -> ReciprocalPoints:
    """All points of the reciprocal lattices in a ball or a cube around 0, a half of each.

    Args:
        lattice: (B, 3, 3) cell vectors as rows, Å; cells must have a volume.
        reach: radius of the ball or half the side of the cube, Å⁻¹.
        region: the ball has |g| <= reach, the cube |g_x|, |g_y|, |g_z| <= reach.
    """
    with full_precision(lattice.device):
        reciprocal = 2 * math.pi * torch.linalg.inv(lattice).mT  # rows b_i, a_i · b_j = 2π δ_ij
        # index i is a_i · g / 2π, so that the longest a_i · g in the region bounds it
        order = 2 if region == "ball" else 1
        most = (reach * lattice.norm(dim=-1, p=order) / (2 * math.pi) * (1 + 1e-6)).long()  # (B, 3)
        crystal, indices = _boxes(most)
        vectors = (indices.to(lattice.dtype).unsqueeze(-1) * reciprocal[crystal]).sum(-2)  # (K, 3)
        size = vectors.norm(dim=-1) if region == "ball" else vectors.abs().amax(-1)
        kept = (size <= reach).nonzero().squeeze(-1)
        return _padded(crystal[kept], indices[kept], vectors[kept], len(lattice))


def _boxes(most: Int[Tensor, "b 3"]) -> tuple[Int[Tensor, " k"], Int[Tensor, "k 3"]]:
    """The half of the boxes -most..most whose first index that is not 0 is above 0, and 0 itself.

    Returns:
        Of which crystal, and the indices, crystal after crystal.
    """
    sides = torch.stack([most[:, 0] + 1, 2 * most[:, 1] + 1, 2 * most[:, 2] + 1], dim=-1)
    counts = sides.prod(-1)  # (B,)
    crystal = torch.repeat_interleave(torch.arange(len(most), device=most.device), counts)
    number = torch.arange(len(crystal), device=most.device) - (counts.cumsum(0) - counts)[crystal]
    third, second = sides[crystal, 2], sides[crystal, 1]
    indices = torch.stack(
        [
            number // (second * third),
            number // third % second - most[crystal, 1],
            number % third - most[crystal, 2],
        ],
        dim=-1,
    )
    h, k, l = indices.unbind(-1)  # noqa: E741 the usual names
    half = (h > 0) | ((h == 0) & ((k > 0) | ((k == 0) & (l >= 0))))
    return crystal[half], indices[half]


def _padded(
    crystal: Int[Tensor, " k"], indices: Int[Tensor, "k 3"], vectors: Float[Tensor, "k 3"], b: int
) -> ReciprocalPoints:
    counts = torch.bincount(crystal, minlength=b)
    mask = torch.arange(int(counts.max()) if b else 0, device=crystal.device) < counts[:, None]
    padded_indices = indices.new_zeros((*mask.shape, 3))
    padded_vectors = vectors.new_zeros((*mask.shape, 3))
    multiplicity = vectors.new_zeros(mask.shape)
    padded_indices[mask] = indices
    padded_vectors[mask] = vectors
    multiplicity[mask] = 2.0 - (indices == 0).all(-1).to(vectors.dtype)
    return ReciprocalPoints(padded_indices, padded_vectors, multiplicity)


def element_weights(crystals: CrystalBatch) -> tuple[Int[Tensor, "b c"], Float[Tensor, "b c n"]]:
    """A channel for each element of a crystal, C of them in the crystal with the most.

    Returns:
        (B, C) atomic numbers, ascending, 0 where padded; (B, C, N) 1 for the atoms of the channel's
        element and 0 for all others.
    """
    numbers = torch.where(crystals.mask, crystals.atomic_numbers, 0)
    ordered = numbers.sort(-1).values  # (B, N), padding first
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first &= ordered > 0
    counts = first.sum(-1)
    width = max(1, int(counts.max())) if len(counts) else 1
    elements = ordered.new_zeros(len(ordered), width)
    elements[torch.arange(width, device=ordered.device) < counts[:, None]] = ordered[first]
    # (B, C, 1) beside (B, 1, N)
    same = (elements.unsqueeze(-1) == numbers.unsqueeze(-2)) & (elements > 0).unsqueeze(-1)
    return elements, same.to(crystals.lattice.dtype)


def field_coefficients(
    crystals: CrystalBatch,
    points: ReciprocalPoints,
    weights: Float[Tensor, "b c n"],
    sigma: float,
    route: Route = "auto",
) -> Complex[Tensor, "b c g"]:
    """The Fourier coefficients h(g) of the fields of some channels, Å⁻³ times the weights' unit.

    Args:
        crystals: B of them.
        points: G points of their reciprocal lattices.
        weights: (B, C, N) of each atom in each channel, 0 where padded.
        sigma: of the Gaussians, Å.
        route: the sum, an FFT that agrees with it to 1e-5 of the sum of |w|, or the faster one of
            the two; the FFT goes through the crystals one by one.
    """
    with full_precision(crystals.device):
        atoms, vectors = crystals.mask.shape[1], points.multiplicity.shape[1]
        if route == "fft" or (route == "auto" and atoms * vectors >= FFT_FROM):
            factors = structure_factors_fft(crystals.frac_coords, points.indices, weights)
        else:
            factors = structure_factors(crystals.frac_coords, points.indices, weights)
        # (B, 1, G)
        blur = torch.exp(-0.5 * sigma**2 * points.vectors.square().sum(-1)).unsqueeze(-2)
        volume = torch.linalg.det(crystals.lattice).abs()[:, None, None]
        return factors * (blur / volume * points.mask.unsqueeze(-2))


def structure_factors(
    frac_coords: Float[Tensor, "b n 3"],
    indices: Int[Tensor, "b g 3"],
    weights: Float[Tensor, "b c n"],
) -> Complex[Tensor, "b c g"]:
    """Σ_j w_j exp(-2πi k·f_j) for points k of the reciprocal lattice, term by term.

    Args:
        frac_coords: (B, N, 3) f.
        indices: (B, G, 3) k.
        weights: (B, C, N) w.
    """
    step = max(1, _AT_ONCE // max(1, frac_coords[..., 0].numel()))
    parts = []
    for some in indices.split(step, dim=1):
        turns = some.to(frac_coords.dtype) @ frac_coords.mT  # (B, G', N)
        # a phase that is small is exact in its last digits, too
        phase = (-2 * math.pi) * (turns - turns.round())
        real, imaginary = weights @ phase.cos().mT, weights @ phase.sin().mT  # (B, C, G')
        parts.append(torch.complex(real, imaginary))
    return torch.cat(parts, dim=-1)
