"""Training losses: pure functions of predictions and targets."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F


def scaled_distance_loss(
    predicted: Float[Tensor, "*b 3"],
    offset: Float[Tensor, "*b 3"],
    floor: float = 0.1,
    slope: float = 0.5,
) -> Float[Tensor, ""]:
    """Mean of |predicted - offset| / (floor + slope |offset|).

    An error matters less far from the atom, where a particle will be moved again, than near it.

    Args:
        predicted: (..., 3) offsets, Å.
        offset: (..., 3) true offsets, Å.
        floor: Å; bounds the weight of queries on top of an atom.
        slope: growth of the tolerated error with distance.
    """
    error = (predicted - offset).norm(dim=-1)
    return (error / (floor + slope * offset.norm(dim=-1))).mean()


def squared_distance_loss(
    predicted: Float[Tensor, "*b 3"], offset: Float[Tensor, "*b 3"]
) -> Float[Tensor, ""]:
    """Mean squared error over components, Å^2, as published (arXiv:2212.13120)."""
    return F.mse_loss(predicted, offset)


def species_loss(logits: Float[Tensor, "r q s"], species: Int[Tensor, "r q"]) -> Float[Tensor, ""]:
    """Mean cross-entropy over queries."""
    return F.cross_entropy(logits.flatten(0, 1), species.flatten())


def elements_loss(
    logits: Float[Tensor, "b s"], species: Int[Tensor, "b n"], mask: Bool[Tensor, "b n"]
) -> Float[Tensor, ""]:
    """Mean over crystals of `elements_entropy`."""
    return elements_entropy(logits, species, mask).mean()


def elements_entropy(
    logits: Float[Tensor, "b s"], species: Int[Tensor, "b n"], mask: Bool[Tensor, "b n"]
) -> Float[Tensor, " b"]:
    """Binary cross-entropy of which elements occur, summed over elements."""
    occurs = torch.zeros_like(logits)
    occurs.scatter_reduce_(1, species, mask.to(logits.dtype), reduce="amax")
    return F.binary_cross_entropy_with_logits(logits, occurs, reduction="none").sum(-1)
