import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from nesf.crystal import MAX_ATOMIC_NUMBER
from nesf.data.checks import check_structure, nearest_pair
from nesf.data.records import ReadOptions
from nesf.errors import InputError

CELL = Lattice.from_parameters(4, 5, 6, 80, 95, 100)


def brute_force_nearest(lattice: np.ndarray, frac: np.ndarray, reach: int = 4) -> float:
    axis = np.arange(-reach, reach + 1)
    shifts = np.stack(np.meshgrid(axis, axis, axis), -1).reshape(-1, 3)
    delta = (frac[:, None, None] - frac[None, :, None] + shifts) @ lattice
    distance = np.linalg.norm(delta, axis=-1)
    own = np.eye(len(frac), dtype=bool)[..., None] & (shifts == 0).all(-1)
    return float(distance[~own].min())


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 6), cutoff=st.floats(0.3, 3.0))
def test_nearest_pair_agrees_with_brute_force(seed: int, count: int, cutoff: float) -> None:
    rng = np.random.default_rng(seed)
    lattice = Lattice.from_parameters(*rng.uniform(1.5, 6, 3), *rng.uniform(65, 110, 3)).matrix
    frac = rng.uniform(-2, 2, (count, 3))
    expected = brute_force_nearest(lattice, frac, reach=7)
    distance, i, j = nearest_pair(lattice, frac, cutoff)
    if expected < cutoff:
        assert distance == pytest.approx(expected, abs=1e-9)
        assert 0 <= i <= j < count
    else:
        assert distance == math.inf


def test_nearest_pair_of_many_atoms_is_found_in_blocks() -> None:
    frac = np.stack(np.meshgrid(*[np.arange(13) / 13] * 3), -1).reshape(-1, 3)
    frac[2000] = frac[77] + [0, 0, 0.002]
    distance, i, j = nearest_pair(np.eye(3) * 26, frac, 0.5)
    assert (i, j) == (77, 2000)
    assert distance == pytest.approx(0.052)


def test_a_thin_cell_sees_its_own_images() -> None:
    distance, i, j = nearest_pair(np.diag([0.8, 5, 5]), np.zeros((1, 3)), 1.0)
    assert (distance, i, j) == (pytest.approx(0.8), 0, 0)


REFUSED = {
    "not made of nine finite": Structure(np.full((3, 3), np.nan), ["Fe"], [[0, 0, 0]]),
    "cell length c = 1000 Å": Structure(np.diag([4, 4, 1000.0]), ["Fe"], [[0, 0, 0]]),
    "cell angle gamma = 2°": Structure(
        Lattice([[5, 0, 0], [5 * np.cos(0.034906585), 5 * np.sin(0.034906585), 0], [0, 0, 5]]),
        ["Fe"],
        [[0, 0, 0]],
    ),
    "a flat cell": Structure(Lattice([[3, 0, 0], [0, 3, 0], [2, 2, 0.3]]), ["Fe"], [[0, 0, 0]]),
    "no atoms": Structure(CELL, [], []),
    "501 atoms": Structure(Lattice.cubic(80), ["Fe"] * 501, np.zeros((501, 3))),
    "Z = 95": Structure(CELL, ["Am"], [[0, 0, 0]]),
    "X is no element": Structure(CELL, ["X"], [[0, 0, 0]]),
    "coordinate nan of atom 2": Structure(CELL, ["Fe", "O"], [[0, 0, 0], [0, np.nan, 0]]),
    "disordered site Fe/Ni 0.5/0.5": Structure(CELL, [{"Fe": 0.5, "Ni": 0.5}], [[0, 0, 0]]),
    "disordered site Fe 0.9": Structure(CELL, [{"Fe": 0.9}], [[0, 0, 0]]),
    r"Fe \(atom 1\) and O \(atom 2\) are 0.4 Å apart": Structure(
        CELL, ["Fe", "O"], [[0.95, 0, 0], [0.05, 0, 0]]
    ),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_bad_structure_is_refused_by_name(reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        check_structure(REFUSED[reason])


def test_a_charged_left_handed_dense_structure_passes() -> None:
    cell = Lattice(CELL.matrix * [[1], [1], [-1]])
    assert np.linalg.det(cell.matrix) < 0
    check_structure(Structure(cell, ["Fe3+", "O2-"], [[0, 0, 0], [0.15, 0, 0]]))  # 0.6 Å


def test_the_limits_are_options() -> None:
    check_structure(Structure(CELL, ["Am"], [[0, 0, 0]]), ReadOptions(max_atomic_number=95))
    with pytest.raises(InputError, match="nearer than 7 Å"):
        check_structure(Structure(CELL, ["Fe"], [[0, 0, 0]]), ReadOptions(min_distance=7.0))
    assert ReadOptions().max_atomic_number == MAX_ATOMIC_NUMBER


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_atoms", 0), ("workers", 0), ("timeout_s", math.nan)],
)
def test_wrong_options_are_refused(name: str, value: object) -> None:
    with pytest.raises(InputError, match=name):
        ReadOptions(**{name: value})
