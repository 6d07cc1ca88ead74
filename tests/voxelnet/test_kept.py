"""Coefficients that are found once give the voxels of the crystals, drawn and turned."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
import torch
from crystals import random_crystals

from baselines.voxelnet import kept
from baselines.voxelnet.kept import SpectralBatch, SpectralTensors, kept_bytes, with_spectra
from baselines.voxelnet.model import VoxelNet
from baselines.voxelnet.options import VoxelOptions
from baselines.voxelnet.training import VoxelTraining
from baselines.voxelnet.turns import random_turns, turned
from baselines.voxelnet.voxels import reciprocal_voxels, voxels_of
from nesf.crystal import CrystalBatch
from nesf.data.packed import PackedSet, PackedTensors

OPTIONS = [
    VoxelOptions("cartesian", resolution=8, side=8.0),
    VoxelOptions("spherical", resolution=8, side=8.0),
    VoxelOptions("cartesian", resolution=8, side=6.0, channels="property"),
]
KINDS = pytest.mark.parametrize("options", OPTIONS, ids=["cartesian", "spherical", "property"])


def kept_set(crystals: CrystalBatch, options: VoxelOptions) -> PackedTensors:
    packed = PackedSet.from_batch(crystals)
    flat = packed.tensors(dtype=torch.float64)
    return with_spectra(flat, packed, range(len(packed)), options)


def turns_of(count: int, seed: int) -> torch.Tensor:
    return random_turns(count, "any", torch.Generator().manual_seed(seed)).double()


@KINDS
def test_they_give_what_the_turned_crystals_give(options, monkeypatch):
    """In any order, among crystals of more and of fewer elements, and turned twice."""
    monkeypatch.setattr(kept, "_AT_ONCE", 2)
    crystals = random_crystals(0, 5, 6)
    drawn = torch.tensor([3, 0, 4, 3])
    batch = kept_set(crystals, options).batch(drawn)
    assert isinstance(batch, SpectralBatch)
    once, twice = turns_of(4, 1), turns_of(4, 2)
    found = turned(turned(batch, once), twice)
    assert isinstance(found, SpectralBatch)
    # turns in float32 are not exactly orthogonal, which a lattice's inverse feels
    wanted = reciprocal_voxels(turned(crystals.select(drawn), twice @ once), options)
    torch.testing.assert_close(
        voxels_of(found.spectra, options).dense(), wanted.dense(), rtol=0, atol=1e-6
    )
    assert wanted.half.abs().max() > 1e-3
    assert voxels_of(found.spectra, options).half.shape == wanted.half.shape


def test_a_batch_of_other_crystals_has_none():
    batch = kept_set(random_crystals(1, 3), OPTIONS[0]).batch(torch.arange(3))
    assert isinstance(batch, SpectralBatch)
    assert type(batch.replace(lattice=2 * batch.lattice)) is CrystalBatch
    named = batch.replace(ids=("a", "b", "c"))
    assert isinstance(named, SpectralBatch)
    assert named.spectra is batch.spectra
    moved = batch.to(dtype=torch.float32)
    assert moved.spectra.sizes.dtype == moved.spectra.vectors.dtype == torch.float32
    some = batch.select(torch.tensor([False, True, True]))
    wanted = reciprocal_voxels(random_crystals(1, 3).select([1, 2]), OPTIONS[0])
    torch.testing.assert_close(voxels_of(some.spectra, OPTIONS[0]).half, wanted.half)


@KINDS
def test_memory_is_told_beforehand_and_bounded(options, monkeypatch, caplog):
    crystals = random_crystals(2, 12)
    packed, flat = PackedSet.from_batch(crystals), kept_set(crystals, options)
    assert isinstance(flat, SpectralTensors)
    taken = flat.spectra.vectors.nbytes + flat.spectra.sizes.nbytes
    told = kept_bytes(packed, range(12), options, torch.float64)
    assert told == pytest.approx(taken, rel=0.2)
    monkeypatch.setattr(kept, "MOST_BYTES", told - 1)
    with caplog.at_level(logging.WARNING):
        assert type(kept_set(crystals, options)) is PackedTensors
    assert "12 crystals" in caplog.text


@pytest.mark.parametrize("kind", ["cartesian", "spherical"])
def test_a_network_tells_and_learns_the_same_with_and_without(kind, monkeypatch):
    torch.manual_seed(0)
    voxels = {"resolution": 8, "side": 6.0, "kind": kind}
    model = VoxelNet(["a"], widths=[4, 4], hidden_width=4, voxels=voxels).double()
    packed = PackedSet.from_batch(random_crystals(3, 4))
    whole, refused = model.tensors(packed, dtype=torch.float64)
    assert isinstance(whole, SpectralTensors)
    assert not refused
    monkeypatch.setattr(kept, "MOST_BYTES", 0)
    plain, _ = model.tensors(packed, dtype=torch.float64)
    batches = [tensors.batch(torch.arange(4)) for tensors in (whole, plain)]
    training = VoxelTraining(model)
    for mode in (True, False):
        model.train(mode)
        with torch.no_grad():
            told = [model.standardised(training.augmented(batch)) for batch in batches]
        assert told[0].std() > 1e-6
        # turns in float32 are not exactly orthogonal, which a lattice's inverse feels
        torch.testing.assert_close(*told, rtol=0, atol=1e-5)


def test_crystals_without_coefficients_have_an_empty_place():
    crystals = random_crystals(4, 3, 2)
    lattice = crystals.lattice.clone()
    lattice[1] = torch.nan
    packed = PackedSet.from_batch(crystals.replace(lattice=lattice))
    whole, refused = VoxelNet(["a"], voxels={"resolution": 16}).tensors(packed)
    assert list(refused) == [1]
    assert isinstance(whole, SpectralTensors)
    counts = whole.spectra.offsets.diff()
    assert counts[1] == 0
    # half the points of a ball, in a lattice of (2π)³ / V
    reach = math.sqrt(3) * (12.8 + 0.8) / 2
    volume = abs(np.linalg.det(np.asarray(packed.lattice)[[0, 2]]))
    ball = 2 / 3 * math.pi * (reach / (2 * math.pi)) ** 3 * volume
    np.testing.assert_allclose(counts[[0, 2]].numpy(), ball, rtol=0.1)
