"""Devices by name."""

import torch

from nesf.errors import InputError


def resolve_device(device: str | torch.device) -> torch.device:
    """The device that a name means.

    Args:
        device: `cpu`, `cuda`, `cuda:0`, ..., or `auto` for a GPU where there is one.

    Raises:
        InputError: the name is unknown, or there is no such device here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f"there is no device {device} here; give cpu, cuda, cuda:0 or auto"
        ) from error
    return resolved
