"""Views of packed sets: the crystals that copies would hold, drawn from where they are."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packed_rows import make_rows

from nesf.crystal import CrystalBatch
from nesf.data import columns
from nesf.data.packed import PackedSet
from nesf.data.packed_view import MappedCrystals, PackedView
from nesf.errors import InputError

SETS = (
    PackedSet.from_rows(make_rows(7, 0, "a")),
    PackedSet.from_rows(make_rows(5, 1, "b")),
    PackedSet.from_rows(make_rows(9, 2, "c")),
)


def assert_same(found: CrystalBatch, wanted: CrystalBatch) -> None:
    """Bit by bit."""
    assert found.ids == wanted.ids
    for name in ("frac_coords", "atomic_numbers", "mask", "lattice"):
        assert torch.equal(getattr(found, name), getattr(wanted, name)), name
    assert found.properties.keys() == wanted.properties.keys()
    for name, values in wanted.properties.items():
        torch.testing.assert_close(found.properties[name], values, rtol=0, atol=0, equal_nan=True)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_batches_are_those_of_a_copy_in_memory(data: st.DataObject) -> None:
    """Of one set or of several, of all crystals or of some, with properties or without."""
    sets = SETS[: data.draw(st.integers(1, 3))]
    count = sum(map(len, sets))
    index = data.draw(st.none() | st.permutations(range(count)).map(lambda p: p[: count // 2]))
    view = PackedView(sets, None if index is None else np.array(index, np.int32))
    names = data.draw(st.sampled_from([[], ["energy"]]))
    drawn = torch.tensor(data.draw(st.lists(st.integers(0, len(view) - 1), max_size=8))).long()
    mapped = view.tensors(properties=names)
    assert isinstance(mapped, MappedCrystals)
    assert len(mapped) == len(view) == len(view.packed())
    whole = PackedSet.join(sets)
    copy = whole if index is None else whole.select(index)
    assert_same(mapped.batch(drawn), copy.tensors(properties=names).batch(drawn))
    assert_same(view.packed().tensors(properties=names).batch(drawn), mapped.batch(drawn))


def test_numbers_of_each_crystal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "BLOCK", 4)
    view = PackedView(SETS, np.array([20, 3, 8, 7]))
    atoms = np.concatenate([one.num_atoms for one in SETS])
    assert view.each(lambda some: some.num_atoms).tolist() == atoms[[20, 3, 8, 7]].tolist()
    assert view.each(lambda some: some.lattice[:, 0, 0])[0] == SETS[2].lattice[8, 0, 0]
    assert view.sources().tolist() == [2, 0, 1, 1]
    assert [list(some.ids) for some in SETS[1].blocks()] == [
        [f"b/{i}" for i in range(4)],
        ["b/4"],
    ]


def test_parts_are_split_as_ids_are() -> None:
    view = PackedView(SETS)
    parts = view.split({"train": 0.6, "val": 0.4}, seed=2)
    ids = {name: list(part.packed().ids) for name, part in parts.items()}
    assert ids == packed_split(view.packed())
    assert all(part.index is not None and part.index.dtype == np.int32 for part in parts.values())


def packed_split(whole: PackedSet) -> dict[str, list[str]]:
    from nesf.data.packed import split_ids

    return split_ids(whole.ids, {"train": 0.6, "val": 0.4}, seed=2)


def test_of_repeated_ids_the_first_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = make_rows(12)
    sets = [PackedSet.from_rows(some) for some in (rows[:5], rows[3:9], rows[4:12])]
    wanted = [row.id for row in rows]
    view = PackedView.without_repeats(sets)
    assert list(view.packed().ids) == wanted
    assert view.sources().tolist() == [0] * 5 + [1] * 4 + [2] * 3
    # equal hashes of different ids lose no crystal
    hashed = columns.StringColumn.hashes
    monkeypatch.setattr(columns.StringColumn, "hashes", lambda self: hashed(self) % np.uint64(3))
    assert list(PackedView.without_repeats(sets).packed().ids) == wanted
    assert PackedView.without_repeats(sets[:1]).index is None


def test_properties_that_a_set_lacks() -> None:
    bare = dataclasses.replace(SETS[1], properties={})
    view = PackedView((SETS[0], bare))
    found = view.tensors(properties=["energy"]).batch(torch.tensor([8, 1]))
    assert found.properties["energy"].isnan().tolist() == [True, False]
    for name in ("label", "absent"):
        with pytest.raises(InputError, match=f"no property {name}; they have .*: energy"):
            view.tensors(properties=[name])


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux's account")
def test_only_what_is_drawn_comes_into_memory(tmp_path: Path) -> None:
    """Opening, holding out and drawing a set of 40 MB takes a small part of that."""
    atoms = 1_600_000
    count = atoms // 40
    big = PackedSet(
        frac_coords=np.random.default_rng(0).random((atoms, 3)),
        atomic_numbers=np.ones(atoms, np.uint8),
        offsets=np.arange(count + 1) * 40,
        lattice=np.tile(np.eye(3), (count, 1, 1)),
        ids=columns.StringColumn.from_strings(map(str, range(count))),
    )
    big.save(tmp_path / "big.nesf")
    del big
    before = anonymous()
    view = PackedView((PackedSet.load(tmp_path / "big.nesf"),))
    part = view.split({"train": 0.9, "val": 0.1}, seed=0)["train"]
    mapped = part.tensors()
    for start in range(0, 10_000, 100):
        mapped.batch(torch.arange(start, start + 100))
    assert (tmp_path / "big.nesf").stat().st_size > 40e6
    assert anonymous() - before < 10e6


def anonymous() -> int:
    """Bytes of memory that this process has for itself."""
    (line,) = [
        text for text in Path("/proc/self/status").read_text().splitlines() if "RssAnon" in text
    ]
    return 1024 * int(line.split()[1])
