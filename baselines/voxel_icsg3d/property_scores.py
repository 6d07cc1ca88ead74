"""How far predicted properties are off, beside what simple models reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from baselines.voxel_icsg3d.property_baselines import fit_baselines
from nesf.data.packed import PackedSet

SIMPLE = ("ridge", "median", "mean")


def compare(
    method: str,
    properties: Sequence[str],
    values: Float[np.ndarray, "m p"],
    truth: Float[np.ndarray, "m p"],
    fallback: Float[np.ndarray, " p"],
    features: Float[np.ndarray, "m f"],
    training: PackedSet | None,
    bootstrap: int,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """Mean absolute errors with 95 % bootstrap intervals, for each property with true values.

    A crystal that could be read but not predicted scores the error of the predictor's training
    mean, so that refusing a hard one does not pay.

    Args:
        method: name of the predictor.
        properties: P names.
        values: (M, P) what was predicted, NaN where it was refused.
        truth: (M, P) NaN where it is not known.
        fallback: (P,) the predictor's training mean.
        features: (M, F) `composition_features`.
        training: what the simple models learn from; None leaves them out.
        bootstrap: number of resamples, of crystals.
        seed: of the resamples.

    Returns:
        By property: `crystals`, `mae` ({method: {"value", "low", "high"}}), and of the simple
        models `trained_on` and `ridge_alpha`.

    Raises:
        InputError: the training set lacks a property.
    """
    from eval.scores import estimate_ratios

    result: dict[str, dict[str, Any]] = {}
    for i, name in enumerate(properties):
        known = np.isfinite(truth[:, i])
        if not known.any():
            continue
        told: dict[str, Any] = {"crystals": int(known.sum())}
        predicted = {method: np.where(np.isfinite(values[:, i]), values[:, i], fallback[i])}
        if training is not None:
            simple = fit_baselines(training, name, features)
            predicted |= {"ridge": simple.ridge}
            predicted |= {k: np.full(len(truth), getattr(simple, k)) for k in ("median", "mean")}
            told |= {"trained_on": simple.trained_on, "ridge_alpha": simple.alpha}
        errors = np.stack([abs(p - truth[:, i])[known] for p in predicted.values()], axis=1)
        tallies = np.stack([errors, np.ones_like(errors)], axis=-1)  # (known, methods, 2)
        scores = estimate_ratios(tallies, bootstrap, seed)
        result[name] = told | {"mae": dict(zip(predicted, scores, strict=True))}
    return result


def format_comparison(properties: Mapping[str, Mapping[str, Any]]) -> str:
    """The errors of `compare` as a Markdown table."""
    methods = {name: None for told in properties.values() for name in told["mae"]}
    # the predictor first
    names = [name for name in methods if name not in SIMPLE]
    names += [name for name in SIMPLE if name in methods]
    lines = [
        "mean absolute error (95 % interval), in each property's unit",
        "",
        f"| property | crystals | {' | '.join(names)} |",
        f"|---|---|{'---|' * len(names)}",
    ]
    for name, told in properties.items():
        cells = [_cell(told["mae"][k]) for k in names]
        lines.append(f"| {name} | {told['crystals']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(score: Mapping[str, float | None]) -> str:
    if score["low"] is None:
        return f"{score['value']:.4f}"
    return f"{score['value']:.4f} ({score['low']:.4f} to {score['high']:.4f})"
