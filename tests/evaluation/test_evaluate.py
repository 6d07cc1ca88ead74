import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from made_crystals import make_cell, rock_salt
from pymatgen.core import Lattice, Structure

from eval.cells import Cell
from eval.evaluate import evaluate, evaluate_files, format_table
from nesf.errors import InputError


@pytest.fixture(scope="module")
def crystals():
    generator = np.random.default_rng(0)
    cells = [rock_salt(), *(make_cell(generator, n) for n in (1, 2, 3, 5, 9, 20))]
    return [(f"c-{i}", cell.to_structure()) for i, cell in enumerate(cells)]


def quick(predicted, reference, **options):
    options = {"bootstrap": 20, "progress": False, "matching": False, **options}
    return evaluate(predicted, reference, **options)


def test_the_same_crystals_score_without_any_error(crystals):
    result = quick(crystals, crystals, matching=True, refine=True)
    figures = {name: estimate["value"] for name, estimate in result["metrics"].items()}
    assert figures.pop("match_rate") == 100
    assert all(value == pytest.approx(0, abs=1e-6) for value in figures.values())
    assert result["refined"]["match_rate"]["value"] == 100
    assert result["chance"]["crystals"] == len(crystals)
    assert result["failures"] == result["match_failures"] == result["not_in_reference"] == []


def test_crystals_are_joined_by_id_whatever_their_order(crystals):
    generator = np.random.default_rng(1)
    guesses = [(name, structure.copy()) for name, structure in crystals]
    for _, structure in guesses:
        structure.perturb(0.1)
    one = quick(guesses, crystals)
    order = generator.permutation(len(crystals))
    other = quick([guesses[i] for i in order], [crystals[i] for i in reversed(order)])
    assert one == other
    position = one["metrics"]["position_error_actual"]
    assert 0 < position["value"] <= 0.1
    assert position["low"] <= position["value"] <= position["high"]


def test_every_kind_of_broken_prediction_is_a_listed_failure(crystals):
    broken = {
        "c-1": None,
        "c-2": Structure(Lattice(np.eye(3) * 4), [], []),
        "c-3": Structure(Lattice([[4, 0, 0], [0, 4, 0], [4, 4, 1e-3]]), ["C"], [[0, 0, 0]]),
        "c-4": Structure(Lattice(np.eye(3) * 4), ["C"], [[0, math.nan, 0]]),
        "c-5": Structure(Lattice(np.eye(3) * 4), [{"Fe": 0.5, "Ni": 0.5}], [[0, 0, 0]]),
    }
    predicted = [crystals[0], *broken.items(), ("stranger", crystals[0][1])]
    result = quick(predicted, crystals, matching=True, refine=True)
    reasons = {item["id"]: item["reason"] for item in result["failures"]}
    assert set(reasons) == {*broken, "c-6"}
    for name, phrase in zip(
        sorted(reasons), ("no pred", "no at", "flat", "nan", "Fe/Ni", "no pred"), strict=True
    ):
        assert phrase in reasons[name]
    assert result["not_in_reference"] == ["stranger"]
    assert result["metrics"]["wrong_count"]["value"] == pytest.approx(100 * 6 / 7)
    assert result["metrics"]["match_rate"]["value"] == pytest.approx(100 / 7)
    text = format_table(result)
    assert "7 reference crystals, 7 predicted; 6 failures" in text
    assert "Chance" in text
    json.dumps(result, allow_nan=False)


def test_overlapping_atoms_are_wrong_atoms_and_no_failure(crystals):
    name, structure = crystals[0]
    doubled = structure.copy()
    doubled.append("Cl", structure[7].frac_coords, validate_proximity=False)
    result = quick([(name, doubled)], [(name, structure)])
    assert result["failures"] == []
    assert result["metrics"]["wrong_count"]["value"] == 100
    assert result["metrics"]["count_mae"]["value"] == 1


def test_a_left_handed_prediction_is_the_same_crystal(crystals):
    name, structure = crystals[5]
    left = Structure(Lattice(-structure.lattice.matrix), structure.species, -structure.frac_coords)
    result = quick([(name, left)], [(name, structure)], matching=True)
    assert result["metrics"]["match_rate"]["value"] == 100


def test_double_ids_strangers_and_empty_references_are_refused(crystals):
    with pytest.raises(InputError, match="may occur once"):
        quick([crystals[0], crystals[0]], crystals)
    with pytest.raises(InputError, match="may occur once"):
        quick(crystals, [crystals[0], crystals[0]])
    with pytest.raises(InputError, match="by which the two sets are joined"):
        quick([("other", crystals[0][1])], crystals)
    with pytest.raises(InputError, match="no reference"):
        quick(crystals, [])


def test_cell_sizes_are_told_apart(crystals):
    guesses = [(name, s if len(s) < 5 else None) for name, s in crystals]
    bins = quick(guesses, crystals)["by_num_atoms"]
    assert [(part["first"], part["crystals"]) for part in bins] == [(1, 3), (5, 2), (9, 1), (17, 1)]
    wrong = [part["metrics"]["wrong_count"]["value"] for part in bins]
    assert wrong == [0, 100, 100, 100]


def write_csv(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["material_id", "cif"])
        writer.writerows(rows)
    return str(path)


def test_files_are_scored_and_what_fails_is_listed(crystals, tmp_path, capsys):
    rows = [[name, structure.to(fmt="cif")] for name, structure in crystals]
    reference = write_csv(tmp_path / "reference.csv", rows)
    predicted = write_csv(tmp_path / "predicted.csv", [*rows[:-1], [rows[-1][0], "garbage"]])
    files = {"json_file": str(tmp_path / "out.json"), "rows_file": str(tmp_path / "rows.csv")}
    assert evaluate_files(predicted, reference, bootstrap=20, workers=1, **files) == 1
    printed = capsys.readouterr()
    assert "14.29 %" in printed.out
    assert "failure: c-6: " in printed.err
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["metrics"]["match_rate"]["value"] == pytest.approx(100 * 6 / 7)
    assert "CIF" in result["failures"][0]["reason"]
    assert set(result["settings"]["versions"]) == {"python", "nesf", "numpy", "pymatgen", "moyopy"}
    table = list(csv.DictReader((tmp_path / "rows.csv").open()))
    assert [row["id"] for row in table] == sorted(name for name, _ in crystals)


def test_exit_code_0_means_that_nothing_failed_and_files_that_cannot_be_written_are_told(
    crystals, tmp_path, capsys, monkeypatch
):
    rows = [[name, structure.to(fmt="cif")] for name, structure in crystals]
    reference = write_csv(tmp_path / "reference.csv", rows)
    options = {"matching": False, "bootstrap": 0, "workers": 1}
    assert evaluate_files(reference, reference, **options) == 0
    assert capsys.readouterr().err == ""
    made = {"json_file": str(tmp_path / "a" / "x.json"), "rows_file": str(tmp_path / "b" / "x.csv")}
    assert evaluate_files(reference, reference, **made, **options) == 0
    assert all(Path(file).is_file() for file in made.values())
    monkeypatch.setattr("eval.evaluate.evaluate", None)  # told before anything is scored
    for wrong in (f"{reference}/x", str(tmp_path)):
        for name in made:
            with pytest.raises(InputError, match="cannot be written"):
                evaluate_files(reference, reference, **{name: wrong}, **options)


def test_sides_without_a_common_id_are_told_one_of_each(crystals, tmp_path):
    texts = [structure.to(fmt="cif") for _, structure in crystals[:3]]
    reference = write_csv(tmp_path / "reference.csv", [[f"mp-{i}", t] for i, t in enumerate(texts)])
    generated = tmp_path / "generated.csv"
    with generated.open("w", newline="") as file:
        csv.writer(file).writerows([["cif"], *([text] for text in texts)])
    with pytest.raises(InputError) as error:
        evaluate_files(str(generated), reference, workers=1)
    told = str(error.value)
    assert "a predicted one is 'generated-1', the number of a row without an id," in told
    assert "a reference one is 'mp-0';" in told
    assert "columns material_id, immutable_id, id" in told
    with pytest.raises(InputError, match="a predicted one is 'x-1', a reference one is 'c-0';"):
        quick([("x-1", crystals[0][1])], crystals)


def test_double_ids_in_files_are_refused_with_file_and_row(crystals, tmp_path):
    rows = [[name, structure.to(fmt="cif")] for name, structure in crystals[:2]]
    reference = write_csv(tmp_path / "reference.csv", rows)
    predicted = write_csv(tmp_path / "predicted.csv", [*rows, rows[0]])
    with pytest.raises(InputError, match=r"predicted\.csv, row 3"):
        evaluate_files(predicted, reference, workers=1)


def test_ids_that_spreadsheets_would_run_are_defused(tmp_path):
    salt = rock_salt().to_structure()
    name = "=cmd()"
    result = quick([(name, salt)], [(name, salt)])
    from eval.table import write_rows

    write_rows(tmp_path / "rows.csv", result["rows"])
    assert "\n'=cmd()," in (tmp_path / "rows.csv").read_text().replace("\r", "")


def test_cells_survive_the_way_to_pymatgen_and_back():
    cell = make_cell(np.random.default_rng(3), 4)
    back = Cell.from_structure(cell.to_structure())
    assert back.frac_coords == pytest.approx(cell.frac_coords)
    assert back.lengths == pytest.approx(cell.lengths)
