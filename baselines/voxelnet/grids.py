"""Where the coefficients of reciprocal points go in a grid: interpolation weights, and their sum.

A point's coefficient is shared among the voxels around it in proportion to how near their centres
are (linear interpolation in each coordinate). So the grid is a continuous function of the crystal:
a point on the border of two voxels, which rounding could put into either, gives half to each, and
what does not change the crystal does not change the grid. Voxel centres lie symmetrically around
g = 0, so that a rotation of the cube permutes the voxels. Nothing is lost but what lies beyond the
outermost centres: its share fades out over one voxel's width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from baselines.voxelnet.options import VoxelOptions

_AT_ONCE = 1 << 24  # shares that are held at once, over crystals and channels


@dataclass(frozen=True)
class Deposit:
    """How G points are shared among voxels.

    Attributes:
        voxels: (B, G, 8) numbers of voxels, in a grid without its axes.
        shares: (B, G, 8) what each of them gets of the point.
        rings: (B, G, 2) numbers of rings around the nearer pole, in a grid of distances and polar
            angles; spherical only.
        ring_shares: (B, G, 2) what each of them gets, all its azimuths alike; spherical only.
        shell: (B, G) what the innermost shell gets, all its directions alike; spherical only.
    """

    voxels: Int[Tensor, "b g 8"]
    shares: Float[Tensor, "b g 8"]
    rings: Int[Tensor, "b g 2"] | None = None
    ring_shares: Float[Tensor, "b g 2"] | None = None
    shell: Float[Tensor, "b g"] | None = None


def reach(options: VoxelOptions) -> float:
    """How far from 0 points count: half the side of a cube or radius of a ball, Å⁻¹."""
    outermost = options.spacing if options.kind == "cartesian" else options.spacing / 2
    return options.side / 2 + outermost / 2


def deposit(vectors: Float[Tensor, "b g 3"], options: VoxelOptions) -> Deposit:
    """How points are shared among the voxels of a grid.

    Args:
        vectors: (B, G, 3) points, Å⁻¹.
        options: of the grid.
    """
    if options.kind == "cartesian":
        n = options.resolution
        places, shares = _between(vectors / options.spacing + n / 2, n)  # (B, G, 3, 2)
        return Deposit(*_corners(places, shares, n))
    return _spherical(vectors, options)


def _between(
    position: Float[Tensor, "*b"], n: int, periodic: bool = False
) -> tuple[Int[Tensor, "*b 2"], Float[Tensor, "*b 2"]]:
    """The two cells of an axis whose centres enclose a position, and the shares of both.

    Args:
        position: from 0 to n; cell i has its centre at i + 1/2.
        n: cells.
        periodic: whether the last is followed by the first; otherwise what falls to cells beyond
            the ends is lost.
    """
    below = (position - 0.5).floor()
    upper = position - 0.5 - below
    places = torch.stack([below, below + 1], dim=-1).long()
    shares = torch.stack([1 - upper, upper], dim=-1)
    if periodic:
        return places % n, shares
    inside = (places >= 0) & (places < n)
    return places.clamp(0, n - 1), shares * inside


def _corners(
    places: Int[Tensor, "b g 3 2"], shares: Float[Tensor, "b g 3 2"], n: int
) -> tuple[Int[Tensor, "b g 8"], Float[Tensor, "b g 8"]]:
    """The eight voxels that one of two cells along each of three axes make."""
    x, y, z = places.unbind(-2)  # (B, G, 2) each
    voxels = (x[..., :, None, None] * n + y[..., None, :, None]) * n + z[..., None, None, :]
    p, q, r = shares.unbind(-2)
    product = p[..., :, None, None] * q[..., None, :, None] * r[..., None, None, :]
    return voxels.flatten(-3), product.flatten(-3)  # (B, G, 2, 2, 2) -> (B, G, 8)


def _spherical(vectors: Float[Tensor, "b g 3"], options: VoxelOptions) -> Deposit:
    """Shares in (distance, polar angle, azimuth).

    Where a coordinate means nothing, at the poles and at g = 0, all its values share alike; within
    half a voxel of there the two ways fade into each other, so that the grid stays continuous.
    """
    n = options.resolution
    x, y, z = vectors.unbind(-1)
    across = torch.hypot(x, y)
    distance = vectors.norm(dim=-1) / (options.side / 2) * n  # 0 to N
    polar = torch.atan2(across, z) / math.pi * n
    azimuth = torch.atan2(y, x) / (2 * math.pi) * n % n
    # inside the first and beyond the last centre of an axis there is one cell alone
    radial_places, radial = _between(distance.clamp_min(0.5), n)
    polar_places, tilted = _between(polar.clamp(0.5, n - 0.5), n)
    azimuth_places, around = _between(azimuth, n, periodic=True)
    # 1 where direction and azimuth mean something, 0 at the centre and at the poles
    directed = (2 * distance).clamp_max(1.0)
    turned = (2 * torch.minimum(polar, n - polar)).clamp(0.0, 1.0)
    places = torch.stack([radial_places, polar_places, azimuth_places], dim=-2)
    shares = torch.stack([radial, tilted, around], dim=-2)
    voxels, product = _corners(places, shares, n)
    pole = torch.where(polar < n / 2, 0, n - 1)
    return Deposit(
        voxels,
        product * (directed * turned).unsqueeze(-1),
        rings=radial_places * n + pole.unsqueeze(-1),
        ring_shares=radial * (directed * (1 - turned)).unsqueeze(-1),
        shell=1 - directed,
    )


def fill(
    values: Float[Tensor, "b c g"], shared: Deposit, options: VoxelOptions
) -> Float[Tensor, "b c n n n"]:
    """The sum of all points' values in the voxels, for points that stand for themselves and for -g.

    Args:
        values: (B, C, G) of the points, half of those of pairs.
        shared: how the points are shared among the voxels.
        options: of the grid.
    """
    b, c, _ = values.shape
    n = options.resolution
    grid = _scatter(values, shared.voxels, shared.shares, n**3).view(b, c, n, n, n)
    if shared.rings is not None and shared.ring_shares is not None and shared.shell is not None:
        rings = _scatter(values, shared.rings, shared.ring_shares, n**2).view(b, c, n, n)
        grid = grid + rings.unsqueeze(-1) / n
        inner = (values * shared.shell.unsqueeze(1)).sum(-1) / n**2  # (B, C)
        grid[:, :, 0] += inner[:, :, None, None]
        # -g: the same distance, the other pole's angle, and half a turn on
        return grid + grid.flip(3).roll(n // 2, dims=4)
    return grid + grid.flip(2, 3, 4)


def _scatter(
    values: Float[Tensor, "b c g"],
    places: Int[Tensor, "b g k"],
    shares: Float[Tensor, "b g k"],
    size: int,
) -> Float[Tensor, "b c s"]:
    """The sums in `size` places, some points at a time."""
    b, c, _ = values.shape
    grid = values.new_zeros(b, c, size)
    step = max(1, _AT_ONCE // max(1, b * c * places.shape[-1]))
    parts = (whole.split(step, dim) for whole, dim in ((values, 2), (places, 1), (shares, 1)))
    for some, where, share in zip(*parts, strict=True):
        # (B, C, G', k) -> (B, C, G' k)
        shared = (some.unsqueeze(-1) * share.unsqueeze(1)).flatten(2)
        grid.scatter_add_(2, where.flatten(1).unsqueeze(1).expand(b, c, -1), shared)
    return grid
