"""Clusters of particles by density (DBSCAN), in many crystals at once and across cell faces."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nesf.geometry import NearestImage, reduce_lattice
from nesf.pairs import radius_pairs
from nesf.reconstruction.options import ClusterBackend


def cluster_particles(
    points: Float[Tensor, "m 3"],
    crystal: Int[Tensor, " m"],
    radius: float,
    weights: Float[Tensor, " m"] | None = None,
    min_weight: float = 1.0,
    lattice: Float[Tensor, "b 3 3"] | None = None,
    backend: ClusterBackend = "auto",
) -> Int[Tensor, " m"]:
    """DBSCAN (Ester et al., KDD 1996) over the particles of each crystal.

    A point is a core if the points within `radius`, itself included, weigh at least `min_weight`
    together. Cores within `radius` of each other share a cluster, other points join that of the
    nearest core within `radius`, and the rest is noise.

    Args:
        points: (M, 3) points of all crystals, Å.
        crystal: (M,) crystal of each point.
        radius: Å.
        weights: (M,) what each point counts for; 1 by default.
        min_weight: weight around a core; with 1 every particle is a core and clusters are the
            connected groups.
        lattice: (B, 3, 3) cells; with them clusters reach across the cell faces, Å.
        backend: `torch`, `torch_cluster` or `auto` (torch); `sklearn` is the reference, crystal
            by crystal on the CPU.

    Returns:
        (M,) cluster of each point, counted from 0 in the order of their first points over all
        crystals; -1 for noise.

    Raises:
        InputError: the backend is not installed.
    """
    if weights is None:
        weights = torch.ones_like(points[:, 0])
    if backend == "sklearn":
        labels = _cluster_sklearn(points, crystal, radius, weights, min_weight, lattice)
        return _number(labels)
    reduced = None if lattice is None else reduce_lattice(lattice)
    (first, second), distance = radius_pairs(points, crystal, radius, reduced, backend)
    around = torch.zeros_like(weights).index_add_(0, first, weights[second])
    core = around >= min_weight * (1 - 1e-5)
    both = core[first] & core[second]
    labels = connected_components(len(points), first[both], second[both])
    labels = torch.where(core, labels, -1)
    return _number(_join_borders(labels, core, first, second, distance))


def _join_borders(
    labels: Int[Tensor, " m"],
    core: Bool[Tensor, " m"],
    first: Int[Tensor, " e"],
    second: Int[Tensor, " e"],
    distance: Float[Tensor, " e"],
) -> Int[Tensor, " m"]:
    """Give points that are no cores the cluster of their nearest core."""
    border = ~core[first] & core[second]
    first, second, distance = first[border], second[border], distance[border]
    least = torch.full(labels.shape, torch.inf, dtype=distance.dtype, device=labels.device)
    least.scatter_reduce_(0, first, distance, "amin")
    nearest = distance == least[first]
    joined = torch.full_like(labels, len(labels))
    joined.scatter_reduce_(0, first[nearest], labels[second[nearest]], "amin")
    return torch.where(joined < len(labels), joined, labels)


def connected_components(
    count: int, first: Int[Tensor, " e"], second: Int[Tensor, " e"]
) -> Int[Tensor, " m"]:
    """The smallest index in the component of each of `count` nodes.

    Labels travel along the edges and then jump to their label's label, so that a chain of length
    n takes about log n rounds.

    Args:
        count: number of nodes M.
        first: (E,) one end of each edge; every edge is given both ways.
        second: (E,) the other end.
    """
    labels = torch.arange(count, device=first.device)
    while True:
        lowest = labels.scatter_reduce(0, first, labels[second], "amin")
        # hand the news to the old root too: whole trees hook on, not single nodes
        lowest = lowest.scatter_reduce(0, labels, lowest, "amin")
        lowest = lowest[lowest]
        if torch.equal(lowest, labels):
            return labels
        labels = lowest


def _number(labels: Int[Tensor, " m"]) -> Int[Tensor, " m"]:
    """Count clusters from 0 in the order of their first points; -1 stays."""
    kept = labels >= 0
    values, inverse = torch.unique(labels[kept], return_inverse=True)
    place = torch.arange(len(inverse), device=labels.device)
    start = torch.full_like(values, len(inverse)).scatter_reduce_(0, inverse, place, "amin")
    rank = torch.empty_like(values)
    rank[start.argsort()] = torch.arange(len(values), device=labels.device)
    numbered = labels.clone()
    numbered[kept] = rank[inverse]
    return numbered


def _cluster_sklearn(
    points: Tensor,
    crystal: Tensor,
    radius: float,
    weights: Tensor,
    min_weight: float,
    lattice: Tensor | None,
) -> Tensor:
    from sklearn.cluster import DBSCAN

    labels = torch.full_like(crystal, -1)
    offset = 0
    for i in crystal.unique().tolist():
        member = crystal == i
        delta = points[member].unsqueeze(0) - points[member].unsqueeze(1)  # (P, P, 3)
        if lattice is not None:
            images = NearestImage.of(lattice[i : i + 1])
            delta = images(delta.reshape(1, -1, 3)).view_as(delta)
        # scikit-learn wants a whole number of samples; weights may be any
        shares = weights[member] / (min_weight * (1 - 1e-5))
        model = DBSCAN(eps=radius, min_samples=1, metric="precomputed")
        model.fit(delta.norm(dim=-1).cpu().numpy(), sample_weight=shares.cpu().numpy())
        found = torch.as_tensor(model.labels_, device=labels.device).to(labels.dtype)
        labels[member] = torch.where(found >= 0, found + offset, -1)
        offset += len(points)
    return labels
