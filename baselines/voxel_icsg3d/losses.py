"""Losses of the voxel networks (Court et al. 2020): pure functions of tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class VoxelLosses:
    """Weights of the parts of the losses.

    Attributes:
        class_weights: weigh the species by inverse frequency, background 0; off, the released
            behaviour: unweighted, background included, times the number of classes.
        occupancy: of the occupancy head's cross-entropy; with 1, as released, the species alone
            lead for thousands of steps, and no atom is found.
        species: of the species head's cross-entropy.
        voxels: of the VAE's mean squared error.
        features: of the deep-feature loss (alpha).
        kl: of the KL divergence, summed over the latent (beta).
        lattice: of the lattice head, where the model has one.
    """

    class_weights: bool = True
    occupancy: float = 30.0
    species: float = 1.0
    voxels: float = 1.0
    features: float = 0.5
    kl: float = 3e-4
    lattice: float = 1.0

    def __post_init__(self) -> None:
        for name in ("occupancy", "species", "voxels", "features", "kl", "lattice"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a weight of 0 or more, not {getattr(self, name)}")

    def total(self, parts: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of the parts."""
        return torch.stack([getattr(self, name) * part for name, part in parts.items()]).sum()


def feature_loss(
    found: Sequence[Float[Tensor, "b ..."]], wanted: Sequence[Float[Tensor, "b ..."]]
) -> Float[Tensor, ""]:
    """Deep-feature loss: mean squared difference of U-Net activations, summed over the levels."""
    pairs = zip(found, wanted, strict=True)
    return torch.stack([F.mse_loss(a.float(), b.float()) for a, b in pairs]).sum()


def kl_divergence(
    mean: Float[Tensor, "b l"], log_variance: Float[Tensor, "b l"]
) -> Float[Tensor, ""]:
    """KL divergence from N(0, 1), summed over the latent and averaged over the crystals."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1).mean()


def occupancy_loss(
    logits: Float[Tensor, "b d d d"], occupied: Bool[Tensor, "b d d d"]
) -> Float[Tensor, ""]:
    """Binary cross-entropy of every voxel."""
    return F.binary_cross_entropy_with_logits(logits.float(), occupied.float())


def weighted_species_loss(
    logits: Float[Tensor, "m c"], numbers: Int[Tensor, " m"], weights: Float[Tensor, " c"]
) -> Float[Tensor, ""]:
    """Class-weighted cross-entropy of labelled voxels, as the authors meant it.

    Args:
        logits: (M, S + 1) of the voxels of a batch that carry an atomic number. The background,
            whose weight is 0, is left out beforehand.
        numbers: (M,) atomic numbers.
        weights: (S + 1,) of `inverse_frequency_weights`.

    Returns:
        Mean over the M voxels; 0 where there is none.
    """
    losses = F.cross_entropy(logits.float(), numbers, weight=weights, reduction="sum")
    return losses / max(1, len(numbers))


def released_species_loss(
    logits: Float[Tensor, "b c d d d"], numbers: Int[Tensor, "b d d d"]
) -> Float[Tensor, ""]:
    """Cross-entropy of every voxel, background included, times the number of classes.

    What the released code does: the number of classes is handed to the loss in the place of the
    class weights.
    """
    return logits.shape[1] * F.cross_entropy(logits.float(), numbers)


def inverse_frequency_weights(counts: Float[Tensor, " c"]) -> Float[Tensor, " c"]:
    """Class weights from how many voxels carry each atomic number.

    Args:
        counts: (S + 1,) voxels by Z; the entry of the background is not used.

    Returns:
        (S + 1,) weights in proportion to 1 / counts, 0 for the background and for classes that
        do not occur, scaled so that their mean over the labelled voxels is 1.
    """
    weights = torch.where(counts > 0, 1 / counts.clamp_min(1e-12), 0.0)
    weights[0] = 0.0
    labelled = counts[1:].sum()
    return weights * labelled / (weights * counts).sum().clamp_min(1e-12)
