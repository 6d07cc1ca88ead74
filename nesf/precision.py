"""Where bfloat16 pays, autocast there, and full precision where it would do harm."""

from contextlib import AbstractContextManager

import torch


def has_fast_bfloat16(device: torch.device | str) -> bool:
    """Whether matrix products in bfloat16 run on units of their own (AMX, tensor cores)."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)
    return kind == "cpu" and torch.cpu._is_amx_tile_supported()


def autocast(device: torch.device | str) -> AbstractContextManager[None]:
    """Autocast to bfloat16 where it pays, a context that changes nothing elsewhere."""
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=has_fast_bfloat16(device))


def full_precision(device: torch.device | str) -> AbstractContextManager[None]:
    """Autocast off, for lattices and coordinates: bfloat16 keeps three digits of them.

    Under a trainer's autocast every matrix product of float32 tensors is rounded, geometry too.
    """
    return torch.autocast(torch.device(device).type, enabled=False)
