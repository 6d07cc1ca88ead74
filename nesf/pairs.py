"""Pairs of points within a radius, in many crystals at once and across cell faces."""

from __future__ import annotations

import importlib.util
from functools import cache
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nesf.errors import InputError
from nesf.geometry import plane_spacings

Backend = Literal["auto", "torch", "torch_cluster"]

# distances held at once: some 100 MB of float32 with the temporaries
MAX_PAIRS = 2**21


@cache
def has_torch_cluster() -> bool:
    """Whether the optional extra torch-cluster is installed."""
    return importlib.util.find_spec("torch_cluster") is not None


def resolve_backend(backend: Backend, many: bool) -> Backend:
    """The backend to use: `auto` takes torch-cluster where installed and worth it.

    Raises:
        InputError: torch-cluster was asked for and is not installed.
    """
    if backend == "auto":
        return "torch_cluster" if many and has_torch_cluster() else "torch"
    if backend == "torch_cluster" and not has_torch_cluster():
        raise InputError(
            "torch-cluster is not installed; install the extra nesf[cluster] or use backend 'torch'"
        )
    return backend


def periodic_ghosts(
    points: Float[Tensor, "m 3"],
    crystal: Int[Tensor, " m"],
    lattice: Float[Tensor, "b 3 3"],
    reach: float,
) -> tuple[Float[Tensor, "g 3"], Int[Tensor, " g"]]:
    """Points wrapped into their cells, and their images up to `reach` outside of them.

    Args:
        points: (M, 3) points of all crystals, Å.
        crystal: (M,) crystal of each point.
        lattice: (B, 3, 3) cells to wrap into (reduced ones need the fewest images), Å.
        reach: how far from the cell an image still counts, Å.

    Returns:
        (G, 3) points, the M wrapped ones first, and (G,) the point that each is an image of.
    """
    fractions = (points.unsqueeze(1) @ torch.linalg.inv(lattice)[crystal]).squeeze(1)
    fractions = fractions - fractions.floor()
    cells = lattice[crystal]
    width = reach / plane_spacings(lattice)  # (B, 3) in fractions
    limits = width.amax(0).ceil().long().tolist() if len(width) else [0, 0, 0]
    axes = [torch.arange(-n, n + 1, device=points.device) for n in limits]
    shifts = torch.cartesian_prod(*axes).to(points.dtype)
    shifts = shifts[shifts.abs().sum(-1) > 0]  # (K, 3)
    moved = fractions.unsqueeze(1) + shifts  # (M, K, 3)
    margin = width[crystal].unsqueeze(1)
    near = ((moved >= -margin) & (moved <= 1 + margin)).all(-1)  # (M, K)
    source = near.nonzero()[:, 0]
    fractions = torch.cat([fractions, moved[near]])
    source = torch.cat([torch.arange(len(points), device=points.device), source])
    return (fractions.unsqueeze(1) @ cells[source]).squeeze(1), source


def radius_pairs(
    points: Float[Tensor, "m 3"],
    crystal: Int[Tensor, " m"],
    radius: float,
    lattice: Float[Tensor, "b 3 3"] | None = None,
    backend: Backend = "auto",
) -> tuple[Int[Tensor, "2 e"], Float[Tensor, " e"]]:
    """All pairs of points of one crystal that lie within a radius, both ways and with themselves.

    Args:
        points: (M, 3) points of all crystals, Å.
        crystal: (M,) crystal of each point.
        radius: Å.
        lattice: (B, 3, 3) cells; with them distances are those of the nearest images, Å.
        backend: `torch` (a cell list), `torch_cluster`, or `auto`, which is the former.

    Returns:
        (2, E) pairs of indices into `points`, and (E,) their distances, Å.
    """
    order = crystal.argsort(stable=True)
    points, sorted_crystal = points[order], crystal[order]
    targets, source = points, torch.arange(len(points), device=points.device)
    if lattice is not None and len(points):
        targets, source = periodic_ghosts(points, sorted_crystal, lattice, radius)
        points = targets[: len(points)]
        by_crystal = sorted_crystal[source].argsort(stable=True)
        targets, source = targets[by_crystal], source[by_crystal]
    target_crystal = sorted_crystal[source]
    chosen = resolve_backend(backend, many=False)
    find = _pairs_torch_cluster if chosen == "torch_cluster" else pairs_within
    first, second = find(points, sorted_crystal, targets, target_crystal, radius)
    distance = (points[first] - targets[second]).norm(dim=-1)
    second = source[second]
    if lattice is not None and len(lattice) and float(plane_spacings(lattice).min()) <= 2 * radius:
        first, second, distance = _nearest_of_each(first, second, distance, len(points))
    return torch.stack([order[first], order[second]]), distance


def _nearest_of_each(
    first: Tensor, second: Tensor, distance: Tensor, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """In a thin cell two images of one point can lie within the radius: keep the nearer."""
    keys, inverse = torch.unique(first * count + second, return_inverse=True)
    least = torch.full_like(keys, torch.inf, dtype=distance.dtype)
    least.scatter_reduce_(0, inverse, distance, "amin")
    return keys // count, keys % count, least


def _pairs_torch_cluster(
    points: Tensor, crystal: Tensor, targets: Tensor, target_crystal: Tensor, radius: float
) -> tuple[Tensor, Tensor]:
    from torch_cluster import radius as radius_search

    if not len(points):
        return crystal[:0], crystal[:0]
    # with fewer slots than neighbours torch-cluster drops some of them without a word
    slots = int(torch.bincount(target_crystal).max())
    pairs = radius_search(targets, points, radius, target_crystal, crystal, max_num_neighbors=slots)
    return pairs[0], pairs[1]


def pairs_within(
    points: Float[Tensor, "m 3"],
    crystal: Int[Tensor, " m"],
    targets: Float[Tensor, "t 3"],
    target_crystal: Int[Tensor, " t"],
    radius: float,
) -> tuple[Int[Tensor, " e"], Int[Tensor, " e"]]:
    """Points and targets of the same crystal within a radius of each other, by a cell list.

    Targets are sorted by bins as wide as the radius, of which the 27 around a point are searched.

    Args:
        points: (M, 3), Å, finite.
        crystal: (M,) crystal of each point.
        targets: (T, 3), Å, finite.
        target_crystal: (T,) crystal of each target.
        radius: Å.

    Returns:
        (E,) indices of points and (E,) of targets.

    Raises:
        InputError: the targets are so far apart that their bins cannot be numbered.
    """
    if not len(points) or not len(targets):
        return crystal[:0], crystal[:0]
    low = targets.amin(0)
    side = radius * (1 + 1e-5)  # neighbours stay in neighbouring bins in spite of rounding
    bins = torch.floor((targets - low) / side).long() + 1  # (T, 3) from 1: 0 is an empty border
    sizes = bins.amax(0) + 2
    if float(sizes.double().prod()) * (int(crystal.max()) + 1) > 2**62:
        raise InputError(f"points lie too far apart for pairs within {radius} Å")

    def key(place: Tensor, owner: Tensor) -> Tensor:
        return ((owner * sizes[0] + place[:, 0]) * sizes[1] + place[:, 1]) * sizes[2] + place[:, 2]

    keys, order = key(bins, target_crystal).sort(stable=True)
    # points beyond the border have no neighbours: in it they meet no other crystal's bins
    own = (torch.floor((points - low) / side) + 1).clamp(min=0).long().minimum(sizes - 1)
    steps = torch.arange(-1, 2, device=points.device)
    columns = torch.cartesian_prod(steps, steps)  # (9, 2); the three bins along z are one run
    shift = (columns[:, 0] * sizes[1] + columns[:, 1]) * sizes[2]
    middle = (key(own, crystal).unsqueeze(-1) + shift).flatten()  # (M * 9,)
    start = torch.searchsorted(keys, middle - 1)
    count = torch.searchsorted(keys, middle + 1, right=True) - start
    firsts, seconds = [], []
    for begin, end in _spans(count.cumsum(0), MAX_PAIRS):
        owner = torch.arange(begin, end, device=points.device).repeat_interleave(count[begin:end])
        gap = start[begin:end] - (count[begin:end].cumsum(0) - count[begin:end])
        place = gap[owner - begin] + torch.arange(len(owner), device=points.device)
        first, second = owner // 9, order[place]
        near = (points[first] - targets[second]).square().sum(-1) <= radius**2
        firsts.append(first[near])
        seconds.append(second[near])
    return torch.cat(firsts), torch.cat(seconds)


def _spans(total: Tensor, limit: int) -> list[tuple[int, int]]:
    """Cut the entries of a running total into spans that add about `limit` each."""
    blocks = int(total[-1]) // limit + 1
    marks = torch.arange(1, blocks, device=total.device) * limit
    cuts = [0, *torch.searchsorted(total, marks).tolist(), len(total)]
    return [(a, b) for a, b in pairwise(cuts) if b > a]
