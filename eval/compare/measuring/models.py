"""What a model is, what it cannot take, and where it was measured."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nesf import api
from nesf.checkpoint import find_model, read_model


def describe_model(
    name_or_path: str, module: nn.Module, latent_dim: int | None = None
) -> dict[str, Any]:
    """What a model is, and what its file tells of its training, as plain JSON.

    Args:
        name_or_path: of its file.
        module: its network.
        latent_dim: length of its latents; None where it has none.
    """
    content = read_model(find_model(name_or_path))
    return {
        "class_path": content.model["class_path"],
        "parameters": sum(p.numel() for p in module.parameters()),
        "latent_dim": latent_dim,
        "metadata": content.metadata,
    }


def out_of_range(model: api.Model, highest: int, count: int) -> str | None:
    """Why a model cannot represent a crystal, whatever lies where in it; or None.

    Args:
        model: that it is to go through.
        highest: atomic number in the crystal.
        count: of its atoms.
    """
    known, most = model.max_atomic_number, model.max_atoms
    if highest > known:
        return f"it has Z = {highest}, and the model knows elements up to {known}"
    if most is not None and count > most:
        return f"it has {count} atoms, and the model holds up to {most}"
    return None


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Where it was measured, as plain JSON."""
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
