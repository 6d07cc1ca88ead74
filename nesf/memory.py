"""How much memory a process has taken."""

from __future__ import annotations

import sys

import torch


def peak_memory(device: torch.device | str) -> int:
    """The most memory that this process has held so far, bytes.

    On a GPU, what PyTorch has allocated there; on a processor, the process's resident memory,
    the interpreter and its libraries included.

    Args:
        device: where the process computes.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # kilobytes elsewhere
