"""What a model is and where it was measured, as plain JSON."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from nesf import api
from nesf.checkpoint import find_model, read_model
from nesf.commands.parts import batch_of_rows

if TYPE_CHECKING:
    from nesf.data.records import Row


def describe_model(model: api.Model, name_or_path: str, rows: Sequence[Row]) -> dict[str, Any]:
    """What a model is, and what its file tells of its training."""
    content = read_model(find_model(name_or_path))
    latent = model.encode(batch_of_rows(rows[:1], model)) if rows else None
    return {
        "class_path": content.model["class_path"],
        "parameters": sum(p.numel() for p in model.module.parameters()),
        "latent_dim": None if latent is None else latent.shape[-1],
        "metadata": content.metadata,
    }


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Where it was measured."""
    return {
        "device": str(device),
        "device_name": device_name(device),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("nesf", "torch", "lightning")},
    }


def device_name(device: torch.device) -> str:
    """What stands on the chip, where the system tells it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in text.splitlines() if "model name" in line]
    return names[0] if names and names[0] != "unknown" else platform.machine()
