"""The benchmark of the descriptor: its plain ways agree with the batched one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from crystals import random_crystals

from nesf.data.packed import PackedSet

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # as for the scripts themselves
import voxelnet_features


def test_the_ways_agree_and_are_timed(tmp_path, monkeypatch):
    PackedSet.from_batch(random_crystals(0, 3, 2)).save(tmp_path / "few.nesf")
    words = [str(tmp_path / "few.nesf"), "--resolutions", "4", "--plain", "1", "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", ["", *words, "--json", str(tmp_path / "out.json")])
    voxelnet_features.main()
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    assert len(results) == 2
    for name, result in results.items():
        assert result["crystals"] == 3
        for way, seconds in result["plain_epoch_seconds"].items():
            ratio = result["times_as_fast"][way]
            assert ratio == pytest.approx(seconds / result["epoch_seconds"])
            assert result["first_epoch_seconds"] > result["epoch_seconds"]
            assert result["kept_bytes_per_crystal"] > 0
            assert result["target_met"][way] == (ratio >= voxelnet_features.TARGET)
            if "cartesian" in name:
                assert result["largest_difference"][way] < 1e-6  # of float32 voxels
