"""Clusters: every backend gives scikit-learn's partition, also across cell faces."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_neighbors import needs_torch_cluster

from nesf.geometry import NearestImage, plane_spacings
from nesf.reconstruction.clustering import cluster_particles, connected_components

seeds = st.integers(0, 2**31 - 1)
BACKENDS = ["torch", pytest.param("torch_cluster", marks=needs_torch_cluster)]


def blobs(seed: int, crystals: int = 3, per_crystal: int = 4, size: int = 12):
    """Blobs of particles anywhere in skewed cells, many of them across a face, and some dust."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    lattice = normal(crystals * 16, 3, 3) * 3
    lattice = lattice[plane_spacings(lattice).amin(-1) > 1][:crystals]
    centre = torch.randint(0, 3, (crystals, per_crystal, 3), generator=generator).double() / 2
    centre = centre + 0.1 * normal(crystals, per_crystal, 3)
    points = (centre @ lattice).repeat(1, size, 1) + 0.1 * normal(crystals, per_crystal * size, 3)
    points = torch.cat([points, normal(crystals, 15, 3) * 3], dim=1)
    crystal = torch.arange(crystals).repeat_interleave(points.shape[1])
    weights = torch.randint(1, 5, crystal.shape, generator=generator).double()
    shuffle = torch.randperm(len(crystal), generator=generator)
    return points.flatten(0, 1)[shuffle], crystal[shuffle], weights, lattice


def close_pairs(
    points: torch.Tensor, crystal: torch.Tensor, radius: float, lattice: torch.Tensor | None
) -> torch.Tensor:
    """(M, M) whether two points of a crystal are within a radius, each with itself included."""
    near = torch.zeros(len(points), len(points), dtype=torch.bool)
    for i in crystal.unique().tolist():
        member = (crystal == i).nonzero().squeeze(-1)
        delta = points[member].unsqueeze(0) - points[member].unsqueeze(1)  # (P, P, 3)
        if lattice is not None:
            images = NearestImage.of(lattice[i : i + 1])
            delta = images(delta.reshape(1, -1, 3)).view_as(delta)
        near[member[:, None], member] = delta.norm(dim=-1) <= radius
    return near


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=10, deadline=None)
@given(seed=seeds, periodic=st.booleans(), radius=st.floats(0.05, 0.6))
def test_connected_groups_are_those_of_dbscan(backend, seed, periodic, radius):
    points, crystal, weights, lattice = blobs(seed)
    cells = lattice if periodic else None
    found = cluster_particles(points, crystal, radius, weights, 1.0, cells, backend)
    expected = cluster_particles(points, crystal, radius, weights, 1.0, cells, "sklearn")
    assert torch.equal(found, expected)
    assert found.min() == 0  # min_weight 1 leaves no noise


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=10, deadline=None)
@example(seed=141, periodic=False, min_weight=14.0)  # counted otherwise for one point between two
@given(seed=seeds, periodic=st.booleans(), min_weight=st.floats(2.0, 30.0))
def test_cores_and_noise_are_those_of_dbscan(backend, seed, periodic, min_weight):
    points, crystal, weights, lattice = blobs(seed)
    cells = lattice if periodic else None
    found = cluster_particles(points, crystal, 0.2, weights, min_weight, cells, backend)
    expected = cluster_particles(points, crystal, 0.2, weights, min_weight, cells, "sklearn")
    assert torch.equal(found >= 0, expected >= 0)
    near = close_pairs(points, crystal, 0.2, cells)
    core = near.double() @ weights >= min_weight * (1 - 1e-5)
    # the same cores together; how clusters are counted depends on the points between them
    pairs = torch.stack([found[core], expected[core]]).unique(dim=1)
    assert all(len(side.unique()) == pairs.shape[1] for side in pairs)
    # and points between two clusters may join either, which is DBSCAN's own freedom
    reaches = near & core & (found[:, None] == found)
    assert reaches.any(1)[found >= 0].all()


def test_clusters_reach_across_faces_and_not_across_crystals():
    lattice = torch.diag(torch.tensor([4.0, 4.0, 4.0])).repeat(2, 1, 1)
    points = torch.tensor([[0.05, 2, 2], [3.95, 2, 2], [0.05, 2, 2], [0.05, 2, 6]])
    crystal = torch.tensor([0, 0, 1, 1])
    assert cluster_particles(points, crystal, 0.2, lattice=lattice).tolist() == [0, 0, 1, 1]
    assert cluster_particles(points, crystal, 0.2).tolist() == [0, 1, 2, 3]


def test_border_points_join_the_nearest_core():
    x = torch.tensor([0.0, 0.1, 0.2, 0.5, 0.75, 0.85, 0.95, 3.0])
    weights = torch.tensor([2.0, 2, 2, 1, 2, 2, 2, 5])
    points = torch.stack([x, x * 0, x * 0], dim=-1)
    crystal = torch.zeros(8, dtype=torch.long)
    # 0.5 is within 0.32 of both groups, with too little around it to join them
    labels = cluster_particles(points, crystal, 0.32, weights, 6.0)
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 1, -1]


@settings(max_examples=20, deadline=None)
@given(seed=seeds, count=st.integers(1, 300))
def test_components_of_random_graphs(seed, count):
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components as reference

    generator = torch.Generator().manual_seed(seed)
    edges = torch.randint(0, count, (2, count // 2 + 1), generator=generator)
    first, second = torch.cat([edges, edges.flip(0)], dim=1)
    labels = connected_components(count, first, second)
    graph = coo_array(([1] * len(first), (first.numpy(), second.numpy())), shape=(count, count))
    groups = torch.as_tensor(reference(graph, directed=False)[1]).long()
    for group in groups.unique():
        member = (groups == group).nonzero().squeeze(-1)
        assert (labels[member] == member.min()).all()


def test_long_chains_take_few_rounds():
    count = 20_000
    chain = torch.arange(count - 1)
    shuffle = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    first, second = shuffle[chain], shuffle[chain + 1]
    labels = connected_components(count, torch.cat([first, second]), torch.cat([second, first]))
    assert (labels == 0).all()


def test_nothing_clusters_to_nothing():
    empty = torch.zeros(0, dtype=torch.long)
    for backend in ("torch", "sklearn"):
        assert len(cluster_particles(torch.zeros(0, 3), empty, 0.1, backend=backend)) == 0
