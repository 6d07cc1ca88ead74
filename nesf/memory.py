"""How much memory a process has taken."""

from __future__ import annotations

import sys
from pathlib import Path

import torch


def peak_memory(device: torch.device | str) -> int:
    """The most memory that this process has held so far, bytes; 0 where it cannot be told.

    On a GPU, what PyTorch has allocated there; on a processor, the process's resident memory,
    the interpreter and its libraries included.

    Args:
        device: where the process computes.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would tell the parent's peak, too, which Linux hands on
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return 1024 * int(fields["VmHWM"].split()[0])
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # kilobytes elsewhere
