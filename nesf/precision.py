"""Where bfloat16 pays, autocast there, and full precision where it would do harm."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

import torch

Found = TypeVar("Found")


def has_fast_bfloat16(device: torch.device | str) -> bool:
    """Whether matrix products in bfloat16 run on units of their own (AMX, tensor cores)."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)
    return kind == "cpu" and torch.cpu._is_amx_tile_supported()


def autocast(device: torch.device | str, wanted: bool = True) -> AbstractContextManager[None]:
    """Autocast to bfloat16 where it pays and is wanted, and none elsewhere."""
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=wanted and has_fast_bfloat16(device))


def full_precision(device: torch.device | str) -> AbstractContextManager[None]:
    """Autocast off, for lattices and coordinates: bfloat16 keeps three digits of them.

    Under a trainer's autocast every matrix product of float32 tensors is rounded, geometry too.
    """
    return torch.autocast(torch.device(device).type, enabled=False)


@contextmanager
def undisturbed(device: torch.device | str) -> Iterator[None]:
    """No gradients but those that are asked for within, and no mode or autocast of the caller's."""
    with torch.inference_mode(False), torch.no_grad(), full_precision(device):
        yield


def each_within(
    context: Callable[[], AbstractContextManager[None]], steps: Iterator[Found]
) -> Iterator[Found]:
    """What an iterator gives, found within contexts that hold only while it looks for the next."""
    while True:
        with context():
            try:
                found = next(steps)
            except StopIteration:
                return
        yield found


@contextmanager
def float32_by_default() -> Iterator[None]:
    """What is made has float32, whatever the process's default is."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
