"""Poses of a frame: which axis comes first, and which way each points (`nesf.boxes.frames`)."""

from __future__ import annotations

import itertools

import torch
from jaxtyping import Float
from torch import Tensor

# a cubic polynomial that no order and no signs of x, y and z leave as it is; only that matters
LINEAR = (-1.0, -0.73, -0.49)  # x, y, z
SQUARE = ((0.31, 0.27, -0.16), (0.0, 0.0, 0.19), (0.0, 0.0, -0.23))  # [i][j]: x_i x_j
CUBE = ((0.0, 0.13, -0.05), (-0.08, 0.0, 0.06), (0.03, -0.12, 0.0))  # [i][j]: x_i^2 x_j
PRODUCT = -0.11  # x y z


def best_poses(
    placed: Float[Tensor, "b t n 3"], weight: Float[Tensor, "b n"]
) -> tuple[Float[Tensor, "b t"], Float[Tensor, "b t 3 3"]]:
    """Of all orders and signs of three axes, those in which the mean of a polynomial is largest.

    The polynomial is smooth, so that similar clusters have similar poses, and it has no symmetry,
    so that two poses are equally good only where a symmetry of the cluster carries one into the
    other (or by chance).

    Args:
        placed: (B, T, N, 3) coordinates of the atoms of B clusters along T triples of axes.
        weight: (B, N) of the atoms, 0 for padding.

    Returns:
        The largest value (B, T), and its signed permutation (B, T, 3, 3): pose @ coordinates.
    """
    poses, coefficients = _poses(placed)
    share = weight / weight.sum(-1, keepdim=True).clamp_min(1e-9)  # (B, N)
    moments = (
        torch.einsum("btnk,bn->btk", placed, share),
        torch.einsum("btnk,btnl,bn->btkl", placed, placed, share).flatten(2),
        torch.einsum("btnk,btnl,bn->btkl", placed.square(), placed, share).flatten(2),
        torch.einsum("btn,bn->bt", placed.prod(-1), share).unsqueeze(-1),
    )
    value, best = (torch.cat(moments, dim=-1) @ coefficients).max(-1)
    return value, poses[best]


def _poses(like: Tensor) -> tuple[Float[Tensor, "48 3 3"], Float[Tensor, "22 48"]]:
    """All signed permutations, and the polynomial of each as coefficients of the moments."""
    poses = _signed_permutations(like)
    linear, square, cube = (like.new_tensor(c) for c in (LINEAR, SQUARE, CUBE))
    # sum_ij c_ij (P x)_i (P x)_j = sum_kl (P^T c P)_kl x_k x_l; squares have no sign
    parts = (
        linear @ poses,
        (poses.mT @ square @ poses).flatten(1),
        (poses.abs().mT @ cube @ poses).flatten(1),
        PRODUCT * poses.sum(-1).prod(-1, keepdim=True),
    )
    return poses, torch.cat(parts, dim=-1).mT


def _signed_permutations(like: Tensor) -> Float[Tensor, "48 3 3"]:
    signed = [
        torch.diag(torch.tensor(signs))[list(order)]
        for order in itertools.permutations(range(3))
        for signs in itertools.product((1.0, -1.0), repeat=3)
    ]
    return torch.stack(signed).to(like)
