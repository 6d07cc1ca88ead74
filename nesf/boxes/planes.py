"""Planes that the atoms of a cluster share: a frame (`nesf.boxes.frames`) is laid along them.

In a crystal's own axes many atoms have a coordinate in common, and in most other directions none
have. Three independent normals along which the most atoms lie in common planes are therefore close
to axes of the crystal, and atoms alone tell them.
"""

from __future__ import annotations

import itertools

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

ATOMS, PAIRS = 24, 64  # nearest to the centroid, and their shortest differences: what is looked at
DIRECTIONS, NORMALS, TRIPLES = 12, 14, 8  # that are kept, in the order of how good they are
SAME_PLANE = 0.15  # Å; how well atoms share a plane
SPREAD = 0.01  # per Å: of normals that share as much, the one along which atoms spread less
OBLIQUE = 0.1  # worth of a right angle, as a weight of the logarithm of the volume
FLAT = 0.4  # volume that three unit normals span at least
ASIDE = 0.8  # cosine of two normals that span more than it with one across both
PARALLEL = 0.9995  # cosine from which two directions are one
NOT_ONE_ATOM = 1e-3  # Å


def shared_planes(
    atoms: Float[Tensor, "b n 3"], mask: Bool[Tensor, "b n"], weight: Float[Tensor, "b n"]
) -> tuple[Float[Tensor, "b t 3 3"], Float[Tensor, "b t"]]:
    """Triples of unit normals along which atoms share planes.

    Candidates are normals of the planes through two short differences between atoms, the
    differences themselves, and, for atoms in one plane, the normals within it.

    Args:
        atoms: (B, N, 3) places, Å.
        mask: (B, N) true for real atoms.
        weight: (B, N) of the atoms, 0 for padding, by which they spread.

    Returns:
        Normals as rows (B, T, 3, 3), and how good each triple is (B, T), the best one first: the
        share of atoms that have the coordinate of another one, summed over the three, less what
        spread and oblique angles cost.
    """
    short, real = _short_directions(atoms, mask)
    i, j = torch.triu_indices(short.shape[1], short.shape[1], 1, device=atoms.device)
    across = torch.linalg.cross(short[:, i], short[:, j])
    planar = real[:, i] & real[:, j] & (across.norm(dim=-1) > 0.1)
    across = F.normalize(across, dim=-1)
    value = _sharing(atoms, mask, weight, across).masked_fill(~planar, -torch.inf)
    main = across.gather(1, value.argmax(-1).view(-1, 1, 1).expand(-1, 1, 3))  # (B, 1, 3)
    some = planar.any(-1, keepdim=True)
    within = F.normalize(torch.linalg.cross(short, main.expand_as(short)), dim=-1)
    # atoms on one line, or one atom, have no plane: any normal beside the line will do
    fixed = torch.eye(3, dtype=atoms.dtype, device=atoms.device).expand(len(atoms), 3, 3)
    line = short[:, :1] * real[:, :1].unsqueeze(-1)
    beside = fixed - (fixed @ line.mT) * line
    length = beside.norm(dim=-1)
    lonely = ~some & ((length == length.amax(-1, keepdim=True)) | ~real[:, :1])
    others = torch.cat([short, within, F.normalize(beside, dim=-1)], dim=1)
    sound = torch.cat([real, real & some & (within.norm(dim=-1) > 0.5), lonely], dim=1)
    worth = _sharing(atoms, mask, weight, others).masked_fill(~sound, -torch.inf)
    normals, value = torch.cat([across, others], dim=1), torch.cat([value, worth], dim=1)
    sure = _upright(normals, value)
    chosen, worth = _best_distinct(normals, value)
    value = torch.cat([worth, _sharing(atoms, mask, weight, sure)], dim=1)
    return _best_triples(torch.cat([chosen, sure], dim=1), value)


def _short_directions(atoms: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors (B, K, 3) along the shortest differences, none parallel; which are there."""
    count = mask.sum(-1).clamp_min(1).view(-1, 1, 1)
    centre = (atoms * mask.unsqueeze(-1)).sum(1, keepdim=True) / count
    far = (atoms - centre).norm(dim=-1).masked_fill(~mask, torch.inf)
    near = far.topk(min(ATOMS, far.shape[1]), largest=False).indices  # (B, A)
    atoms, mask = _rows(atoms, near), mask.gather(1, near)
    i, j = torch.triu_indices(atoms.shape[1], atoms.shape[1], 1, device=atoms.device)
    apart = atoms[:, i] - atoms[:, j]  # (B, P, 3)
    length = apart.norm(dim=-1)
    length = length.masked_fill(~(mask[:, i] & mask[:, j]) | (length < NOT_ONE_ATOM), torch.inf)
    missing = max(0, PAIRS - length.shape[1])
    length, apart = F.pad(length, (0, missing), value=torch.inf), F.pad(apart, (0, 0, 0, missing))
    length, order = length.topk(PAIRS, largest=False)
    unit = F.normalize(_rows(apart, order), dim=-1)
    index, there = _distinct(unit, length.isfinite(), DIRECTIONS)
    return _rows(unit, index), there


def _rows(vectors: Tensor, index: Tensor) -> Tensor:
    """Vectors (B, K, 3) of (B, M, 3) at an index (B, K)."""
    return vectors.gather(1, index.unsqueeze(-1).expand(-1, -1, 3))


def _distinct(unit: Tensor, real: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Index (B, count) of the first real vectors parallel to none before them; which are there."""
    rough = unit.float()
    parallel = (rough @ rough.mT).abs() > PARALLEL  # (B, K, K)
    new = real & ~(parallel & real.unsqueeze(1)).tril(-1).any(-1)
    order = (~new).int().argsort(dim=-1, stable=True)[:, :count]
    return order, new.gather(1, order)


def _sharing(atoms: Tensor, mask: Tensor, weight: Tensor, normals: Tensor) -> Tensor:
    """The share (B, M) of atoms that lie in the plane of another one, for each normal (B, M, 3)."""
    along = atoms @ normals.mT  # (B, N, M)
    steps = along.masked_fill(~mask.unsqueeze(-1), torch.inf).sort(dim=1).values.diff(dim=1)
    # beyond the last atom steps are infinite or, from infinity to infinity, NaN
    shared = torch.exp(-(steps / SAME_PLANE).square()).nan_to_num(0.0).sum(1)
    count = (mask.sum(-1, keepdim=True) - 1).clamp_min(1)
    part = (weight / weight.sum(-1, keepdim=True).clamp_min(1e-9)).unsqueeze(1)  # (B, 1, N)
    variance = (part @ along.square() - (part @ along).square()).squeeze(1)  # (B, M)
    return shared / count - SPREAD * variance.clamp_min(0).sqrt()


def _upright(normals: Tensor, value: Tensor) -> Tensor:
    """Two normals (B, 2, 3) that span a volume with the best one, whatever the others are."""
    best = _rows(normals, value.argmax(-1, keepdim=True))  # (B, 1, 3)
    aside = (normals @ best.mT).squeeze(-1).abs() < ASIDE
    second = _rows(normals, value.masked_fill(~aside, -torch.inf).argmax(-1, keepdim=True))
    third = F.normalize(torch.linalg.cross(best, second), dim=-1)
    return torch.cat([second, third], dim=1)


def _best_distinct(normals: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """The best normals (B, K, 3), none parallel, and their values (B, K)."""
    value, order = value.topk(min(4 * NORMALS, value.shape[1]))
    normals = _rows(normals, order)
    index, there = _distinct(normals, value.isfinite(), NORMALS)
    return _rows(normals, index), value.gather(1, index).masked_fill(~there, -torch.inf)


def _best_triples(normals: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """The best triples (B, T, 3, 3) of normals (B, K, 3) by their values (B, K); how good."""
    triples = list(itertools.combinations(range(normals.shape[1]), 3))
    three = torch.tensor(triples, device=value.device)  # (C, 3)
    i, j, k = three.unbind(-1)
    volume = (torch.linalg.cross(normals[:, i], normals[:, j]) * normals[:, k]).sum(-1).abs()
    total = value[:, three].sum(-1) + OBLIQUE * volume.clamp_min(FLAT).log()
    total, best = total.masked_fill(volume < FLAT, -torch.inf).topk(TRIPLES)
    rows = torch.arange(len(best), device=best.device).view(-1, 1, 1)
    return normals[rows, three[best]], total
