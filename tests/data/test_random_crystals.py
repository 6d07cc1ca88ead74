"""Random crystals: of real space groups, apart, and the same on every machine."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import spglib
from pymatgen.core import Lattice, Structure
from pymatgen.symmetry.groups import SpaceGroup

from nesf.data.packed import PackedSet
from nesf.data.random_crystals import iter_random, write_random
from nesf.data.symmetric import APART, SYSTEMS, VOLUMES, build, operations, orbit_of
from nesf.errors import InputError


@pytest.fixture(scope="module")
def structures() -> list[Structure]:
    return [structure_of(build({"seed": [0, index]}, {"max_atoms": 24})) for index in range(80)]


def structure_of(crystal: dict) -> Structure:
    lattice = Lattice.from_parameters(*crystal["lengths"], *crystal["angles"])
    properties = {"space_group": crystal["space_group"]}
    return Structure(lattice, crystal["numbers"], crystal["frac_coords"], properties=properties)


def dataset_of(one: Structure) -> spglib.SpglibDataset:
    cell = one.lattice.matrix, one.frac_coords, one.atomic_numbers
    data = spglib.get_symmetry_dataset(cell, symprec=1e-3)
    assert data is not None
    return data


@pytest.mark.parametrize("number", [2, 15, 62, 122, 166, 194, 205, 225])
@pytest.mark.parametrize("site", [(0.0, 0.0, 0.0), (0.25, 0.25, 0.25), (0.13, 0.13, 0.29)])
def test_orbits_are_those_of_pymatgen(number: int, site: tuple[float, float, float]) -> None:
    rotations, translations, points = operations(number)
    ours = orbit_of(np.array(site), rotations, translations)
    group = SpaceGroup.from_int_number(number)
    theirs = np.array(group.get_orbit(site))
    assert len(ours) == len(theirs)
    difference = ours[:, None] - theirs[None]
    assert np.abs(difference - np.round(difference)).max(-1).min(1).max() < 1e-6
    assert points == {"P": 1, "C": 2, "I": 2, "R": 3, "F": 4}[group.symbol[0]]


def test_the_systems_are_all_space_groups() -> None:
    numbers = [n for first, last in SYSTEMS.values() for n in range(first, last + 1)]
    assert numbers == list(range(1, 231))
    for system, (first, last) in SYSTEMS.items():
        assert {SpaceGroup.from_int_number(n).crystal_system for n in (first, last)} == {system}


def test_crystals_keep_apart_and_within_bounds(structures: list[Structure]) -> None:
    for one in structures:
        assert 1 <= len(one) <= 24
        # of the wanted atoms more than half, up to all, find a place in the volume for all
        per_atom = one.volume / len(one)
        assert VOLUMES[0] * 0.999 <= per_atom <= 2 * VOLUMES[1]
        images = one.get_all_neighbors(APART[0] * VOLUMES[0] ** (1 / 3) * 0.999)
        assert not any(images)
    sizes = [len(one) for one in structures]
    assert min(sizes) <= 3
    assert max(sizes) >= 20


def test_the_space_group_is_the_one_spglib_finds(structures: list[Structure]) -> None:
    found = [dataset_of(one).number for one in structures]
    assert found == [one.properties["space_group"] for one in structures]
    systems = Counter(
        next(name for name, (first, last) in SYSTEMS.items() if first <= number <= last)
        for number in found
    )
    assert len(systems) == len(SYSTEMS)
    assert max(systems.values()) < 40


def test_some_atoms_are_on_elements_of_symmetry(structures: list[Structure]) -> None:
    """An orbit of general positions has as many atoms as the primitive cell has operations."""
    special = general = 0
    for one in structures:
        data = dataset_of(one)
        order = len(data.rotations)
        for size in Counter(data.equivalent_atoms.tolist()).values():
            special += order > size
            general += order == size
    assert special > 30
    assert general > 30


def test_bytes_do_not_depend_on_the_workers(tmp_path: Path) -> None:
    for workers in (1, 2):  # more crystals than one worker takes at once
        path = tmp_path / f"{workers}.nesf"
        report = write_random(path, 70, 5, max_atoms=6, workers=workers, progress=False)
        assert report.packed == 70
    assert (tmp_path / "1.nesf").read_bytes() == (tmp_path / "2.nesf").read_bytes()
    packed = PackedSet.load(tmp_path / "1.nesf")
    assert packed.num_atoms.max() <= 6
    assert len(set(packed.ids)) == 70
    assert packed.provenance["seed"] == 5


def test_fewer_are_the_first_of_more_and_seeds_differ() -> None:
    many = list(iter_random(6, seed=1, max_atoms=8, workers=1))
    assert [row.id for row in iter_random(3, seed=1, max_atoms=8, workers=1)] == [
        row.id for row in many[:3]
    ]
    other = list(iter_random(6, seed=2, max_atoms=8, workers=1))
    assert all(a.structure != b.structure for a, b in zip(many, other, strict=True))
    assert many[0].id.startswith("random-000000-")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"count": 0}, "give a count above 0"),
        ({"count": 1, "seed": -1}, "seed from 0"),
        ({"count": 1, "max_atoms": 0}, "max_atoms is 0; give 1 to"),
        ({"count": 1, "max_atoms": 10**6}, "max_atoms is 1000000; give 1 to"),
    ],
)
def test_what_cannot_be_is_refused(arguments: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        iter_random(**arguments)
