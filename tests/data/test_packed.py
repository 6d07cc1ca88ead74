"""Packed sets: what goes in comes out, whole, in parts and as batches."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packed_rows import make_rows, write_in_chunks

from nesf.crystal import CrystalBatch
from nesf.data import container, packed
from nesf.data.packed import PackedSet, PackedWriter
from nesf.errors import InputError


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


def test_import_leaves_pymatgen_alone() -> None:
    code = "import sys, nesf.data.packed; sys.exit(bool({'pymatgen', 'pandas'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
