"""Which crystals a step gets: all of them, each once, and the same after a restart."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from crystals import random_crystals
from hypothesis import given, settings
from hypothesis import strategies as st

from nesf.data.batches import BatchList, BatchStream
from nesf.data.columns import StringColumn
from nesf.data.module import CrystalData, MissingCrystals, free_share
from nesf.data.packed import PackedSet, PackedTensors, split_ids
from nesf.data.packed_view import MappedCrystals
from nesf.errors import InputError
from nesf.random import generator_for


def tensors_of(count: int) -> PackedTensors:
    crystals = random_crystals(0, max(count, 1), max_atoms=2)
    return PackedSet.from_batch(crystals).select(range(count)).tensors()


def ids_of(stream: BatchStream) -> list[tuple[str, ...]]:
    return [batch.ids for batch in stream]


@settings(deadline=None, max_examples=50)
@given(
    count=st.integers(1, 40),
    batch_size=st.integers(1, 12),
    world=st.integers(1, 4),
    epoch=st.integers(0, 3),
)
def test_ranks_share_out_an_epoch(count: int, batch_size: int, world: int, epoch: int) -> None:
    if count < world:
        return
    crystals = tensors_of(count)
    streams = [
        BatchStream(crystals, batch_size, 1, lambda: epoch, rank, world) for rank in range(world)
    ]
    parts = [ids_of(stream) for stream in streams]
    lengths = {len(stream) for stream in streams} | {len(part) for part in parts}
    assert len(lengths) == 1  # a rank with fewer steps would leave the others waiting
    drawn = Counter(name for part in parts for ids in part for name in ids)
    assert set(drawn.values()) == {1}
    size = min(batch_size, count // world)
    assert drawn.total() == count // (size * world) * size * world  # all but a part of a batch
    # a step takes the same crystals from the epoch's order, however many ranks share them
    order = [crystals.ids[i] for i in streams[0].order(epoch).tolist()]
    for step in range(len(streams[0])):
        taken = {name for part in parts for name in part[step]}
        assert taken == set(order[step * size * world : (step + 1) * size * world])


def test_the_order_is_of_seed_and_epoch() -> None:
    crystals = tensors_of(30)
    first = BatchStream(crystals, 4, seed=0)
    assert torch.equal(first.order(3), BatchStream(crystals, 7, seed=0).order(3))
    assert not torch.equal(first.order(3), first.order(4))
    assert not torch.equal(first.order(3), BatchStream(crystals, 4, seed=1).order(3))


@pytest.mark.parametrize("done", range(6))
def test_a_stream_goes_on_where_it_was_left(done: int) -> None:
    crystals, epoch = tensors_of(20), [0]

    def stream() -> BatchStream:
        return BatchStream(crystals, 4, epoch=lambda: epoch[0])

    truth = ids_of(stream())
    epoch[0] = 1
    second = ids_of(stream())
    epoch[0] = 0
    broken = stream()
    batches = iter(broken)
    for _ in range(done):
        next(batches)
    resumed = stream()
    resumed.load_state_dict(broken.state_dict())
    if done == len(truth):  # the epoch was over: the next is whole
        epoch[0] = 1
        assert ids_of(resumed) == second
    else:
        assert ids_of(resumed) == truth[done:]
        epoch[0] = 1
        assert ids_of(resumed) == second


def test_a_position_of_other_data_is_refused() -> None:
    left = BatchStream(tensors_of(20), 4)
    batches = iter(left)
    next(batches)
    with pytest.raises(InputError, match="epoch of 5 steps, and an epoch has 3 now"):
        BatchStream(tensors_of(20), 6).load_state_dict(left.state_dict())
    list(batches)  # between epochs there is nothing to go wrong
    BatchStream(tensors_of(20), 6).load_state_dict(left.state_dict())


def test_weights_are_rates() -> None:
    crystals = tensors_of(20)
    weights = torch.ones(20, dtype=torch.float64)
    weights[3], weights[4] = 0.0, 30.0
    stream = BatchStream(crystals, 10, weights=weights)
    drawn = torch.cat([stream.order(epoch) for epoch in range(200)]).bincount(minlength=20)
    assert drawn[3] == 0
    assert drawn[4] / drawn.sum() == pytest.approx(30 / 48, abs=0.05)


@settings(deadline=None, max_examples=30)
@given(count=st.integers(1, 30), batch_size=st.integers(1, 12), world=st.integers(1, 4))
def test_validation_sees_each_crystal_once(count: int, batch_size: int, world: int) -> None:
    if count < world:
        return
    crystals = tensors_of(count)
    lists = [BatchList(crystals, batch_size, rank, world) for rank in range(world)]
    seen = Counter(name for part in lists for batch in part for name in batch.ids)
    assert seen == Counter(list(crystals.ids))
    assert all(len(part) == sum(1 for _ in part) > 0 for part in lists)


def test_a_held_out_part_depends_on_ids_alone(tmp_path: Path) -> None:
    crystals = random_crystals(0, 30, max_atoms=3)
    whole = PackedSet.from_batch(crystals)
    whole.save(tmp_path / "a.nesf")
    whole.select(range(29, -1, -1)).save(tmp_path / "b.nesf")
    parts = []
    for name in ("a.nesf", "b.nesf"):
        data = CrystalData([str(tmp_path / name)], val_fraction=0.2, seed=3)
        data.prepare_data()
        data.setup()
        parts.append({key: set(data.set_named(key).ids) for key in ("train", "val")})
        assert data.atoms_range() == (1, 3)
    assert parts[0] == parts[1]
    assert parts[0]["train"] | parts[0]["val"] == set(crystals.ids)
    assert not parts[0]["train"] & parts[0]["val"]
    assert len(parts[0]["val"]) == 6


def test_too_few_crystals_to_hold_any_out(tmp_path: Path) -> None:
    PackedSet.from_batch(random_crystals(0, 3)).save(tmp_path / "few.nesf")
    with pytest.raises(InputError, match="too few to hold out 5%"):
        CrystalData([str(tmp_path / "few.nesf")]).setup()


def test_fewer_crystals_than_processes(tiny_data: Path) -> None:
    class Trainer:
        world_size = 10

    data = CrystalData([str(tiny_data / "train.nesf")], [str(tiny_data / "val.nesf")])
    data.trainer = Trainer()  # type: ignore[assignment]
    with pytest.raises(InputError, match=r"data\.val has 9 crystals for 10 processes"):
        data.setup()


def test_batches_carry_the_properties_asked_for() -> None:
    crystals = dataclasses.replace(
        PackedSet.from_batch(random_crystals(0, 5, max_atoms=3)),
        properties={
            "gap": np.array([0.0, 1.5, np.nan, 3.0, 4.0]),
            "label": StringColumn.from_strings(["a", "b", "c", "d", "e"]),
        },
    )
    batch = crystals.tensors(properties=["gap"]).batch(torch.tensor([3, 2, 1]))
    assert batch.properties["gap"].tolist() == pytest.approx([3.0, float("nan"), 1.5], nan_ok=True)
    kept = batch.to(dtype=torch.float64).select([2, 0]).properties["gap"]
    assert kept.tolist() == [1.5, 3.0]
    assert kept.dtype == torch.float64
    assert crystals.tensors().batch(torch.tensor([0])).properties == {}
    for name in ("label", "absent"):
        with pytest.raises(InputError, match=f"no property {name}; they have .*: gap"):
            crystals.tensors(properties=[name])


def packed(folder: Path, name: str, seed: int, count: int, prefix: str = "") -> str:
    crystals = random_crystals(seed, count, max_atoms=3)
    ids = [f"{prefix}{i}" for i in range(count)]
    path = folder / f"{name}.nesf"
    PackedSet.from_batch(crystals.replace(ids=tuple(ids))).save(path)
    return str(path)


def test_one_path_is_as_good_as_a_list(tmp_path: Path) -> None:
    path = str(tmp_path / "train.nesf")
    PackedSet.from_batch(random_crystals(0, 4, max_atoms=2)).save(path)
    one, several = CrystalData(path, path), CrystalData([path], [path])
    assert (one.train, one.val) == (several.train, several.val) == ((path,), (path,))
    one.setup()
    assert len(one.set_named("train")) == 4
    assert CrystalData(path, "").val == CrystalData(path, []).val == ()
    assert CrystalData(path, properties="gap").properties == ("gap",)
    for missing in ("none.nesf", ["none.nesf"]):
        with pytest.raises(MissingCrystals, match=r"there is no none\.nesf"):
            CrystalData(missing).prepare_data()


def test_each_input_has_its_share(tmp_path: Path) -> None:
    large, small = packed(tmp_path, "a", 0, 30, "a"), packed(tmp_path, "b", 1, 5, "b")
    val = packed(tmp_path, "v", 2, 3, "v")
    data = CrystalData([large, small], [val], shares=[1.0, 3.0], cache_dir=str(tmp_path / "cache"))
    data.prepare_data()
    data.setup()
    weights = data._weights()
    assert weights is not None
    of_small = np.array([id_.startswith("b") for id_ in data.set_named("train").ids])
    assert float(weights[of_small].sum() / weights.sum()) == pytest.approx(0.75)
    # within an input all alike
    assert float(weights[of_small].std()) == pytest.approx(0)
    drawn = BatchStream(tensors_of(35), 5, weights=weights).order(0)
    assert 0.5 < of_small[drawn.numpy()].mean() < 1  # 35 draws of probability 3/4


def test_a_crystal_of_two_inputs_counts_once(tmp_path: Path) -> None:
    first, again = packed(tmp_path, "a", 0, 6), packed(tmp_path, "b", 1, 9)
    val = packed(tmp_path, "v", 2, 3, "v")
    data = CrystalData([first, again], [val], shares=[1.0, 1.0], cache_dir=str(tmp_path / "cache"))
    data.setup()
    train = data.set_named("train")
    assert list(train.ids) == [str(i) for i in range(9)]
    np.testing.assert_allclose(train.lattice[0], PackedSet.load(first).lattice[0])
    weights = data._weights()
    assert weights is not None
    assert float(weights[:6].sum()) == pytest.approx(float(weights[6:].sum()))
    data = CrystalData([again, first], [val], shares=[1.0, 1.0], cache_dir=str(tmp_path / "cache"))
    with pytest.raises(InputError, match=r"every crystal of .*a\.nesf is in an input before it"):
        data.setup()


@pytest.mark.parametrize("shares", [[1.0], [1.0, 0.0], [1.0, -2.0], [1.0, 2.0, 3.0]])
def test_shares_that_do_not_fit(shares: list[float]) -> None:
    with pytest.raises(ValueError, match="give one positive number for each"):
        CrystalData(["a", "b"], shares=shares)


def test_crystals_are_drawn_as_from_a_set_in_memory(tmp_path: Path) -> None:
    """The rates and the order that a checkpoint was written under, from all crystals at once."""
    paths = [packed(tmp_path, "a", 0, 30, "a"), packed(tmp_path, "b", 1, 7, "b")]
    options = {"shares": [1.0, 2.0], "size_weight": 0.5, "free_weight": 2.0, "val_fraction": 0.2}
    data = CrystalData(paths, seed=4, cache_dir=str(tmp_path / "cache"), **options)
    data.setup()
    whole = PackedSet.join([PackedSet.load(path) for path in paths])
    train = whole.select(whole.positions(split_ids(whole.ids, {"t": 0.8, "v": 0.2}, 4)["t"]))
    assert list(data.set_named("train").ids) == list(train.ids)
    rates = train.num_atoms**0.5 * (1 + 2.0 * free_share(train))
    part = np.array([id_.startswith("b") for id_ in train.ids]).astype(int)
    rates = rates * (np.array([1.0, 2.0]) / np.bincount(part, rates))[part]
    weights = data._weights()
    assert weights is not None
    assert torch.equal(weights, torch.from_numpy(rates))
    drawn = torch.multinomial(
        torch.from_numpy(rates),
        len(train),
        replacement=True,
        generator=generator_for(4, "order", 2),
    )
    source = data._tensors("train")
    assert isinstance(source, MappedCrystals)
    streams = [BatchStream(s, 5, 4, lambda: 2, weights=weights) for s in (source, train.tensors())]
    for mapped, held in zip(*streams, strict=True):
        assert mapped.ids == held.ids
        assert torch.equal(mapped.frac_coords, held.frac_coords)
        assert torch.equal(mapped.lattice, held.lattice)
    assert torch.equal(streams[0].order(2).long(), drawn)
    even = torch.randperm(len(train), generator=generator_for(4, "order", 2))
    assert torch.equal(BatchStream(source, 5, 4).order(2).long(), even)
