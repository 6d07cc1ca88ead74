"""The benchmark of boxes gives figures, and gives exact boxes back."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from nesf.boxes.cut import BoxOptions, random_boxes
from nesf.data.packed import PackedSet

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))  # as for the scripts themselves
import box_size
import measure

COMMON = {"threads": 1, "device": "cpu", "repeats": 1}


def test_boxes_of_a_repeating_crystal_come_back_from_the_model_of_crystals():
    found = box_size.measured({"kind": "repeat", "atoms": 64, **COMMON})
    assert found["atoms"] == pytest.approx(64, rel=0.25)
    assert found["position_error"] < 0.5
    assert found["seconds"] > 0


@pytest.mark.parametrize("kind", ["exact", "voxels"])
def test_made_boxes_come_back(kind):
    found = box_size.measured({"kind": kind, "atoms": 4, **COMMON})
    assert found["atoms"] == 4
    assert found["wrong_counts_percent"] == found["wrong_species_percent"] == 0
    assert found["position_error"] < (1e-4 if kind == "exact" else 0.2)
    assert found["seconds"] > 0


def test_a_set_is_measured_by_ranges_of_atom_counts(tmp_path, monkeypatch):
    crystals = measure.packings([6, 7, 30])
    boxes = random_boxes(crystals, BoxOptions(side=8.0), torch.Generator().manual_seed(0))
    PackedSet.from_batch(boxes).save(tmp_path / "set.nesf")
    monkeypatch.setattr(box_size, "RANGES", [1, 31, 33, 1000])
    arguments = SimpleNamespace(set=tmp_path / "set.nesf", boxes=2, models=["a", "b"])
    points = box_size.set_points(arguments)
    assert set(points) == {"a", "b"}
    groups = [box_size.boxes_of_set(point) for point in points["a"]]
    counts = boxes.num_atoms
    assert all(len(group) <= 2 for group in groups)
    for group, point in zip(groups, points["a"], strict=True):
        inside = (counts >= point["first"]) & (counts <= point["last"])
        assert group.num_atoms.tolist() == counts[inside][:2].tolist()
