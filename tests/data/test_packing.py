"""Packing files into one set: shards, what nothing good came of, and the cache."""

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from nesf.data import packed
from nesf.data.packed import PackedSet, join_files, load_or_pack, pack
from nesf.data.records import ReadOptions
from nesf.errors import InputError

ONE_WORKER = ReadOptions(workers=1)


def write_poscars(folder: Path, count: int) -> None:
    folder.mkdir()
    for i in range(count):
        structure = Structure(Lattice.cubic(4 + i / 10), ["Na", "Cl"], [[0, 0, 0], [0.5] * 3])
        structure.to(str(folder / f"crystal{i}.vasp"), fmt="poscar")


def test_shards_join_to_the_whole(tmp_path: Path) -> None:
    write_poscars(tmp_path / "in", 5)
    (tmp_path / "in" / "broken.cif").write_text("data_broken\n")
    whole = pack([tmp_path / "in"], tmp_path / "whole.nesf", ONE_WORKER, progress=False)
    assert (whole.packed, whole.rejected) == (5, 1)
    assert whole.rejected_path == tmp_path / "whole.rejected.csv"
    assert "broken.cif" in (tmp_path / "whole.rejected.csv").read_text()
    parts = [tmp_path / f"part{i}.nesf" for i in (1, 2)]
    reports = [
        pack([tmp_path / "in"], part, ONE_WORKER, shard=(i, 2), progress=False)
        for i, part in enumerate(parts, 1)
    ]
    assert sum(report.packed for report in reports) == 5
    assert [r.rejected_path for r in reports].count(None) == 1
    report = join_files(parts, tmp_path / "joined.nesf")
    assert (report.packed, report.rejected) == (5, 1)
    joined = PackedSet.load(tmp_path / "joined.nesf")
    one = PackedSet.load(tmp_path / "whole.nesf")
    assert sorted(joined.ids) == sorted(one.ids)
    order = joined.positions(one.ids)
    np.testing.assert_array_equal(joined.select(order).lattice, one.lattice)
    with pytest.raises(InputError, match=r"1 of 2 shards are missing \(2/2\)"):
        join_files([parts[0]], tmp_path / "joined.nesf")
    with pytest.raises(InputError, match="shard 3/2 does not exist"):
        pack([tmp_path / "in"], parts[0], shard=(3, 2), progress=False)


def test_nothing_good_at_all_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "broken.cif").write_text("data_broken\n")
    with pytest.raises(InputError, match="none of 1 rows could be packed, the first since: "):
        pack([tmp_path / "broken.cif"], tmp_path / "set.nesf", progress=False)
    assert not (tmp_path / "set.nesf").exists()
    assert (tmp_path / "set.rejected.csv").exists()


def test_cache_is_keyed_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, cache = tmp_path / "in", tmp_path / "cache"
    write_poscars(folder, 2)
    path = load_or_pack([folder], ONE_WORKER, cache, progress=False)
    assert len(PackedSet.load(path)) == 2
    folder.rename(tmp_path / "moved")
    monkeypatch.setattr(packed, "pack", None)  # a second packing would fail
    assert load_or_pack([tmp_path / "moved"], ReadOptions(workers=7), cache) == path
    monkeypatch.undo()
    assert packed.content_key([tmp_path / "moved"], ReadOptions(max_atoms=9)) != path.parent.name
    (tmp_path / "moved" / "crystal0.vasp").rename(tmp_path / "moved" / "renamed.vasp")
    renamed = load_or_pack([tmp_path / "moved"], ONE_WORKER, cache, progress=False)
    assert renamed != path
    assert "renamed" in PackedSet.load(renamed).ids
    assert load_or_pack([renamed]) == renamed


def _pack_into(cache: Path, folder: Path, answers: "multiprocessing.Queue[str]") -> None:
    answers.put(str(load_or_pack([folder], ONE_WORKER, cache, progress=False)))


def test_two_processes_pack_once(tmp_path: Path) -> None:
    write_poscars(tmp_path / "in", 2)
    context = multiprocessing.get_context("fork")
    answers: multiprocessing.Queue[str] = context.Queue()
    processes = [
        context.Process(target=_pack_into, args=(tmp_path / "cache", tmp_path / "in", answers))
        for _ in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
    paths = {answers.get(timeout=1) for _ in processes}
    assert len(paths) == 1
    assert len(PackedSet.load(paths.pop())) == 2


def test_unwritable_cache_is_one_sentence(tmp_path: Path) -> None:
    write_poscars(tmp_path / "in", 1)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write the cache .*choose another cache folder"):
        load_or_pack([tmp_path / "in"], cache_dir=tmp_path / "file" / "cache")
