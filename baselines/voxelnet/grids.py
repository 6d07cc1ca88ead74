"""Where the coefficients of reciprocal points go in a grid: interpolation weights, and their sum.

A point's coefficient is shared among the voxels around it in proportion to how near their centres
are (linear interpolation in each coordinate). So the grid is a continuous function of the crystal:
a point on the border of two voxels, which rounding could put into either, gives half to each, and
what does not change the crystal does not change the grid. Voxel centres lie symmetrically around
g = 0, so that a rotation of the cube permutes the voxels. Nothing is lost but what lies beyond the
outermost centres: its share fades out over one voxel's width.

|h| is the same at g and -g, so that one half of the grid tells the other. Of each pair the point
whose second coordinate (y, or the polar angle) is in the lower half is shared among voxels, and
only the layer beyond the middle is mirrored.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from baselines.voxelnet.options import VoxelOptions

_AT_ONCE = 1 << 24  # shares that are held at once
_INT32 = 2**31 - 1


def reach(options: VoxelOptions) -> float:
    """How far from 0 points count: half the side of a cube or radius of a ball, Å⁻¹."""
    outermost = options.spacing if options.kind == "cartesian" else options.spacing / 2
    return options.side / 2 + outermost / 2


def half_grid(
    vectors: Float[Tensor, "3 k"],
    sizes: Float[Tensor, "c k"],
    owners: Int[Tensor, " k"],
    count: int,
    options: VoxelOptions,
) -> Float[Tensor, "b c n h n"]:
    """The sum of all points' values in the voxels, points standing for themselves and for -g.

    Args:
        vectors: (3, K) points, Å⁻¹.
        sizes: (C, K) their values.
        owners: (K,) the crystal of each.
        count: B, crystals.
        options: of the grid.

    Returns:
        (B, C, N, H, N) of the N layers along the second axis the first H = N/2 + 1, which are one
        half and the layer that is next to it.
    """
    n, middle = options.resolution, options.resolution // 2
    shape = (len(sizes), count, n, middle + 1, n)
    grid = sizes.new_zeros(shape)
    most = max(1, _AT_ONCE // (8 * max(1, len(sizes))))
    add = _add_cartesian if options.kind == "cartesian" else _add_spherical
    parts = (whole.split(most, dim=-1) for whole in (vectors, sizes, owners))
    for some, values, of in zip(*parts, strict=True):
        add(grid, some, values, of, options)
    # what the other points give to this half, and this half's last layer to the next
    grid[..., middle - 1, :] += _mirrored(grid[..., middle, :], options)
    grid[..., middle, :] = _mirrored(grid[..., middle - 1, :], options)
    return grid.transpose(0, 1)


def whole_grid(
    half: Float[Tensor, "b c n h n"], options: VoxelOptions
) -> Float[Tensor, "b c n n n"]:
    """All layers, of those that `half_grid` gives."""
    lower = half[..., : options.resolution // 2, :]
    upper = lower.flip(2, 3, 4)
    if options.kind == "spherical":  # the same distance, and half a turn on
        upper = lower.flip(3).roll(options.resolution // 2, dims=4)
    return torch.cat([lower, upper], dim=3)


def _mirrored(layer: Float[Tensor, "*b n m"], options: VoxelOptions) -> Float[Tensor, "*b n m"]:
    """The layer of the -g: of x and z, or of distance and azimuth."""
    if options.kind == "cartesian":
        return layer.flip(-2, -1)
    return layer.roll(options.resolution // 2, dims=-1)


def _add_cartesian(
    grid: Float[Tensor, "c b n h n"],
    vectors: Float[Tensor, "3 k"],
    sizes: Float[Tensor, "c k"],
    owners: Int[Tensor, " k"],
    options: VoxelOptions,
) -> None:
    n = options.resolution
    inside = (vectors.abs().amax(0) < reach(options)).nonzero().squeeze(-1)
    vectors, owners = vectors.index_select(1, inside), owners[inside]
    folded = vectors * torch.where(vectors[1] > 0, -1.0, 1.0).to(vectors)  # y <= 0
    places, shares = _between(folded / options.spacing + n / 2, n)
    _add_corners(grid, places, shares, sizes.index_select(1, inside), owners)


def _add_spherical(
    grid: Float[Tensor, "c b n h n"],
    vectors: Float[Tensor, "3 k"],
    sizes: Float[Tensor, "c k"],
    owners: Int[Tensor, " k"],
    options: VoxelOptions,
) -> None:
    """Shares in (distance, polar angle, azimuth).

    Where a coordinate means nothing, at the poles and at g = 0, all its values share alike; within
    half a voxel of there the two ways fade into each other, so that the grid stays continuous.
    """
    n = options.resolution
    x, y, z = vectors * torch.where(vectors[2] < 0, -1.0, 1.0).to(vectors)  # z >= 0
    across = torch.hypot(x, y)
    distance = torch.hypot(across, z) / (options.side / 2) * n  # 0 to N
    polar = torch.atan2(across, z) / math.pi * n  # 0 to N / 2
    azimuth = torch.atan2(y, x) / (2 * math.pi) * n % n
    # inside the first centre of an axis there is one cell alone
    places, shares = _between(
        torch.stack([distance.clamp_min(0.5), polar.clamp_min(0.5), azimuth]), n, periodic=2
    )
    # 1 where direction and azimuth mean something, 0 at the centre and at the poles
    directed = (2 * distance).clamp_max(1.0)
    turned = (2 * polar).clamp_max(1.0)
    by_distance = shares[0] * directed  # (2, K)
    shares[0] = by_distance * turned
    _add_corners(grid, places, shares, sizes, owners)

    polar_cap = (turned < 1).nonzero().squeeze(-1)
    share = (by_distance * (1 - turned)).index_select(1, polar_cap) / n  # (2, K')
    rings = places[0].index_select(1, polar_cap) + owners[polar_cap] * n
    central = (directed < 1).nonzero().squeeze(-1)
    # both g and -g are spread over the whole innermost shell
    shell = (1 - directed)[central] * (2 / n**2)
    for channel, values in zip(grid, sizes, strict=True):
        ring = values.new_zeros(grid.shape[1] * n)
        ring.index_add_(0, rings.flatten(), (share * values[polar_cap]).flatten())
        channel[:, :, 0] += ring.view(-1, n, 1)
        inner = values.new_zeros(grid.shape[1]).index_add_(
            0, owners[central], shell * values[central]
        )
        # the layer in the middle is made of the one before it and must not count twice
        channel[:, 0, : n // 2] += inner[:, None, None]


def _between(
    position: Float[Tensor, "3 k"], n: int, periodic: int | None = None
) -> tuple[Int[Tensor, "3 2 k"], Float[Tensor, "3 2 k"]]:
    """The two cells of each axis whose centres enclose a position, and the shares of both.

    Args:
        position: from 0 to n; cell i has its centre at i + 1/2.
        n: cells.
        periodic: the axis whose last cell is followed by the first; of the others, what falls to
            cells beyond the ends is lost.
    """
    position = position - 0.5
    below = position.floor()
    upper = position - below
    first = below.to(torch.int32)
    places = torch.stack([first, first + 1], dim=1)
    shares = torch.stack([1 - upper, upper], dim=1)
    if periodic is not None:
        places[periodic] %= n
    shares *= (places >= 0) & (places < n)
    return places.clamp_(0, n - 1), shares


def _add_corners(
    grid: Float[Tensor, "c b n h n"],
    places: Int[Tensor, "3 2 k"],
    shares: Float[Tensor, "3 2 k"],
    sizes: Float[Tensor, "c k"],
    owners: Int[Tensor, " k"],
) -> None:
    """Share values among the eight voxels that one of two cells along each of three axes make."""
    _, count, n, h, _ = grid.shape
    x, y, z = places
    p, q, r = shares
    whole = torch.int32 if count * n * h * n <= _INT32 else torch.int64
    x = x.to(whole) + owners.to(whole) * n
    plane = (x[:, None] * h + y) * n  # (2, 2, K)
    where = (plane[:, :, None] + z).flatten()  # (2, 2, 2, K) -> (8 K)
    share = (p[:, None] * q)[:, :, None] * r  # (2, 2, 2, K)
    for channel, values in zip(grid, sizes, strict=True):
        channel.view(-1).index_add_(0, where, (share * values).flatten())
