"""What a property predictor has to beat: the training set's mean and median, and a linear model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer

from baselines.voxel_icsg3d.descriptors import element_properties
from nesf.crystal import MAX_ATOMIC_NUMBER
from nesf.data.packed import PackedSet

RIDGE_ALPHAS = np.logspace(-4, 4, 33)


@dataclass(frozen=True)
class BaselinePredictions:
    """What the simple models say of M crystals.

    Attributes:
        mean: of the training set.
        median: of the training set, the constant of the least absolute error.
        ridge: (M,) of the linear model.
        alpha: its penalty, chosen by leave-one-out on the training set.
        trained_on: crystals of the training set that have a value.
    """

    mean: float
    median: float
    ridge: Float[np.ndarray, " m"]
    alpha: float
    trained_on: int


def composition_features(
    atomic_numbers: Integer[np.ndarray, " total"], offsets: Integer[np.ndarray, " bounds"]
) -> Float[np.ndarray, "m f"]:
    """What a formula says: the elements' fractions, and statistics of what they are like.

    The statistics are mean, deviation, least and largest value over the atoms of what
    `element_properties` tells, the same facts that a `CGCNN` is given.

    Args:
        atomic_numbers: (T,) Z of all atoms, crystal after crystal.
        offsets: (M + 1,) where each crystal's atoms begin; each has one at least.
    """
    atomic_numbers = np.asarray(atomic_numbers, dtype=np.int64)
    starts, counts = offsets[:-1], np.diff(offsets)[:, None]
    crystal = np.repeat(np.arange(len(counts)), counts[:, 0])
    fractions = np.zeros((len(counts), MAX_ATOMIC_NUMBER))
    np.add.at(fractions, (crystal, atomic_numbers - 1), 1.0)
    fractions /= counts
    values = element_properties().numpy()[atomic_numbers - 1]  # (T, 5)
    mean = np.add.reduceat(values, starts) / counts
    variance = np.add.reduceat((values - mean[crystal]) ** 2, starts) / counts
    low, high = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
    return np.concatenate([fractions, mean, np.sqrt(variance), low, high], axis=1)


def fit_baselines(
    train: PackedSet, name: str, features: Float[np.ndarray, "m f"]
) -> BaselinePredictions:
    """Fit the simple models to one property of a training set, and ask them.

    Args:
        train: the crystals to learn from.
        name: the property.
        features: (M, F) `composition_features` of the crystals to predict.

    Raises:
        InputError: the training set has no such column of numbers, or no value in it.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from nesf.errors import InputError

    column = np.asarray(train.numbers(name))
    known = np.isfinite(column)
    if not known.any():
        raise InputError(f"no crystal of the training set has a value of {name}")
    known_features = composition_features(train.atomic_numbers, train.offsets)[known]
    linear = make_pipeline(StandardScaler(), RidgeCV(alphas=RIDGE_ALPHAS))
    linear.fit(known_features, column[known])
    return BaselinePredictions(
        mean=float(column[known].mean()),
        median=float(np.median(column[known])),
        ridge=np.asarray(linear.predict(features)),
        alpha=float(linear[-1].alpha_),
        trained_on=int(known.sum()),
    )
