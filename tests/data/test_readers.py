"""What is read agrees with pymatgen, keeps its order, and bad inputs are one sentence."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from in_process import assert_same_crystals, read_here, rows_here
from made_files import STRUCTURES, cif
from pymatgen.core import Lattice, PeriodicSite, Structure
from pymatgen.io.cif import CifParser, CifWriter
from pymatgen.io.vasp import Poscar
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from nesf.data.readers import (
    ReadOptions,
    Rejected,
    Row,
    iter_crystals,
    read_crystals,
    write_rejected,
)
from nesf.errors import InputError


def place(site: PeriodicSite) -> tuple[str, float, float, float]:
    """A site's rank in an order that does not depend on the file."""
    return (site.specie.symbol, *np.round(site.frac_coords, 6))


class TestAgainstPymatgen:
    """Pymatgen's own parser is the oracle on real rows."""

    def test_real_crystals(self, shared_data: Path) -> None:
        for folder, rows in [("lcs6/test", 60), ("carbon24/test", 15), ("perov5/test", 15)]:
            path = shared_data / f"{folder}.csv.gz"
            frame = pd.read_csv(path, dtype={"material_id": str})[:rows]
            found = rows_here(path, limit=rows)
            assert [row.id for row in found] == list(frame["material_id"])
            for row, text in zip(found, frame["cif"], strict=True):
                parser = CifParser.from_str(text, frac_tolerance=0)
                expected = parser.parse_structures(primitive=False)[0]
                assert_same_crystals([row.structure.get_sorted_structure()], [expected], 1e-12)
                np.testing.assert_array_equal(row.structure.lattice.matrix, expected.lattice.matrix)

    def test_the_nearest_atoms_of_the_real_set_pass(
        self, shared_data: Path, tmp_path: Path
    ) -> None:
        frame = pd.read_csv(shared_data / "lcs6" / "train.csv.gz")
        near = frame[frame["material_id"].isin(["mp-1080617", "mp-632172", "mp-27721"])]
        near.to_csv(tmp_path / "near.csv", index=False)
        rows = rows_here(tmp_path / "near.csv")
        distances = [row.structure.distance_matrix + 9 * np.eye(len(row.structure)) for row in rows]
        nearest = sorted(float(distance.min()) for distance in distances)
        assert nearest == pytest.approx([0.725, 0.75, 0.835], abs=1e-3)

    def test_the_short_way_and_pymatgens_way_agree(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for i, structure in enumerate(STRUCTURES):
            (tmp_path / f"{i}.cif").write_text(cif(structure))
        short = rows_here(tmp_path)
        monkeypatch.setattr("nesf.data.cif._read_p1", lambda *_: None)
        long = rows_here(tmp_path)
        assert_same_crystals(
            [row.structure for row in short], [row.structure for row in long], 1e-12
        )

    def test_symmetry_operations_are_applied_and_the_files_order_kept(self, tmp_path: Path) -> None:
        structure = Structure.from_spacegroup(
            "Fm-3m", Lattice.cubic(5.64), ["Cl", "Na"], [[0.5] * 3, [0] * 3]
        )
        CifWriter(structure, symprec=0.01).write_file(tmp_path / "salt.cif")
        (row,) = rows_here(tmp_path / "salt.cif")
        lines = (tmp_path / "salt.cif").read_text().splitlines()
        first = [line.split()[0] for line in lines if line.strip().startswith(("Na ", "Cl "))]
        symbols = [site.specie.symbol for site in row.structure]
        assert symbols == [first[0].rstrip("+-1")] * 4 + [first[1].rstrip("+-1")] * 4
        assert_same_crystals(
            [row.structure.get_sorted_structure(key=place)],
            [structure.get_sorted_structure(key=place)],
            1e-7,
        )
        assert row.structure.lattice.abc == pytest.approx((5.64,) * 3)

    def test_rounded_special_positions_give_one_atom_each(self, tmp_path: Path) -> None:
        exact = Structure.from_spacegroup(
            "P6_3/mmc", Lattice.hexagonal(3.2, 5.2), ["Mg"], [[1 / 3, 2 / 3, 0.25]]
        )
        CifWriter(exact, symprec=0.01).write_file(tmp_path / "mg.cif")
        text = (tmp_path / "mg.cif").read_text()
        for digits in (8, 4, 3):
            for third in ("0.33333333", "0.66666667"):
                text = text.replace(third, f"{float(third):.{digits}f}")
            (tmp_path / "mg.cif").write_text(text)
            (row,) = rows_here(tmp_path / "mg.cif")
            assert len(row.structure) == 2


@pytest.mark.parametrize("cell", ["conventional", "primitive"])
def test_standard_cells_agree_with_pymatgens(tmp_path: Path, cell: str) -> None:
    salt = Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(5.64), ["Cl", "Na"], [[0.5] * 3, [0] * 3]
    )
    given = salt.get_primitive_structure() * [2, 1, 1]
    (tmp_path / "POSCAR").write_text(Poscar(given).get_str())
    (row,) = rows_here(tmp_path / "POSCAR", options=ReadOptions(cell=cell))  # type: ignore[arg-type]
    analyzer = SpacegroupAnalyzer(given)
    expected = (
        analyzer.get_conventional_standard_structure()
        if cell == "conventional"
        else analyzer.get_primitive_standard_structure()
    )
    assert len(row.structure) == len(expected) == {"conventional": 8, "primitive": 2}[cell]
    assert row.structure.volume == pytest.approx(expected.volume, rel=1e-4)
    assert SpacegroupAnalyzer(row.structure).get_space_group_number() == 225
    assert any("225" in note for note in row.notes)


def test_reading_with_workers_keeps_order_ids_and_bad_rows(tmp_path: Path) -> None:
    """Three bad rows among a hundred, ids that repeat, and a folder of results as input."""
    texts = [cif(STRUCTURES[i % 5]) for i in range(100)]
    for i in (10, 50, 90):
        texts[i] = texts[i].replace("_cell_length_a", "_cell_length_a nan #")
    ids = [f"m{i}" for i in range(98)] + ["m0", "m0"]
    pd.DataFrame({"material_id": ids, "cif": texts}).to_csv(tmp_path / "a.csv", index=False)
    rows, rejected = read_crystals([tmp_path / "a.csv"], ReadOptions(workers=2), progress=False)
    bad = {"m10", "m50", "m90"}
    assert [row.id for row in rows] == [i for i in ids[:98] if i not in bad] + ["m0-2", "m0-3"]
    assert "m0 was taken" in rows[-1].notes[-1]
    assert [row.renamed_from for row in rows[-3:]] == [None, "m0", "m0"]
    assert [row.id_in_file for row in rows] == [i for i in ids if i not in bad]
    assert [one.row for one in rejected] == [11, 51, 91]
    assert all("cell length a = nan" in one.reason for one in rejected)

    write_rejected(tmp_path / "rejected.csv", rejected)
    listed = pd.read_csv(tmp_path / "rejected.csv")
    assert list(listed.columns) == ["file", "row", "id", "reason"]
    assert list(listed["id"]) == ["m10", "m50", "m90"]
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "missing.cif", "does not exist"),
        (lambda p: p / "*.cif", "matches no file"),
        (lambda p: p, "holds no crystal"),
        (lambda p: write(p / "a.docx", b"x"), "no known kind"),
        (lambda p: write(p / "a.csv", b"material_id,smiles\n1,CC\n"), "has no cif column"),
        (lambda p: write(p / "a.csv", b""), "has no cif column"),
        (lambda p: write(p / "a.csv", b"cif,x\n"), "no crystal in"),
        (lambda p: write(p / "a.json", b"{"), "not readable JSON"),
        (lambda p: write(p / "a.json", b"[1, 2]"), "holds no crystal"),
        (lambda p: write(p / "a.json", b"[" * 100_000), "not readable JSON"),
        (lambda p: write(p / "a.parquet", b"PAR1 junk"), "not a readable Parquet"),
        (lambda p: write(p / "a.zip", b"PK junk"), "damaged"),
        (lambda p: write(p / "a.csv.gz", b"\x1f\x8bjunk"), "a.csv.gz"),
        (lambda p: write(p / "a.nesf", b"junk"), "a.nesf"),
        (lambda p: write(p / "a.extxyz", b"hello\n"), "no count of atoms"),
    ],
)
def test_inputs_that_cannot_be_used_are_one_sentence(tmp_path: Path, make, message) -> None:
    with pytest.raises(InputError, match=message) as caught:
        list(iter_crystals([make(tmp_path)], progress=False))
    assert "\n" not in str(caught.value)


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_no_input_is_an_error() -> None:
    with pytest.raises(InputError, match="no input"):
        read_crystals([], progress=False)


def test_an_unreadable_file_is_named_or_listed(tmp_path: Path) -> None:
    (tmp_path / "good.cif").write_text(cif(STRUCTURES[0]))
    os.mkfifo(tmp_path / "pipe.cif")  # would block whoever opens it
    (tmp_path / "folder.cif").mkdir()
    with pytest.raises(InputError, match=r"pipe\.cif"):
        read_here(tmp_path / "pipe.cif")
    good, bad = read_here(tmp_path)
    assert isinstance(good, Row)
    assert isinstance(bad, Rejected)
    assert "not a regular file" in bad.reason


def test_an_unguarded_script_can_read(tmp_path: Path) -> None:
    """No `if __name__ == "__main__"` is needed, and the parent's imports are not repeated."""
    (tmp_path / "a.cif").write_text(cif(STRUCTURES[0]))
    script = tmp_path / "script.py"
    script.write_text(
        "print('once')\n"
        "from nesf.data.readers import read_crystals\n"
        f"rows, _ = read_crystals({str(tmp_path / 'a.cif')!r}, progress=False)\n"
        "print(rows[0].id)\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, script], cwd=root, env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["once", "a"]
    assert done.stderr == ""
