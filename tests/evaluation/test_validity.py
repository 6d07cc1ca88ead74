"""What passes and what fails; shuffles, shifts and supercells must not matter."""

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_crystals import make_cell, rock_salt
from pymatgen.core import Composition, Lattice, Structure

from eval.cells import Cell
from eval.validity import (
    CHECKS,
    FAULTS,
    Validity,
    check_validity,
    faults,
    formula,
    is_neutral,
    nearest_distances,
    summary,
)
from eval.validity_shares import tell_of_files
from nesf.data.prototypes import make_prototypes
from nesf.data.readers import Row, iter_crystals

SEEDS = st.integers(0, 2**32 - 1)


def numbers(text: str) -> np.ndarray:
    """Atomic numbers of a formula unit."""
    amounts = Composition(text).items()
    return np.repeat([element.Z for element, _ in amounts], [int(n) for _, n in amounts])


def supercell(cell: Cell, repeats: tuple[int, int, int]) -> Cell:
    shifts = np.array(list(itertools.product(*map(range, repeats))))
    frac = (cell.frac_coords[:, None] + shifts[None]).reshape(-1, 3) / np.array(repeats)
    lattice = cell.lattice * np.array(repeats)[:, None]
    return Cell(lattice, frac, np.repeat(cell.atomic_numbers, len(shifts)))


def failed(cell: Cell | None) -> set[str]:
    found = check_validity(cell)
    return {name for name in CHECKS if not getattr(found, name)}


def test_rock_salt_passes_everything():
    found = check_validity(rock_salt(), known={"NaCl"})
    assert found.valid
    assert found.valid_all
    assert (found.formula, found.num_atoms, found.known_formula) == ("NaCl", 8, True)
    assert found.min_distance == pytest.approx(2.82)
    assert found.volume_per_atom == pytest.approx(5.64**3 / 8)


def test_prototypes_are_sound():
    rows = make_prototypes(8, kinds=["rocksalt", "perovskite"], max_atoms=10, workers=1)
    for row in rows:
        assert check_validity(Cell.from_structure(row.structure)).valid_all, row.id


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (None, set(CHECKS)),
        (Cell(np.eye(3) * 4, np.zeros((0, 3)), np.zeros(0, dtype=int)), set(CHECKS)),
        (Cell(np.eye(3) * 4, np.full((1, 3), np.nan), np.array([6])), set(CHECKS)),
        (
            Cell(np.diag([4.0, 4.0, 0.4]), np.zeros((1, 3)), np.array([29])),
            {"cell_ok", "distance_ok", "radii_ok", "volume_ok"},
        ),
        (
            Cell(np.full((3, 3), np.nan), np.zeros((1, 3)), np.array([29])),
            {"cell_ok", "distance_ok", "radii_ok", "volume_ok"},
        ),
        # two copper atoms across a face, 0.4 Å apart
        (
            Cell(np.eye(3) * 4, np.array([[0.05, 0, 0], [0.95, 0, 0]]), np.array([29, 29])),
            {"distance_ok", "radii_ok"},
        ),
        # 1.2 Å: more than 0.5 Å, but not for copper, whose covalent radius is 1.32 Å
        (
            Cell(np.eye(3) * 4, np.array([[0.15, 0, 0], [0.85, 0, 0]]), np.array([29, 29])),
            {"radii_ok"},
        ),
        (Cell(np.eye(3) * 9, np.zeros((1, 3)), np.array([29])), {"volume_ok"}),
        # an atom too near its own image
        (Cell(np.diag([0.6, 9, 9]), np.zeros((1, 3)), np.array([29])), {"radii_ok"}),
        # Na2Cl6: the same sites, the wrong charge
        (
            Cell(rock_salt().lattice, rock_salt().frac_coords, np.repeat([11, 17], [2, 6])),
            {"neutral"},
        ),
    ],
)
def test_each_fault_fails_its_own_check(cell, expected):
    assert failed(cell) == expected


@pytest.mark.parametrize(
    "text",
    ["NaCl", "CaTiO3", "Al2O3", "Fe2O3", "Na2SO4", "LiFePO4", "BaPbO3", "SiC", "La2CuO4"],
)
def test_salts_are_neutral(text):
    assert is_neutral(numbers(text))
    guesses = Composition(text).oxi_state_guesses(all_oxi_states=True)
    assert guesses, "pymatgen's own guess disagrees"


@pytest.mark.parametrize("text", ["Cu", "C", "Xe", "FeNi3", "CsAuPb", "Al", "O"])
def test_metals_and_single_elements_are_neutral(text):
    assert is_neutral(numbers(text))


@pytest.mark.parametrize(
    "text",
    [
        "NaCl2",
        "NaO3",
        "KF2",
        "Na3O",
        "HeO",  # no charge is known of helium
        "Fe3O4",  # mixed valence is no single charge per element
    ],
)
def test_imbalance_is_found(text):
    assert not is_neutral(numbers(text))


def test_the_anion_is_the_more_electronegative():
    # +1 and -1 are known of both; only H- on Na+ and H+ on Cl- are in order
    assert is_neutral(numbers("NaH"))
    assert is_neutral(numbers("HCl"))
    # Li +1 and Na -1 balance, and both are metals: no salt, but an alloy; N -3 on F +3 is neither
    assert is_neutral(numbers("LiNa"))
    assert is_neutral(numbers("NF3"))
    assert not is_neutral(numbers("N3F"))


def test_the_worst_composition_takes_no_time():
    everything = np.repeat(np.arange(1, 95), np.arange(1, 95) % 7 + 1)
    no_noble = everything[~np.isin(everything, [2, 10, 18])]
    is_neutral(no_noble)  # loads the elements
    start = time.process_time()
    is_neutral(no_noble)
    assert time.process_time() - start < 2


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.tuples(*[st.integers(1, 2)] * 3), st.booleans())
def test_no_verdict_depends_on_order_origin_or_cell(seed, repeats, salt):
    generator = np.random.default_rng(seed)
    cell = rock_salt() if salt else make_cell(generator, int(generator.integers(1, 6)))
    order = generator.permutation(len(cell))
    other = Cell(cell.lattice, cell.frac_coords[order], cell.atomic_numbers[order])
    other = supercell(other, repeats)
    moved = Cell(other.lattice, other.frac_coords + generator.random(3), other.atomic_numbers)
    before, after = check_validity(cell), check_validity(moved)
    assert after.min_distance == pytest.approx(before.min_distance)
    assert after.volume_per_atom == pytest.approx(before.volume_per_atom)
    assert after.formula == before.formula
    for name in (*CHECKS, "valid", "valid_all"):
        assert getattr(after, name) == getattr(before, name), name


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_distances_are_pymatgens(seed):
    generator = np.random.default_rng(seed)
    cell = make_cell(generator, 5, skew=0.5)
    found = nearest_distances(cell)
    structure = Structure(Lattice(cell.lattice), cell.atomic_numbers, cell.frac_coords)
    off = ~np.eye(5, dtype=bool)
    assert found[off] == pytest.approx(structure.distance_matrix[off], abs=1e-6)
    images = np.array([n for n in itertools.product(range(-3, 4), repeat=3) if any(n)])
    shortest = np.linalg.norm(images @ cell.lattice, axis=1).min()
    assert np.diag(found) == pytest.approx(shortest)


def test_rows_and_summary_count_everybody():
    good, bad = check_validity(rock_salt(), {"KCl"}), check_validity(None, {"KCl"})
    rows = [good.row(), bad.row(), bad.row(), bad.row()]
    assert tuple(rows[0]) == Validity.columns()
    assert (rows[0]["neutral"], rows[1]["neutral"]) == ("true", "false")
    assert (rows[1]["num_atoms"], rows[1]["min_distance"]) == (0, None)
    told = summary(rows)
    assert told.startswith("of 4: has atoms 1, ")
    assert "valid as published 1 (25 %), all checks 1 (25 %), known formula 0 (0 %)" in told
    assert "known" not in summary([check_validity(None).row()])
    assert summary([]).startswith("of 0: has atoms 0")


def test_the_shares_of_files_count_unreadable_rows(tmp_path, capsys):
    files = [tmp_path / name for name in ("good.cif", "salty.cif", "bad.cif")]
    rock_salt().to_structure().to(filename=str(files[0]))
    odd = Structure(Lattice.cubic(4), ["Na", "Cl", "Cl"], [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5]])
    odd.to(filename=str(files[1]))
    files[2].write_text("data_x\n_cell_length_a ?\n")
    tell_of_files([str(file) for file in files])
    *_, told = capsys.readouterr().out.partition("all: ")
    assert told.startswith("3 crystals\n")
    lines = dict(line.strip().split("  ", 1) for line in told.splitlines() if "%" in line)
    shares = {words: float(share.rstrip(" %")) for words, share in lines.items()}
    assert shares["has atoms"] == shares["atoms >= 0.6 radii apart"] == 66.67
    assert shares["charge neutral"] == shares["all checks"] == 33.33
    # Na on Cl: 1.66 and 1.02 Å (Cordero et al.), 2.82 Å apart in rock salt, 4 / sqrt 2 in the other
    assert f"nearest pair at {2.82 / 2.68:.3f} of" in told
    assert f"{64 / 3:.2f} to {5.64**3 / 8:.2f} Å³ an atom" in told


def test_faults_leave_out_what_follows():
    assert set(FAULTS) == set(CHECKS)
    assert faults(check_validity(rock_salt()).row()) == []
    assert faults(check_validity(None).row()) == ["no atoms"]
    flat = Cell(np.diag([4.0, 4.0, 0.4]), np.zeros((1, 3)), np.array([29]))
    assert faults(check_validity(flat).row()) == ["flat cell"]
    twice = Cell(np.eye(3) * 4, np.zeros((2, 3)), np.array([29, 8]))
    assert faults(check_validity(twice).row()) == ["atoms overlap"]


def test_a_formula_of_helium_warns_of_nothing(recwarn):
    assert formula(numbers("Na4Cl4")) == "NaCl"
    assert formula(np.array([2, 8])) in ("HeO", "OHe")
    assert not recwarn


@pytest.mark.slow
@pytest.mark.parametrize(("name", "neutral"), [("lcs6/test", 0.85), ("perov5/test", 0.93)])
def test_real_crystals_pass(shared_data, name, neutral):
    rows = iter_crystals(shared_data / f"{name}.csv.gz", progress=False, part=slice(0, None, 5))
    found = [check_validity(Cell.from_structure(r.structure)) for r in rows if isinstance(r, Row)]
    assert len(found) > 50
    for check in CHECKS:
        share = np.mean([getattr(one, check) for one in found])
        assert share >= (neutral if check == "neutral" else 0.99), check
