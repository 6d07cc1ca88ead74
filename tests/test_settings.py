"""Primitive cells and the way back, against pymatgen; and which cell a crystal goes through."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure
from scipy.spatial.transform import Rotation

import nesf
from nesf.crystal import CrystalBatch, standardised
from nesf.errors import InputError
from nesf.exact import exact_fields
from nesf.reconstruction.reconstruct import Reconstruction, reconstruct
from nesf.reconstruction.settings import PrimitiveCells, _cosets, primitive_cells
from nesf.reconstruction.settings_way import (
    Part,
    choice_for,
    join_known,
    reconstruct_in,
    refuse_large,
    too_large,
)
from nesf.scoring import count_faults


def hexagonal(a: float, c: float) -> Lattice:
    return Lattice.hexagonal(a, c)


CUBIC, HALF = Lattice.cubic, (0.5, 0.5, 0.5)
PROTOTYPES = {  # space group, lattice, elements, sites
    "rock salt": (225, CUBIC(5.64), ["Na", "Cl"], [[0, 0, 0], HALF]),
    "iron": (229, CUBIC(2.87), ["Fe"], [[0, 0, 0]]),
    "diamond": (227, CUBIC(5.43), ["Si"], [[0, 0, 0]]),
    "perovskite": (221, CUBIC(3.9), ["Sr", "Ti", "O"], [[0, 0, 0], HALF, [0.5, 0.5, 0]]),
    "corundum": (167, hexagonal(4.76, 12.99), ["Al", "O"], [[0, 0, 0.352], [0.306, 0, 0.25]]),
    "calcite": (
        167, hexagonal(4.99, 17.06), ["Ca", "C", "O"],
        [[0, 0, 0], [0, 0, 0.25], [0.257, 0, 0.25]],
    ),
    "wurtzite": (
        186, hexagonal(3.82, 6.26), ["Zn", "S"], [[1 / 3, 2 / 3, 0], [1 / 3, 2 / 3, 0.375]],
    ),
    "quartz": (
        152, hexagonal(4.91, 5.4), ["Si", "O"], [[0.47, 0, 1 / 3], [0.413, 0.267, 0.453]],
    ),
    "rutile": (136, Lattice.tetragonal(4.59, 2.96), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]]),
    "anatase": (141, Lattice.tetragonal(3.78, 9.51), ["Ti"], [[0, 0.75, 0.125]]),
    "C-centred": (
        12, Lattice.monoclinic(9.4, 3.1, 5.2, 104), ["Nb", "S"], [[0.1, 0, 0.2], [0.7, 0, 0.6]],
    ),
    "F, orthorhombic": (70, Lattice.orthorhombic(6, 8.2, 9.7), ["S"], [[0.02, 0.15, 0.3]]),
    "triclinic": (
        1, Lattice.from_parameters(3.1, 4.2, 5.3, 75, 82, 68), ["Si", "C", "N"],
        [[0.1, 0.2, 0.3], [0.6, 0.7, 0.1], [0.4, 0.5, 0.8]],
    ),
}  # fmt: skip


def prototype(name: str) -> Structure:
    return Structure.from_spacegroup(*PROTOTYPES[name])


def recut(structure: Structure, seed: int, largest: int = 5) -> Structure:
    """The same crystal in a supercell of another shape, turned, its origin anywhere."""
    rng = np.random.default_rng(seed)
    while True:
        whole = rng.integers(-2, 3, (3, 3))
        if 1 <= round(np.linalg.det(whole)) <= largest:
            break
    larger = structure.copy()
    larger.make_supercell(whole, to_unit_cell=False)
    turn = Rotation.random(random_state=seed).as_matrix()
    frac = (larger.frac_coords + rng.random(3)) % 1
    return Structure(Lattice(larger.lattice.matrix @ turn.T), larger.species, frac)


def batch(*structures: Structure, dtype: torch.dtype = torch.float32) -> CrystalBatch:
    return CrystalBatch.from_structures(structures, dtype=dtype)


def certain(crystals: CrystalBatch) -> Reconstruction:
    share = crystals.mask / crystals.num_atoms[:, None]
    agrees = torch.ones(len(crystals), dtype=torch.bool)
    return Reconstruction(crystals, 0.1 * share, share.float(), agrees, torch.rand(len(crystals)))


def same_sites(found: Structure, true: Structure, tolerance: float) -> bool:
    """Every true site has a found one of its own and of its element, in the true cell."""
    if len(found) != len(true):
        return False
    distances = true.lattice.get_all_distances(true.frac_coords, found.frac_coords)
    nearest = distances.argmin(1)
    elements = [found[j].specie for j in nearest] == true.species
    return len(set(nearest)) == len(true) and distances.min(1).max() < tolerance and elements


@pytest.mark.parametrize("name", PROTOTYPES)
def test_there_and_back_in_any_cell(name: str) -> None:
    plain = prototype(name)
    given_ = [plain, *(recut(plain, seed) for seed in range(2))]
    crystals = batch(*given_)
    cells = primitive_cells(crystals)
    # the first one may be written in its primitive cell already
    assert cells.index.tolist()[-2:] == [1, 2]
    atoms = len(plain.get_primitive_structure(tolerance=0.01))
    assert set(cells.crystals.num_atoms.tolist()) == {atoms}
    again = cells.back(certain(cells.crystals)).crystals
    asked = crystals.select(cells.index)
    assert count_faults(again, standardised(asked), 0.005, 0.005).tolist() == [0] * len(asked)
    same = StructureMatcher(0.01, 0.01, 0.1, primitive_cell=True, scale=False)
    for i, small, found in zip(
        cells.index.tolist(), cells.crystals.to_structures(), again.to_structures(), strict=True
    ):
        assert same_sites(found, given_[i], 0.005)
        assert found.lattice.parameters == pytest.approx(given_[i].lattice.parameters, abs=0.002)
        assert same.fit(small, given_[i])


def test_one_crystal_has_one_primitive_cell() -> None:
    """Whatever the cell: the same lattice, and atoms at places that symmetry knows."""
    for name in ("rock salt", "corundum", "rutile"):
        cells = primitive_cells(batch(*(recut(prototype(name), seed) for seed in range(3, 6))))
        lengths = cells.crystals.lattice.norm(dim=-1)
        assert torch.allclose(lengths, lengths[:1].expand_as(lengths), atol=1e-3)
        distance = torch.linalg.det(cells.crystals.lattice)
        assert torch.allclose(distance, distance[:1].expand_as(distance), rtol=1e-3)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**16), st.integers(1, 4))
def test_any_crystal_in_any_cell(seed: int, atoms: int) -> None:
    """Crystals without symmetry, in skewed supercells: nothing but the copies is taken away."""
    rng = np.random.default_rng(seed)
    lattice = Lattice(np.diag(rng.uniform(3, 6, 3)) + rng.uniform(-1, 1, (3, 3)))
    places = rng.random((atoms, 3))
    plain = Structure(lattice, rng.choice([6, 14, 26], atoms), places)
    assume(atoms == 1 or min(plain.distance_matrix[~np.eye(atoms, dtype=bool)]) > 0.7)
    larger = recut(plain, seed, largest=8)
    crystals = batch(larger)
    cells = primitive_cells(crystals)
    if not len(cells.index):  # the very cell that was drawn
        assert len(larger) == len(plain)
        return
    assert len(plain) % int(cells.crystals.num_atoms) == 0
    found = cells.back(certain(cells.crystals)).crystals
    assert count_faults(found, standardised(crystals)).tolist() == [0]
    assert same_sites(found.to_structures()[0], larger, 0.01)


def test_what_was_decoded_otherwise() -> None:
    """Another lattice and one atom less, against pymatgen's supercell of the same."""
    crystals = batch(recut(prototype("perovskite"), 7), dtype=torch.float64)
    cells = primitive_cells(crystals)
    made = cells.crystals.select([0])
    strain = torch.eye(3, dtype=torch.float64) + 0.03 * torch.randn(
        3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    keep = made.mask & (torch.arange(5) < 4)
    made = made.replace(
        lattice=made.lattice @ (strain + strain.T) / 2,
        mask=keep,
        frac_coords=made.frac_coords * keep[..., None],
        atomic_numbers=made.atomic_numbers * keep,
    )
    thought = certain(made)
    found = cells.back(thought)
    larger = made.to_structures()[0]
    larger.make_supercell(cells.whole[0].numpy(), to_unit_cell=False)
    expected = Structure(
        larger.lattice, larger.species, larger.frac_coords + cells.origin[0].numpy()
    )
    assert same_sites(found.crystals.to_structures()[0], expected, 1e-6)
    parameters = found.crystals.to_structures()[0].lattice.parameters
    assert parameters == pytest.approx(expected.lattice.parameters, abs=1e-6)
    copies = len(expected) // 4
    assert found.site_size.sum().item() == pytest.approx(1, abs=1e-5)
    assert found.site_spread.shape == found.site_size.shape == (1, 4 * copies)
    assert torch.equal(found.confidence, thought.confidence)
    assert torch.equal(found.count_agrees, thought.count_agrees)


def test_displacements_are_not_idealised() -> None:
    structure = prototype("rock salt") * (2, 1, 1)
    structure.translate_sites([3], [0.1, 0.02, 0.05], frac_coords=False)
    cells = primitive_cells(batch(structure))
    for atoms in cells.crystals.num_atoms.tolist():
        assert atoms == len(structure)
    if len(cells.index):
        again = cells.back(certain(cells.crystals)).crystals.to_structures()[0]
        assert same_sites(again, structure, 0.005)


def test_cells_that_are_none() -> None:
    crystals = batch(prototype("iron"), prototype("iron"), prototype("iron") * (2, 1, 1))
    lattice = crystals.lattice.clone()
    lattice[0], lattice[1] = torch.nan, 0
    cells = primitive_cells(crystals.replace(lattice=lattice))
    assert cells.index.tolist() == [2]
    nothing = primitive_cells(crystals.replace(lattice=lattice).select([0, 1]))
    assert len(nothing.index) == len(nothing.crystals) == 0
    assert nothing.back(certain(nothing.crystals)).crystals.ids == ()


def test_what_goes_along() -> None:
    crystals = CrystalBatch.from_structures([prototype("iron") * (2, 1, 1)], ["mine"])
    crystals = crystals.replace(properties={"gap": torch.tensor([1.5])})
    cells = primitive_cells(crystals).select(torch.tensor([0, 0]))
    assert cells.crystals.ids == ("mine", "mine")
    assert cells.crystals.properties["gap"].tolist() == [1.5, 1.5]
    assert cells.crystals.lattice.dtype == torch.float32
    assert torch.linalg.det(cells.whole.double()).tolist() == [4.0, 4.0]


@given(st.lists(st.integers(-3, 3), min_size=9, max_size=9))
def test_cosets(entries: list[int]) -> None:
    whole = np.array(entries).reshape(3, 3)
    count = abs(round(np.linalg.det(whole)))
    assume(count > 0)
    points = _cosets(torch.from_numpy(whole)).numpy()
    assert len(points) == count
    assert ((points >= 0) & (points < 1)).all()
    inside = points @ whole  # in primitive vectors
    assert np.allclose(inside, inside.round(), atol=1e-9)
    assert len(np.unique((points * count).round().astype(int), axis=0)) == count


class Counted:
    """Exact fields that lose the last atom of crystals with more than `limit` of them."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.seen: list[list[int]] = []

    def __call__(self, crystals: CrystalBatch, judge: object) -> Iterator[Part]:
        self.seen.append(crystals.num_atoms.tolist())
        found = reconstruct(exact_fields(crystals), ids=crystals.ids)
        large = found.crystals.num_atoms > self.limit
        last = torch.arange(found.crystals.mask.shape[1]) == found.crystals.num_atoms[:, None] - 1
        mask = found.crystals.mask & ~(last & large[:, None])
        found = replace(found, crystals=found.crystals.replace(mask=mask))
        backwards = torch.arange(len(crystals)).flip(0)  # no order is promised
        yield from ((rows, found.select(rows)) for rows in backwards.split(1))


def some() -> CrystalBatch:
    salt = prototype("rock salt")
    structures = [salt, salt * (2, 1, 1), prototype("perovskite"), salt * (2, 2, 1)]
    return CrystalBatch.from_structures(structures, list("abcd"))


def test_best_takes_one_way_where_crystals_come_back() -> None:
    back = Counted(100)
    found = join_known(reconstruct_in("best", some(), back, count_faults))
    assert back.seen == [[2, 2], [8, 5]]  # large cells in their primitive ones first
    assert found.faults.tolist() == [0] * 4
    assert found.settings == ("given", "primitive", "given", "primitive")
    assert found.crystals.ids == tuple("abcd")


def test_the_best_of_both_is_kept() -> None:
    back = Counted(5)
    found = join_known(reconstruct_in("best", some(), back, count_faults))
    assert back.seen == [[2, 2], [8, 5], [2]]
    assert found.faults.tolist() == [0] * 4
    assert found.settings == ("primitive", "primitive", "given", "primitive")
    assert found.crystals.num_atoms.tolist() == [8, 16, 5, 32]
    some_ = found.select(torch.tensor([3, 0]))
    assert some_.settings == ("primitive", "primitive")
    assert some_.crystals.ids == ("d", "a")
    # a large one that fails in its primitive cell is taken as given, too
    back = Counted(1)
    join_known(reconstruct_in("best", some(), back, count_faults))
    assert back.seen[:2] == [[2, 2], [8, 16, 5, 32]]
    # in neither cell a perovskite without its last atom; as given it stays
    none = join_known(reconstruct_in("best", some(), Counted(1), count_faults))
    assert none.settings[2] == "given"
    assert none.faults[2] > 0


def test_crystals_come_as_they_are_done() -> None:
    """Those without faults while others are still tried, each once, with ids and settings."""
    back = Counted(5)
    parts = reconstruct_in("best", some(), back, count_faults)
    came = []
    for index, known in parts:
        assert len(index) == len(known.crystals) == len(known.faults) == len(known.settings)
        assert known.faults.tolist() == [0] * len(index)
        assert known.crystals.ids == tuple("abcd"[i] for i in index.tolist())
        came.append((index.tolist(), len(back.seen), known.settings))
    # in how many tries so far; "a" alone needs the last one
    assert came == [
        ([3], 1, ("primitive",)),
        ([1], 1, ("primitive",)),
        ([2], 2, ("given",)),
        ([0], 3, ("primitive",)),
    ]
    # those that keep their faults come last, together
    parts = reconstruct_in("best", some(), Counted(1), count_faults)
    *_, (last, known) = parts
    assert len(last) == 4
    assert (known.faults > 0).all()


def test_choices_and_limits() -> None:
    back = Counted(100)
    found = join_known(reconstruct_in("best", some(), back, count_faults, max_atoms=16))
    assert back.seen == [[2, 2], [8, 5]]
    assert found.settings == ("given", "primitive", "given", "primitive")
    assert found.crystals.num_atoms.tolist() == [8, 16, 5, 32]
    assert found.faults.tolist() == [0] * 4
    alone = join_known(reconstruct_in("best", some(), Counted(8), count_faults, 16, retry=False))
    assert alone.settings == ("given", "given", "given", "primitive")
    assert alone.faults[1] > 0
    back = Counted(100)
    small = join_known(reconstruct_in("primitive", some(), back, count_faults))
    assert back.seen[0][:2] == [2, 2]
    assert small.faults.tolist() == [0] * 4
    assert small.settings[:2] == ("primitive", "primitive")
    assert (
        join_known(reconstruct_in("given", some(), Counted(8), count_faults)).settings
        == ("given",) * 4
    )


def test_refinement_is_judged_in_the_cell_given() -> None:
    """A lattice error of the small cell that adds up in the large one is a fault."""
    judged = []

    def back(crystals: CrystalBatch, judge) -> Iterator[Part]:
        strained = crystals.replace(lattice=crystals.lattice * 1.01)
        found = reconstruct(exact_fields(crystals), ids=crystals.ids)
        found = replace(found, crystals=found.crystals.replace(lattice=strained.lattice))
        every = torch.arange(len(crystals))
        judged.append(judge(found, every).tolist())
        yield every, found

    join_known(
        reconstruct_in("primitive", batch(prototype("rock salt") * (4, 1, 1)), back, count_faults)
    )
    join_known(reconstruct_in("given", batch(prototype("iron")), back, count_faults))
    assert judged == [[1], [0]]  # 4 x 5.64 Å off by 0.2 Å, and 2.87 Å by 0.03 Å


def test_what_is_too_large() -> None:
    crystals = some()
    assert too_large("best", crystals, None) == too_large("best", crystals, 5) == [None] * 4
    told = too_large("given", crystals, 16)
    assert told[:3] == [None] * 3
    assert "32 atoms in the cell are more than the 16" in str(told[3])
    told = too_large("best", crystals, 4)
    assert [reason is None for reason in told] == [True, True, False, True]
    with pytest.raises(InputError, match="crystal b: 16 atoms in the cell are more than the 8"):
        refuse_large("given", crystals, 8)
    with pytest.raises(InputError, match="and 2 in its primitive cell, are more than the 1"):
        refuse_large("primitive", crystals, 1)


def test_choices_for_boxes() -> None:
    assert choice_for("best", walls=True) == choice_for("given", walls=True) == "given"
    assert choice_for("best", walls=False) == "best"
    with pytest.raises(InputError, match="no primitive cell"):
        choice_for("primitive", walls=True)
    with pytest.raises(InputError, match="choose given"):
        choice_for("conventional", walls=False)


def test_the_shipped_model_gives_supercells_back() -> None:
    model = nesf.load("general")
    supercells = [prototype("rock salt") * (2, 2, 2), prototype("iron") * (5, 5, 3)]
    found = model.reconstruct(supercells, refine=40)
    assert found.faults.tolist() == [0, 0]
    assert found.settings == ("primitive", "primitive")
    assert all(map(same_sites, found.crystals.to_structures(), supercells, [0.03] * 2))
    assert isinstance(primitive_cells(batch(*supercells)), PrimitiveCells)
