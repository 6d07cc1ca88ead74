"""Nearest atoms and pairs within a radius against brute force, on every backend."""

import pytest
import torch
from crystals import random_crystals
from hypothesis import given, settings
from hypothesis import strategies as st

from nesf.errors import InputError
from nesf.geometry import NearestImage, cart_to_frac, reduce_lattice, wrap_frac
from nesf.neighbors import _nearest_dense, _nearest_listed, nearest_atoms
from nesf.pairs import (
    has_torch_cluster,
    pairs_within,
    periodic_ghosts,
    radius_pairs,
)

seeds = st.integers(0, 2**31 - 1)
needs_torch_cluster = pytest.mark.skipif(
    not has_torch_cluster(), reason="torch-cluster (the extra nesf[cluster]) is not installed"
)
BACKENDS = ["torch", pytest.param("torch_cluster", marks=needs_torch_cluster)]


def brute_force(query, crystals, periodic):
    """Distance to the nearest atom, or image: 7³ of them in the reduced cell."""
    atoms, cells = crystals.cart_coords, reduce_lattice(crystals.lattice)
    steps = torch.arange(-3, 4, dtype=atoms.dtype) if periodic else torch.zeros(1).to(atoms)
    whole = torch.cartesian_prod(steps, steps, steps)
    if periodic:  # everything into the reduced cell
        query, atoms = (wrap_frac(cart_to_frac(x, cells)) @ cells for x in (query, atoms))
    images = atoms.unsqueeze(2) + (whole @ cells).unsqueeze(1)  # (B, N, K, 3)
    images = images.masked_fill(~crystals.mask.view(*crystals.mask.shape, 1, 1), 1e6)
    delta = query.unsqueeze(2) - images.flatten(1, 2).unsqueeze(1)  # (B, Q, N * K, 3)
    return delta.norm(dim=-1).amin(-1)


@settings(max_examples=25, deadline=None)
@given(seed=seeds, periodic=st.booleans(), pairs=st.sampled_from([1, 50, 2**21]))
def test_nearest_atoms_are_the_nearest(seed, periodic, pairs):
    crystals = random_crystals(seed)
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(len(crystals), 15, 3, generator=generator, dtype=torch.float64) * 8
    images = NearestImage.of(crystals.lattice) if periodic else None
    offset, index = nearest_atoms(
        query, crystals.cart_coords, crystals.mask, images, max_pairs=pairs
    )
    expected = brute_force(query, crystals, periodic)
    torch.testing.assert_close(offset.norm(dim=-1), expected, rtol=0, atol=1e-8)
    # the offset ends on that very atom, or an image of it
    assert crystals.mask.gather(1, index).all()
    chosen = crystals.cart_coords.gather(1, index.unsqueeze(-1).expand(-1, -1, 3))
    gap = (query + offset - chosen) @ torch.linalg.inv(crystals.lattice)
    assert (gap - (gap.round() if periodic else 0)).abs().max() < 1e-7


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("spread", [1.0, 30.0])
def test_searches_by_place_agree_with_the_dense_one(backend, periodic, spread):
    crystals = random_crystals(7, count=5, max_atoms=40)
    # the large scale leaves voids beyond the reach of the ghosts
    crystals = crystals.replace(lattice=crystals.lattice * (3 if spread > 1 else 1))
    query = torch.randn(len(crystals), 60, 3, dtype=torch.float64) * 10 * spread
    query[0, 0] = torch.nan
    images = NearestImage.of(crystals.lattice) if periodic else None
    atoms, mask = crystals.cart_coords, crystals.mask
    expected, expected_index = _nearest_dense(query, atoms, mask, images, 2**21)
    offset, index = _nearest_listed(query, atoms, mask, images, backend)
    assert offset[0, 0].isnan().all()
    torch.testing.assert_close(offset, expected, equal_nan=True, rtol=0, atol=1e-9)
    assert torch.equal(index.flatten()[1:], expected_index.flatten()[1:])


def test_far_queries_meet_no_other_crystal():
    points = torch.tensor([[100.0, 0, 0], [-100, -100, -100], [0, 0, 100]])
    targets = torch.zeros(3, 3)
    owner = torch.arange(3)
    first, _ = pairs_within(points, owner, targets, owner, 1.0)
    assert len(first) == 0
    first, second = pairs_within(points * 0 + 0.1, owner, targets, owner, 1.0)
    assert torch.equal(first, second)


@settings(max_examples=20, deadline=None)
@given(seed=seeds, radius=st.floats(0.1, 3.0), periodic=st.booleans())
@pytest.mark.parametrize("backend", BACKENDS)
def test_radius_pairs_are_all_pairs(backend, seed, radius, periodic):
    crystals = random_crystals(seed, count=4, max_atoms=20)
    points, crystal = crystals.cart_coords[crystals.mask], crystals.mask.nonzero()[:, 0]
    shuffle = torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))
    points, crystal = points[shuffle], crystal[shuffle]
    lattice = reduce_lattice(crystals.lattice) if periodic else None
    pairs, distance = radius_pairs(points, crystal, radius, lattice, backend)
    delta = points.unsqueeze(0) - points.unsqueeze(1)
    if periodic:
        owner = crystal.repeat_interleave(len(points))
        delta = NearestImage.of(lattice).flat(delta.flatten(0, 1), owner).view_as(delta)
    expected = delta.norm(dim=-1)
    same = crystal.unsqueeze(0) == crystal.unsqueeze(1)
    found = torch.zeros_like(same)
    found[pairs[0], pairs[1]] = True
    assert found.sum() == pairs.shape[1]  # none twice
    sure = (expected - radius).abs() > 1e-9
    assert torch.equal(found & sure, (expected < radius) & same & sure)
    torch.testing.assert_close(distance, expected[pairs[0], pairs[1]], rtol=0, atol=1e-9)


def test_ghosts_begin_with_the_wrapped_points():
    lattice = torch.diag(torch.tensor([4.0, 5.0, 6.0]))[None]
    points = torch.tensor([[0.1, 2.5, 3.0], [-2.0, 2.5, 3.0]])
    ghosts, source = periodic_ghosts(points, torch.zeros(2, dtype=torch.long), lattice, 0.5)
    torch.testing.assert_close(ghosts[:2], torch.tensor([[0.1, 2.5, 3.0], [2.0, 2.5, 3.0]]))
    torch.testing.assert_close(ghosts[2:], torch.tensor([[4.1, 2.5, 3.0]]))
    assert source.tolist() == [0, 1, 0]


def test_missing_backend_is_named(monkeypatch):
    monkeypatch.setattr("nesf.pairs.has_torch_cluster", lambda: False)
    with pytest.raises(InputError, match="torch-cluster is not installed"):
        radius_pairs(
            torch.zeros(1, 3), torch.zeros(1, dtype=torch.long), 1.0, None, "torch_cluster"
        )
