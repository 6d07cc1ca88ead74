"""How much memory a process takes, since it began or for one piece of work; and what it keeps."""

from __future__ import annotations

import ctypes
import gc
import sys
from contextlib import suppress
from pathlib import Path

import torch

# of glibc's malloc.h, and what they are set to, bytes
_MALLOPT = {-1: 2**30, -2: 2**26, -3: 2**25}  # M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_memory(device: torch.device | str) -> int:
    """The most memory that this process has held so far, bytes; 0 where it cannot be told.

    On a GPU, what PyTorch has allocated there; on a processor, the process's resident memory,
    the interpreter and its libraries included.

    Args:
        device: where the process computes.
    """
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError):  # getrusage would tell the parent's peak, too, which Linux hands on
        return _status("VmHWM")
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # kilobytes elsewhere


def keep_freed_memory() -> bool:
    """Let this process keep freed memory for its next tensors, up to 1 GiB.

    glibc hands large blocks back at once, and each of them is mapped and zeroed anew, page by page:
    a twentieth of the time of a training step on a CPU, and of a reconstruction. For programs, not
    for libraries: it holds for the whole process.

    Returns:
        Whether the C library does so; another one than glibc is left as it is.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return all(mallopt(option, value) for option, value in _MALLOPT.items())


class PeakMemory:
    """Peak memory between `start` and `read`: PyTorch's on a GPU, else the resident memory.

    The resident memory of a process has a high-water mark that Linux can set back; where it
    cannot, `read` gives None.

    Args:
        device: where the work is done.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.before: int | None = None

    def start(self) -> None:
        """Forget what was before."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
            self.before = torch.cuda.memory_allocated(self.device)
            return
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # freed memory is not to count as held
        try:
            _CLEAR.write_text("5")
            self.before = _status("VmRSS")
        except OSError:
            self.before = None

    def read(self) -> tuple[int | None, int | None]:
        """(peak, peak less what was held at the start), bytes; None where it cannot be told."""
        if self.before is None:
            return None, None
        peak = peak_memory(self.device)
        return peak, max(0, peak - self.before)


def _status(name: str) -> int:
    """An entry of the process's status, bytes."""
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"{_STATUS} does not tell {name}")
