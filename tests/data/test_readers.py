import gzip
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from in_process import assert_same_crystals, random_structures, read_here, rows_here
from pymatgen.core import Lattice, PeriodicSite, Structure
from pymatgen.io.cif import CifParser, CifWriter
from pymatgen.io.vasp import Poscar
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from nesf.data.files import search_files
from nesf.data.packed import PackedSet
from nesf.data.readers import (
    ReadOptions,
    Rejected,
    Row,
    iter_crystals,
    read_crystals,
    write_rejected,
)
from nesf.errors import InputError

STRUCTURES = random_structures(seed=0, count=5)


def cif(structure: Structure) -> str:
    return str(CifWriter(structure))


def place(site: PeriodicSite) -> tuple[str, float, float, float]:
    """A site's rank in an order that does not depend on the file."""
    return (site.specie.symbol, *np.round(site.frac_coords, 6))


def right_handed(structure: Structure) -> bool:
    return bool(np.linalg.det(structure.lattice.matrix) > 0)


@pytest.fixture
def table() -> pd.DataFrame:
    right = [s for s in STRUCTURES if right_handed(s)]
    return pd.DataFrame(
        {
            "material_id": [f"mp-{i}" for i in range(len(right))],
            "cif": [cif(s) for s in right],
            "gap": np.arange(len(right)) / 8,
            "formula": ["NaN", "InF", *("X" for _ in right[2:])],
        }
    )


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


class TestFormats:
    """Each format gives the crystals that were put in, with ids and properties."""

    def test_folder_of_cifs_and_poscars(self, tmp_path: Path) -> None:
        (tmp_path / "deep" / "er").mkdir(parents=True)
        (tmp_path / "b.cif").write_text(cif(STRUCTURES[0]))
        (tmp_path / "deep" / "er" / "a.vasp").write_text(Poscar(STRUCTURES[1]).get_str())
        (tmp_path / "deep" / "CONTCAR").write_text(Poscar(STRUCTURES[1]).get_str())
        (tmp_path / "deep" / "z.cif.gz").write_bytes(gzip.compress(cif(STRUCTURES[0]).encode()))
        (tmp_path / "notes.txt").write_text("not a crystal")
        (tmp_path / "table.csv").write_text("no,crystals\n")
        (tmp_path / ".hidden.cif").write_text("junk")
        *rows, bad = read_here(tmp_path)
        assert isinstance(bad, Rejected)
        assert "has no cif column" in bad.reason
        assert [row.id for row in rows] == ["b", "CONTCAR", "a", "z"]
        assert [row.row for row in rows] == [None] * 4
        assert_same_crystals([rows[2].structure], [STRUCTURES[1]], 1e-9)
        globbed = rows_here(str(tmp_path / "**" / "*.cif"))
        assert [row.id for row in globbed] == ["b"]

    def test_a_folder_of_all_kinds_hides_nothing(
        self, tmp_path: Path, table: pd.DataFrame, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "c.cif").write_text(cif(STRUCTURES[0]))
        (tmp_path / "b.json").write_text(json.dumps(STRUCTURES[1].as_dict()))
        table.to_csv(tmp_path / "a.csv", index=False)
        for name in ("notes.txt", "z.png", "y.md"):
            (tmp_path / name).write_text("no crystal")
        # what our own commands leave there is neither read nor told of
        (tmp_path / "index.csv").write_text('"id","file","faults"\n"named","c.cif",0\n')
        (tmp_path / "rejected.csv").write_text("file,row,id,reason\na.cif,,,bad\n")
        (tmp_path / "strip.png").write_bytes(b"")
        rows = rows_here(tmp_path)
        assert [row.id for row in rows] == [*table["material_id"], "b", "named"]
        found, rejected = read_crystals([tmp_path], ReadOptions(workers=1), progress=False)
        assert [row.id for row in found] == [row.id for row in rows]
        assert not rejected
        names = ", ".join(str(tmp_path / name) for name in ("notes.txt", "y.md", "z.png"))
        assert [r.getMessage() for r in caplog.records] == [
            f"ignored 3 files of no known kind: {names}"
        ]
        matched = search_files([str(tmp_path / "*.[cpt]*")])
        assert [file.path.name for file in matched.files] == ["a.csv", "c.cif"]
        assert [path.name for path in matched.ignored] == ["notes.txt", "z.png"]
        # a table of somebody else's is one, whatever its name
        table.to_csv(tmp_path / "index.csv", index=False)
        assert len(rows_here(tmp_path)) == 2 * len(table) + 2

    def test_csv_and_parquet(self, tmp_path: Path, table: pd.DataFrame) -> None:
        table.to_csv(tmp_path / "a.csv", index=False)
        table.to_csv(tmp_path / "b.csv.gz")  # with pandas' index column
        table.to_csv(tmp_path / "c.csv", index=False, lineterminator="\r\n", encoding="utf-8-sig")
        table.assign(forces=[[[0.0]]] * len(table)).to_parquet(tmp_path / "d.parquet")
        by_file = [rows_here(tmp_path / name) for name in ("a.csv", "b.csv.gz", "c.csv")]
        by_file.append(rows_here(tmp_path / "d.parquet"))
        for rows in by_file:
            assert [row.id for row in rows] == list(table["material_id"])
            assert [row.row for row in rows] == list(range(1, len(table) + 1))
            assert [row.properties["gap"] for row in rows] == list(table["gap"])
            assert [row.properties["formula"] for row in rows] == list(table["formula"])
            assert set(rows[0].properties) == {"gap", "formula"}
            assert_same_crystals(
                [row.structure for row in rows], [row.structure for row in by_file[0]], 1e-12
            )

    @pytest.mark.parametrize("suffix", ["parquet", "csv"])
    def test_lemat_columns(self, tmp_path: Path, suffix: str) -> None:
        frame = pd.DataFrame(
            {
                "immutable_id": [f"agm{i}" for i in range(len(STRUCTURES))],
                "lattice_vectors": [s.lattice.matrix.tolist() for s in STRUCTURES],
                "cartesian_site_positions": [s.cart_coords.tolist() for s in STRUCTURES],
                "species_at_sites": [[x.specie.symbol for x in s] for s in STRUCTURES],
                "energy": np.arange(len(STRUCTURES)) * 0.5,
                "functional": "pbe",
            }
        )
        path = tmp_path / f"lemat.{suffix}"
        frame.to_parquet(path) if suffix == "parquet" else frame.to_csv(path, index=False)
        rows = rows_here(path)
        assert [row.id for row in rows] == list(frame["immutable_id"])
        assert rows[1].properties == {"energy": 0.5, "functional": "pbe"}
        assert_same_crystals([row.structure for row in rows], STRUCTURES, 1e-9)

    def test_json_in_its_shapes(self, tmp_path: Path) -> None:
        dicts = [s.as_dict() for s in STRUCTURES]
        records = [
            {"structure": d, "material_id": f"id{i}", "gap": i, "tags": ["x"]}
            for i, d in enumerate(dicts)
        ]
        documents = {
            "single": (dicts[0], ["single"]),
            "list": (dicts, [f"list-{i}" for i in range(1, 6)]),
            "mapping": (dict(zip("abcde", dicts, strict=True)), list("abcde")),
            "records": (records, [f"id{i}" for i in range(5)]),
        }
        for name, (document, ids) in documents.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(document))
            rows = rows_here(tmp_path / f"{name}.json")
            assert [row.id for row in rows] == ids
            assert_same_crystals([row.structure for row in rows], STRUCTURES[: len(rows)], 1e-12)
        assert rows[3].properties == {"gap": 3.0}
        lines = "\n".join(json.dumps(record) for record in [*records[:2], dicts[2]])
        (tmp_path / "lines.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
        rows = rows_here(tmp_path / "lines.jsonl.gz")
        assert [row.id for row in rows] == ["id0", "id1", "lines-3"]

    def test_a_hostile_dict_calls_nothing(self, tmp_path: Path) -> None:
        document = STRUCTURES[0].as_dict()
        document["@module"], document["@class"] = "this", "Importing"
        document["sites"][0]["properties"] = {"@module": "this", "@class": "x", "@version": "1"}
        (tmp_path / "a.json").write_text(json.dumps(document))
        rows_here(tmp_path / "a.json")
        assert "this" not in sys.modules  # pymatgen's from_dict imports it

    def test_extended_xyz_as_other_programs_write_it(self, tmp_path: Path) -> None:
        (tmp_path / "a.xyz").write_text(
            '2\r\nProperties=id:I:1:species:S:1:pos:R:3:forces:R:3 pbc="T T T" energy=-1.5 '
            "config_type=bulk Lattice='4 0 0 0 4 0 1 0 4' name=\"two words\"\r\n"
            "1 Na 0 0 0 9 9 9\r\n2 Cl 2.5 2 2 9 9 9\r\n"
            '\n1\nLattice="3.0 0.0 0.0 0.0 3.0 0.0 0.0 0.0 3.0"\nFe 6.0 0.3 0.0\n'
        )
        first, second = rows_here(tmp_path / "a.xyz")
        assert (first.id, second.id) == ("a-1", "a-2")
        np.testing.assert_allclose(first.structure.frac_coords, [[0, 0, 0], [0.5] * 3], atol=1e-12)
        assert first.properties == {"energy": -1.5, "config_type": "bulk", "name": "two words"}
        np.testing.assert_allclose(second.structure.frac_coords, [[2, 0.1, 0]], atol=1e-12)

    def test_packed_set(self, tmp_path: Path) -> None:
        given = [
            Row(f"p{i}", s, {"gap": float(i), "name": "x"}, "", None)
            for i, s in enumerate(STRUCTURES)
        ]
        PackedSet.from_rows(given).save(tmp_path / "a.nesf")
        rows = rows_here(tmp_path / "a.nesf")
        assert [row.id for row in rows] == [row.id for row in given]
        assert rows[2].properties == {"gap": 2.0, "name": "x"}
        assert_same_crystals([row.structure for row in rows], STRUCTURES, 1e-12)

    def test_zip(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
            archive.writestr("b/two.cif", cif(STRUCTURES[0]) + cif(STRUCTURES[2]))
            archive.writestr("a.poscar", Poscar(STRUCTURES[1]).get_str())
            archive.writestr("__MACOSX/._a.cif", b"\0")
        rows = rows_here(tmp_path / "all.zip")
        assert [row.id.split("-")[0] for row in rows] == ["a", "two", "two"]
        assert rows[1].source.endswith("all.zip/b/two.cif")
        assert [row.row for row in rows] == [None, 1, 2]


def test_every_block_of_a_cif_is_a_row(tmp_path: Path) -> None:
    title = "data_global\n_publ_section_title\n;\ndata_not a block\n;\n"
    same_name = [cif(STRUCTURES[0]), cif(STRUCTURES[0]).replace("_cell_volume", "_x")]
    (tmp_path / "many.cif").write_text(title + "".join(same_name) + "data_bad\n_cell_length_a 3\n")
    read = read_here(tmp_path / "many.cif")
    assert [type(found) for found in read] == [Row, Row, Rejected]
    assert [found.row for found in read] == [1, 2, 3]
    assert_same_crystals([read[0].structure], [read[1].structure])  # type: ignore[union-attr]


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
