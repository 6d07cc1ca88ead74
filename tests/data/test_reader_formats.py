"""Every format gives the crystals that were put in."""

import gzip
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from in_process import assert_same_crystals, read_here, rows_here
from made_files import STRUCTURES, cif
from pymatgen.core import Structure
from pymatgen.io.vasp import Poscar

from nesf.data.files import search_files
from nesf.data.packed import PackedSet
from nesf.data.readers import ReadOptions, Rejected, Row, read_crystals


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
        (tmp_path / "a.rejected.csv").write_text("file,row,id,reason\na.cif,,,bad\n")
        (tmp_path / "a.csv.made_by.json").write_text("{}")
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
