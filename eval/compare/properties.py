"""A property to predict: crystals that have it, and how far predicted values are off."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from eval.compare.plan import Comparison
from eval.scores import Estimate, estimate_ratios
from nesf.data.packed import PackedSet, load_or_pack
from nesf.errors import InputError


@dataclass(frozen=True)
class PropertySets:
    """Crystals with a property: all test crystals have it, some of the others.

    Attributes:
        target: name of the property.
        train: crystals to learn from.
        val: crystals on which penalties are chosen.
        test: crystals that errors are measured on.
    """

    target: str
    train: PackedSet
    val: PackedSet
    test: PackedSet

    @staticmethod
    def read(
        target: str, train: Sequence[str], val: Sequence[str], test: Sequence[str]
    ) -> PropertySets:
        """Read the files.

        Args:
            target: name of the property.
            train: files in any format of the readers.
            val: likewise.
            test: likewise.

        Raises:
            InputError: a set lacks the property, a test crystal has no value of it, or is a
                training crystal, too.
        """
        sets = []
        for files in (train, val, test):
            crystals = PackedSet.load(load_or_pack(list(files), progress=False))
            try:
                known = np.isfinite(crystals.numbers(target))
            except InputError as error:
                raise InputError(f"{', '.join(files)}: {error}") from error
            if not known.any():
                raise InputError(f"no crystal of {', '.join(files)} has a value of {target}")
            sets.append(crystals)
        unknown = np.flatnonzero(~np.isfinite(sets[2].numbers(target)))
        if len(unknown):
            raise InputError(
                f"{len(unknown)} of the {len(sets[2])} crystals of {', '.join(test)} have no value "
                f"of {target}, the first is {sets[2].ids[int(unknown[0])]}; leave them out"
            )
        if seen := set(sets[0].ids) & set(sets[2].ids):
            raise InputError(
                f"{len(seen)} ids of {', '.join(test)} are in {', '.join(train)}, too; give other "
                "test crystals"
            )
        return PropertySets(target, *sets)

    @property
    def truth(self) -> Float[np.ndarray, " m"]:
        """(M,) true values of the test crystals."""
        return np.asarray(self.test.numbers(self.target))

    @property
    def mean(self) -> float:
        """Of the training crystals that have a value: what a missing prediction is scored as."""
        return float(np.nanmean(self.train.numbers(self.target)))


def sets_of(plan: Comparison) -> PropertySets:
    """The crystals of a comparison for a property.

    Raises:
        InputError: they lack the property, or cannot be read.
    """
    data = plan.data
    return PropertySets.read(str(plan.target), data.train, data.val, data.test)


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
