"""Predicting a property of a test set, timed, row by row into a file; and what predicts it.

Runs in a process of its own (`python -m eval.compare.child`), so that the memory is the model's.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from eval.compare.measuring.latent_ridge import fit_ridge, latents_of
from eval.compare.measuring.models import describe_machine, describe_model
from eval.compare.properties import PropertySets
from nesf import api
from nesf.checkpoint import load_model
from nesf.data.packed import PackedSet
from nesf.device import resolve_device
from nesf.errors import InputError
from nesf.memory import PeakMemory

COLUMNS = ("id", "true", "predicted", "reason")
_WARM_UP = 8  # crystals

Answers = tuple[Float[np.ndarray, " m"], list[str | None]]


def predict_set(job: dict[str, Any]) -> dict[str, Any]:
    """Predict the property of every test crystal, into a table that grows batch by batch.

    Args:
        job: "target", "train", "val", "test", "output", "threads", and what
            `predictor_of` takes.

    Returns:
        Plain JSON: what the predictor is, its speed and memory, and the crystals that it gave
        nothing for, with their reasons.
    """
    if job["threads"]:
        torch.set_num_threads(job["threads"])
    sets = PropertySets.read(job["target"], job["train"], job["val"], job["test"])
    device = resolve_device(job["device"])
    predictor = predictor_of(job, sets)
    memory = PeakMemory(device)
    count, size = len(sets.test), job["batch_size"]
    predictor.predict(sets.test.select(range(min(count, _WARM_UP))))
    memory.start()
    seconds = 0.0
    refused: list[dict[str, str]] = []
    with Path(job["output"]).open(
        "w", newline="", encoding="utf-8", errors="backslashreplace"
    ) as f:
        writer = csv.writer(f, lineterminator="\n")
        writer.writerow(COLUMNS)
        for start in range(0, count, size):
            part = sets.test.select(range(start, min(start + size, count)))
            began = time.perf_counter()
            values, reasons = predictor.predict(part)
            seconds += time.perf_counter() - began
            truth = np.asarray(part.numbers(sets.target))
            for name, true, value, reason in zip(part.ids, truth, values, reasons, strict=True):
                if reason is None and not np.isfinite(value):
                    reason = "what is predicted for it is not finite"
                if reason is not None:
                    refused.append({"id": name, "reason": reason})
                writer.writerow(
                    [name, f"{true:.9g}", "" if reason else f"{value:.9g}", reason or ""]
                )
            f.flush()
            print(f"predicted {start + len(part)} of {count} crystals", flush=True)
    peak, extra = memory.read()
    return {
        "crystals": count,
        "batch_size": size,
        "seconds": round(seconds, 4),
        "peak_memory_bytes": peak,
        "working_memory_bytes": extra,
        "failures": refused,
        "fit": predictor.fit,
        "model": predictor.about,
        "machine": describe_machine(device),
    }


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

    device = resolve_device(job["device"])
    network = load_model(job["model"], device, tuple(job["trusted_prefixes"]))
    if not isinstance(network, PropertyNetwork) or target not in network.properties:
        kind = type(network).__name__
        raise InputError(f"{job['model']} is a {kind}, which does not predict {target}")
    column = network.properties.index(target)

    def predict(crystals: PackedSet) -> Answers:
        found = predict_properties(network, crystals, job["batch_size"])
        return found.values[:, column], found.refusals

    return Predictor(predict, describe_model(job["model"], network))


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
    return Predictor(predict, describe_model(job["model"], model.module, len(ridge.weights)), fit)
