"""Predicting a property of a test set, timed, row by row into a file.

Runs in a process of its own (`python -m eval.compare.child`), so that the memory is the model's.
"""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eval.compare.describe import describe_machine
from eval.compare.predictors import predictor_of
from eval.compare.property_sets import PropertySets
from nesf.device import resolve_device
from nesf.memory import PeakMemory

COLUMNS = ("id", "true", "predicted", "reason")
_WARM_UP = 8  # crystals


def predict_set(job: dict[str, Any]) -> dict[str, Any]:
    """Predict the property of every test crystal, into a table that grows batch by batch.

    Args:
        job: "target", "train", "val", "test", "output", "threads", and what
            `predictors.predictor_of` takes.

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
