"""PointNet encoder: a set of atoms and its cell to one latent vector, in any order of the atoms."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from nesf.crystal import CrystalBatch
from nesf.decoders import Coordinates
from nesf.geometry import (
    frac_to_cart,
    lattice_to_parameters,
    parameters_to_lattice,
    wrap_frac,
)
from nesf.mlps import FourierFeatures, PointNorm

# typical cell length (Å) and a right angle: cell features near 0 and of order 1
LENGTH_SCALE, RIGHT_ANGLE = 5.0, math.pi / 2
# a variational encoder begins this sure of its latents, log of the variance: with the variance 1 of
# the prior, the decoders would see little but noise at first
FIRST_LOG_VARIANCE = -4.0
# float32 keeps exp of these and its inverse
LOG_VARIANCE_RANGE = (-20.0, 10.0)


@dataclass(frozen=True)
class Posterior:
    """A normal distribution over latents for each of B crystals, independent in each dimension.

    Attributes:
        mean: (B, L).
        log_variance: (B, L).
    """

    mean: Float[Tensor, "b l"]
    log_variance: Float[Tensor, "b l"]

    @staticmethod
    def of(output: Float[Tensor, "b l2"]) -> "Posterior":
        """From what an encoder of 2 L outputs says: (B, 2L)."""
        mean, log_variance = output.chunk(2, dim=-1)
        return Posterior(mean, log_variance.clamp(*LOG_VARIANCE_RANGE))

    def sample(self, generator: torch.Generator) -> Float[Tensor, "b l"]:
        """One latent each, mean + deviation * noise (arXiv:1312.6114, section 2.4)."""
        noise = torch.empty_like(self.mean).normal_(generator=generator)
        return self.mean + (0.5 * self.log_variance).exp() * noise


def begin_narrow(last: nn.Linear) -> None:
    """Let the last layer of an encoder begin with `FIRST_LOG_VARIANCE`, whatever the crystal."""
    half = last.out_features // 2
    with torch.no_grad():
        last.weight[half:].zero_()
        last.bias[half:].fill_(FIRST_LOG_VARIANCE)


def cell_features(lattice: Float[Tensor, "b 3 3"]) -> Float[Tensor, "b 6"]:
    """Lengths (in 5 Å) and angles (radians from 90°) of each cell."""
    lengths, angles = lattice_to_parameters(lattice)
    return torch.cat([lengths / LENGTH_SCALE - 1, angles - RIGHT_ANGLE], dim=-1)


def cell_of_features(features: Float[Tensor, "b 6"]) -> Float[Tensor, "b 3 3"]:
    """The cell vectors (B, 3, 3), Å, that features stand for; a valid cell where they are none."""
    lengths = ((features[:, :3] + 1) * LENGTH_SCALE).clamp_min(0.5)
    angles = (features[:, 3:] + RIGHT_ANGLE).clamp(math.radians(10), math.radians(170))
    return parameters_to_lattice(lengths, angles)


def masked_pool(
    x: Float[Tensor, "b n w"], mask: Bool[Tensor, "b n"], mean: bool = True
) -> Float[Tensor, "b p"]:
    """Max over the atoms, with the mean beside it if asked for: (B, N, W) -> (B, W or 2W)."""
    keep = mask.unsqueeze(-1)
    largest = x.masked_fill(~keep, -math.inf).amax(dim=1)
    # a row without atoms has nothing to pool
    largest = torch.where(mask.any(dim=1, keepdim=True), largest, 0.0)
    if not mean:
        return largest
    count = mask.sum(dim=1, keepdim=True).clamp_min(1)
    return torch.cat([largest, (x * keep).sum(dim=1) / count], dim=-1)


def mlp(sizes: Sequence[int], activation: type[nn.Module] = nn.GELU) -> nn.Sequential:
    """Linear layers of the given sizes with an activation between them, none at the end."""
    layers: list[nn.Module] = []
    for n, m in pairwise(sizes):
        layers += [nn.Linear(n, m), activation()]
    return nn.Sequential(*layers[:-1])


class PointNetEncoder(nn.Module):
    """Crystal to latent: features of each atom, pooled over the atoms (PointNet, arXiv:1612.00593).

    After each stage the pooled vector is handed back to every atom, so that later stages see an
    atom together with the whole crystal.

    Args:
        latent_dim: length L of the latent code.
        num_species: elements known, by Z from 1.
        width: hidden width.
        stages: rounds of atom features and pooling.
        harmonics: Fourier frequencies of the atoms' fractional coordinates.
        periodic: coordinates enter through features of period one cell only.
        margin: in-cell atoms are wrapped into [-margin, 1 - margin).
    """

    def __init__(
        self,
        latent_dim: int = 256,
        num_species: int = 94,
        width: int = 512,
        stages: int = 2,
        harmonics: int = 8,
        periodic: bool = False,
        margin: float = 0.02,
    ) -> None:
        super().__init__()
        self.margin = margin
        self.coordinates = FourierFeatures(harmonics, "linear", periodic)
        self.species = nn.Embedding(num_species, width)
        self.enter = nn.Linear(self.coordinates.out_features + 6, width)
        self.stages = nn.ModuleList(mlp([width, width, width]) for _ in range(stages))
        self.context = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(stages - 1))
        self.leave = mlp([2 * width + 6 + 1, width, latent_dim])

    def forward(self, crystals: CrystalBatch) -> Float[Tensor, "b l"]:
        """Latent codes (B, L) of B crystals."""
        frac = wrap_frac(crystals.frac_coords, self.margin)
        cell = cell_features(crystals.lattice)
        per_atom = cell.unsqueeze(1).expand(-1, frac.shape[1], -1)  # (B, 6) -> (B, N, 6)
        place = self.enter(torch.cat([self.coordinates(frac), per_atom], dim=-1))
        # the product ties an element to its place, which a sum over atoms would lose
        x = nn.functional.gelu(place * (1 + self.species(crystals.species)))
        for i, stage in enumerate(self.stages):
            x = x + stage(x)
            pooled = masked_pool(x, crystals.mask)
            if i < len(self.context):
                x = nn.functional.gelu(x + self.context[i](pooled).unsqueeze(1))
        count = crystals.num_atoms.unsqueeze(-1).to(cell.dtype).log1p()
        return self.leave(torch.cat([pooled, cell, count], dim=-1)).float()


def published_mlp(sizes: Sequence[int], dropout: float = 0.0) -> nn.Sequential:
    """Linear layers with ReLU, batch normalisation and dropout between them, none at the end."""
    layers: list[nn.Module] = []
    for n, m in pairwise(sizes[:-1]):
        layers += [nn.Linear(n, m), nn.ReLU(), PointNorm(m)]
        layers += [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))


class PublishedEncoder(nn.Module):
    """The encoder of Chiba et al. (arXiv:2212.13120), as described there and in its code.

    Positions go through 3-64-128-128, one-hot species through 128-128, both are mixed to 512 and
    max-pooled over the atoms; cell lengths (Å) and angles (radians) are appended before the last
    MLP.

    Args:
        latent_dim: length L of the latent code.
        num_species: elements known, by Z from 1.
        coordinates: `cartesian` as published, or `fractional`.
    """

    def __init__(
        self,
        latent_dim: int = 192,
        num_species: int = 94,
        coordinates: Coordinates = "cartesian",
    ) -> None:
        super().__init__()
        self.coordinates = coordinates
        self.position = published_mlp([3, 64, 128, 128])
        # an embedding is a linear layer of a one-hot vector
        self.species = nn.Sequential(
            nn.Embedding(num_species, 128), nn.ReLU(), PointNorm(128), nn.Linear(128, 128)
        )
        self.mix = nn.Linear(256, 512)
        self.leave = published_mlp([512 + 6, 256, 256, latent_dim], dropout=0.3)

    def forward(self, crystals: CrystalBatch) -> Float[Tensor, "b l"]:
        """Latent codes (B, L) of B crystals."""
        mask = crystals.mask
        frac = wrap_frac(crystals.frac_coords)
        fractional = self.coordinates == "fractional"
        place = frac if fractional else frac_to_cart(frac, crystals.lattice)
        # padding must not enter the batch statistics: (B, N, 3) -> (T, 3)
        parts = [self.position(place[mask]), self.species(crystals.species[mask])]
        mixed = self.mix(torch.cat(parts, dim=-1))
        padded = mixed.new_zeros((*mask.shape, mixed.shape[-1]))
        padded[mask] = mixed
        pooled = masked_pool(padded, mask, mean=False)
        lengths, angles = lattice_to_parameters(crystals.lattice)
        return self.leave(torch.cat([pooled, lengths, angles], dim=-1)).float()
