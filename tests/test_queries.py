"""Training queries: where they fall, whose they are, and the exact answers."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from crystals import random_crystals
from scipy import stats

from nesf.crystal import CrystalBatch
from nesf.geometry import NearestImage, cart_to_frac
from nesf.queries import (
    CellQueries,
    PublishedQueries,
    QueryBlock,
    bounding_box,
    field_target,
    in_cell_coords,
    uniform_in_cell,
)

MARGIN = 0.02


def crystals(seed: int = 0, count: int = 5) -> CrystalBatch:
    return random_crystals(seed, count, dtype=torch.float32)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def answers_by_loops(
    block: QueryBlock, batch: CrystalBatch, margin: float, periodic: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Nearest atoms of every query, by trying all atoms (of 7 x 7 x 7 cells)."""
    cells = np.array(np.meshgrid(*[range(-3, 4)] * 3)).reshape(3, -1).T if periodic else [[0] * 3]
    offsets, species = [], []
    for row, queries in zip(block.crystal.tolist(), block.query.double().numpy(), strict=True):
        count = int(batch.num_atoms[row])
        lattice = batch.lattice[row].double().numpy()
        if periodic:  # the same query in the middle cell
            queries = queries - np.floor(queries @ np.linalg.inv(lattice)) @ lattice
        frac = batch.frac_coords[row, :count].double().numpy()
        frac = (frac + margin) % 1.0 - margin
        atoms = np.concatenate([(frac + cell) @ lattice for cell in np.array(cells)])
        delta = atoms[None] - queries[:, None]  # (Q, atoms, 3)
        nearest = np.linalg.norm(delta, axis=-1).argmin(-1)
        offsets.append(delta[np.arange(len(queries)), nearest])
        species.append(batch.atomic_numbers[row].numpy()[nearest % count] - 1)
    return np.stack(offsets), np.stack(species)


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("sampler", [CellQueries(20, 20, species=9), PublishedQueries()])
def test_targets_against_brute_force(periodic, sampler):
    batch = crystals()
    asked = sampler(batch, seeded(), MARGIN)
    for block in (*asked.position, *asked.species):
        some = QueryBlock(block.crystal[::7], block.query[::7])
        images = NearestImage.of(batch.lattice[some.crystal]) if periodic else None
        target = field_target(some, batch, 0.02, images)
        offset, species = answers_by_loops(some, batch, 0.02, periodic)
        distance = np.linalg.norm(offset, axis=-1)
        np.testing.assert_allclose(target.offset.norm(dim=-1).numpy(), distance, atol=1e-4)
        # ties may fall either way
        same = np.linalg.norm(target.offset.numpy() - offset, axis=-1) < 1e-3
        assert same.mean() > 0.99
        assert (target.species.numpy() == species)[same].mean() > 0.999


@pytest.mark.parametrize("periodic", [False, True])
def test_targets_are_not_rounded_under_autocast(periodic):
    batch = crystals()
    block = CellQueries()(batch, seeded(), MARGIN).position[0]
    images = NearestImage.of(batch.lattice[block.crystal]) if periodic else None
    exact = field_target(block, batch, 0.02, images)
    with torch.autocast("cpu", torch.bfloat16):
        again = CellQueries()(batch, seeded(), MARGIN).position[0]
        images = NearestImage.of(batch.lattice[block.crystal]) if periodic else None
        rounded = field_target(again, batch, 0.02, images)
    assert torch.equal(again.query, block.query)
    assert torch.equal(rounded.offset, exact.offset)
    assert torch.equal(rounded.species, exact.species)


def test_uniform_points_fill_the_cell_evenly():
    lattice = crystals().lattice
    points = uniform_in_cell(lattice, 4000, seeded(), margin=0.1)
    frac = cart_to_frac(points.double(), lattice.double()).numpy() + 0.1
    assert frac.min() > -1e-4
    assert frac.max() < 1 + 1e-4
    for crystal in range(len(lattice)):
        for axis in range(3):
            assert stats.kstest(frac[crystal, :, axis], "uniform").pvalue > 1e-3
        # even together: no two axes go hand in hand
        assert np.abs(np.corrcoef(frac[crystal].T) - np.eye(3)).max() < 0.1


def test_near_points_spread_as_asked():
    one = CrystalBatch.from_flat(
        torch.tensor([[0.5, 0.5, 0.5]]),
        torch.tensor([6]),
        torch.tensor([1]),
        5 * torch.eye(3).unsqueeze(0),
        ["one"],
    )
    asked = CellQueries(uniform=0, near=20000, near_width=0.6, species=5000)(one, seeded(), MARGIN)
    away = (asked.position[0].query - 2.5).numpy()[0]
    # width uniform in [0, w]: the mean square along an axis is w²/3
    np.testing.assert_allclose(np.sqrt((away**2).mean(0)), 0.6 / math.sqrt(3), rtol=0.03)
    np.testing.assert_allclose(away.mean(0), 0, atol=0.01)
    # small steps are trained too: a tenth of the points is nearer than 0.07 Å
    assert 0.05 < np.quantile(np.linalg.norm(away, axis=-1), 0.1) < 0.12
    spread = (asked.species[0].query - 2.5).square().mean().sqrt()
    assert abs(spread - 0.3 / math.sqrt(3)) < 0.01


def test_near_points_choose_atoms_evenly_and_only_real_ones():
    batch = crystals()
    asked = CellQueries(uniform=0, near=6000, near_width=1e-4)(batch, seeded(), MARGIN)
    atoms = in_cell_coords(batch, 0.02)
    distance = torch.cdist(asked.position[0].query, atoms)  # (B, Q, N)
    nearest, index = distance.min(-1)
    assert nearest.max() < 0.01
    for row, count in enumerate(batch.num_atoms.tolist()):
        hits = torch.bincount(index[row], minlength=count).numpy()
        assert len(hits) == count
        assert stats.chisquare(hits).pvalue > 1e-4


def test_cell_queries_shapes_and_rows():
    batch = crystals()
    asked = CellQueries(uniform=7, near=5, species=3)(batch, seeded(), MARGIN)
    assert [tuple(block.query.shape) for block in asked.position] == [(5, 12, 3)]
    assert [tuple(block.query.shape) for block in asked.species] == [(5, 3, 3)]
    for block in (*asked.position, *asked.species):
        assert block.crystal.tolist() == list(range(5))


def test_published_numbers_of_queries():
    batch = crystals()
    sampler = PublishedQueries(box=((0.0, 0.0, 0.0), (6.0, 6.0, 6.0)))
    (position,), (species,) = (
        getattr(sampler(batch, seeded(), MARGIN), n) for n in ("position", "species")
    )
    per_crystal = torch.bincount(position.crystal, minlength=5) * position.query.shape[1]
    # the box of 6 Å and 1 Å around it, from -1 to 6 in steps of 1
    assert per_crystal.tolist() == (512 + 64 * batch.num_atoms).tolist()
    assert tuple(species.query.shape) == (int(batch.num_atoms.sum()), 216, 3)
    assert torch.equal(torch.bincount(species.crystal), batch.num_atoms)


def test_published_queries_lie_where_they_should():
    batch = crystals()
    still = PublishedQueries(
        box=((0.0, 0.0, 0.0), (2.0, 3.0, 4.0)), grid_jitter=0.0, near_jitter=0.0, species_jitter=0.0
    )
    asked = still(batch, seeded(), MARGIN)
    atoms = in_cell_coords(batch, MARGIN)
    box = np.stack(np.meshgrid(*[np.arange(-1, n) for n in (3, 4, 5)], indexing="ij"), -1)
    cube = {
        name: np.stack(np.meshgrid(*[steps] * 3, indexing="ij"), -1).reshape(-1, 3)
        for name, steps in {
            "near": np.arange(4) * 0.3 - 0.6,
            "species": np.arange(6) * 0.1 - 0.3,
        }.items()
    }
    for row, count in enumerate(batch.num_atoms.tolist()):
        own = atoms[row, :count].numpy()[:, None]
        expected = [box.reshape(-1, 3), (own + cube["near"]).reshape(-1, 3)]
        for block, points in zip(
            (asked.position[0], asked.species[0]),
            (np.concatenate(expected), (own + cube["species"]).reshape(-1, 3)),
            strict=True,
        ):
            found = block.query[block.crystal == row].reshape(-1, 3).numpy()
            np.testing.assert_allclose(
                sorted(np.round(found, 3).tolist()), sorted(np.round(points, 3).tolist()), atol=2e-3
            )


def test_published_jitter_is_gaussian():
    batch = crystals()
    still = dict.fromkeys(("grid_jitter", "near_jitter", "species_jitter"), 0.0)
    moved, fixed = PublishedQueries(), PublishedQueries(**still)
    for part in ("position", "species"):
        (a,), (b,) = (getattr(sampler(batch, seeded(), MARGIN), part) for sampler in (moved, fixed))
        noise = (a.query - b.query).numpy()
        if part == "species":
            assert stats.kstest(noise.ravel() / 0.05, "norm").pvalue > 1e-3
        else:
            grid = noise.reshape(-1, 3)[: 5 * 512]
            near = noise.reshape(-1, 3)[5 * 512 :]
            assert stats.kstest(grid.ravel() / 0.5, "norm").pvalue > 1e-3
            assert stats.kstest(near.ravel() / 0.15, "norm").pvalue > 1e-3


@pytest.mark.parametrize("sampler", [CellQueries(), PublishedQueries()])
def test_draws_depend_on_the_generator_alone(sampler):
    batch = crystals()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = sampler(batch, seeded(3), MARGIN)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    second, third = sampler(batch, seeded(3), MARGIN), sampler(batch, seeded(4), MARGIN)
    assert torch.equal(first.position[0].query, second.position[0].query)
    assert torch.equal(first.species[0].query, second.species[0].query)
    assert not torch.equal(first.position[0].query, third.position[0].query)


def test_bounding_box():
    parts = [torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0.0, 5.0, 1.0], [2.0, 2.0, 2.0]])]
    assert bounding_box(parts) == ([0.0, 2.0, 1.0], [2.0, 5.0, 3.0])


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (CellQueries, "uniform", -1),
        (CellQueries, "near", -1),
        (CellQueries, "near_width", -0.1),
        (CellQueries, "near_width", math.nan),
        (CellQueries, "species", 0),
        (CellQueries, "species_width", -1.0),
        (PublishedQueries, "grid_spacing", 0.0),
        (PublishedQueries, "near_spacing", -1.0),
        (PublishedQueries, "species_side", 0),
        (PublishedQueries, "near_jitter", -0.1),
        (PublishedQueries, "box", ((0.0, 0.0, 0.0), (6.0, -1.0, 6.0))),
    ],
)
def test_nonsense_is_refused_by_name(kind, name, value):
    with pytest.raises(ValueError, match=name):
        dataclasses.replace(kind(), **{name: value})


def test_no_position_queries_at_all_are_refused():
    with pytest.raises(ValueError, match="uniform and near"):
        CellQueries(uniform=0, near=0)
