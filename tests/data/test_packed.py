"""Packed sets: what goes in comes out, and nothing damaged does."""

import json
import multiprocessing
import os
import string
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from nesf.crystal import CrystalBatch
from nesf.data import container, packed
from nesf.data.packed import PackedSet, PackedWriter, join_files, load_or_pack, pack, split_ids
from nesf.data.records import ReadOptions
from nesf.errors import InputError

ONE_WORKER = ReadOptions(workers=1)


def make_rows(count: int, seed: int = 0, prefix: str = "row") -> list[SimpleNamespace]:
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        atoms = int(rng.integers(1, 7))
        structure = Structure(
            Lattice(rng.normal(size=(3, 3)) + 6 * np.eye(3)),
            rng.integers(1, 95, atoms).tolist(),
            rng.random((atoms, 3)),
        )
        properties = {"energy": float(rng.normal()), "label": f"Å{i}"}
        if i % 3 == 0:
            del properties["energy"]
        rows.append(SimpleNamespace(id=f"{prefix}/{i}", structure=structure, properties=properties))
    return rows


def assert_same(packed_set: PackedSet, rows: list[SimpleNamespace]) -> None:
    """Every number is the one that went in, bit by bit."""
    assert list(packed_set.ids) == [row.id for row in rows]
    assert len(packed_set) == len(rows)
    for i, row in enumerate(rows):
        begin, end = packed_set.offsets[i : i + 2]
        np.testing.assert_array_equal(packed_set.frac_coords[begin:end], row.structure.frac_coords)
        np.testing.assert_array_equal(packed_set.lattice[i], row.structure.lattice.matrix)
        assert tuple(packed_set.atomic_numbers[begin:end]) == row.structure.atomic_numbers
        assert packed_set.properties["label"][i] == row.properties["label"]
        energy = packed_set.properties["energy"][i]
        assert energy == row.properties.get("energy") or np.isnan(energy)


def write_in_chunks(path: Path, *chunks: list[SimpleNamespace]) -> None:
    with PackedWriter(path) as writer:
        for chunk in chunks:
            writer.append(chunk)


@pytest.fixture
def rows() -> list[SimpleNamespace]:
    return make_rows(23)


@pytest.mark.parametrize("mmap", [True, False])
def test_saved_set_loads_exactly(tmp_path: Path, rows: list[SimpleNamespace], mmap: bool) -> None:
    path = tmp_path / "set.nesf"
    PackedSet.from_rows(rows, {"source": "test"}).save(path)
    loaded = PackedSet.load(path, mmap=mmap)
    assert_same(loaded, rows)
    assert loaded.provenance == {"source": "test"}
    assert not loaded.frac_coords.flags.writeable
    assert os.listdir(tmp_path) == ["set.nesf"]


def test_arrays_are_aligned_and_readable_without_the_package(
    tmp_path: Path, rows: list[SimpleNamespace]
) -> None:
    path = tmp_path / "set.nesf"
    PackedSet.from_rows(rows).save(path)
    data = path.read_bytes()
    magic, version, zero, length = struct.unpack("<8sIIQ", data[:24])
    assert (magic, version, zero) == (b"NESFPACK", 1, 0)
    entry = json.loads(data[24 : 24 + length])["arrays"]["lattice"]
    start = -(-(24 + length) // 64) * 64 + entry["offset"]
    assert start % 64 == 0
    lattice = np.frombuffer(data, "<f8", 9 * len(rows), start).reshape(-1, 3, 3)
    np.testing.assert_array_equal(lattice[5], rows[5].structure.lattice.matrix)


def test_written_in_chunks_gives_the_same_bytes(
    tmp_path: Path, rows: list[SimpleNamespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    PackedSet.from_rows(rows).save(tmp_path / "whole.nesf")
    monkeypatch.setattr(container, "CHUNK_BYTES", 100)  # smaller than any array
    write_in_chunks(tmp_path / "parts.nesf", rows[1:4], [], rows[4:5], rows[5:])
    # the first row has no energy: the column starts late
    write_in_chunks(tmp_path / "all.nesf", rows[:1], rows[1:])
    assert_same(PackedSet.load(tmp_path / "parts.nesf"), rows[1:])
    assert_same(PackedSet.load(tmp_path / "all.nesf"), rows)
    again = PackedSet.load(tmp_path / "all.nesf").select(np.arange(23))
    again.save(tmp_path / "again.nesf")
    assert (tmp_path / "again.nesf").read_bytes() == (tmp_path / "all.nesf").read_bytes()


def test_column_of_numbers_becomes_strings(tmp_path: Path) -> None:
    rows = make_rows(4)
    for row, value in zip(rows, [1.5, None, "high", 2.0], strict=True):
        row.properties = {} if value is None else {"gap": value}
    with PackedWriter(tmp_path / "set.nesf") as writer:
        for row in rows:
            writer.append([row])
    expected = ["1.5", "", "high", "2.0"]
    assert list(PackedSet.load(tmp_path / "set.nesf").properties["gap"]) == expected
    assert list(PackedSet.from_rows(rows).properties["gap"]) == expected


def test_failed_writing_leaves_nothing(tmp_path: Path, rows: list[SimpleNamespace]) -> None:
    (tmp_path / "set.nesf").write_text("old")
    broken = SimpleNamespace(id="broken", structure=None, properties={})
    with pytest.raises(AttributeError):
        write_in_chunks(tmp_path / "set.nesf", rows, [broken])
    assert (tmp_path / "set.nesf").read_text() == "old"
    assert os.listdir(tmp_path) == ["set.nesf"]


def test_unwritable_folder_is_one_sentence(tmp_path: Path, rows: list[SimpleNamespace]) -> None:
    (tmp_path / "file").write_text("")
    for write in (PackedSet.from_rows(rows).save, PackedWriter):
        with pytest.raises(InputError, match=r"cannot write .*set\.nesf: .* (exists|directory)"):
            write(tmp_path / "file" / "set.nesf")


def test_duplicate_ids_are_named(tmp_path: Path, rows: list[SimpleNamespace]) -> None:
    twice = PackedSet.from_rows(rows)
    with pytest.raises(InputError, match=r"23 ids occur more than once \(row/0, "):
        PackedSet.join([twice, twice])
    with pytest.raises(InputError, match=r"1 ids occur more than once \(row/3\)"):
        write_in_chunks(tmp_path / "set.nesf", rows, rows[3:4])
    assert os.listdir(tmp_path) == []


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_batches_equal_batches_of_structures(data: st.DataObject) -> None:
    rows = make_rows(11, seed=1)
    packed_set = PackedSet.from_rows(rows)
    index = data.draw(st.lists(st.integers(0, 10), min_size=1, max_size=15))
    expected = CrystalBatch.from_structures(
        [rows[i].structure for i in index], [rows[i].id for i in index], torch.float64
    )
    batches = [
        packed_set.batch(index, torch.float64),
        packed_set.tensors(dtype=torch.float64).batch(torch.tensor(index)),
    ]
    if len(set(index)) == len(index):
        batches.append(packed_set.select(index).batch(range(len(index)), torch.float64))
    for batch in batches:
        assert batch.ids == expected.ids
        for name in ("frac_coords", "atomic_numbers", "mask", "lattice"):
            assert torch.equal(getattr(batch, name), getattr(expected, name)), name


def test_batch_goes_in_and_out(rows: list[SimpleNamespace]) -> None:
    batch = PackedSet.from_rows(rows).batch(range(23), torch.float64)
    again = PackedSet.from_batch(batch).batch(range(23), torch.float64)
    assert torch.equal(batch.frac_coords, again.frac_coords)
    assert torch.equal(batch.atomic_numbers, again.atomic_numbers)
    assert again.ids == batch.ids


def test_select_by_mask_and_by_id(rows: list[SimpleNamespace]) -> None:
    packed_set = PackedSet.from_rows(rows)
    mask = np.arange(23) % 5 == 0
    assert_same(packed_set.select(mask), [row for i, row in enumerate(rows) if i % 5 == 0])
    assert packed_set.positions(["row/7", "row/0"]).tolist() == [7, 0]
    with pytest.raises(InputError, match="1 of 2 ids are not in the set: no"):
        packed_set.positions(["row/7", "no"])


def test_join_keeps_order_and_columns() -> None:
    first, second = make_rows(4, 0, "a"), make_rows(3, 1, "b")
    for row in second:
        row.properties["extra"] = 1.0
    joined = PackedSet.join([PackedSet.from_rows(first), PackedSet.from_rows(second)])
    assert_same(joined, first + second)
    assert np.isnan(joined.properties["extra"][:4]).all()
    assert (joined.properties["extra"][4:] == 1).all()


@given(st.lists(st.text(), max_size=20), st.data())
@settings(max_examples=50, deadline=None)
def test_string_columns_read_like_tuples(strings: list[str], data: st.DataObject) -> None:
    strings = [s.encode("utf-8", "replace").decode() for s in strings]
    column = packed.StringColumn.from_strings(strings)
    assert column == strings
    assert column[1:] == tuple(strings[1:])
    index = data.draw(st.lists(st.sampled_from(range(len(strings))))) if strings else []
    assert column.select(np.array(index, np.int64)) == [strings[i] for i in index]
    assert all(column[-i] == strings[-i] for i in range(1, len(strings) + 1))


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_every_damage_is_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp()
    path = folder / "damaged.nesf"
    PackedSet.from_rows(make_rows(3)).save(path)
    good = bytearray(path.read_bytes())
    where = data.draw(st.integers(0, len(good) - 1))
    if data.draw(st.booleans()):
        good[where] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(good)
    else:
        path.write_bytes(good[:where])
    with pytest.raises(
        InputError, match=r"(damaged|truncated|not a packed set|format version)"
    ) as e:
        PackedSet.load(path)
    assert "damaged.nesf" in str(e.value)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_lying_header_never_crashes(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Without the checksum, only sentences and sound sets come back."""
    path = tmp_path_factory.getbasetemp() / "lying.nesf"
    PackedSet.from_rows(make_rows(3)).save(path)
    good = bytearray(path.read_bytes())
    (length,) = struct.unpack("<Q", good[16:24])
    for _ in range(data.draw(st.integers(1, 4))):
        where = data.draw(st.integers(24, 23 + length))
        good[where] = data.draw(st.sampled_from((string.digits + '"[]{}:,-e').encode()))
    path.write_bytes(good)
    with suppress(InputError):
        loaded = PackedSet.load(path, verify=False)
        loaded.batch(range(len(loaded)))


def test_newer_versions_and_foreign_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "set.nesf"
    PackedSet.from_rows(make_rows(2)).save(path)
    data = bytearray(path.read_bytes())
    data[8:12] = struct.pack("<I", 999)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"set.nesf has format version 999.*upgrade nesf"):
        PackedSet.load(path)
    path.write_bytes(b"\x80\x04\x95 a pickle, say")
    with pytest.raises(InputError, match="is not a packed set"):
        PackedSet.load(path)
    with pytest.raises(InputError, match=r"cannot read .*none.nesf: No such file"):
        PackedSet.load(tmp_path / "none.nesf")


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
    assert whole.rejected_path == tmp_path / "rejected.csv"
    assert "broken.cif" in (tmp_path / "rejected.csv").read_text()
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
    assert (tmp_path / "rejected.csv").exists()


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


def test_import_leaves_pymatgen_alone() -> None:
    code = "import sys, nesf.data.packed; sys.exit(bool({'pymatgen', 'pandas'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# --- splits


@given(st.sets(st.text(string.ascii_letters, max_size=5)), st.integers(0, 5), st.randoms())
@settings(max_examples=50, deadline=None)
def test_split_depends_on_ids_and_seed_only(ids: set[str], seed: int, random: object) -> None:
    fractions = {"train": 0.8, "val": 0.1, "test": 0.1}
    shuffled = sorted(ids)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    parts = split_ids(shuffled, fractions, seed)
    assert parts == split_ids(sorted(ids), fractions, seed)
    assert sorted(name for part in parts.values() for name in part) == sorted(ids)
    assert abs(len(parts["train"]) - 0.8 * len(ids)) <= 0.5


def test_split_is_fixed_for_good() -> None:
    """A change of the rule would move test crystals into the training sets of users."""
    parts = split_ids([f"mp-{i}" for i in range(10)], {"train": 0.7, "test": 0.3}, seed=0)
    assert parts["test"] == ["mp-1", "mp-6", "mp-7"]


def test_new_ids_move_few_old_ones() -> None:
    fractions = {"train": 0.8, "test": 0.2}
    old = split_ids([f"mp-{i}" for i in range(1000)], fractions)
    new = split_ids([f"mp-{i}" for i in range(1100)], fractions)
    moved = set(old["test"]) & set(new["train"]) | set(old["train"]) & set(new["test"])
    assert len(moved) < 40


def test_groups_stay_together() -> None:
    ids = [str(i) for i in range(300)]
    groups = [str(i % 60) for i in range(300)]
    parts = packed.split_groups(ids, groups, {"train": 0.5, "test": 0.5}, seed=3)
    sides = [{groups[int(name)] for name in part} for part in parts.values()]
    assert not sides[0] & sides[1]
    assert len(parts["train"]) == 150


def test_bad_splits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="sum to 1"):
        split_ids(["a"], {"train": 0.8})
    with pytest.raises(InputError, match="occurs twice"):
        split_ids(["a", "a"], {"train": 1.0})
    path = tmp_path / "splits.json"
    packed.write_splits(path, {"train": ["Å"], "test": []})
    assert packed.read_splits(path) == {"train": ["Å"], "test": []}
    path.write_text('{"train": ["a"], "test": ["a"]}')
    with pytest.raises(InputError, match="a is in train and again in test"):
        packed.read_splits(path)
    for text, reason in [("{", "is not JSON"), ('["a"]', "is no split file")]:
        path.write_text(text)
        with pytest.raises(InputError, match=reason):
            packed.read_splits(path)
