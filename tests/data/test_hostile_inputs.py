"""Inputs that pymatgen accepts, hangs on, or fails on with another error than a reason."""

import csv
import gzip
import time
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from in_process import read_here
from pymatgen.core import Lattice, Structure

from nesf.data.cif_text import cif_text
from nesf.data.entries import scalar_properties
from nesf.data.extxyz import comment_pairs
from nesf.data.parsing import parse
from nesf.data.readers import ReadOptions, Rejected, Row, read_crystals
from nesf.errors import InputError

CONFIG = asdict(ReadOptions())
BASE = cif_text(
    Structure(
        Lattice.from_parameters(4, 5, 6, 80, 95, 100),
        ["Fe", "O", "O"],
        [[0.1, 0.2, 0.3], [0.5, 0.5, 0.5], [0.75, 0.1, 0.9]],
    )
)
FIRST, SECOND = "0.10000000  0.20000000  0.30000000  1", "0.50000000  0.50000000  0.50000000  1"
HALVES = "0.5 0.5 0.5 0.5\n  Ni Ni9 1 0.5 0.5 0.5 0.5"


def changed(old: str, new: str) -> str:
    assert old in BASE
    return BASE.replace(old, new, 1)


def length(value: str) -> str:
    return changed("_cell_length_a   4.00000000", f"_cell_length_a   {value}")


def angle(value: str) -> str:
    return changed("_cell_angle_alpha   80.00000000", f"_cell_angle_alpha   {value}")


def coordinate(value: str) -> str:
    return changed("0.10000000  0.2", f"{value}  0.2")


def occupancy(value: str) -> str:
    return changed(FIRST, FIRST[:-1] + value)


def element(name: str) -> str:
    return changed("  Fe  Fe0", f"  {name}  Fe0")


def operation(text: str) -> str:
    return changed("'x, y, z'", text)


REFUSED = {
    "length nan": (length("nan"), "cell length a = nan"),
    "length negative": (length("-4"), "cell length a = -4"),
    "length zero": (length("0"), "cell length a = 0"),
    "length huge": (length("1e9"), r"cell length a = 1e\+09"),
    "length unknown": (length("?"), r"_cell_length_a is \?"),
    "length grouped": (length("1_0"), "_cell_length_a is 1_0"),
    "length missing": (changed("_cell_length_a", "_cell_length_q"), "_cell_length_a is missing"),
    "angle 0": (angle("0"), "cell angle alpha = 0°"),
    "angle 180": (angle("180"), "cell angle alpha = 180°"),
    "angles that close no cell": (
        angle("30").replace("95.00000000", "30").replace("100.00000000", "120"),
        "flat cell|close no cell",
    ),
    "coordinate nan": (coordinate("nan"), "fractional coordinate nan of Fe0"),
    "coordinate unknown": (coordinate("?"), r"fractional coordinate \? of Fe0"),
    "coordinate inf": (coordinate("inf"), "fractional coordinate inf"),
    "coordinate 1e300": (coordinate("1e300"), "fractional coordinate 1e300"),
    "truncated in a loop": (BASE[: BASE.index(SECOND) + 5], "ends in the middle of a row"),
    "truncated before the loop": (BASE[:200], "_cell_angle"),
    "no sites": (BASE[: BASE.index("  Fe  Fe0")], "ends too early"),
    "empty": ("\n \n", "empty"),
    "binary": ("\0\1data_x", "NUL"),
    "web page": ("<!DOCTYPE html><html><body>Not found</body></html>", "web page"),
    "prose": ("hello world", "no data_ block"),
    "occupancy 0": (occupancy("0"), "occupancy 0 of site Fe0"),
    "occupancy -1": (occupancy("-1"), "occupancy -1 of site Fe0"),
    "occupancy 1.2": (occupancy("1.2"), "occupancy 1.2 of site Fe0"),
    "vacancy": (occupancy("0.9"), "disordered site Fe 0.9"),
    "shared site": (
        changed(SECOND, HALVES).replace("  O  O1", "  Fe Fe1"),
        "disordered site Fe/Ni 0.5/0.5",
    ),
    "two on one point": (
        changed("0.75000000  0.10000000  0.90000000", "0.5 0.5 0.5"),
        r"O \(atom 2\) and O \(atom 3\) are 0 Å apart",
    ),
    "a thousandth apart": (
        changed("0.75000000  0.10000000  0.90000000", "0.50025 0.5 0.5"),
        r"O \(atom 2\) and O \(atom 3\) are 0.001 Å apart",
    ),
    "element X": (element("X"), "X is no element"),
    "element Xx": (element("Xx"), "Xx is no element"),
    "element 118": (element("Og"), "Z = 118"),
    "dropped symbol": (element("OH"), "Fe0"),
    "operation to nowhere": (operation("'foo'"), "gives no atom of its own"),
    "open text field": (BASE + ";\nnever closed\n", "never closed"),
    "sites outside a loop": (
        BASE[: BASE.index("loop_")] + "_atom_site_label Fe\n_atom_site_fract_x 0\n"
        "_atom_site_fract_y 0\n_atom_site_fract_z 0\n",
        "not in a loop_",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_value(name: str) -> None:
    text, reason = REFUSED[name]
    with pytest.raises(InputError, match=reason) as caught:
        parse({"cif": text}, CONFIG)
    assert "\n" not in str(caught.value)


NO_SYMMETRY = BASE.replace("  1  'x, y, z'\n", "").replace(
    "loop_\n _symmetry_equiv_pos_site_id\n _symmetry_equiv_pos_as_xyz\n", ""
)
NO_GROUP = NO_SYMMETRY.replace("_symmetry_space_group_name_H-M   'P 1'\n", "")
ACCEPTED = {
    "byte order mark and CRLF": ("\ufeff" + BASE.replace("\n", "\r\n"), None),
    "uncertainty": (coordinate("0.1(4)"), None),
    "lines of a text field": (changed("loop_\n _sym", "_x\n;\ndata_y\n;\nloop_\n _sym"), None),
    "no symmetry": (NO_GROUP.replace("_symmetry_Int_Tables_number   1\n", ""), "read as P1"),
    "space group 999": (NO_GROUP.replace("number   1", "number   999"), "read as P1"),
    "code as an operation": (
        operation("\"x, y, __import__('pathlib').Path('/tmp/nesf-was-here').touch()\""),
        "space",
    ),
    "occupancy not given": (occupancy("."), None),
    "another formula": (changed("Fe1 O2", "Fe1 O3"), "Incorrect stoichiometry"),
    "charge": (element("Fe3+"), r"charge of Fe3\+ dropped"),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_read_with_a_note_once(name: str) -> None:
    text, note = ACCEPTED[name]
    answer = parse({"cif": text}, CONFIG)
    expected = parse({"cif": BASE}, CONFIG)
    assert answer["numbers"] == expected["numbers"] == [26, 8, 8]
    assert answer["lattice"] == expected["lattice"]
    np.testing.assert_allclose(answer["frac"], expected["frac"], atol=1e-12)
    found = [line for line in answer["notes"] if note and note.lower() in line.lower()]
    assert len(found) == (0 if note is None or "\\" in note else 1) or "\\" in str(note)
    assert not Path("/tmp/nesf-was-here").exists()


def test_a_typographic_minus_is_a_minus() -> None:
    for minus in "-\u2212\u2013":
        assert parse({"cif": coordinate(f"{minus}0.25")}, CONFIG)["frac"][0][0] == 0.75


def test_deuterium_is_hydrogen_with_a_note() -> None:
    answer = parse({"cif": element("D")}, CONFIG)
    assert answer["numbers"] == [1, 8, 8]
    assert "D read as H" in answer["notes"]


def test_a_cell_may_follow_from_the_crystal_system() -> None:
    cubic = changed("_cell_length_a   4.00000000", "_symmetry_cell_setting cubic\n_cell_length_a 7")
    for name in ("length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma"):
        cubic = cubic.replace(f"_cell_{name}", f"_other_{name}")
    np.testing.assert_allclose(parse({"cif": cubic}, CONFIG)["lattice"], 7 * np.eye(3), atol=1e-9)


def test_a_poscar_without_elements_or_with_absurd_counts_is_refused() -> None:
    cell = "x\n1.0\n4 0 0\n0 4 0\n0 0 4\n"
    good = cell + "Fe O\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n"
    assert parse({"poscar": good.replace("\n", "\r\n")}, CONFIG)["numbers"] == [26, 8]
    refused = {
        "names no elements": cell + "1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n",
        "ends too early": good.replace("1 1", "1 5"),
        "not a readable POSCAR": cell,
        "fractional coordinate 1e": good.replace("0.5 0.5 0.5", "1e300 0 0"),
        "cell length a": good.replace("1.0", "1e9", 1),
    }
    for reason, text in refused.items():
        with pytest.raises(InputError, match=reason):
            parse({"poscar": text}, CONFIG)


@pytest.mark.parametrize(
    "change",
    [
        {"lattice": {}},
        {"lattice": {"matrix": [[1, 0, 0], [0, 1, 0]]}},
        {"lattice": {"matrix": [[1e9, 0, 0], [0, 1, 0], [0, 0, 1]]}},
        {"sites": [{"species": [{"element": "Fe", "occu": 0.5}], "abc": [0, 0, 0]}]},
        {"sites": [{"species": [{"element": "Fe", "occu": 1}], "abc": [0, 0]}]},
        {"sites": [{"species": [{"element": ["Fe"], "occu": 1}], "abc": [0, 0, "x"]}]},
        {"sites": [None]},
        {"sites": "Fe"},
    ],
)
def test_a_wrong_structure_dict_is_refused(change: dict) -> None:
    document = {**Structure(Lattice.cubic(4), ["Fe"], [[0, 0, 0]]).as_dict(), **change}
    with pytest.raises(InputError):
        parse({"structure": document}, CONFIG)


def test_a_gzip_bomb_is_capped(tmp_path: Path) -> None:
    bomb = gzip.compress(b"data_x\n" + b"#" * (8 * 2**20))
    (tmp_path / "bomb.cif.gz").write_bytes(bomb)
    (tmp_path / "bomb.csv.gz").write_bytes(gzip.compress(b"cif\n" + (b"x" * 99_999 + b"\n") * 21))
    options = ReadOptions(max_file_mib=1.0)
    (found,) = read_here(tmp_path / "bomb.cif.gz", options=options)
    assert isinstance(found, Rejected)
    assert found.reason == "expands to more than 1 MiB"
    *rows, last = read_here(tmp_path / "bomb.csv.gz", options=options)
    assert "expands to more than 1 MiB; the rest of the file was not read" in last.reason
    assert len(rows) < 21


def test_zip_members_that_lead_out_or_are_links_or_bombs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nesf.data.sources.MAX_CRYSTAL_MIB", 1)
    link = zipfile.ZipInfo("link.cif")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../evil.cif", BASE)
        archive.writestr("/etc/evil.cif", BASE)
        archive.writestr(link, "/etc/passwd")
        archive.writestr("bomb.cif", b"#" * (2 * 2**20))
        archive.writestr("good.cif", BASE)
    read = read_here(tmp_path / "a.zip")
    reasons = {found.source.split("a.zip/", 1)[1]: getattr(found, "reason", None) for found in read}
    assert reasons["good.cif"] is None
    assert reasons["link.cif"] == "is a link"
    assert "leads out" in reasons["../../evil.cif"]
    assert "leads out" in reasons["/etc/evil.cif"]
    assert "2 MiB" in reasons["bomb.cif"]
    assert not (tmp_path.parent.parent / "evil.cif").exists()
    # a member that is longer than its header says
    data = bytearray((tmp_path / "a.zip").read_bytes())
    size = (2 * 2**20).to_bytes(4, "little")
    (tmp_path / "b.zip").write_bytes(data.replace(size, (100).to_bytes(4, "little")))
    by_name = {found.source.rsplit("/", 1)[1]: found for found in read_here(tmp_path / "b.zip")}
    assert isinstance(by_name["bomb.cif"], Rejected)
    assert isinstance(by_name["good.cif"], Row)


def test_csv_with_nul_bytes_wrong_columns_and_huge_fields(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nesf.data.entries.MAX_CRYSTAL_MIB", 1)
    monkeypatch.setattr("nesf.data.tables.MAX_FIELD_MIB", 2)
    quoted = '"' + BASE.replace('"', '""') + '"'
    path = tmp_path / "a.csv"
    path.write_text(
        "material_id,cif\n"
        f"nul,{quoted.replace('Fe0', 'Fe' + chr(0), 1)}\n"
        "short\n"
        "long,a,b,c\n"
        "empty,\n"
        f"big,{'x' * (2**20 + 1)}\n"
        f",{quoted}\n"
        f"torn,{quoted[:-60]}"
    )
    before = csv.field_size_limit()
    read = read_here(path)
    assert csv.field_size_limit() == before
    assert [found.row for found in read] == [1, 2, 3, 4, 5, 6, 7]
    good = [found for found in read if isinstance(found, Row)]
    assert [row.id for row in good] == ["a-6"]  # a row without an id is called by its number
    reasons = [found.reason for found in read if isinstance(found, Rejected)]
    expected = ["NUL", "1 columns", "4 columns", "empty", "longer than 1 MiB", "middle of a row"]
    for reason, part in zip(reasons, expected, strict=True):
        assert part in reason

    path.write_text(f"cif\n{quoted}\n{'y' * (2 * 2**20 + 1)}\n{quoted}\n")
    first, last = read_here(path)
    assert isinstance(first, Row)
    assert "field larger than" in last.reason  # type: ignore[union-attr]
    assert "the rest of the file was not read" in last.reason  # type: ignore[union-attr]


def test_a_truncated_gzip_keeps_what_came_before(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = "".join(rng.choice(list("abcdefgh"), 2000))
    quoted = '"' + BASE.replace('"', '""') + '"'
    data = gzip.compress(("cif,x\n" + f"{quoted},{noise}\n" * 60).encode())
    (tmp_path / "a.csv.gz").write_bytes(data[: len(data) * 3 // 4])
    *rows, last = read_here(tmp_path / "a.csv.gz")
    assert len(rows) > 10
    assert all(isinstance(row, Row) for row in rows)
    assert isinstance(last, Rejected)
    assert "damaged" in last.reason


def test_extended_xyz_with_false_counts(tmp_path: Path) -> None:
    cell = 'Lattice="4 0 0 0 4 0 0 0 4"'
    path = tmp_path / "a.extxyz"
    frames = [
        f"1\n{cell}\nFe 0 0 0\n",
        "1\nno lattice here\nFe 0 0 0\n",
        f'1\n{cell} pbc="T T F"\nFe 0 0 0\n',
        f"1\n{cell}\nQq 0 0 0\n",
        f"1\n{cell}\nFe 0 nan 0\n",
        f"1\n{cell}\nFe 0\n",
        f"999999999\n{cell}\nFe 0 0 0\n",
    ]
    path.write_text("".join(frames))
    read = read_here(path)
    assert isinstance(read[0], Row)
    reasons = [found.reason for found in read[1:] if isinstance(found, Rejected)]
    parts = ["no Lattice", "not periodic", "Qq is no element", "nan", "line of atom 1", "more than"]
    for reason, part in zip(reasons, parts, strict=True):
        assert part in reason


def test_long_comment_lines_take_no_quadratic_time() -> None:
    started = time.process_time()
    for part in ("a", "k={", 'k="', "k='", 'k="\\"', "k ", "k= ", "= ", "1."):
        comment_pairs(part * (2**18 // len(part)))
        scalar_properties({"x": part * (2**20 // len(part))})
    assert time.process_time() - started < 5


def test_a_slow_row_costs_only_itself(tmp_path: Path) -> None:
    """In a real worker: 2,000 atoms under 48 operations."""
    sites = "".join(
        f"  Fe  Fe{i}  1  {x:.8f}  {y:.8f}  {z:.8f}  1\n"
        for i, (x, y, z) in enumerate(np.random.default_rng(0).random((2000, 3)))
    )
    operations = "".join(f"  {i}  'x+{i}/97, y, z'\n" for i in range(1, 49))
    slow = BASE[: BASE.index("  Fe  Fe0")] + sites
    (tmp_path / "b.cif").write_text(slow.replace("  1  'x, y, z'\n", operations))
    (tmp_path / "a.cif").write_text(BASE)
    (tmp_path / "c.cif").write_text(BASE)
    options = ReadOptions(max_atoms=5000, timeout_s=3.0, workers=1)
    rows, rejected = read_crystals(tmp_path, options, progress=False)
    assert [row.id for row in rows] == ["a", "c"]
    assert [(one.id, one.reason) for one in rejected] == [("b", "took longer than 3 s")]
