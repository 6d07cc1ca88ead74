import errno
import gzip
import resource
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from in_process import assert_same_crystals, random_structures, rows_here
from ordinary_user import read_only_folder
from pymatgen.core import Lattice, PeriodicSite, Structure
from pymatgen.io.cif import CifParser

from nesf.data.cif_text import cif_text
from nesf.data.writers import open_writer, safe_stem
from nesf.errors import InputError

STRUCTURES = random_structures(seed=2, count=6)
OUTPUTS = ["cifs", "a.csv", "a.csv.gz", "a.extxyz", "a.jsonl"]
STREAMS = OUTPUTS[1:]
STRANGE_IDS = [
    *("plain-1", "a/b", "../../etc/passwd", "=cmd()|' /C calc'!A0", "<script>alert(1)</script>"),
    *("Ångström 晶体", "x" * 400, "a,b", 'quo"te', "con", "index", ".hidden", "a.", "two\nlines"),
    *("PLAIN-1", "tab\tand\rreturn", "-1", "+1", "@x", "é" * 80, "back\\slash", "C:evil"),
]


def write_all(output: Path, ids: list[str], **options) -> None:
    with open_writer(output, **options) as writer:
        for i, name in enumerate(ids):
            writer.write(name, STRUCTURES[i % 6], {"gap": i / 3, "note": f'say "{i}", or\nnot'})


def by_number(site: PeriodicSite) -> int:
    return site.specie.Z


class TestCifText:
    """The text is read by pymatgen as what it was."""

    def test_pymatgen_reads_it_back(self) -> None:
        for structure in STRUCTURES:
            parser = CifParser.from_str(cif_text(structure), frac_tolerance=0)
            found = parser.parse_structures(primitive=False)[0]
            in_order = [s.get_sorted_structure(key=by_number) for s in (found, structure)]
            assert_same_crystals(in_order[:1], in_order[1:])
            distances = [
                np.sort(s.distance_matrix, axis=None) for s in (found, structure)
            ]  # the same crystal, also where the axes were turned round
            np.testing.assert_allclose(*distances, atol=1e-6)
            assert parser.check(found) is None  # formula and sites agree

    def test_a_left_handed_cell_keeps_the_crystal(self) -> None:
        """Handedness: the signed volumes of atom quadruples are what a mirror image changes."""
        cell = Lattice(Lattice.from_parameters(5, 6, 7, 80, 95, 100).matrix * [[1], [1], [-1]])
        corners = np.concatenate([np.zeros((1, 3)), 0.3 * np.eye(3)])
        given = Structure(cell, ["H", "C", "N", "O"], corners)
        found = CifParser.from_str(cif_text(given)).parse_structures(primitive=False)[0]

        def signed_volume(structure: Structure) -> float:
            at = {site.specie.symbol: site for site in structure}
            arms = []
            for name in "CNO":
                delta = at[name].frac_coords - at["H"].frac_coords
                arms.append((delta - np.round(delta)) @ structure.lattice.matrix)
            return float(np.linalg.det(arms))

        assert signed_volume(given) < 0
        assert signed_volume(found) == pytest.approx(signed_volume(given), rel=1e-5)

    def test_what_is_not_finite_is_written_and_refused_by_readers(self, tmp_path: Path) -> None:
        poor = [
            Structure(np.full((3, 3), np.nan), ["Fe"], [[0, 0, 0]]),
            Structure(np.zeros((3, 3)), ["Fe"], [[0, np.inf, 0]]),
            Structure(Lattice.cubic(4), [], []),
        ]
        for output in OUTPUTS:
            with open_writer(tmp_path / output) as writer:
                for i, structure in enumerate(poor):
                    writer.write(str(i), structure)
        with pytest.raises(AssertionError):
            rows_here(tmp_path / "a.csv")


@pytest.mark.parametrize("output", OUTPUTS)
def test_strange_ids_and_info_come_back_exactly(tmp_path: Path, output: str) -> None:
    write_all(tmp_path / output, STRANGE_IDS)
    rows = {row.id: row for row in rows_here(tmp_path / output)}
    assert set(rows) == set(STRANGE_IDS)
    found = [rows[name] for name in STRANGE_IDS]
    assert_same_crystals([row.structure for row in found], [STRUCTURES[i % 6] for i in range(22)])
    for i, row in enumerate(found):
        assert row.properties["gap"] == pytest.approx(i / 3, abs=0)
        assert row.properties["note"] == f'say "{i}", or\nnot'
    assert not list(tmp_path.rglob("*.tmp"))
    assert {path.parent for path in tmp_path.rglob("*") if path.is_file()} <= {
        tmp_path,
        tmp_path / "cifs",
    }


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**32 - 1),
    output=st.sampled_from(OUTPUTS),
    names=st.lists(
        st.text(
            st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1
        ).filter(lambda s: s == s.strip()),
        min_size=3,
        max_size=3,
        unique=True,
    ),
)
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory, seed: int, output: str, names: list[str]
) -> None:
    path = tmp_path_factory.mktemp("round") / output
    structures = random_structures(seed, 3)
    with open_writer(path) as writer:
        for name, structure in zip(names, structures, strict=True):
            writer.write(name, structure)
    rows = {row.id: row.structure for row in rows_here(path)}
    assert set(rows) == set(names)
    assert_same_crystals([rows[name] for name in names], structures)


def test_csv_has_the_columns_that_others_read(tmp_path: Path) -> None:
    write_all(tmp_path / "a.csv", ["b", "a"])
    frame = pd.read_csv(tmp_path / "a.csv")
    assert list(frame.columns) == ["material_id", "cif", "gap", "note"]
    assert list(frame["material_id"]) == ["b", "a"]
    with open_writer(tmp_path / "b.csv", columns=["x", "y"]) as writer:
        writer.write("a", STRUCTURES[0], {"y": np.float32(0.5)})
        writer.write("b", STRUCTURES[0], {"x": None, "y": True})
        with pytest.raises(ValueError, match="'z'"):
            writer.write("c", STRUCTURES[0], {"z": 1})
    frame = pd.read_csv(tmp_path / "b.csv")
    assert list(frame["y"]) == [0.5, 1.0]
    assert frame["x"].isna().all()
    with open_writer(tmp_path / "empty.csv"):
        pass
    assert (tmp_path / "empty.csv").read_text() == '"material_id","cif"\n'


@pytest.mark.parametrize("output", STREAMS)
def test_resuming_cuts_what_is_torn(tmp_path: Path, output: str) -> None:
    """Cut anywhere: what is done is told, what is torn is gone, and the end result is whole."""
    ids = ["one", "two, with a comma", "three\nlines", "four"]
    write_all(tmp_path / output, ids)
    whole = (tmp_path / output).read_bytes()
    rng = np.random.default_rng(0)
    for cut in [0, 1, 5, len(whole), *rng.integers(0, len(whole), 12).tolist()]:
        (tmp_path / output).write_bytes(whole[:cut])
        with open_writer(tmp_path / output, resume=True) as writer:
            done = [name for name in ids if name in writer.done]
            assert writer.done == frozenset(done)
            assert done == ids[: len(done)]
            for i, name in enumerate(ids):
                if name not in writer.done:
                    info = {"gap": i / 3, "note": f'say "{i}", or\nnot'}
                    writer.write(name, STRUCTURES[i % 6], info)
        rows = rows_here(tmp_path / output)
        assert [row.id for row in rows] == ids
        assert_same_crystals([row.structure for row in rows], STRUCTURES[:4])
    if output == "a.csv.gz":
        pd.read_csv(tmp_path / output)  # others read several gzip members, too


def test_each_row_is_there_as_soon_as_it_is_written(tmp_path: Path) -> None:
    for output in OUTPUTS:
        writer = open_writer(tmp_path / output)
        for i in range(3):
            writer.write(str(i), STRUCTURES[i])
            seen = tmp_path / str(i) / output
            seen.parent.mkdir(exist_ok=True)
            copy = shutil.copytree if (tmp_path / output).is_dir() else shutil.copyfile
            copy(tmp_path / output, seen)
            with open_writer(seen, resume=True) as reader:
                assert reader.done == frozenset(map(str, range(i + 1)))
        writer.close()


def test_a_folder_goes_on_where_it_stopped(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    write_all(folder, ["a", "b/c", "a"])
    assert sorted(p.name for p in folder.glob("*.cif"))[:2] == ["a-2.cif", "a.cif"]
    (folder / "a.cif").unlink()
    (folder / "a-2.cif").unlink()
    with (folder / "index.csv").open("a") as index:
        index.write('"torn","to')
    with open_writer(folder, resume=True) as writer:
        assert writer.done == {"b/c"}
        writer.write("d", STRUCTURES[0], {"gap": 1})
    assert {row.id for row in rows_here(folder)} == {"b/c", "d"}

    # an earlier result is never lost by mistake
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(InputError, match=r"out holds 2 crystals of an earlier run.*--overwrite"):
        open_writer(folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    write_all(folder, ["e"], overwrite=True)
    assert [p.name for p in folder.glob("*.cif")] == ["e.cif"]


def test_a_folder_without_results_is_no_earlier_run(tmp_path: Path) -> None:
    open_writer(tmp_path / "out").close()  # every crystal failed
    write_all(tmp_path / "out", ["a"])
    assert [row.id for row in rows_here(tmp_path / "out")] == ["a"]


def test_others_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x.cif").write_text("precious")
    with pytest.raises(InputError, match="holds other CIF files"):
        open_writer(tmp_path / "mine")
    (tmp_path / "keep.cif").write_text("precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "index.csv").write_text('"id","file"\n"x","../keep.cif"\n')
    open_writer(tmp_path / "out", overwrite=True).close()
    assert (tmp_path / "keep.cif").read_text() == "precious"
    with pytest.raises(InputError, match="holds other CIF files"):
        open_writer(tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "x.cif").read_text() == "precious"
    for name, text in [("a.csv", "x,y\n1,2\n"), ("a.jsonl", "{}\n"), ("a.extxyz", "hello\n")]:
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match="cannot be resumed"):
            open_writer(tmp_path / name, resume=True)
        assert (tmp_path / name).read_text() == text


@pytest.mark.parametrize(
    "name", ["a.cif", "a.json", "a.parquet", "a.gz", "o8.xlsx", "a.csv.bz2", "v1.2.h5", "a.CIF"]
)
def test_an_unknown_suffix_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"give a folder, or a \.csv, \.csv\.gz, \.extxyz or"):
        open_writer(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_names_with_dots_that_are_folders(tmp_path: Path) -> None:
    (tmp_path / "there.d").mkdir()
    (tmp_path / "file").touch()
    for name in ("a.xlsx/", "b.csv/", "there.d", "v1.2", "mp-0.05", "plain"):
        with open_writer(f"{tmp_path}/{name}") as writer:
            writer.write("a", STRUCTURES[0])
        assert (tmp_path / name / "a.cif").is_file()
    for name in ("file", "file/"):
        with pytest.raises(InputError, match="file"):
            open_writer(f"{tmp_path}/{name}")


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Files can't grow beyond `size` bytes: writing fails as on a full disk, half way."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_full_disk_is_one_sentence_and_resumes(tmp_path: Path, output: str) -> None:
    path = tmp_path / output
    ids = [str(i) for i in range(40)]
    with full_disk(600), pytest.raises(InputError, match=r"cannot be written \(File too large\)"):
        write_all(path, ids)
    assert not list(tmp_path.rglob("*.tmp"))
    with open_writer(path, resume=True) as writer:
        for i, name in enumerate(ids):
            if name not in writer.done:
                writer.write(name, STRUCTURES[i % 6], {"gap": 0, "note": ""})
    assert [row.id for row in sorted(rows_here(path), key=lambda row: int(row.id))] == ids


def test_no_space_left_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with open_writer(tmp_path / "a.csv") as writer:
        writer.write("a", STRUCTURES[0])
        with monkeypatch.context() as patch:
            patch.setattr("nesf.data.append_file.write_all", refuse)
            with pytest.raises(InputError, match=r"a\.csv cannot be written \(No space left"):
                writer.write("b", STRUCTURES[0])


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_read_only_folder_is_one_sentence(output: str) -> None:
    with read_only_folder() as folder, pytest.raises(InputError, match="cannot be written"):
        open_writer(folder / output)


def test_names_of_files() -> None:
    stems = [safe_stem(name) for name in STRANGE_IDS]
    assert len({stem.lower() for stem in stems}) == len(stems) - 1  # but for PLAIN-1
    for stem in stems:
        assert len(stem) <= 100
        assert stem.isascii()
        assert not set(stem) & set("/\\:*?\"<>|'= \n\t")
    assert stems[0] == "plain-1"


def test_a_compressed_output_is_a_sound_gzip_file(tmp_path: Path) -> None:
    write_all(tmp_path / "a.csv.gz", ["a", "b"])
    write_all(tmp_path / "a.csv", ["a", "b"])
    assert (
        gzip.decompress((tmp_path / "a.csv.gz").read_bytes()) == (tmp_path / "a.csv").read_bytes()
    )
