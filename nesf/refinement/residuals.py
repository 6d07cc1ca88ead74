"""How far decoders are from known crystals near given latents, as a quadratic in the latent."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from nesf.autoencoder import NeSF
from nesf.crystal import CrystalBatch
from nesf.encoder import cell_features
from nesf.losses import elements_entropy
from nesf.objective import target_of
from nesf.queries import QueryBlock, TrainingQueries
from nesf.refinement.linearise import linearise

# below these an error counts as a square, beyond them as a distance
POSITION_FLOOR = 0.005  # Å
CELL_FLOOR = 0.02  # of cell features, as in training
# cross-entropies c become squares of sqrt(2 c + this), whose derivative stays finite
ENTROPY_FLOOR = 1e-4


@dataclass(frozen=True)
class Weights:
    """What each part of the loss counts for, as in training, where the position field has 1.

    Attributes:
        species: of the species field's cross-entropy.
        cell: of the lattice head's Huber loss.
        count: of the count head's cross-entropy.
        elements: of the elements head's binary cross-entropy.
    """

    species: float = 0.2
    cell: float = 1.0
    count: float = 0.1
    elements: float = 0.02


def random_signs(count: int, generator: torch.Generator) -> Float[Tensor, "q 3"]:
    """Vectors (Q, 3) of 1 and -1, for `Residuals`: the eight of them have the mean square 1."""
    draw = torch.randint(0, 2, (count, 3), generator=generator, device=generator.device)
    return 2.0 * draw - 1.0


@dataclass(frozen=True)
class Quadratic:
    """A sum of squares near given latents, along L directions: |r + J u|^2 / 2.

    Attributes:
        jacobian: (B, R, L) J.
        residual: (B, R) r.
    """

    jacobian: Float[Tensor, "b r l"]
    residual: Float[Tensor, "b r"]

    @property
    def curvature(self) -> Float[Tensor, "b l l"]:
        """J^T J."""
        return self.jacobian.mT @ self.jacobian

    @property
    def slope(self) -> Float[Tensor, "b l"]:
        """J^T r."""
        return (self.residual.unsqueeze(1) @ self.jacobian).squeeze(1)


class Residuals:
    """The training loss as reweighted squares, and their derivatives by the latent.

    An absolute error |e| is e^2 / |e|, with the weight 1 / |e| of the present latents; there, the
    squares have the gradient of the loss itself (iteratively reweighted least squares: Holland and
    Welsch, Commun. Stat. A 6, 813, 1977). A cross-entropy c is the square of sqrt(2 c), halved.

    Args:
        model: the decoders, in evaluation mode.
        directions: (L, L) its columns are the directions of derivatives.
        weights: of the parts.
    """

    def __init__(self, model: NeSF, directions: Float[Tensor, "l l"], weights: Weights) -> None:
        self.model, self.directions, self.weights = model, directions, weights
        self._position = linearise(model.position_decoder.mlp, directions)
        self._species = linearise(model.species_decoder.mlp, directions)

    def __call__(
        self,
        crystals: CrystalBatch,
        latent: Float[Tensor, "b l"],
        asked: TrainingQueries,
        along: Float[Tensor, "q 3"] | None = None,
    ) -> Quadratic:
        """The loss near latents (B, L) of B crystals in standard orientation.

        Args:
            crystals: the truth.
            latent: near which.
            asked: where the fields are asked; one block each, a row a crystal.
            along: (Q, 3) with it, the error at each position query counts along this vector alone,
                which takes a third of the derivatives. For vectors whose outer products have the
                mean 1, as those of `random_signs`, the mean quadratic is that of the whole errors.
        """
        (position,), (species,) = asked.position, asked.species
        parts = (
            self._position_rows(crystals, latent, position, along),
            self._species_rows(crystals, latent, species),
            self._head_rows(crystals, latent),
        )
        jacobian = torch.cat([rows for rows, _ in parts], dim=1)
        return Quadratic(jacobian, torch.cat([values for _, values in parts], dim=1))

    def _position_rows(
        self,
        crystals: CrystalBatch,
        latent: Tensor,
        block: QueryBlock,
        along: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        decoder, target = self.model.position_decoder, target_of(self.model, block, crystals)
        found = self._position(latent, decoder.query_features(block.query, crystals.lattice))
        units = decoder.units(crystals.lattice)
        error = found.value @ units - target.offset  # (B, Q, 3)
        # nesf.losses.scaled_distance_loss
        tolerated = 0.1 + 0.5 * target.offset.norm(dim=-1)
        away = error.norm(dim=-1).clamp_min(POSITION_FLOOR)
        weight = (tolerated * away * block.query.shape[1]).rsqrt()[..., None]  # (B, Q, 1)
        if along is None:
            axes = torch.eye(3, dtype=error.dtype, device=error.device).unsqueeze(0)  # (1, 3, 3)
        else:
            axes = along.unsqueeze(1)  # (Q, 1, 3)
        counted = weight.unsqueeze(-1) * axes  # (B, Q, R, 3): the rows, in Å
        rows = found.pull(counted @ units.mT.unsqueeze(1))  # by what each output stands for
        value = (counted * error.unsqueeze(2)).sum(-1)  # (B, Q, R)
        return rows.flatten(1, 2), value.flatten(1)  # (B, Q, R, L) -> (B, QR, L)

    def _species_rows(
        self, crystals: CrystalBatch, latent: Tensor, block: QueryBlock
    ) -> tuple[Tensor, Tensor]:
        decoder, target = self.model.species_decoder, target_of(self.model, block, crystals)
        found = self._species(latent, decoder.query_features(block.query, crystals.lattice))
        logs = found.value.log_softmax(-1)
        entropy = -logs.gather(-1, target.species.unsqueeze(-1))  # (B, Q, 1)
        value = (2 * entropy + ENTROPY_FLOOR).sqrt()
        share = (self.weights.species / block.query.shape[1]) ** 0.5
        wanted = F.one_hot(target.species, logs.shape[-1])
        rows = found.pull(((logs.exp() - wanted) / value * share).unsqueeze(2))
        return rows.squeeze(2), value.squeeze(-1) * share  # (B, Q, 1, L) -> (B, Q, L)

    def _head_rows(self, crystals: CrystalBatch, latent: Tensor) -> tuple[Tensor, Tensor]:
        model, weights = self.model, self.weights
        rows = 6 + 2  # cell features, count, elements
        with torch.enable_grad():
            # (B, L) -> (RB, L): a latent for each row to take its derivative by, in one pass
            own = latent.detach().repeat(rows, 1).requires_grad_(True)
            heads = model.heads(own)
            same = torch.arange(len(latent), device=latent.device).repeat(rows)
            error = heads.cell - cell_features(crystals.lattice)[same]
            cell = error * (weights.cell / 6 / error.detach().abs().clamp_min(CELL_FLOOR)).sqrt()
            count = crystals.num_atoms.clamp_max(model.max_atoms)[same]
            elements = elements_entropy(heads.elements, crystals.species[same], crystals.mask[same])
            entropies = torch.stack(
                [
                    weights.count * F.cross_entropy(heads.count, count, reduction="none"),
                    weights.elements * elements,
                ],
                dim=-1,
            )
            every = torch.cat([cell, (2 * entropies + ENTROPY_FLOOR).sqrt()], dim=-1)  # (RB, R)
            value = every.unflatten(0, (rows, -1)).diagonal(dim1=0, dim2=2)  # (B, R)
            (gradient,) = torch.autograd.grad(value.sum(), own)
        # (RB, L) -> (B, R, L)
        gradient = gradient.unflatten(0, (rows, -1)).transpose(0, 1)
        return gradient @ self.directions, value.detach()
