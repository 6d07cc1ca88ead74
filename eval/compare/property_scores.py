"""How far predicted values are off, with intervals; a missing one does not go uncounted."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from eval.scores import Estimate, estimate_ratios


def property_metrics(
    truth: Float[np.ndarray, " m"],
    predicted: Float[np.ndarray, " m"],
    mean: float,
    bootstrap: int,
    seed: int,
) -> dict[str, Estimate]:
    """Errors over all test crystals, with 95 % bootstrap intervals over crystals.

    A crystal without a prediction is scored as if the training mean had been said of it, so that
    refusing a hard one does not pay.

    Args:
        truth: (M,) in the property's unit.
        predicted: (M,) NaN where there is none.
        mean: of the training crystals.
        bootstrap: number of resamples; 0 for no intervals.
        seed: of the resamples.

    Returns:
        `mae` and `rmse` in the property's unit; `mae_share`, the mean absolute error in per cent
        of that of the training mean; `r2`, 1 less the squared error over the squared deviation
        from the mean of all test crystals.
    """
    error = np.where(np.isfinite(predicted), predicted, mean) - truth
    one = np.ones_like(truth)
    tallies = np.stack(
        [
            np.stack([np.abs(error), one], axis=-1),
            np.stack([100 * np.abs(error), np.abs(mean - truth)], axis=-1),
            np.stack([error**2, one], axis=-1),
            np.stack([error**2, (truth - truth.mean()) ** 2], axis=-1),
        ],
        axis=1,
    )  # (M, 4, 2)
    mae, share, squared, left = estimate_ratios(tallies, bootstrap, seed)
    return {
        "mae": mae,
        "mae_share": share,
        "rmse": _changed(squared, math.sqrt),
        "r2": _changed(left, lambda value: 1.0 - value, falls=True),
    }


def _changed(estimate: Estimate, change: Callable[[float], float], falls: bool = False) -> Estimate:
    """An estimate of a monotonic function of what was estimated."""
    known: dict[str, Any] = {k: None if v is None else change(v) for k, v in estimate.items()}
    if falls:
        known["low"], known["high"] = known["high"], known["low"]
    return known
