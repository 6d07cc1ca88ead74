"""Splits: a rule of ids and seed alone, and files of them."""

import string
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nesf.data import columns
from nesf.data.columns import StringColumn
from nesf.data.packed import read_splits, split_groups, split_ids, write_splits
from nesf.data.splits import split_positions
from nesf.errors import InputError


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
    parts = split_groups(ids, groups, {"train": 0.5, "test": 0.5}, seed=3)
    sides = [{groups[int(name)] for name in part} for part in parts.values()]
    assert not sides[0] & sides[1]
    assert len(parts["train"]) == 150


def test_bad_splits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="sum to 1"):
        split_ids(["a"], {"train": 0.8})
    with pytest.raises(InputError, match="occurs twice"):
        split_ids(["a", "a"], {"train": 1.0})
    path = tmp_path / "splits.json"
    write_splits(path, {"train": ["Å"], "test": []})
    assert read_splits(path) == {"train": ["Å"], "test": []}
    path.write_text('{"train": ["a"], "test": ["a"]}')
    with pytest.raises(InputError, match="a is in train and again in test"):
        read_splits(path)
    for text, reason in [("{", "is not JSON"), ('["a"]', "is no split file")]:
        path.write_text(text)
        with pytest.raises(InputError, match=reason):
            read_splits(path)


@given(
    st.lists(st.text("abé😀01", max_size=20), unique=True, max_size=40),
    st.integers(0, 5),
    st.integers(0, 40),
    st.randoms(),
)
@settings(max_examples=80, deadline=None)
def test_positions_are_those_of_the_ids(ids, seed, cut, random) -> None:
    """In one column or two, of all ids or of some."""
    fractions = {"train": 0.7, "val": 0.3}
    parts = [StringColumn.from_strings(some) for some in (ids[:cut], ids[cut:])]
    found = split_positions(parts, fractions, seed)
    wanted = split_ids(ids, fractions, seed)
    assert {name: [ids[i] for i in at] for name, at in found.items()} == wanted
    some = random.sample(range(len(ids)), len(ids) // 2)
    found = split_positions(parts, fractions, seed, np.array(some, np.int32))
    wanted = split_ids([ids[i] for i in some], fractions, seed)
    assert {name: [ids[i] for i in at] for name, at in found.items()} == wanted


def test_positions_of_many_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "BLOCK", 7)
    ids = [f"{'prototype-' * (i % 4)}{i}" for i in range(100)]
    found = split_positions([StringColumn.from_strings(ids)], {"a": 0.5, "b": 0.5}, 3)
    wanted = split_ids(ids, {"a": 0.5, "b": 0.5}, 3)
    assert {name: [ids[i] for i in at] for name, at in found.items()} == wanted
    twice = StringColumn.from_strings([*ids, ids[7]])
    with pytest.raises(InputError, match="occurs twice"):
        split_positions([twice], {"a": 1.0})
    with pytest.raises(InputError, match="sum to 1"):
        split_positions([twice], {"a": 0.5})
