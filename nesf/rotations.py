"""Random rotations: all of them, or those of a cube."""

from __future__ import annotations

import itertools
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

RotationKind = Literal["none", "quarter", "any"]


def random_rotations(
    count: int, kind: RotationKind, generator: torch.Generator
) -> Float[Tensor, "b 3 3"]:
    """Proper rotations, uniform over their kind, on the generator's device.

    Args:
        count: how many, B.
        kind: `none` (the identity), `quarter` (the 24 of a cube) or `any` (a normal quaternion,
            normalised: Shoemake, Graphics Gems III, 1992).
        generator: draws them.
    """
    device = generator.device
    if kind == "none":
        return torch.eye(3, device=device).repeat(count, 1, 1)
    if kind == "quarter":
        index = torch.randint(24, (count,), generator=generator, device=device)
        return quarter_turns().to(device)[index]
    quaternion = torch.randn(count, 4, generator=generator, device=device)
    w, x, y, z = (quaternion / quaternion.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = (
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], dim=-1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], dim=-1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], dim=-1),
    )
    return torch.stack(rows, dim=-2)


def quarter_turns() -> Float[Tensor, "24 3 3"]:
    """The rotations that bring a cube onto itself: signed permutations of determinant 1."""
    signed = [
        torch.diag(torch.tensor(signs))[list(order)]
        for order in itertools.permutations(range(3))
        for signs in itertools.product((1.0, -1.0), repeat=3)
    ]
    every = torch.stack(signed)
    return every[torch.linalg.det(every) > 0]
