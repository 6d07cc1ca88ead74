"""Boxes of repeating crystals, given back by a model of crystals."""

from __future__ import annotations

import torch
from pymatgen.core import Lattice, Structure

from eval.compare.measuring.reconstruction import reconstruct_set
from eval.evaluate import evaluate
from nesf.boxes.cut import BoxOptions, random_boxes
from nesf.crystal import CrystalBatch
from nesf.data.packed import PackedSet


def test_what_a_box_repeats_goes_through_a_model_of_crystals(tmp_path):
    rocksalt = Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(4.2), ["Mg", "O"], [[0, 0, 0], [0.5] * 3]
    )
    diamond = Structure.from_spacegroup("Fd-3m", Lattice.cubic(3.57), ["C"], [[0, 0, 0]])
    crystals = CrystalBatch.from_structures([rocksalt, diamond]).replace(ids=("MgO", "C"))
    boxes = random_boxes(crystals, BoxOptions(), torch.Generator().manual_seed(0))
    PackedSet.from_batch(boxes).save(tmp_path / "boxes.nesf")
    found = tmp_path / "found.jsonl"
    told = reconstruct_set(
        {
            "model": "general",
            "trusted_prefixes": [],
            "device": "cpu",
            "threads": 0,
            "batch_size": 2,
            "inputs": [str(tmp_path / "boxes.nesf")],
            "output": str(found),
            "boxes": True,
            "refine": 40,
            "growth": {"crystals": 1, "batch_size": 1, "limit_s": 0},
        }
    )
    assert told["crystals"] == 2
    assert told["failures"] == told["cannot_represent"] == []
    metrics = evaluate([found], [tmp_path / "boxes.nesf"], boxes=True, workers=1)["metrics"]
    # of some hundred atoms one may lie so near to a wall that it comes back beyond it
    assert metrics["count_mae"]["value"] <= 1
    assert metrics["position_error_actual"]["value"] < 0.03
    assert metrics["species_error_actual"]["value"] == 0
