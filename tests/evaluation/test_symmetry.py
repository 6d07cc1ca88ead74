import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_crystals import make_cell, rock_salt

from eval.cells import Cell
from eval.metrics import lattice_errors, periodic_site_errors
from eval.symmetry import refine_symmetry


def shaken(cell: Cell, generator: np.random.Generator, sigma: float = 0.03) -> Cell:
    moves = generator.normal(0, sigma, cell.frac_coords.shape) @ np.linalg.inv(cell.lattice)
    strain = 1 + generator.normal(0, 0.003, (3, 3))
    return Cell(cell.lattice * strain, cell.frac_coords + moves, cell.atomic_numbers)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000), st.floats(-0.4, 0.4))
def test_noise_on_rock_salt_goes_away_in_its_own_frame(seed, shift):
    true = rock_salt(shift)
    noisy = shaken(true, np.random.default_rng(seed))
    refined = refine_symmetry(noisy)
    before = periodic_site_errors(true, noisy)
    after = periodic_site_errors(true, refined)
    # what is left is the mean of eight displacements, which no symmetry can tell
    assert after.position_actual.max() < 0.05
    assert after.position_actual.mean() < before.position_actual.mean()
    assert refined.angles == pytest.approx(90, abs=1e-9)
    assert np.ptp(refined.lengths) < 1e-9
    assert refined.atomic_numbers.tolist() == noisy.atomic_numbers.tolist()
    # the frame is kept: a stretch without a turn
    stretch = np.linalg.solve(noisy.lattice, refined.lattice)
    assert stretch == pytest.approx(stretch.T, abs=1e-9)


def test_refining_twice_changes_nothing_more():
    refined = refine_symmetry(shaken(rock_salt(0.1), np.random.default_rng(0)))
    again = refine_symmetry(refined)
    assert periodic_site_errors(refined, again).position_actual == pytest.approx(0, abs=1e-9)
    assert lattice_errors(refined, again).length == pytest.approx(0, abs=1e-9)


def test_a_crystal_without_symmetry_stays_where_it_is():
    cell = make_cell(np.random.default_rng(5), 6)
    refined = refine_symmetry(cell, symprec=0.01)
    assert refined.frac_coords == pytest.approx(cell.frac_coords, abs=1e-12)
    assert refined.lattice == pytest.approx(cell.lattice, abs=1e-9)


def test_atoms_do_not_melt_together():
    # a mirror within 0.2 Å would bring the pair onto one point
    frac = np.array([[0.0, 0.0, 0.02], [0.0, 0.0, -0.02]])
    refined = refine_symmetry(Cell(np.eye(3) * 5, frac, np.array([6, 6])))
    gap = (refined.frac_coords[0] - refined.frac_coords[1]) @ refined.lattice
    assert np.linalg.norm(gap) > 0.1


def test_unusable_cells_come_back_as_they_are():
    flat = Cell(np.diag([4.0, 4.0, 1e-3]), np.zeros((1, 3)), np.array([6]))
    empty = Cell(np.eye(3) * 4, np.zeros((0, 3)), np.zeros(0, dtype=int))
    assert refine_symmetry(flat) is flat
    assert refine_symmetry(empty) is empty


def test_supercells_are_refined_without_a_word(capfd):
    true = rock_salt()
    double = Cell(
        true.lattice * [[2], [1], [1]],
        np.concatenate([true.frac_coords / [2, 1, 1], true.frac_coords / [2, 1, 1] + [0.5, 0, 0]]),
        np.tile(true.atomic_numbers, 2),
    )
    noisy = shaken(double, np.random.default_rng(2), 0.02)
    after = periodic_site_errors(double, refine_symmetry(noisy)).position_actual.mean()
    assert after < periodic_site_errors(double, noisy).position_actual.mean()
    assert capfd.readouterr().err == ""


def test_refinement_halves_the_error_of_noisy_real_crystals(shared_data):
    import pandas as pd
    from pymatgen.core import Structure

    generator = np.random.default_rng(0)
    raw, refined = [], []
    for text in pd.read_csv(shared_data / "lcs6/test.csv.gz", nrows=40).cif:
        true = Cell.from_structure(Structure.from_str(text, fmt="cif"))
        noisy = shaken(true, generator)
        raw.append(periodic_site_errors(true, noisy).position_actual.mean())
        better = refine_symmetry(noisy)
        refined.append(periodic_site_errors(true, better).position_actual.mean())
    assert np.mean(refined) < 0.65 * np.mean(raw)
    assert np.mean(np.array(refined) < np.array(raw)) > 0.9
