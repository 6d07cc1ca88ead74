"""Is a latent good for properties? A ridge regression on it, in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from eval.compare.measuring.models import out_of_range
from nesf import api
from nesf.crystal import CrystalBatch
from nesf.data.packed import PackedSet

PENALTIES: tuple[float, ...] = tuple(10.0 ** np.arange(-3.0, 6.01, 0.25))


@dataclass(frozen=True)
class LatentRidge:
    """A linear function of latents.

    Attributes:
        center: (L,) mean of the training latents.
        scale: (L,) their deviation, 1 where they are all alike.
        weights: (L,) for standardised latents.
        intercept: mean of the training values.
        penalty: on the squared weights.
        val_mae: mean absolute error on the validation crystals.
        trained_on: number of training crystals.
    """

    center: Float[np.ndarray, " l"]
    scale: Float[np.ndarray, " l"]
    weights: Float[np.ndarray, " l"]
    intercept: float
    penalty: float
    val_mae: float
    trained_on: int

    def predict(self, latent: Float[np.ndarray, "m l"]) -> Float[np.ndarray, " m"]:
        """(M,) values of (M, L) latents; NaN where a latent is."""
        return (latent - self.center) / self.scale @ self.weights + self.intercept


def fit_ridge(
    latent: Float[np.ndarray, "m l"],
    target: Float[np.ndarray, " m"],
    val_latent: Float[np.ndarray, "k l"],
    val_target: Float[np.ndarray, " k"],
    penalties: Sequence[float] = PENALTIES,
) -> LatentRidge:
    """Fit a ridge regression whose penalty has the least absolute error on validation crystals.

    With standardised latents Z = U S V^T the weights are V (S^2 + penalty)^-1 S U^T (y - mean y)
    (Hastie, Tibshirani & Friedman, The Elements of Statistical Learning, equation 3.47).

    Args:
        latent: (M, L) of the training crystals.
        target: (M,) their values.
        val_latent: (K, L) of the validation crystals; none takes the largest penalty.
        val_target: (K,) their values.
        penalties: to choose from.
    """
    center, scale = latent.mean(0), latent.std(0)
    scale = np.where(scale > 1e-8 * np.abs(latent).max(), scale, 1.0)
    intercept = float(target.mean())
    u, s, vt = np.linalg.svd((latent - center) / scale, full_matrices=False)
    projected = s * (u.T @ (target - intercept))
    fits = []
    for penalty in sorted(penalties, reverse=True):
        weights = vt.T @ (projected / (s**2 + penalty))
        found = (val_latent - center) / scale @ weights + intercept
        error = float(np.abs(found - val_target).mean()) if len(val_target) else 0.0
        fits.append((error, penalty, weights))
    error, penalty, weights = min(fits, key=lambda fit: fit[0])
    return LatentRidge(center, scale, weights, intercept, penalty, error, len(target))


def latents_of(
    model: api.Model, crystals: PackedSet, batch_size: int
) -> tuple[Float[np.ndarray, "m l"], list[str | None]]:
    """What the encoder says of crystals; a property that conditions the model is not told to it.

    Args:
        model: any with `encode`.
        crystals: M of them.
        batch_size: crystals at once.

    Returns:
        (M, L) latents, NaN where there is none, and for each crystal why, or None.
    """
    values = np.full((len(crystals), model.latent_dim), np.nan)
    reasons: list[str | None] = []
    for start in range(0, len(crystals), batch_size):
        index = np.arange(start, min(start + batch_size, len(crystals)))
        batch = crystals.batch(index)
        told = _refusals(model, batch)
        usable = [i for i, reason in enumerate(told) if reason is None]
        if usable:
            latent = model.encode(_untold(model, batch.select(usable))).double().cpu().numpy()
            values[index[usable]] = latent
            for i, good in zip(usable, np.isfinite(latent).all(1), strict=True):
                told[i] = None if good else "its latent is not finite"
        reasons += told
    values[[reason is not None for reason in reasons]] = np.nan
    return values, reasons


def _refusals(model: api.Model, crystals: CrystalBatch) -> list[str | None]:
    """For each crystal why the model cannot represent it, or None."""
    highest = crystals.atomic_numbers.where(crystals.mask, 0).amax(1).tolist()
    told = [
        out_of_range(model, z, count)
        for z, count in zip(highest, crystals.num_atoms.tolist(), strict=True)
    ]
    usable = [i for i, reason in enumerate(told) if reason is None]
    if usable:
        part = _untold(model, crystals.select(usable))
        for i, reason in zip(usable, model.refusals(part), strict=True):
            told[i] = reason
    return told


def _untold(model: api.Model, crystals: CrystalBatch) -> CrystalBatch:
    """The crystals with the model's condition unknown: it may be what is to be predicted."""
    name = model.condition_property
    if not name:
        return crystals
    return crystals.replace(properties={name: torch.full((len(crystals),), torch.nan)})
