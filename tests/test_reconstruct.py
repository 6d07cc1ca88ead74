"""Reconstruction: known crystals come back, poor fields fail without a crash."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from crystals import random_crystals, site_errors
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from nesf.crystal import CrystalBatch
from nesf.exact import exact_fields
from nesf.fields import CrystalFields
from nesf.geometry import frac_to_cart, wrap_frac
from nesf.reconstruction.particles import ask, grid_particles, merge_particles, move_particles
from nesf.reconstruction.reconstruct import ReconstructOptions, reconstruct
from nesf.reconstruction.sites import Sites, choose_sites, drop_neighbours, vote_species


def pdist(structure: Structure) -> np.ndarray:
    """Periodic distances between different sites, Å."""
    return structure.distance_matrix[np.triu_indices(len(structure), 1)]


def spaced_crystals(seed: int, nearest: float = 0.7, **kwargs) -> CrystalBatch:
    """Random crystals whose atoms keep some distance (Å) from each other and their images."""
    crystals = random_crystals(seed, dtype=torch.float32, **kwargs)
    keep = []
    for structure in crystals.to_structures():
        sites = structure.copy()
        while (
            len(sites) > 1 and sites.distance_matrix[~torch.eye(len(sites)).bool()].min() < nearest
        ):
            sites.remove_sites([len(sites) - 1])
        keep.append(sites)
    return CrystalBatch.from_structures(keep, crystals.ids)


def blurred_fields(crystals: CrystalBatch, blur: float, noise: float, claim: bool) -> CrystalFields:
    """What a trained network gives: in-cell fields, soft between two atoms, wrong by a wave."""
    exact = exact_fields(crystals, periodic=False)
    atoms = frac_to_cart(wrap_frac(crystals.frac_coords), crystals.lattice)

    def position(query):
        distance = torch.cdist(query, atoms).masked_fill(~crystals.mask.unsqueeze(1), 1e4)
        offset = torch.softmax(-distance / blur, -1) @ atoms - query
        return offset + noise * torch.sin(query.roll(1, -1) * 4) * distance.amin(-1, keepdim=True)

    return dataclasses.replace(
        exact,
        position=position,
        subset=lambda index: blurred_fields(crystals.select(index), blur, noise, claim),
        num_atoms=exact.num_atoms if claim else None,
    )


def constant_fields(lattice: torch.Tensor, value: float, claim: int | None = 4) -> CrystalFields:
    """Fields that answer the same everywhere."""
    return CrystalFields(
        position=lambda query: torch.full_like(query, value),
        species=lambda query: torch.full((*query.shape[:2], 94), value),
        lattice=lattice,
        periodic=False,
        subset=lambda index: constant_fields(lattice[index], value, claim),
        num_atoms=None if claim is None else torch.full((len(lattice),), claim),
    )


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), periodic=st.booleans())
def test_random_crystals_come_back(seed, periodic):
    crystals = spaced_crystals(seed, count=3)
    found = reconstruct(exact_fields(crystals, periodic), ids=crystals.ids)
    error, wrong = site_errors(crystals, found.crystals)
    assert error.max() < 1e-3
    assert wrong.sum() == 0
    assert found.count_agrees.all()
    assert found.crystals.ids == crystals.ids
    assert torch.equal(found.crystals.lattice, crystals.lattice)
    frac = found.crystals.frac_coords
    assert ((frac >= 0) & (frac < 1)).all()


def test_without_a_claim_exact_fields_suffice():
    crystals = spaced_crystals(5)
    fields = dataclasses.replace(exact_fields(crystals), num_atoms=None)
    found = reconstruct(fields)
    assert found.count_agrees is None
    assert site_errors(crystals, found.crystals)[0].max() < 1e-3
    assert (found.confidence > 0.9).all()


def test_close_pairs_and_atoms_at_the_faces_come_back():
    lattice = torch.eye(3)[None] * 4.0
    frac = torch.tensor([[0.0, 0, 0], [0.9999, 0.5, 0.5], [0.5, 0.5, 0.41], [0.5, 0.5, 0.59]])
    numbers = torch.tensor([11, 17, 1, 8])
    crystals = CrystalBatch.from_flat(frac, numbers, torch.tensor([4]), lattice, "a")
    for periodic in (True, False):
        error, wrong = site_errors(crystals, reconstruct(exact_fields(crystals, periodic)).crystals)
        assert error.max() < 1e-3
        assert wrong.sum() == 0


@pytest.mark.parametrize("claim", [True, False])
def test_soft_and_noisy_fields_come_back_nearly(claim):
    crystals = spaced_crystals(11, nearest=1.2, count=12)
    found = reconstruct(blurred_fields(crystals, blur=0.1, noise=0.1, claim=claim))
    error, wrong = site_errors(crystals, found.crystals)
    assert error.max() < 0.05
    assert wrong.sum() == 0


def test_a_crystal_comes_out_the_same_in_any_batch():
    crystals = spaced_crystals(3, count=5)
    together = reconstruct(exact_fields(crystals))
    options = ReconstructOptions(max_particles=1000, max_queries=1000)
    split = reconstruct(exact_fields(crystals), options)
    for i in range(len(crystals)):
        alone = reconstruct(exact_fields(crystals.select([i]))).crystals
        for other in (alone, split.crystals.select([i])):
            same = together.crystals.select([i])
            assert torch.equal(same.atomic_numbers, other.atomic_numbers)
            assert site_errors(same, other)[0].max() < 1e-4


def test_the_same_generator_state_gives_the_same_crystals():
    fields = blurred_fields(spaced_crystals(8), blur=0.2, noise=0.3, claim=True)
    options = ReconstructOptions(jitter=True)
    first, again, other = (
        reconstruct(fields, options, generator=torch.Generator().manual_seed(seed)).site_spread
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert first.shape != other.shape or not torch.equal(first, other)


@pytest.mark.parametrize("value", [math.nan, math.inf, 5.0, 1e30])
@pytest.mark.parametrize("claim", [4, None])
def test_fields_without_atoms_give_crystals_without_atoms(value, claim):
    found = reconstruct(constant_fields(torch.eye(3).repeat(2, 1, 1) * 4, value, claim))
    assert found.crystals.num_atoms.tolist() == [0, 0]
    assert found.confidence.tolist() == [0, 0]
    assert found.count_agrees is None or not found.count_agrees.any()
    assert [len(s) for s in found.crystals.to_structures()] == [0, 0]


def test_a_field_that_moves_nothing_is_no_crash():
    found = reconstruct(constant_fields(torch.eye(3)[None] * 4, 0.0))
    assert torch.isfinite(found.crystals.frac_coords).all()
    assert (found.confidence < 0.5).all()


def test_broken_cells_fail_alone():
    crystals = spaced_crystals(4, count=4)
    lattice = crystals.lattice.clone()
    lattice[0] = math.nan
    lattice[2, 2] = lattice[2, 0] + lattice[2, 1]
    fields = exact_fields(crystals, periodic=False)
    found = reconstruct(dataclasses.replace(fields, lattice=lattice))
    error, _ = site_errors(crystals, found.crystals)
    assert found.crystals.num_atoms[[0, 2]].tolist() == [0, 0]
    assert error[[1, 3]].max() < 1e-3
    nothing = reconstruct(dataclasses.replace(fields, lattice=lattice * math.nan))
    assert nothing.crystals.num_atoms.sum() == 0


def test_an_empty_batch_is_empty():
    fields = exact_fields(spaced_crystals(1)).select([])
    assert len(reconstruct(fields).crystals) == 0


def test_disagreeing_counts_are_asked_again_on_a_finer_grid():
    crystals = spaced_crystals(9, nearest=1.0)
    coarse = ReconstructOptions(grid_spacing=4.0, finer_grid=0.2, max_rounds=1)
    fields = exact_fields(crystals)
    once = reconstruct(fields, coarse)
    assert not once.count_agrees.all()
    again = reconstruct(fields, dataclasses.replace(coarse, max_rounds=2))
    assert again.count_agrees.all()
    assert (again.confidence >= once.confidence).all()


def test_choice_follows_claim_and_spread():
    spread = torch.tensor([0.01, 0.02, 0.1, 0.2, 0.5, 0.01, 0.6])
    crystal = torch.tensor([0, 0, 0, 0, 0, 1, 1])
    none = torch.zeros_like(crystal)
    sites = Sites(torch.zeros(7, 3), crystal, torch.ones(7), spread, none)

    def chosen(claims):
        claims = None if claims is None else torch.tensor(claims)
        return choose_sites(sites, claims, 2, 0.03, 0.12, 0.25).int().tolist()

    assert chosen(None) == [1, 1, 1, 0, 0, 1, 0]
    assert chosen([3, 1]) == [1, 1, 1, 0, 0, 1, 0]
    assert chosen([1, 0]) == [1, 1, 0, 0, 0, 1, 0]  # sharp sites outvote the claim
    assert chosen([9, 9]) == [1, 1, 1, 1, 0, 1, 0]  # blurred ones never make up the number


def test_of_near_sites_the_sharpest_stays():
    x = torch.tensor([0.0, 0.3, 0.6, 0.9, 3.9])
    coords = torch.stack([x, x * 0, x * 0], dim=-1)
    spread = torch.tensor([0.1, 0.05, 0.2, 0.3, 0.01])
    none = torch.zeros(5, dtype=torch.long)
    sites = Sites(coords, none, torch.ones(5), spread, none)
    kept = drop_neighbours(sites, torch.eye(3)[None] * 4, 0.35)
    # 3.9 is next to 0.0 across the face; 0.3 beats 0.6, so that 0.9 has no sharper neighbour left
    assert kept.cart_coords[:, 0].tolist() == pytest.approx([0.3, 0.9, 3.9])


def test_element_prior_settles_a_tie():
    fields = constant_fields(torch.eye(3)[None] * 4, 0.0)
    logits = torch.full((1, 94), -5.0)
    logits[0, 25] = 5.0
    fields = dataclasses.replace(fields, element_logits=logits)
    sites, crystal, noise = torch.zeros(2, 3), torch.zeros(2, dtype=torch.long), torch.zeros(4, 3)
    assert vote_species(fields, sites, crystal, noise).tolist() == [25, 25]
    assert vote_species(fields, sites, crystal, noise, element_prior=0.0).tolist() == [0, 0]


def test_ask_matches_the_padded_field():
    crystals = spaced_crystals(6)
    fields = exact_fields(crystals)
    counts = torch.tensor([3, 0, 200, 70, 64, 1])
    crystal = torch.arange(6).repeat_interleave(counts)
    points = torch.randn(len(crystal), 3) * 4
    for limit in (1000, 10):
        answer = ask(fields, "position", points, crystal, limit)
        for b in range(6):
            query = points[crystal == b].expand(6, -1, -1)
            torch.testing.assert_close(answer[crystal == b], fields.position(query)[b])


def test_grid_and_moves():
    crystals = spaced_crystals(2)
    fields = exact_fields(crystals, periodic=False)
    grid = grid_particles(fields, 0.5, 10_000)
    frac = grid.cart_coords.unsqueeze(1) @ torch.linalg.inv(crystals.lattice)[grid.crystal]
    assert ((frac > 0) & (frac < 1)).all()
    bounded = grid_particles(fields, 0.01, 500)
    assert torch.bincount(bounded.crystal).max() <= 500
    moved, step = move_particles(fields, grid, 3)
    assert step.max() < 1e-4
    assert moved.weight.sum() == pytest.approx(len(grid), rel=1e-4)
    merged = merge_particles(moved, 0.05)
    assert torch.bincount(merged.crystal).max() <= crystals.mask.shape[1] * 8


@pytest.mark.parametrize(
    "changes",
    [
        {"grid_spacing": 0.0},
        {"moves": 0},
        {"finer_grid": 1.5},
        {"max_spread": 0.3},
        {"refine_moves": -1},
        {"max_queries": 1},
    ],
)
def test_options_check_themselves(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        ReconstructOptions(**changes)


def test_large_cells_come_back():
    perovskite = Structure.from_spacegroup(
        "Pm-3m",
        Lattice.cubic(3.9),
        ["Sr", "Ti", "O"],
        [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]],
    )
    perovskite.make_supercell([5, 5, 5])
    perovskite.perturb(0.1, seed=0)
    large = CrystalBatch.from_structures([perovskite])
    found = reconstruct(exact_fields(large)).crystals
    error, wrong = site_errors(large, found)
    assert found.num_atoms.tolist() == [625]
    assert error.max() < 1e-3
    assert wrong.sum() == 0
