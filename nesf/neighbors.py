"""The nearest atom, or the nearest periodic image of one, from any query point."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nesf.geometry import NearestImage
from nesf.pairs import MAX_PAIRS, Backend, pairs_within, periodic_ghosts, resolve_backend

# from this many atoms in a cell the dense search is the slower one
MANY_ATOMS = 128
# Å; within it the searches by place see every periodic image
GHOST_REACH = 3.0


def nearest_atoms(
    query: Float[Tensor, "b q 3"],
    atoms: Float[Tensor, "b n 3"],
    mask: Bool[Tensor, "b n"],
    images: NearestImage | None = None,
    backend: Backend = "auto",
    max_pairs: int = MAX_PAIRS,
) -> tuple[Float[Tensor, "b q 3"], Int[Tensor, "b q"]]:
    """The atom nearest to each query point.

    Args:
        query: (B, Q, 3) query points, Å.
        atoms: (B, N, 3) atoms, Å.
        mask: (B, N) true for real atoms.
        images: with it, the nearest of all periodic images; without, of these very atoms.
        backend: `torch`, `torch_cluster`, or `auto`.
        max_pairs: distances held in memory at once.

    Returns:
        Displacements (B, Q, 3) from query to atom, Å (NaN in a crystal without atoms), and the
        atoms' indices (B, Q).
    """
    many = atoms.shape[1] >= MANY_ATOMS
    chosen = resolve_backend(backend, many)
    if many or chosen == "torch_cluster":
        return _nearest_listed(query, atoms, mask, images, chosen)
    return _nearest_dense(query, atoms, mask, images, max_pairs)


def _nearest_dense(
    query: Tensor, atoms: Tensor, mask: Tensor, images: NearestImage | None, max_pairs: int
) -> tuple[Tensor, Tensor]:
    """Every query against every atom of its crystal."""
    step = max(1, max_pairs // max(1, mask.numel()))
    parts = [
        _nearest_plain(part, atoms, mask)
        if images is None
        else _nearest_image(part, atoms, mask, images, max_pairs)
        for part in query.split(step, dim=1)
    ]
    offset = torch.cat([part[0] for part in parts], dim=1)
    offset = torch.where(mask.any(-1).view(-1, 1, 1), offset, torch.nan)
    return offset, torch.cat([part[1] for part in parts], dim=1)


def _nearest_plain(query: Tensor, atoms: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    # differences, not the matrix product: that loses digits far from the origin
    distance = torch.cdist(query, atoms, compute_mode="donot_use_mm_for_euclid_dist")
    index = distance.masked_fill(~mask.unsqueeze(1), torch.inf).argmin(-1)  # (B, Q)
    return _pick(atoms, index) - query, index


def _pick(values: Tensor, index: Tensor) -> Tensor:
    """Rows (B, Q, 3) of `values` (B, N, 3) at `index` (B, Q)."""
    return values.gather(1, index.unsqueeze(-1).expand(-1, -1, 3))


def _nearest_image(
    query: Tensor, atoms: Tensor, mask: Tensor, images: NearestImage, max_pairs: int
) -> tuple[Tensor, Tensor]:
    """Try one image of each atom, and all of them only where that does not settle the search."""
    b, q, n = len(query), query.shape[1], atoms.shape[1]
    delta = images.roughly((atoms.unsqueeze(1) - query.unsqueeze(2)).flatten(1, 2))
    delta = delta.unflatten(1, (q, n))  # (B, Q, N, 3)
    squares = delta.square().sum(-1).masked_fill(~mask.unsqueeze(1), torch.inf)
    nearest, index = squares.min(-1)  # (B, Q)
    offset = delta.gather(2, index.view(b, q, 1, 1).expand(-1, -1, -1, 3)).squeeze(2)
    if images.shifts.shape[1] == 1:
        return offset, index
    open_rows, open_cols = (nearest >= images.safe_radius.square().unsqueeze(-1)).nonzero(
        as_tuple=True
    )
    step = max(1, max_pairs // (n * images.shifts.shape[1]))
    for rows, cols in zip(open_rows.split(step), open_cols.split(step), strict=True):
        shifts = images.shifts[rows]  # (M, K, 3)
        rough = delta[rows, cols]  # (M, N, 3)
        # |d + s|² = |d|² + 2 d·s + |s|²: (M, N, K); rounding can only swap equals
        length = rough.square().sum(-1, keepdim=True) + shifts.square().sum(-1).unsqueeze(1)
        length = (length + 2 * rough @ shifts.mT).masked_fill(~mask[rows].unsqueeze(-1), torch.inf)
        best = length.flatten(1).argmin(-1)
        atom, shift = best // shifts.shape[1], best % shifts.shape[1]
        each = torch.arange(len(rows), device=rows.device)
        offset[rows, cols] = rough[each, atom] + shifts[each, shift]
        index[rows, cols] = atom
    return offset, index


def _nearest_listed(
    query: Tensor, atoms: Tensor, mask: Tensor, images: NearestImage | None, backend: Backend
) -> tuple[Tensor, Tensor]:
    """Each query against the atoms around it, by a cell list or torch-cluster's trees.

    Within GHOST_REACH both see every image, so that an answer within it is the nearest; the
    queries without one, in large voids, are left to the dense search.
    """
    b, q = query.shape[:2]
    crystal, column = mask.nonzero(as_tuple=True)
    points, wrapped = atoms[mask], query
    if images is not None:
        points, source = periodic_ghosts(points, crystal, images.lattice, GHOST_REACH)
        order = crystal[source].argsort(stable=True)  # torch-cluster needs sorted batch vectors
        points, crystal, column = points[order], crystal[source][order], column[source][order]
        fractions = query @ images.inverse
        wrapped = (fractions - fractions.floor()) @ images.lattice
    wrapped = wrapped.flatten(0, 1)  # (B*Q, 3)
    sound = torch.isfinite(wrapped).all(-1).nonzero().squeeze(-1)
    start = wrapped[sound]
    if backend == "torch_cluster":
        from torch_cluster import knn

        found = knn(points, start, 1, crystal, sound // q, batch_size=b)
        first, second = found[0], found[1]
    else:
        first, second = _nearest_in_bins(start, sound // q, points, crystal)
    offset = torch.full_like(wrapped, torch.nan)
    index = torch.zeros(b * q, dtype=torch.long, device=query.device)
    offset[sound[first]] = points[second] - start[first]
    index[sound[first]] = column[second]
    offset, index = offset.unflatten(0, (b, q)), index.unflatten(0, (b, q))
    done = offset.norm(dim=-1) <= GHOST_REACH  # false for NaN
    columns = (~done & mask.any(-1, keepdim=True)).any(0).nonzero().squeeze(-1)
    if len(columns):
        exact = _nearest_dense(query[:, columns], atoms, mask, images, MAX_PAIRS)
        offset[:, columns], index[:, columns] = exact
    return offset, index


def _nearest_in_bins(
    start: Tensor, owner: Tensor, points: Tensor, crystal: Tensor
) -> tuple[Tensor, Tensor]:
    """Pairs of each start that has points within GHOST_REACH with the nearest of them."""
    block = MAX_PAIRS // 64  # of the order of the points within reach
    firsts, seconds = [owner[:0]], [owner[:0]]
    for begin in range(0, len(start), block):
        some = slice(begin, begin + block)
        first, second = pairs_within(start[some], owner[some], points, crystal, GHOST_REACH)
        distance = (start[some][first] - points[second]).norm(dim=-1)
        least = torch.full_like(start[some][:, 0], torch.inf)
        least.scatter_reduce_(0, first, distance, "amin")
        nearest = distance == least[first]
        best = torch.full_like(owner[some], len(points))
        best.scatter_reduce_(0, first[nearest], second[nearest], "amin")
        hit = (best < len(points)).nonzero().squeeze(-1)
        firsts.append(hit + begin)
        seconds.append(best[hit])
    return torch.cat(firsts), torch.cat(seconds)
