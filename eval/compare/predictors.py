"""What predicts a property in a comparison: a network, a latent, or a simple rule."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from eval.compare.latent_ridge import fit_ridge, latents_of
from eval.compare.property_sets import PropertySets
from nesf import api
from nesf.checkpoint import find_model, load_model, read_model
from nesf.data.packed import PackedSet
from nesf.device import resolve_device

Answers = tuple[Float[np.ndarray, " m"], list[str | None]]


@dataclass(frozen=True)
class Predictor:
    """Something that tells a property of crystals.

    Attributes:
        predict: crystals to (M,) values, NaN where there is none, and for each the reason or None.
        about: what it is, as plain JSON: "class_path", "parameters", "latent_dim", "metadata".
        fit: what was fitted here beside its training, as plain JSON.
    """

    predict: Callable[[PackedSet], Answers]
    about: dict[str, Any]
    fit: dict[str, Any] = field(default_factory=dict)


def predictor_of(job: dict[str, Any], sets: PropertySets) -> Predictor:
    """The predictor that a job names.

    Args:
        job: "simple", or "model", "latent", "trusted_prefixes", "device" and "batch_size".
        sets: the crystals.

    Raises:
        CheckpointError: there is no such model.
        InputError: it is not of the kind that the job says.
    """
    if job["simple"]:
        return _simple(job["simple"], sets)
    return _latent(job, sets) if job["latent"] else _network(job, sets.target)


def _simple(rule: str, sets: PropertySets) -> Predictor:
    """A rule fitted to the training crystals."""
    from baselines.voxel_icsg3d.property_baselines import composition_features, fit_baselines

    began = time.perf_counter()
    features = composition_features(sets.test.atomic_numbers, sets.test.offsets)
    found = fit_baselines(sets.train, sets.target, features)
    values = found.ridge if rule == "ridge" else np.full(len(sets.test), getattr(found, rule))
    answers = dict(zip(sets.test.ids, values.tolist(), strict=True))
    fit: dict[str, Any] = {"trained_on": found.trained_on}
    if rule == "ridge":
        fit |= {"penalty": found.alpha, "features": features.shape[1]}
    fit["fit_s"] = round(time.perf_counter() - began, 4)

    def predict(crystals: PackedSet) -> Answers:
        return np.array([answers[name] for name in crystals.ids]), [None] * len(crystals)

    about: dict[str, Any] = {
        "class_path": None,
        "parameters": None,
        "latent_dim": None,
        "metadata": {},
    }
    return Predictor(predict, about, fit)


def _network(job: dict[str, Any], target: str) -> Predictor:
    """A trained property network."""
    from baselines.voxel_icsg3d.property_network import PropertyNetwork
    from baselines.voxel_icsg3d.property_predictions import predict_properties
    from nesf.errors import InputError

    device = resolve_device(job["device"])
    network = load_model(job["model"], device, tuple(job["trusted_prefixes"]))
    if not isinstance(network, PropertyNetwork) or target not in network.properties:
        kind = type(network).__name__
        raise InputError(f"{job['model']} is a {kind}, which does not predict {target}")
    column = network.properties.index(target)

    def predict(crystals: PackedSet) -> Answers:
        found = predict_properties(network, crystals, job["batch_size"])
        return found.values[:, column], found.refusals

    return Predictor(predict, _about(job["model"], network))


def _latent(job: dict[str, Any], sets: PropertySets) -> Predictor:
    """A ridge regression on a model's latents."""
    model = api.load(job["model"], job["device"], job["batch_size"], job["trusted_prefixes"])
    began = time.perf_counter()
    parts, refused = [], 0
    for crystals in (sets.train, sets.val):
        latent, reasons = latents_of(model, crystals, job["batch_size"])
        target = np.asarray(crystals.numbers(sets.target))
        usable = np.isfinite(latent).all(1) & np.isfinite(target)
        refused += sum(reason is not None for reason in reasons)
        parts += [latent[usable], target[usable]]
    if not len(parts[0]):
        from nesf.errors import InputError

        raise InputError(f"{job['model']} gives no latent of any training crystal")
    ridge = fit_ridge(*parts)

    def predict(crystals: PackedSet) -> Answers:
        latent, reasons = latents_of(model, crystals, job["batch_size"])
        return ridge.predict(latent), reasons

    fit = {
        "trained_on": ridge.trained_on,
        "not_represented": refused,
        "penalty": ridge.penalty,
        "val_mae": ridge.val_mae,
        "fit_s": round(time.perf_counter() - began, 4),
    }
    return Predictor(
        predict, _about(job["model"], model.module) | {"latent_dim": len(ridge.weights)}, fit
    )


def _about(name_or_path: str, module: Any) -> dict[str, Any]:
    content = read_model(find_model(name_or_path))
    return {
        "class_path": content.model["class_path"],
        "parameters": sum(p.numel() for p in module.parameters()),
        "latent_dim": None,
        "metadata": content.metadata,
    }
