import time

import numpy as np
import pytest
from made_crystals import make_cell, rock_salt

from eval.cells import Cell
from eval.matching import Match, MatchOptions, match_pair, match_pairs, random_sites

STUBBORN = "made_crystals:stubborn_matcher"


def carbon(count: int) -> Cell:
    return Cell(np.eye(3) * 4, np.random.default_rng(count).random((count, 3)), np.full(count, 6))


def test_a_hanging_matcher_is_killed_and_the_others_are_matched():
    pairs = [(carbon(n), carbon(n)) for n in (4, 5, 1, 6, 2, 3, 7, 1, 8)]
    start = time.monotonic()
    matches = match_pairs(pairs, MatchOptions(timeout_s=0.5, workers=2), function=STUBBORN)
    assert time.monotonic() - start < 20
    assert [match.rmse for match in matches] == [
        0.25,
        0.25,
        None,
        0.25,
        None,
        None,
        0.25,
        None,
        0.25,
    ]
    assert "0.5 s" in matches[2].failure
    assert matches[2] == matches[7]
    assert matches[4].failure
    assert "three is too many" in matches[5].failure


def test_needles_flat_and_missing_crystals_are_failures_at_once():
    needle = Cell(
        np.array([[4, 0, 0], [3.99, 0.1, 0], [0, 0, 4.0]]), np.zeros((1, 3)), np.array([6])
    )
    flat = Cell(np.diag([4, 4, 0.3]), np.zeros((1, 3)), np.array([6]))
    empty = Cell(np.eye(3) * 4, np.zeros((0, 3)), np.zeros(0, dtype=int))
    good = carbon(1)
    # the matcher would hang over every one of them
    start = time.monotonic()
    pairs = [(needle, good), (flat, good), (empty, good), (None, good)]
    matches = match_pairs(pairs, MatchOptions(timeout_s=60.0), function=STUBBORN)
    assert time.monotonic() - start < 5
    assert all(match.failure and not match.matched for match in matches)


def test_other_compositions_do_not_match_and_are_not_asked():
    salt = rock_salt()
    wrong = Cell(salt.lattice, salt.frac_coords, np.repeat([11, 35], 4))
    fewer = Cell(salt.lattice, salt.frac_coords[:7], salt.atomic_numbers[:7])
    assert match_pairs([(wrong, salt), (fewer, salt)]) == [Match(), Match()]


def test_the_same_crystals_match_whatever_their_order_origin_and_handedness():
    generator = np.random.default_rng(7)
    cells = [rock_salt(), make_cell(generator, 3), make_cell(generator, 6)]
    pairs = []
    for cell in cells:
        order = generator.permutation(len(cell))
        moved = (cell.frac_coords + generator.random(3))[order] % 1.0
        pairs.append((Cell(cell.lattice, moved, cell.atomic_numbers[order]), cell))
        flipped = Cell(-cell.lattice, -cell.frac_coords, cell.atomic_numbers)
        pairs.append((flipped, cell))
    matches = match_pairs(pairs)
    assert [match.rmse for match in matches] == pytest.approx([0.0] * len(pairs), abs=1e-6)


def test_workers_and_this_process_agree():
    generator = np.random.default_rng(0)
    true = rock_salt()
    options = MatchOptions(workers=2)
    noisy = []
    for sigma in np.linspace(0, 0.2, 40):
        frac = true.frac_coords + generator.normal(0, sigma, (8, 3))
        noisy.append(Cell(true.lattice, frac, true.atomic_numbers))
    matches = match_pairs([(cell, true) for cell in noisy], options)
    assert matches == [match_pair(cell, true, options) for cell in noisy]
    assert matches[0].matched
    assert not all(match.matched for match in matches)


def test_rmse_is_the_displacement_in_units_of_the_free_length_per_atom():
    # caesium chloride with both atoms moved apart by 0.2 Å along z, 0.1 Å from the best fit
    true = Cell(np.eye(3) * 4, np.array([[0, 0, 0], [0.5, 0.5, 0.5]]), np.array([55, 17]))
    move = np.array([[0, 0, 0], [0, 0, 0.05]])
    moved = Cell(true.lattice, true.frac_coords + move, true.atomic_numbers)
    match = match_pair(moved, true, MatchOptions())
    assert match.rmse == pytest.approx(0.1 / (64 / 2) ** (1 / 3), rel=1e-6)


def test_random_sites_depend_on_seed_and_id_alone():
    true = rock_salt()
    one = random_sites(true, 0, "mp-1")
    assert np.array_equal(one.frac_coords, random_sites(true, 0, "mp-1").frac_coords)
    assert not np.array_equal(one.frac_coords, random_sites(true, 1, "mp-1").frac_coords)
    assert not np.array_equal(one.frac_coords, random_sites(true, 0, "mp-2").frac_coords)
    assert np.array_equal(one.atomic_numbers, true.atomic_numbers)


def test_chance_level_of_real_crystals_is_far_from_zero(shared_data):
    import pandas as pd
    from pymatgen.core import Structure

    table = pd.read_csv(shared_data / "lcs6/test.csv.gz", nrows=40)
    cells = [Cell.from_structure(Structure.from_str(text, fmt="cif")) for text in table.cif]
    pairs = [(random_sites(c, 0, i), c) for i, c in zip(table.material_id, cells, strict=True)]
    rate = np.mean([match.matched for match in match_pairs(pairs)])
    assert 0.15 < rate < 0.5
