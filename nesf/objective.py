"""What training and latent refinement minimise: the errors of fields and heads behind latents."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from nesf.autoencoder import NeSF
from nesf.crystal import CrystalBatch
from nesf.encoder import Posterior, cell_features
from nesf.geometry import NearestImage
from nesf.losses import (
    elements_loss,
    scaled_distance_loss,
    species_loss,
    squared_distance_loss,
)
from nesf.queries import FieldTarget, QueryBlock, TrainingQueries, field_target


@dataclass(frozen=True)
class LossOptions:
    """Weights of the parts of the loss.

    Attributes:
        position_kind: `scaled` (error over 0.1 Å + half the distance) or `squared` (published).
        position: weight of the position field's loss.
        species: of the species field's cross-entropy.
        cell: of the lattice head's loss.
        cell_kind: `huber` on scaled lengths and angles, or `squared` on Å and radians (published).
        count: of the count head's cross-entropy.
        elements: of the elements head's binary cross-entropy.
        kl: of a variational encoder's KL divergence from N(0, 1), summed over the latent; 0 for a
            plain encoder.
    """

    position_kind: Literal["scaled", "squared"] = "scaled"
    position: float = 1.0
    species: float = 0.2
    cell: float = 1.0
    cell_kind: Literal["huber", "squared"] = "huber"
    count: float = 0.1
    elements: float = 0.02
    kl: float = 0.0

    def __post_init__(self) -> None:
        for name in ("position", "species", "cell", "count", "elements", "kl"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a weight of 0 or more, not {getattr(self, name)}")
        if self.position_kind not in ("scaled", "squared"):
            raise ValueError(f"position_kind is scaled or squared, not {self.position_kind}")
        if self.cell_kind not in ("huber", "squared"):
            raise ValueError(f"cell_kind is huber or squared, not {self.cell_kind}")


def loss_parts(
    model: NeSF,
    crystals: CrystalBatch,
    latent: Float[Tensor, "b l"],
    asked: TrainingQueries,
    options: LossOptions,
) -> dict[str, Tensor]:
    """How far fields and heads behind latents are from the crystals.

    Args:
        model: the decoders.
        crystals: B crystals in standard orientation.
        latent: (B, L) their latents.
        asked: where the fields are asked.
        options: kinds of losses.

    Returns:
        Means over the batch, unweighted: `position`, `species`, `cell`, `count`, `elements`, and
        `position_error`, the mean error of the offsets (Å).
    """
    position, error = _position_loss(model, crystals, latent, asked.position, options)
    heads = model.heads(latent)
    return {
        "position": position,
        "position_error": error,
        "species": _species_loss(model, crystals, latent, asked.species),
        "cell": _cell_loss(heads.cell, crystals, options),
        "count": F.cross_entropy(heads.count, crystals.num_atoms.clamp_max(model.max_atoms)),
        "elements": elements_loss(heads.elements, crystals.species, crystals.mask),
    }


def total_loss(parts: Mapping[str, Tensor], options: LossOptions) -> Float[Tensor, ""]:
    """The weighted sum of the parts, `kl` among them where there is one."""
    names = ["position", "species", "cell", "count", "elements"] + ["kl"] * ("kl" in parts)
    return torch.stack([getattr(options, name) * parts[name] for name in names]).sum()


def kl_divergence(posterior: Posterior) -> Float[Tensor, ""]:
    """KL divergence of latents from N(0, 1) (arXiv:1312.6114, eq. 10), nats.

    Args:
        posterior: of B crystals.

    Returns:
        The mean over the crystals, summed over the L dimensions.
    """
    mean, log_variance = posterior.mean, posterior.log_variance
    each = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)  # (B, L)
    return each.sum(-1).mean()


def _position_loss(
    model: NeSF,
    crystals: CrystalBatch,
    latent: Tensor,
    blocks: tuple[QueryBlock, ...],
    options: LossOptions,
) -> tuple[Tensor, Tensor]:
    scaled = options.position_kind == "scaled"
    loss = scaled_distance_loss if scaled else squared_distance_loss
    losses, errors, sizes = [], [], []
    for block in blocks:
        target = target_of(model, block, crystals)
        cell = crystals.lattice[block.crystal]
        predicted = model.position_decoder(latent[block.crystal], block.query, cell)
        losses.append(loss(predicted, target.offset))
        errors.append((predicted - target.offset).detach().norm(dim=-1).mean())
        sizes.append(target.species.numel())
    share = torch.tensor(sizes, device=latent.device, dtype=torch.float32)
    share = share / share.sum()
    return (torch.stack(losses) * share).sum(), (torch.stack(errors) * share).sum()


def _species_loss(
    model: NeSF, crystals: CrystalBatch, latent: Tensor, blocks: tuple[QueryBlock, ...]
) -> Tensor:
    losses = []
    for block in blocks:
        target = target_of(model, block, crystals)
        cell = crystals.lattice[block.crystal]
        logits = model.species_decoder(latent[block.crystal], block.query, cell)
        losses.append(species_loss(logits, target.species))
    return torch.stack(losses).mean()


def target_of(model: NeSF, block: QueryBlock, crystals: CrystalBatch) -> FieldTarget:
    """The exact answers at a block's points, of fields that are periodic where the model's are."""
    images = NearestImage.of(crystals.lattice[block.crystal]) if model.periodic else None
    return field_target(block, crystals, model.margin, images)


def _cell_loss(predicted: Tensor, crystals: CrystalBatch, options: LossOptions) -> Tensor:
    target = cell_features(crystals.lattice)
    if options.cell_kind == "huber":
        return F.smooth_l1_loss(predicted, target, beta=0.02)
    # published: MSE of lengths in Å plus MSE of angles in radians
    error = (predicted - target).square()
    return 25 * error[:, :3].mean() + error[:, 3:].mean()
