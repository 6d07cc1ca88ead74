"""Random generators that a key decides, so that a resumed run draws what an unbroken one draws."""

import hashlib

import torch


def generator_for(
    seed: int, *key: int | str, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A generator whose stream depends on seed and key alone.

    Args:
        seed: of the run.
        key: what the numbers are for, and where: ("queries", step, rank), say.
        device: where the numbers are drawn; streams differ between kinds of device.
    """
    text = "\0".join(str(part) for part in (seed, *key))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return torch.Generator(device=device).manual_seed(int.from_bytes(digest, "little") >> 1)
