"""Held-out crystals are found again in any cell and under any id; others are let through."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from nesf.data.held_out import HeldOut, neighbour_distances, reduced_composition
from nesf.data.packed import PackedSet, pack
from nesf.data.records import ReadOptions, Row
from nesf.errors import InputError


def row(structure: Structure, id_: str = "other") -> Row:
    return Row(id_, structure, {}, "made.cif")


def spinel() -> Structure:
    """MgAl2O4 with its free oxygen coordinate: a crystal of 56 atoms."""
    return Structure.from_spacegroup(
        "Fd-3m", Lattice.cubic(8.08), ["Mg", "Al", "O"],
        [[0] * 3, [0.625] * 3, [0.3874] * 3],
    )  # fmt: skip


def wurtzite(z: float = 0.375) -> Structure:
    lattice = Lattice.hexagonal(3.25, 5.21)
    return Structure.from_spacegroup(
        "P6_3mc", lattice, ["Zn", "O"], [[1 / 3, 2 / 3, 0], [1 / 3, 2 / 3, z]]
    )


def zinc_blende() -> Structure:
    # the volume per formula unit of the wurtzite above
    edge = (2 * wurtzite().volume) ** (1 / 3)
    return Structure.from_spacegroup(
        "F-43m", Lattice.cubic(edge), ["Zn", "O"], [[0] * 3, [0.25] * 3]
    )


@pytest.mark.parametrize("structure", [spinel(), wurtzite(), zinc_blende()])
def test_any_cell_origin_and_order(structure: Structure) -> None:
    known = HeldOut([row(structure, "held")])
    primitive = structure.get_primitive_structure()
    larger = primitive * (2, 1, 1)
    moved = structure.copy()
    moved.translate_sites(range(len(moved)), [0.1, 0.2, 0.3])
    moved = Structure.from_sites(moved.sites[::-1])
    swollen = structure.copy()
    swollen.scale_lattice(structure.volume * 1.04)
    for same in (structure, primitive, larger, moved, swollen):
        assert known.same_as(row(same)) == "held"


def test_polymorphs_and_neighbours_are_other_crystals() -> None:
    known = HeldOut([row(wurtzite(), "held")])
    assert known.same_as(row(zinc_blende())) is None
    assert known.same_as(row(wurtzite(0.40))) is None
    larger = wurtzite()
    larger.scale_lattice(larger.volume * 1.08)
    assert known.same_as(row(larger)) is None
    sulphide = wurtzite()
    sulphide.replace_species({"O": "S"})
    assert known.same_as(row(sulphide)) is None


def test_the_same_id_is_enough_for_the_same_composition() -> None:
    known = HeldOut([row(wurtzite(), "mp-1")])
    assert known.same_as(row(zinc_blende(), "mp-1")) == "mp-1"
    sulphide = zinc_blende()
    sulphide.replace_species({"O": "S"})
    assert known.same_as(row(sulphide, "mp-1")) is None


def test_neighbour_distances_of_a_simple_cubic_crystal() -> None:
    """6 neighbours at 1 and 12 at sqrt(2), in units of the edge, which is the unit."""
    found = neighbour_distances(Structure(Lattice.cubic(2.7), ["Po"], [[0] * 3]), 18)
    np.testing.assert_allclose(found, [1] * 6 + [2**0.5] * 12, rtol=1e-6)
    sparse = neighbour_distances(Structure(Lattice.cubic(30), ["Po"], [[0] * 3]), 6)
    np.testing.assert_allclose(sparse, [1] * 6, rtol=1e-6)


def test_compositions_in_lowest_terms() -> None:
    assert reduced_composition(spinel()) == ((8, 4), (12, 1), (13, 2))


def test_packing_leaves_them_out_and_lists_them(tmp_path: Path) -> None:
    for name, structure in (("a", wurtzite()), ("b", zinc_blende()), ("c", spinel())):
        structure.to(str(tmp_path / f"{name}.cif"))
    (tmp_path / "held").mkdir()
    (wurtzite().get_primitive_structure() * (1, 2, 1)).to(str(tmp_path / "held" / "x.cif"))
    inputs = [tmp_path / f"{name}.cif" for name in "abc"]
    options = ReadOptions(workers=1)
    report = pack(inputs, tmp_path / "set.nesf", options, progress=False,
                  held_out=[tmp_path / "held"])  # fmt: skip
    assert (report.packed, report.rejected) == (2, 1)
    packed = PackedSet.load(tmp_path / "set.nesf")
    assert list(packed.ids) == ["b", "c"]
    assert packed.provenance["held_out"] == [str(tmp_path / "held")]
    assert report.rejected_path is not None
    (listed,) = csv.DictReader(report.rejected_path.open())
    assert listed["reason"] == "it is the held-out crystal x"
    assert listed["file"].endswith("a.cif")


def test_a_held_out_row_that_cannot_be_read_is_no_small_matter(tmp_path: Path) -> None:
    wurtzite().to(str(tmp_path / "a.cif"))
    (tmp_path / "bad.cif").write_text("data_x\n_cell_length_a 3\n")
    with pytest.raises(InputError, match=r"bad\.cif.* cannot be held out: .*; mend or remove it"):
        pack([tmp_path / "a.cif"], tmp_path / "set.nesf", ReadOptions(workers=1), progress=False,
             held_out=[tmp_path / "bad.cif"])  # fmt: skip
    assert not (tmp_path / "set.nesf").exists()
