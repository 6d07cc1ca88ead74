"""Scores of single crystals, and their averages with bootstrap intervals.

Every figure is a ratio of two sums over crystals (right answers over answers, Å over atoms, ...),
so that one rule gives the average, its interval and any breakdown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from eval.cells import Cell, fault
from eval.matching import Match
from eval.metrics import (
    LatticeErrors,
    SiteErrors,
    box_site_errors,
    count_error,
    lattice_errors,
    periodic_site_errors,
    published_site_errors,
)


@dataclass(frozen=True)
class CrystalScore:
    """All that is known of one predicted crystal.

    Attributes:
        id: the reference's id.
        failure: why there is nothing to compare; None for a usable prediction.
        num_atoms: atoms of the reference.
        count_error: predicted minus true atom count.
        published: site errors as published (in-cell, plain distances).
        periodic: site errors to the nearest image; of boxes, which have none, plain ones in both.
        lattice: lattice errors.
        match: StructureMatcher's verdict; None if it was not asked.
    """

    id: str
    failure: str | None
    num_atoms: int
    count_error: int
    published: SiteErrors
    periodic: SiteErrors
    lattice: LatticeErrors
    match: Match | None = None

    @property
    def wrong_count(self) -> bool:
        """Whether the atom count is wrong; a failure's always is."""
        return self.failure is not None or self.count_error != 0


def score_crystal(
    name: str,
    reference: Cell,
    predicted: Cell | None,
    match: Match | None = None,
    boxes: bool = False,
) -> CrystalScore:
    """Score one prediction; a missing or unusable one is a failure (see `eval.metrics`).

    Args:
        name: the crystal's id.
        reference: the true crystal.
        predicted: the predicted one.
        match: StructureMatcher's verdict on the two.
        boxes: whether both are boxes, without periodic images.
    """
    failure = fault(predicted)
    usable = None if failure else predicted
    if boxes:
        published = periodic = box_site_errors(reference, usable)
    else:
        published = published_site_errors(reference, usable)
        periodic = periodic_site_errors(reference, usable)
    return CrystalScore(
        id=name,
        failure=failure,
        num_atoms=len(reference),
        count_error=count_error(reference, usable),
        published=published,
        periodic=periodic,
        lattice=lattice_errors(reference, usable),
        match=match,
    )


@dataclass(frozen=True)
class Metric:
    """One figure of the table.

    Attributes:
        name: its key in results.
        title: how a table calls it.
        unit: "%", "Å", "°" or "".
        tally: a crystal's share of (numerator, denominator).
    """

    name: str
    title: str
    unit: str
    tally: Callable[[CrystalScore], tuple[float, float]]


def _pooled(kind: str, attribute: str, scale: float) -> Callable[..., tuple[float, float]]:
    def tally(score: CrystalScore) -> tuple[float, float]:
        values = getattr(getattr(score, kind), attribute)
        return scale * float(values.sum()), float(len(values))

    return tally


def _site_metrics(kind: str, suffix: str, note: str) -> list[Metric]:
    """The four published site errors, pooled over the atoms of all crystals."""
    return [
        Metric(
            f"{quantity}_error_{side}{suffix}",
            f"{quantity} error, {side}{note}",
            unit,
            _pooled(kind, f"{quantity}_{side}", scale),
        )
        for quantity, unit, scale in (("position", "Å", 1.0), ("species", "%", 100.0))
        for side in ("actual", "detected")
    ]


METRICS: tuple[Metric, ...] = (
    Metric("wrong_count", "wrong atom count", "%", lambda s: (100.0 * s.wrong_count, 1)),
    Metric("count_mae", "atom count, mean abs. error", "", lambda s: (abs(s.count_error), 1)),
    *_site_metrics("periodic", "", ""),
    *_site_metrics("published", "_published", " (as published)"),
    Metric("length_mae", "cell lengths, mean abs. error", "Å", lambda s: (s.lattice.length, 1)),
    Metric("angle_mae", "cell angles, mean abs. error", "°", lambda s: (s.lattice.angle, 1)),
    Metric("volume_error", "cell volume, mean abs. error", "%", lambda s: (s.lattice.volume, 1)),
)
MATCH_METRICS: tuple[Metric, ...] = (
    Metric("match_rate", "StructureMatcher matches", "%", lambda s: match_tally(s.match)[0]),
    Metric("match_rmse", "RMSE of the matched", "", lambda s: match_tally(s.match)[1]),
)


def match_tally(match: Match | None) -> tuple[tuple[float, float], tuple[float, float]]:
    """A verdict's shares of match rate (%) and RMSE; a failure is unmatched.

    The RMSE is in units of (V / N)^(1/3) and, as everywhere, averaged over the matched alone.
    """
    rmse = match.rmse if match else None
    matched = float(rmse is not None)
    return (100.0 * matched, 1.0), (rmse or 0.0, matched)


Estimate = dict[str, float | None]


def estimate_ratios(
    tallies: Float[np.ndarray, "m k 2"], bootstrap: int, seed: int
) -> list[Estimate]:
    """Ratios of sums over crystals, with 95 % bootstrap intervals.

    Crystals, not atoms, are drawn with replacement: the errors of one crystal's atoms are not
    independent. Percentile intervals (Efron & Tibshirani 1993, chapter 13).

    Args:
        tallies: (M, K, 2) numerators and denominators of M crystals and K figures.
        bootstrap: number of resamples; 0 for no intervals.
        seed: of the resamples.

    Returns:
        K estimates {"value", "low", "high"}; None where a denominator is 0 or nothing was drawn.
    """
    totals = tallies.sum(0)
    draws = [np.full((0, tallies.shape[1]), np.nan)]
    generator = np.random.default_rng(seed)
    count = len(tallies)
    for start in range(0, bootstrap if count else 0, 64):  # in parts: (resamples, M) weights
        part = min(64, bootstrap - start)
        weights = generator.multinomial(count, np.full(count, 1 / count), size=part)
        sums = np.einsum("bm,mkt->bkt", weights, tallies, optimize=True)
        draws.append(_ratio(sums))
    resampled = np.concatenate(draws)
    estimates = []
    for value, column in zip(_ratio(totals), resampled.T, strict=True):
        drawn = column[np.isfinite(column)]
        low, high = np.percentile(drawn, [2.5, 97.5]) if len(drawn) else (np.nan, np.nan)
        estimates.append(
            {
                name: float(x) if np.isfinite(x) else None
                for name, x in (("value", value), ("low", low), ("high", high))
            }
        )
    return estimates


def _ratio(sums: np.ndarray) -> np.ndarray:
    """(..., 2) sums to (...) ratios, NaN where the denominator is 0."""
    numerator, denominator = sums[..., 0], sums[..., 1]
    empty = np.full(numerator.shape, np.nan)
    return np.divide(numerator, denominator, out=empty, where=denominator > 0)


def summarize(
    scores: Sequence[CrystalScore], *, bootstrap: int = 1000, seed: int = 0
) -> dict[str, Estimate]:
    """All figures over a set of crystals.

    Args:
        scores: one score a reference crystal, failures included.
        bootstrap: number of resamples for the intervals; 0 for none.
        seed: of the resamples.

    Returns:
        {metric name: {"value", "low", "high"}} for `METRICS`, `MATCH_METRICS` where crystals were
        matched, and "position_error_actual_median" (over atoms, without an interval).
    """
    matched = any(score.match is not None for score in scores)
    metrics = METRICS + (MATCH_METRICS if matched else ())
    tallies = np.array([[metric.tally(score) for metric in metrics] for score in scores])
    tallies = tallies.reshape(len(scores), len(metrics), 2).astype(float)
    estimates = estimate_ratios(tallies, bootstrap, seed)
    summary = {metric.name: value for metric, value in zip(metrics, estimates, strict=True)}
    atoms = [score.periodic.position_actual for score in scores]
    median = float(np.median(np.concatenate(atoms))) if atoms else None
    summary["position_error_actual_median"] = {"value": median, "low": None, "high": None}
    return summary


def score_row(score: CrystalScore) -> dict[str, str | float | bool | None]:
    """One crystal as a flat row: its own mean of every metric, and what failed."""
    row: dict[str, str | float | bool | None] = {
        "id": score.id,
        "failure": score.failure,
        "num_atoms": score.num_atoms,
        "num_atoms_predicted": score.num_atoms + score.count_error,
    }
    for metric in METRICS:
        if metric.name not in ("wrong_count", "count_mae"):
            numerator, denominator = metric.tally(score)
            row[metric.name] = numerator / denominator
    if score.match is not None:
        row["matched"] = score.match.matched
        row["match_rmse"] = score.match.rmse
        row["match_failure"] = score.match.failure
    return row
