"""`nesf data boxes`: packed sets of boxes, and what the other commands make of them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from parsed_here import parse_here
from pymatgen.core import Lattice, Structure

from eval.cells import Cell
from eval.evaluate import evaluate
from eval.scores import score_crystal
from nesf.boxes.cut import BoxOptions, cut_boxes, random_placements
from nesf.cli import main
from nesf.crystal import CrystalBatch
from nesf.data.boxes import write_boxes
from nesf.data.packed import PackedSet, join_files
from nesf.data.readers import read_crystals
from nesf.errors import InputError
from nesf.random import generator_for


@pytest.fixture(autouse=True)
def parsed_in_this_process(monkeypatch) -> None:
    parse_here(monkeypatch)


def rock_salt(length: float) -> Structure:
    sites = [[0, 0, 0], [0.5, 0.5, 0.5]]
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(length), ["Na", "Cl"], sites)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Rock salt of four lengths, one row that is no crystal, and one crystal that is too long."""
    path = tmp_path / "in.csv"
    long = Structure(Lattice.orthorhombic(4, 4, 40), ["Fe"] * 2, [[0, 0, 0], [0.5, 0.5, 0.02]])
    texts = [rock_salt(5 + 0.1 * i).to(fmt="cif") for i in range(4)]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["material_id", "cif", "gap"])
        for i, text in enumerate([*texts, "no crystal", long.to(fmt="cif")]):
            writer.writerow([f"c{i}", text, i])
    return path


def boxes(*words: object) -> int:
    return main(["data", "boxes", *map(str, words)])


def listed(path: Path) -> dict[str, str]:
    with path.open(newline="") as file:
        return {row["id"]: row["reason"] for row in csv.DictReader(file)}


def test_unit_cells_are_packed_and_the_rest_is_listed(table, tmp_path, capsys):
    out = tmp_path / "unit.nesf"
    assert boxes(table, "--output", out, "--mode", "unit", "--copies", 2) == 1
    assert "8 boxes, 2 rejected" in capsys.readouterr().out
    packed = PackedSet.load(out)
    assert list(packed.ids) == [f"c{i}-{k}" for i in range(4) for k in (1, 2)]
    assert packed.num_atoms.tolist() == [8] * 8
    assert list(packed.properties["crystal"]) == [f"c{i}" for i in range(4) for _ in (1, 2)]
    np.testing.assert_array_equal(packed.properties["gap"], [0, 0, 1, 1, 2, 2, 3, 3])
    np.testing.assert_array_equal(packed.lattice, np.eye(3)[None].repeat(8, 0) * 10)
    assert not packed.periodic
    reasons = listed(tmp_path / "unit.rejected.csv")
    assert set(reasons) == {"c4", "c5"}
    assert "leaves the box" in reasons["c5"]


def test_a_box_depends_on_seed_and_id_alone(table, tmp_path):
    options = BoxOptions(side=8.0)
    whole, again, other = (tmp_path / f"{name}.nesf" for name in ("whole", "again", "other"))
    write_boxes([table], whole, options, progress=False)
    write_boxes([table], again, options, progress=False)
    write_boxes([table], other, options, seed=1, progress=False)
    assert whole.read_bytes() == again.read_bytes()
    assert whole.read_bytes() != other.read_bytes()
    rotation, origin = random_placements(1, options, generator_for(0, "box", "c2", 0))
    alone = CrystalBatch.from_structures([rock_salt(5.2)], dtype=torch.float64)
    wanted = cut_boxes(alone, options, rotation.double(), origin.double())
    packed = PackedSet.load(whole)
    found = packed.batch(packed.positions(["c2"]), torch.float64)
    assert sorted(found.atomic_numbers[0].tolist()) == sorted(wanted.atomic_numbers[0].tolist())
    distance = torch.cdist(found.cart_coords[0], wanted.cart_coords[0])
    assert float(distance.min(1).values.max()) < 1e-3  # the CIF's rounding


def test_boxes_keep_atoms_that_are_close_across_the_faces(tmp_path):
    faces = Structure(Lattice.cubic(10), ["Fe", "O"], [[0.001, 0.5, 0.5], [0.999, 0.5, 0.5]])
    near = Structure(Lattice.cubic(10), ["Fe", "O"], [[0.5, 0.5, 0.51], [0.5, 0.5, 0.49]])
    crystals = CrystalBatch.from_structures([faces, near], ["faces", "near"])
    for name, origin in (("boxes", {"periodic": False}), ("crystals", {})):
        PackedSet.from_batch(crystals, origin).save(tmp_path / f"{name}.nesf")
    rows, rejected = read_crystals([tmp_path / "boxes.nesf"], progress=False)
    assert [row.id for row in rows] == ["faces"]
    assert [one.id for one in rejected] == ["near"]
    rows, rejected = read_crystals([tmp_path / "crystals.nesf"], progress=False)
    assert [one.id for one in rejected] == ["faces", "near"]
    PackedSet.from_batch(crystals.select([0]), {"periodic": False}).save(tmp_path / "one.nesf")
    PackedSet.from_batch(crystals.select([1]), {"periodic": False}).save(tmp_path / "two.nesf")
    parts = [tmp_path / "one.nesf", tmp_path / "two.nesf"]
    join_files(parts, tmp_path / "both.nesf")
    assert not PackedSet.load(tmp_path / "both.nesf").periodic


def test_boxes_through_their_exact_fields_are_scored_without_images(table, tmp_path, capsys):
    sets, out, scores = (tmp_path / name for name in ("set.nesf", "out.csv", "scores.json"))
    boxes(table, "--output", sets, "--side", 9)
    words = ("--field", "exact", "--periodic", "false", "--walls", "true", "--output", out)
    assert main(["reconstruct", str(sets), *map(str, words)]) == 0
    words = ("--predicted", out, "--reference", sets, "--boxes", "--json", scores)
    assert main(["evaluate", *map(str, words), "--bootstrap", "20"]) == 0
    result = json.loads(scores.read_text())
    figures = {name: estimate["value"] for name, estimate in result["metrics"].items()}
    assert figures["wrong_count"] == 0
    assert figures["position_error_actual"] < 1e-3
    assert figures["species_error_actual"] == 0
    assert "match_rate" not in figures
    assert not any(name.endswith("_published") for name in figures)
    capsys.readouterr()


def test_nothing_to_cut_is_told_in_one_sentence(table, tmp_path, capsys):
    assert boxes(table, "--output", tmp_path / "out.nesf", "--capacity", 1) == 2
    assert "no box could be cut" in capsys.readouterr().err
    assert not (tmp_path / "out.nesf").exists()
    assert boxes(table, "--output", tmp_path / "out.nesf", "--side", -1) == 2
    assert "side must be above 0" in capsys.readouterr().err
    with pytest.raises(InputError, match="copies is 0"):
        write_boxes([table], tmp_path / "out.nesf", copies=0)


def test_opposite_faces_of_a_box_are_far_apart():
    reference, predicted = (
        Cell(np.eye(3) * 10, np.array([[x, 0.5, 0.5], [0.5, 0.5, 0.5]]), np.array([26, 8]))
        for x in (0.001, 0.999)
    )
    boxes_apart = score_crystal("a", reference, predicted, boxes=True).periodic
    np.testing.assert_allclose(boxes_apart.position_actual, [4.99, 0.0])  # to the middle one
    np.testing.assert_array_equal(boxes_apart.species_actual, [True, False])
    as_cells = score_crystal("a", reference, predicted).periodic
    np.testing.assert_allclose(as_cells.position_actual, [0.02, 0.0], atol=1e-6)
    failed = score_crystal("a", reference, None, boxes=True)
    np.testing.assert_allclose(failed.periodic.position_actual, [75**0.5] * 2)
    with pytest.raises(InputError, match="no symmetry"):
        evaluate([], [], boxes=True, refine=True)
