"""Atoms out of a labelled box: balls of known size found again, where they touch too.

Numpy and scipy, one box at a time; `refine_in_boxes` in torch, batched.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from baselines.voxel_icsg3d.box_grid import BoxGrid, axis_gaussians, superpose
from baselines.voxel_icsg3d.segment import Sites
from nesf.crystal import CrystalBatch
from nesf.precision import full_precision

_COVER_ROUNDS, _LLOYD_ROUNDS = 32, 8
_ONE_IN = 8  # of the balls that seem missing, so many come at once: where they settle, others go
_FULLEST = 1 / 3  # share of a box; not even diamond's balls of labels fill so much of it
_STILL = 0.05  # voxels; centres that move less have settled
_REFINE_ROUNDS = 20
_TOLERANCE = 1e-4  # Å; the refinement stops where all steps of a round are shorter
_LONGEST_STEP = 0.2  # Å, along each axis
_DAMPING = 1e-6  # share of the diagonal that is added to it


@dataclass(frozen=True)
class BoxReadOut:
    """How labels become atoms.

    Attributes:
        min_voxels: smaller components are dropped. At the published 30³, an atom in a corner of
            the box has 4 voxels, and one in the middle 31.
        slack: voxels by which a voxel may lie farther from its atom than the balls reach.
        max_atoms: of the atoms of a box, only so many of the largest are kept.
        refine: `none`, centres of the labels; `density`, moved until their Gaussians add up to
            the density, which must then be exact to be of use.
    """

    min_voxels: int = 4
    slack: float = 0.75
    max_atoms: int = 1024
    refine: Literal["none", "density"] = "none"

    def __post_init__(self) -> None:
        for name in ("min_voxels", "max_atoms"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.slack < math.inf:
            raise ValueError(f"slack must not be negative, not {self.slack}")
        if self.refine not in ("none", "density"):
            raise ValueError(f"refine is none or density, not {self.refine}")


def find_atoms(
    labels: Int[np.ndarray, "d d d"], grid: BoxGrid, options: BoxReadOut | None = None
) -> Sites:
    """The atoms that the labels of one box stand for.

    Voxels of one element that touch by faces are a component. One atom's voxels all lie within
    `label_radius` of it; so a component is covered by as few balls as hold all its voxels, and
    each ball is an atom at the centroid of its share. Atoms of one element come apart if they
    are some 2·slack + 1 voxels from one another (0.8 Å as published). A component that fills a
    third of the box, as untrained networks make them, is no set of atoms and is left out.

    A ball cut by a face of the box, or by a nearer atom of another element, has its centroid off
    the atom by at most 3/8 of its radius (half a ball).

    Args:
        labels: (D, D, D) Z of each voxel, 0 for background.
        grid: of the voxels.
        options: every knob.

    Returns:
        Sites in no particular order, centroids in voxel indices, purity 1.
    """
    options = options or BoxReadOut()
    component, number = _components(labels)
    place = np.argwhere(component > 0).astype(float)  # (V, 3), in the order of the component's
    index = component[component > 0] - 1
    sizes = np.bincount(index, minlength=len(number))
    order = np.argsort(index, kind="stable")
    reach = grid.label_radius / grid.voxel + options.slack
    centres, numbers, shares = [np.zeros((0, 3))], [number[:0]], [sizes[:0]]
    starts = np.cumsum(sizes) - sizes
    for z, start, size in zip(number, starts, sizes, strict=True):
        if not options.min_voxels <= size <= _FULLEST * labels.size:
            continue
        some, share = cover(place[order[start : start + size]], reach)
        kept = share >= min(options.min_voxels, share.max())
        centres.append(some[kept])
        numbers.append(np.full(kept.sum(), z))
        shares.append(share[kept])
    share = np.concatenate(shares)
    sites = Sites(np.concatenate(centres), np.concatenate(numbers), share, np.ones(len(share)))
    if len(sites) > options.max_atoms:
        sites = sites.select(np.sort(np.argsort(-share, kind="stable")[: options.max_atoms]))
    return sites


def cover(
    place: Float[np.ndarray, "v 3"], reach: float
) -> tuple[Float[np.ndarray, "k 3"], Int[np.ndarray, " k"]]:
    """About as few balls as hold all points: centroids (K, 3) and how many points are in each.

    Points farther than 2·reach apart are in different balls, so the first balls begin at a set of
    such points. Lloyd's rounds let them settle, and points still outside begin more of them.

    Args:
        place: (V, 3) points.
        reach: radius of the balls.
    """
    from scipy.spatial import cKDTree

    centres = place.mean(0, keepdims=True)
    distance = np.linalg.norm(place - centres, axis=-1)
    owner = np.zeros(len(place), dtype=np.int64)
    if distance.max() <= reach:
        return centres, np.bincount(owner)
    centres = place[_spaced(place, distance, 2 * reach)]
    for _ in range(_COVER_ROUNDS):
        for _ in range(_LLOYD_ROUNDS):
            owner = cKDTree(centres).query(place)[1]
            settled = _centroids(place, owner, centres)
            still = np.abs(settled - centres).max() < _STILL
            centres = settled
            if still:
                break
        distance, owner = cKDTree(centres).query(place)
        outside = np.flatnonzero(distance > reach)
        if not len(outside):
            break
        more = outside[_spaced(place[outside], distance[outside], 2 * reach)]
        more = more[: max(1, len(more) // _ONE_IN)]
        centres = np.concatenate([centres, place[more]])
    owner = cKDTree(centres).query(place)[1]
    return _centroids(place, owner, centres), np.bincount(owner, minlength=len(centres))


def _spaced(
    place: Float[np.ndarray, "v 3"], first: Float[np.ndarray, " v"], spacing: float
) -> Int[np.ndarray, " k"]:
    """Positions of points farther than `spacing` from one another, those of largest `first` first.

    After each, the point farthest from all that were taken is next.
    """
    taken = [int(first.argmax())]
    distance = np.linalg.norm(place - place[taken[0]], axis=-1)
    while distance.max() > spacing:
        taken.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(place - place[taken[-1]], axis=-1))
    return np.array(taken)


def _centroids(
    place: Float[np.ndarray, "v 3"], owner: Int[np.ndarray, " v"], centres: Float[np.ndarray, "k 3"]
) -> Float[np.ndarray, "k 3"]:
    """Centroids (K, 3) of the points of each owner; where there are none, the centre as it was."""
    sizes = np.bincount(owner, minlength=len(centres))
    sums = np.stack([np.bincount(owner, axis, len(centres)) for axis in place.T], axis=1)
    return np.where(sizes[:, None] > 0, sums / sizes.clip(1)[:, None], centres)


def _components(
    labels: Int[np.ndarray, "d d d"],
) -> tuple[Int[np.ndarray, "d d d"], Int[np.ndarray, " c"]]:
    """Components of one element, numbered 1 to C over all elements, and their elements."""
    from scipy import ndimage

    component = np.zeros(labels.shape, dtype=np.int64)
    numbers = [np.zeros(0, dtype=np.int64)]
    found = 0
    for z in np.unique(labels[labels > 0]):
        some, count = ndimage.label(labels == z)
        component[some > 0] = some[some > 0] + found
        numbers.append(np.full(count, z, dtype=np.int64))
        found += count
    return component, np.concatenate(numbers)


def refine_in_boxes(
    crystals: CrystalBatch, density: Float[Tensor, "b d d d"], grid: BoxGrid
) -> CrystalBatch:
    """Move the atoms of boxes until their Gaussians add up to the density.

    Gauss-Newton steps on the summed squared difference. Sums over voxels of products of
    Gaussians are products of sums along the axes, so that a step costs M² D and not M² D³. An
    atom is found wherever its ball was cut; the elements and the count must be right.

    Args:
        crystals: B boxes, atoms off by less than sigma.
        density: (B, D, D, D) of `box_density`.
        grid: of the voxels.

    Returns:
        The boxes with moved atoms, in [0, 1).
    """
    moved = crystals.frac_coords.double()
    if not bool(crystals.mask.any()):
        return crystals
    with torch.no_grad(), full_precision(crystals.device):
        for _ in range(_REFINE_ROUNDS):
            step = _gauss_newton(crystals.replace(frac_coords=moved), density.double(), grid)
            moved = moved + step / grid.side
            if bool((step.abs() <= _TOLERANCE).all()):
                break
    moved = moved.clamp(0, 1 - 1e-6).masked_fill(~crystals.mask.unsqueeze(-1), 0.0)
    return crystals.replace(frac_coords=moved.to(crystals.frac_coords))


def _gauss_newton(
    crystals: CrystalBatch, density: Float[Tensor, "b d d d"], grid: BoxGrid
) -> Float[Tensor, "b m 3"]:
    """One step of all atoms, Å: the normal equations of the differences in every voxel."""
    value, offset = axis_gaussians(crystals, grid, torch.float64)  # (B, 3, M, D)
    slope = value * offset / grid.sigma**2
    weight = crystals.atomic_numbers.to(value)
    lacking = density - superpose(value, weight)
    pull = [_overlap(lacking, *_but(value, slope, (axis,))) * weight for axis in range(3)]
    right = torch.stack(pull, dim=-1).flatten(1)  # (B, M, 3) -> (B, 3 M)
    each = weight.repeat_interleave(3, dim=1)  # (B, 3 M)
    normal = _normal_matrix(value, slope) * each.unsqueeze(-1) * each.unsqueeze(-2)
    diagonal = normal.diagonal(dim1=-2, dim2=-1)
    padded: Bool[Tensor, "b t"] = ~crystals.mask.repeat_interleave(3, dim=1)
    normal = normal + torch.diag_embed(_DAMPING * diagonal + padded.double())
    step = torch.linalg.solve(normal, right.unsqueeze(-1)).view(*crystals.mask.shape, 3)
    return step.clamp(-_LONGEST_STEP, _LONGEST_STEP)


def _but(
    value: Float[Tensor, "b 3 m d"], slope: Float[Tensor, "b 3 m d"], axes: tuple[int, ...]
) -> list[Float[Tensor, "b m d"]]:
    """Gaussians along the three axes, but their slopes along some."""
    return [slope[:, a] if a in axes else value[:, a] for a in range(3)]


def _overlap(
    density: Float[Tensor, "b d d d"],
    x: Float[Tensor, "b m d"],
    y: Float[Tensor, "b m d"],
    z: Float[Tensor, "b m d"],
) -> Float[Tensor, "b m"]:
    """Sums over the voxels of a density times products of three factors."""
    plane = torch.einsum("bxyz,bmz->bmxy", density, z)
    return (torch.einsum("bmxy,bmy->bmx", plane, y) * x).sum(-1)


def _normal_matrix(
    value: Float[Tensor, "b 3 m d"], slope: Float[Tensor, "b 3 m d"]
) -> Float[Tensor, "b t t"]:
    """Sums over the voxels of products of two Gaussians' derivatives, (B, 3 M, 3 M)."""
    rows = []
    for i in range(3):
        left = _but(value, slope, (i,))
        row = []
        for j in range(3):
            pairs = zip(left, _but(value, slope, (j,)), strict=True)
            x, y, z = (torch.einsum("bmk,bnk->bmn", one, other) for one, other in pairs)
            row.append(x * y * z)
        rows.append(torch.stack(row, dim=-1))
    return rearrange(torch.stack(rows, dim=2), "b m i n j -> b (m i) (n j)")
