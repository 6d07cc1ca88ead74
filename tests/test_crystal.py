"""CrystalBatch: padding, selection and the way to pymatgen and back."""

import numpy as np
import pytest
import torch
from pymatgen.core import DummySpecies, Lattice, Structure

from nesf.crystal import CrystalBatch
from nesf.errors import InputError


@pytest.fixture
def structures() -> list[Structure]:
    rock_salt = Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
    )
    graphite = Structure(Lattice.hexagonal(2.46, 6.7), ["C"] * 2, [[0, 0, 0.25], [1 / 3, 2 / 3, 0]])
    return [rock_salt, graphite]


def test_round_trip_through_pymatgen(structures):
    batch = CrystalBatch.from_structures(structures, ["a", "b"], dtype=torch.float64)
    assert batch.num_atoms.tolist() == [8, 2]
    assert batch.mask.tolist()[1] == [True] * 2 + [False] * 6
    for before, after in zip(structures, batch.to_structures(), strict=True):
        assert [s.specie.Z for s in before] == [s.specie.Z for s in after]
        np.testing.assert_allclose(before.lattice.matrix, after.lattice.matrix)
        np.testing.assert_allclose(before.frac_coords, after.frac_coords)
        np.testing.assert_allclose(before.cart_coords, after.cart_coords, atol=1e-12)


def test_cartesian_and_species(structures):
    batch = CrystalBatch.from_structures(structures, dtype=torch.float64)
    expected = structures[1].cart_coords
    np.testing.assert_allclose(batch.cart_coords[1, :2].numpy(), expected, atol=1e-12)
    assert batch.species[1].tolist() == [5, 5, 0, 0, 0, 0, 0, 0]
    assert batch.ids == ("0", "1")


@pytest.mark.parametrize("index", [[1], torch.tensor([1]), torch.tensor([False, True])])
def test_select_trims_the_padding(structures, index):
    chosen = CrystalBatch.from_structures(structures, ["a", "b"]).select(index)
    assert chosen.ids == ("b",)
    assert chosen.mask.shape == (1, 2)


def test_select_repeats_and_empties(structures):
    batch = CrystalBatch.from_structures(structures, ["a", "b"])
    assert batch.select([1, 0, 1]).ids == ("b", "a", "b")
    assert len(batch.select([])) == 0


def test_crystal_without_atoms(structures):
    empty = CrystalBatch.from_flat(
        torch.zeros(0, 3),
        torch.zeros(0, dtype=torch.long),
        torch.tensor([0]),
        torch.eye(3)[None],
        "a",
    )
    assert empty.num_atoms.tolist() == [0]
    assert len(empty.to_structures()[0]) == 0


def test_to_changes_coordinates_only(structures):
    batch = CrystalBatch.from_structures(structures).to(dtype=torch.float64)
    assert batch.lattice.dtype == batch.frac_coords.dtype == torch.float64
    assert batch.atomic_numbers.dtype == torch.long


def test_refuses_what_it_cannot_hold(structures):
    shared = Structure(Lattice.cubic(3), [{"Fe": 0.5, "Ni": 0.5}], [[0, 0, 0]])
    with pytest.raises(InputError, match="alloy has disordered sites"):
        CrystalBatch.from_structures([shared], ["alloy"])
    for species in (DummySpecies("X"), "Lr"):
        with pytest.raises(InputError, match="odd has"):
            CrystalBatch.from_structures(
                [Structure(Lattice.cubic(3), [species], [[0] * 3])], ["odd"]
            )
    with pytest.raises(InputError, match="as many ids"):
        CrystalBatch.from_structures(structures, ["one"])
    with pytest.raises(InputError, match="no structures"):
        CrystalBatch.from_structures([])
