import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_crystals import make_cell, rock_salt

from eval.cells import Cell, fault
from eval.metrics import (
    count_error,
    half_diagonal,
    lattice_errors,
    periodic_distances,
    periodic_site_errors,
    published_site_errors,
)

seeds = st.integers(0, 2**32 - 1)


def brute_force_distance(point, target, lattice, reach=6):
    images = itertools.product(range(-reach, reach + 1), repeat=3)
    return min(np.linalg.norm((point - target + image) @ lattice) for image in images)


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_periodic_distances_equal_a_search_over_many_images(seed):
    generator = np.random.default_rng(seed)
    cell = make_cell(generator, 2, skew=1.0)
    table = periodic_distances(cell.frac_coords, cell.frac_coords, cell.lattice)
    found = brute_force_distance(cell.frac_coords[0], cell.frac_coords[1], cell.lattice)
    assert table[0, 1] == pytest.approx(found, abs=1e-9)
    assert np.diag(table) == pytest.approx(0, abs=1e-9)


def test_periodic_distances_equal_pymatgen_in_a_very_skewed_cell():
    from pymatgen.core import Lattice

    generator = np.random.default_rng(3)
    lattice = np.array([[3.0, 0, 0], [7.1, 3.0, 0], [-4.0, 6.5, 3.5]])
    first, second = generator.random((5, 3)), generator.random((7, 3))
    expected = Lattice(lattice).get_all_distances(first, second)
    reduced = Lattice(lattice).get_lll_reduced_lattice()
    carts = (first @ lattice, second @ lattice)
    expected = reduced.get_all_distances(*(reduced.get_fractional_coords(x) for x in carts))
    assert periodic_distances(first, second, lattice) == pytest.approx(expected, abs=1e-8)


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_site_errors_do_not_see_order_or_the_choice_of_image(seed):
    generator = np.random.default_rng(seed)
    true, guess = make_cell(generator, 4), make_cell(generator, 6)
    order = generator.permutation(6)
    moved = Cell(
        guess.lattice,
        guess.frac_coords[order] + generator.integers(-3, 4, (6, 3)),
        guess.atomic_numbers[order],
    )
    for errors in (periodic_site_errors, published_site_errors):
        one, other = errors(true, guess), errors(true, moved)
        assert one.position_actual == pytest.approx(other.position_actual, abs=1e-8)
        assert one.position_detected[order] == pytest.approx(other.position_detected, abs=1e-8)
        assert one.species_actual.tolist() == other.species_actual.tolist()
        assert one.species_detected[order].tolist() == other.species_detected.tolist()


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_actual_and_detected_change_places_with_the_two_crystals(seed):
    generator = np.random.default_rng(seed)
    true, guess = make_cell(generator, 3), make_cell(generator, 5)
    guess = Cell(true.lattice, guess.frac_coords, guess.atomic_numbers)
    forth, back = periodic_site_errors(true, guess), periodic_site_errors(guess, true)
    assert forth.position_actual == pytest.approx(back.position_detected)
    assert forth.species_detected.tolist() == back.species_actual.tolist()


def test_a_missed_atom_shows_in_actual_and_an_invented_one_in_detected():
    true = Cell(np.eye(3) * 10, np.array([[0.5, 0.5, 0.5], [0.5, 0.5, 0.7]]), np.array([6, 8]))
    missed = Cell(true.lattice, true.frac_coords[:1], true.atomic_numbers[:1])
    errors = periodic_site_errors(true, missed)
    assert errors.position_actual == pytest.approx([0, 2])
    assert errors.species_actual.tolist() == [False, True]
    assert errors.position_detected == pytest.approx([0])
    assert errors.species_detected.tolist() == [False]
    swapped = periodic_site_errors(missed, true)
    assert swapped.position_detected == pytest.approx([0, 2])
    assert swapped.position_actual == pytest.approx([0])


def test_published_errors_know_no_images_but_forgive_jitter_at_a_face():
    true = Cell(np.eye(3) * 10, np.array([[0.0, 0.5, 0.5]]), np.array([6]))
    near = Cell(true.lattice, np.array([[-0.01, 0.5, 0.5]]), np.array([6]))
    far = Cell(true.lattice, np.array([[0.9, 0.5, 0.5]]), np.array([6]))
    assert published_site_errors(true, near).position_actual == pytest.approx([0.1])
    assert published_site_errors(true, far).position_actual == pytest.approx([9.0])
    assert periodic_site_errors(true, far).position_actual == pytest.approx([1.0])


def test_published_errors_do_not_see_how_a_cell_is_turned():
    generator = np.random.default_rng(0)
    cell = make_cell(generator, 5)
    rotation, _ = np.linalg.qr(generator.normal(size=(3, 3)))
    turned = Cell(cell.lattice @ rotation, cell.frac_coords, cell.atomic_numbers)
    assert published_site_errors(cell, turned).position_actual == pytest.approx(0, abs=1e-9)


def test_lattice_errors_equal_hand_counted_ones():
    true = Cell(np.diag([4.0, 4.0, 4.0]), np.zeros((1, 3)), np.array([6]))
    guess = Cell(np.diag([4.0, 4.3, 4.0]), np.zeros((1, 3)), np.array([6]))
    errors = lattice_errors(true, guess)
    assert errors.length == pytest.approx(0.1)
    assert errors.angle == pytest.approx(0.0)
    assert errors.volume == pytest.approx(7.5)
    hexagonal = Cell(
        np.array([[4.0, 0, 0], [-2.0, 2 * np.sqrt(3), 0], [0, 0, 4.0]]),
        np.zeros((1, 3)),
        np.array([6]),
    )
    assert lattice_errors(true, hexagonal).angle == pytest.approx(10.0)


def test_a_failure_scores_as_if_every_atom_were_as_far_and_as_wrong_as_can_be():
    true = rock_salt()
    for errors in (periodic_site_errors(true, None), published_site_errors(true, None)):
        assert errors.position_actual == pytest.approx([5.64 * np.sqrt(3) / 2] * 8)
        assert errors.position_detected == pytest.approx([5.64 * np.sqrt(3) / 2] * 8)
        assert errors.species_actual.all()
        assert errors.species_detected.all()
    assert count_error(true, None) == -8
    lattice = lattice_errors(true, None)
    assert (lattice.length, lattice.angle, lattice.volume) == pytest.approx((5.64, 90, 100))


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_no_prediction_with_atoms_scores_worse_than_a_failure(seed):
    generator = np.random.default_rng(seed)
    true, guess = make_cell(generator, 2), make_cell(generator, 1)
    guess = Cell(true.lattice, guess.frac_coords, guess.atomic_numbers)
    worst = half_diagonal(true.lattice) + 1e-9
    assert periodic_site_errors(true, guess).position_actual.max() <= worst


@pytest.mark.parametrize(
    ("lattice", "frac", "phrase"),
    [
        (np.diag([4, 4, np.nan]), [[0, 0, 0]], "finite"),
        (np.eye(3) * 4, [[0, np.inf, 0]], "inf"),
        (np.eye(3) * 4, np.zeros((0, 3)), "no atoms"),
        (np.diag([4, 4, 1e9]), [[0, 0, 0]], "1e"),
        (np.array([[4, 0, 0], [0, 4, 0], [4, 4, 0.001]]), [[0, 0, 0]], "flat"),
        (np.diag([0.0, 0.0, 0.0]), [[0, 0, 0]], "length"),
    ],
)
def test_unusable_cells_are_told_apart(lattice, frac, phrase):
    frac = np.array(frac, dtype=float)
    assert phrase in fault(Cell(np.array(lattice, dtype=float), frac, np.full(len(frac), 6)))


def test_usable_cells_have_no_fault():
    close = Cell(np.eye(3) * 4, np.array([[0, 0, 0], [0, 0, 1e-4]]), np.array([6, 6]))
    left_handed = Cell(np.diag([4.0, 4.0, -4.0]), np.zeros((1, 3)), np.array([6]))
    assert fault(close) is None
    assert fault(left_handed) is None
    assert fault(None) == "no prediction"


def test_a_left_handed_cell_keeps_its_atoms_when_pymatgen_gets_it():
    generator = np.random.default_rng(1)
    cell = make_cell(generator, 4)
    left = Cell(cell.lattice * [[1], [1], [-1]], cell.frac_coords, cell.atomic_numbers)
    structure = left.to_structure()
    assert np.linalg.det(structure.lattice.matrix) > 0
    assert structure.cart_coords == pytest.approx(left.frac_coords @ left.lattice)
