"""Reconstructing a test set with one model, timed; and its speed and memory by size.

Runs in a process of its own (`python -m eval.compare.child`), so that the memory is the model's.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from eval.cells import LIMITS
from eval.compare.measuring.models import describe_machine, describe_model, out_of_range
from eval.evaluate import ATOM_COUNT_BINS, BOX_COUNT_BINS
from nesf import api
from nesf.checkpoint import find_model, read_model
from nesf.commands.parts import batch_of_rows
from nesf.data.readers import read_crystals
from nesf.data.writers import open_writer
from nesf.memory import PeakMemory
from nesf.model_config import build_model

if TYPE_CHECKING:
    from nesf.data.records import Row
    from nesf.reconstruction.reconstruct import Reconstruction

_WARM_UP = 8  # crystals


@dataclass(frozen=True)
class Speed:
    """Times of encoding and decoding, files and conversions left out.

    Attributes:
        crystals: how many.
        encode_s: for all of them, s.
        decode_s: likewise.
    """

    crystals: int
    encode_s: float
    decode_s: float

    def __add__(self, other: Speed) -> Speed:
        """Both passes together."""
        return Speed(
            self.crystals + other.crystals,
            self.encode_s + other.encode_s,
            self.decode_s + other.decode_s,
        )

    def per_crystal(self) -> dict[str, float]:
        """Seconds a crystal."""
        count = max(1, self.crystals)
        return {"encode_s": self.encode_s / count, "decode_s": self.decode_s / count}


def reconstruct_set(job: dict[str, Any]) -> dict[str, Any]:
    """Take a test set through a model and back, into a file.

    Args:
        job: "model", "trusted_prefixes", "device", "threads", "batch_size", "inputs", "output",
            "boxes", "refine", and "growth": "crystals", "batch_size", "limit_s".

    Returns:
        Plain JSON: what the model is, speed, memory, and the crystals that it gave nothing for
        with their reasons: "cannot_represent" those that it refuses, "failures" the others.
    """
    if job["threads"]:
        torch.set_num_threads(job["threads"])
    rows, _ = read_crystals(job["inputs"], LIMITS, progress=False)
    model = api.load(job["model"], job["device"], job["batch_size"], job["trusted_prefixes"])
    if job["boxes"]:
        model = model.of_boxes()
    usable, refused = sort_out(model, rows, job["batch_size"])
    memory = PeakMemory(model.device)
    if usable:
        _pass(model, usable[:_WARM_UP], job["refine"])
    memory.start()
    total = Speed(0, 0.0, 0.0)
    failures: list[dict[str, str]] = []
    Path(job["output"]).unlink(missing_ok=True)
    with open_writer(job["output"]) as writer:
        for start in range(0, len(usable), job["batch_size"]):
            part = usable[start : start + job["batch_size"]]
            speed, found, finite = _pass(model, part, job["refine"])
            total += speed
            failures += _write(writer, part, found, finite)
            print(f"reconstructed {total.crystals} of {len(usable)} crystals", flush=True)
    peak, extra = memory.read()
    latent_dim = model.encode(batch_of_rows(usable[:1], model)).shape[-1] if usable else None
    return {
        "crystals": total.crystals,
        "batch_size": job["batch_size"],
        "encode_s": round(total.encode_s, 4),
        "decode_s": round(total.decode_s, 4),
        "peak_memory_bytes": peak,
        "working_memory_bytes": extra,
        "cannot_represent": refused,
        "failures": failures,
        "model": describe_model(job["model"], model.module, latent_dim),
        "machine": describe_machine(model.device),
        "by_num_atoms": _by_num_atoms(model, usable, memory, job),
    }


def measure_variant(job: dict[str, Any]) -> dict[str, Any]:
    """Speed and memory of a model with changed arguments, on an even choice of test crystals.

    Args:
        job: as for `reconstruct_set`, without "output"; "changes": arguments of the model's class.
    """
    if job["threads"]:
        torch.set_num_threads(job["threads"])
    rows, _ = read_crystals(job["inputs"], LIMITS, progress=False)
    path = find_model(job["model"])
    content = read_model(path)
    arguments = merged(content.model.get("init_args", {}), job["changes"])
    torch.manual_seed(0)
    module = build_model(
        {**content.model, "init_args": arguments}, path, tuple(job["trusted_prefixes"])
    )
    trained = _fits(module, content.state_dict)
    model = api.Model(module, job["device"], job["batch_size"])
    if job["boxes"]:
        model = model.of_boxes()
    growth = job["growth"]
    usable, refused = sort_out(model, rows, job["batch_size"])
    chosen = spread_choice(sorted(usable, key=lambda row: len(row.structure)), growth["crystals"])
    memory = PeakMemory(model.device)
    return {
        "weights": "trained" if trained else "random",
        "parameters": sum(p.numel() for p in module.parameters()),
        "cannot_represent": len(refused),
        "machine": describe_machine(model.device),
        **_measure(model, chosen, memory, job),
    }


def sort_out(
    model: api.Model, rows: Sequence[Row], batch_size: int
) -> tuple[list[Row], list[dict[str, str]]]:
    """Crystals that a model can represent, and the others with the reason."""
    usable: list[Row] = []
    refused: list[dict[str, str]] = []
    for start in range(0, len(rows), batch_size):
        part = []
        for row in rows[start : start + batch_size]:
            cell = row.structure
            reason = out_of_range(model, max(cell.atomic_numbers), len(cell))
            if reason is None:
                part.append(row)
            else:
                refused.append({"id": row.id, "reason": reason})
        reasons = model.refusals(batch_of_rows(part, model)) if part else []
        for row, told in zip(part, reasons, strict=True):
            if told is None:
                usable.append(row)
            else:
                refused.append({"id": row.id, "reason": told})
    return usable, refused


def _pass(
    model: api.Model, rows: Sequence[Row], refine: int
) -> tuple[Speed, Reconstruction | None, torch.Tensor]:
    """Encode and decode one batch; what has no finite latent is not decoded."""
    crystals = batch_of_rows(rows, model)
    _wait(model.device)
    began = time.perf_counter()
    latent = model.encode(crystals, refine)
    _wait(model.device)
    encoded = time.perf_counter()
    finite = latent.isfinite().all(-1)
    found = model.decode_crystals(latent[finite]) if finite.any() else None
    _wait(model.device)
    ended = time.perf_counter()
    return Speed(len(rows), encoded - began, ended - encoded), found, finite.cpu()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _write(
    writer: Any, rows: Sequence[Row], found: Reconstruction | None, finite: torch.Tensor
) -> list[dict[str, str]]:
    """Write what came out; what did not is told."""
    failures = [
        {"id": row.id, "reason": "its latent is not finite"}
        for row, good in zip(rows, finite.tolist(), strict=True)
        if not good
    ]
    if found is None:
        return failures
    crystals = found.crystals.to("cpu")
    decoded = [row for row, good in zip(rows, finite.tolist(), strict=True) if good]
    sound = crystals.lattice.isfinite().all(-1).all(-1)
    sound &= (crystals.frac_coords.isfinite().all(-1) | ~crystals.mask).all(-1)
    for i, row in enumerate(decoded):
        if not sound[i]:
            failures.append({"id": row.id, "reason": "its cell or its sites are not finite"})
        elif not crystals.mask[i].any():
            failures.append({"id": row.id, "reason": "no atom was found"})
        else:
            writer.write(row.id, crystals.select([i]).to_structures()[0])
    return failures


def _by_num_atoms(
    model: api.Model, rows: Sequence[Row], memory: PeakMemory, job: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Speed and memory for small and large cells."""
    measured: list[dict[str, Any]] = []
    bins = BOX_COUNT_BINS if job["boxes"] else ATOM_COUNT_BINS
    for first, last in bins if job["growth"]["limit_s"] else ():
        part = [
            row
            for row in rows
            if first <= len(row.structure) and (last is None or len(row.structure) <= last)
        ]
        if part:
            chosen = spread_choice(part, job["growth"]["crystals"])
            figures = _measure(model, chosen, memory, job)
            measured.append({"first": first, "last": last, **figures})
    return measured


def _measure(
    model: api.Model, rows: Sequence[Row], memory: PeakMemory, job: Mapping[str, Any]
) -> dict[str, Any]:
    """Seconds a crystal and peak memory, of as many batches as the time limit allows."""
    batch_size, limit_s = job["growth"]["batch_size"], job["growth"]["limit_s"]
    parts = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    began = time.monotonic()
    if parts:
        _pass(model, parts[0], job["refine"])  # the first call of a shape may be slow
    memory.start()
    total = Speed(0, 0.0, 0.0)
    for part in parts:
        if total.crystals and time.monotonic() - began > limit_s:
            break
        speed, _, _ = _pass(model, part, job["refine"])
        total += speed
    peak, extra = memory.read()
    atoms = [len(row.structure) for row in rows[: total.crystals]]
    return {
        "crystals": total.crystals,
        "mean_atoms": round(sum(atoms) / max(1, len(atoms)), 2),
        "batch_size": batch_size,
        **total.per_crystal(),
        "peak_memory_bytes": peak,
        "working_memory_bytes": extra,
    }


def spread_choice(rows: Sequence[Row], count: int) -> list[Row]:
    """At most `count` of them, evenly spread over their order."""
    if len(rows) <= count:
        return list(rows)
    return [rows[round(i * (len(rows) - 1) / max(1, count - 1))] for i in range(count)]


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Arguments with some changed; nested ones are changed inside."""
    result = dict(base)
    for name, value in changes.items():
        old = result.get(name)
        nested = isinstance(old, dict) and isinstance(value, dict)
        result[name] = merged(old, value) if nested else value  # type: ignore[arg-type]
    return result


def _fits(module: nn.Module, weights: dict[str, torch.Tensor]) -> bool:
    """Load trained weights where they fit the changed model; else it keeps its random ones."""
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    if shapes != {name: tuple(tensor.shape) for name, tensor in weights.items()}:
        return False
    module.load_state_dict(weights)
    return True
