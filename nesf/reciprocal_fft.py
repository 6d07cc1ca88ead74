"""Structure factors of large cells by FFT: atoms spread over a mesh, and the spreading undone.

A non-uniform FFT of type 1. The spreading function is the exponential of a semicircle, with the
width and the oversampling that give six digits (Barnett, Magland and af Klinteberg, SIAM J. Sci.
Comput. 41, C479, 2019).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

WIDTH = 8  # mesh points that an atom is spread over along each axis
BETA = 2.30 * WIDTH  # of the spreading function, for a mesh twice as fine as needed
_QUADRATURE = 64  # nodes of the spreading function's Fourier integral: exact to rounding


def structure_factors_fft(
    frac_coords: Float[Tensor, "b n 3"],
    indices: Int[Tensor, "b g 3"],
    weights: Float[Tensor, "b c n"],
) -> Complex[Tensor, "b c g"]:
    """Σ_j w_j exp(-2πi k·f_j), as `nesf.reciprocal.structure_factors`, to 1e-5 of Σ_j |w_j|.

    It takes time and memory in proportion to the box of indices plus 512 times the atoms, whatever
    their product. Crystals and channels go one by one, since each box has a mesh of its own.

    Args:
        frac_coords: (B, N, 3) f.
        indices: (B, G, 3) k.
        weights: (B, C, N) w.
    """
    found = torch.zeros(
        (*weights.shape[:2], indices.shape[1]),
        dtype=torch.complex(weights[:0], weights[:0]).dtype,
        device=weights.device,
    )
    for i, (coords, wanted) in enumerate(zip(frac_coords, indices, strict=True)):
        used = weights[i].abs().amax(0) > 0  # padding has no weight
        if len(wanted) and used.any():
            found[i] = _one_crystal(coords[used], wanted, weights[i][:, used])
    return found


def _one_crystal(
    coords: Float[Tensor, "n 3"], indices: Int[Tensor, "g 3"], weights: Float[Tensor, "c n"]
) -> Complex[Tensor, "c g"]:
    most = indices.abs().amax(0).tolist()
    shape = [max(2 * WIDTH, _smooth(2 * (2 * m + 1))) for m in most]
    places, shares = zip(
        *(_spread(coords[:, axis], size) for axis, size in enumerate(shape)), strict=True
    )
    # (N, w, w, w): the mesh points around each atom, and its share in each
    near = (places[0][:, :, None, None] * shape[1] + places[1][:, None, :, None]) * shape[
        2
    ] + places[2][:, None, None, :]
    share = shares[0][:, :, None, None] * shares[1][:, None, :, None] * shares[2][:, None, None, :]
    undone = torch.ones_like(coords[:1, 0])
    at = []
    for axis, size in enumerate(shape):
        undone = undone / _transform(size, coords)[indices[:, axis].abs()]
        at.append(indices[:, axis] % size)
    found = []
    for weight in weights:
        mesh = coords.new_zeros(math.prod(shape))
        mesh.index_add_(0, near.flatten(), (share * weight[:, None, None, None]).flatten())
        found.append(torch.fft.fftn(mesh.view(shape))[at[0], at[1], at[2]] * undone)
    return torch.stack(found)


def _spread(
    coords: Float[Tensor, " n"], size: int
) -> tuple[Int[Tensor, "n w"], Float[Tensor, "n w"]]:
    """The mesh points around each atom along one axis, and the spreading function there."""
    position = (coords - coords.floor()) * size
    begin = torch.ceil(position - WIDTH / 2)
    points = begin.unsqueeze(-1) + torch.arange(WIDTH, device=coords.device)  # (N, w)
    z = (points - position.unsqueeze(-1)) * (2 / WIDTH)
    share = torch.exp(BETA * ((1 - z.square()).clamp_min(0).sqrt() - 1))
    return points.long() % size, share


def _transform(size: int, like: Tensor) -> Float[Tensor, " k"]:
    """What spreading makes of the Fourier coefficients 0, 1, ... of one axis."""
    nodes, heights = np.polynomial.legendre.leggauss(_QUADRATURE)
    spread = heights * np.exp(BETA * (np.sqrt(1 - nodes**2) - 1))
    turns = np.arange(size // 2 + 1)[:, None] * nodes * (WIDTH / 2 / size)
    values = (spread * np.cos(2 * np.pi * turns)).sum(-1) * (WIDTH / 2)
    return torch.as_tensor(values, dtype=like.dtype, device=like.device)


def _smooth(size: int) -> int:
    """The next even number whose only prime factors are 2, 3 and 5: FFTs of these are fast."""
    while True:
        rest = size
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1 and size % 2 == 0:
            return size
        size += 1
