"""Boxes through models of crystals, in Python and by commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from parsed_here import parse_here
from pymatgen.core import Lattice, Structure
from stand_in_model import StandIn

from nesf import api, model_config
from nesf.boxes.cut import BoxOptions, random_boxes
from nesf.boxes.model import BoxModel
from nesf.boxes.way import BoxWayOptions
from nesf.checkpoint import save_model
from nesf.cli import main
from nesf.commands.arguments import read_boxes
from nesf.crystal import CrystalBatch
from nesf.data.packed import PackedSet
from nesf.data.readers import read_crystals
from nesf.data.records import ReadOptions
from nesf.errors import InputError
from nesf.scoring import count_faults


@pytest.fixture(autouse=True)
def parsed_in_this_process(monkeypatch) -> None:
    parse_here(monkeypatch)


def rock_salt(length: float) -> Structure:
    sites = [[0, 0, 0], [0.5, 0.5, 0.5]]
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(length), ["Na", "Cl"], sites)


def boxes_of(*lengths: float, side: float = 10.0) -> CrystalBatch:
    crystals = CrystalBatch.from_structures(
        [rock_salt(length) for length in lengths],
        [f"b{i}" for i in range(len(lengths))],
        torch.float64,
    )
    generator = torch.Generator().manual_seed(1)
    return random_boxes(crystals, BoxOptions(side=side), generator).to(dtype=torch.float32)


@pytest.fixture
def boxes() -> CrystalBatch:
    """Three boxes of which the middle one repeats nothing."""
    boxes = boxes_of(4.8, 5.0, 5.2)
    generator = torch.Generator().manual_seed(0)
    frac = boxes.frac_coords.clone()
    frac[1] = torch.rand(frac[1].shape, generator=generator) * boxes.mask[1][:, None]
    return boxes.replace(frac_coords=frac)


@pytest.fixture
def model() -> api.Model:
    return api.Model(StandIn(), batch_size=2)


def test_boxes_come_back_from_a_model_of_crystals(model, boxes):
    found = model.reconstruct_boxes(boxes)
    assert found.crystals.ids == boxes.ids
    assert count_faults(found.crystals, boxes, walls=True)[[0, 2]].tolist() == [0, 0]
    assert found.crystals.num_atoms[1] == 0
    assert found.confidence[1] == 0
    assert (found.confidence[[0, 2]] > 0.9).all()
    assert found.site_spread.shape == found.site_size.shape == found.crystals.mask.shape
    frac = found.crystals.frac_coords[found.crystals.mask]
    assert ((frac >= 0) & (frac < 1)).all()


def test_a_latent_of_a_box_is_that_of_its_crystal_and_a_placement(model, boxes):
    of_boxes = model.of_boxes()
    assert isinstance(of_boxes, BoxModel)
    latent = of_boxes.encode(boxes)
    assert latent.shape == (3, model.latent_dim + 13)
    assert latent.isfinite().all(-1).tolist() == [True, False, True]
    found = of_boxes.decode_crystals(latent)
    assert count_faults(found.crystals, boxes, walls=True)[[0, 2]].tolist() == [0, 0]
    assert found.crystals.num_atoms[1] == 0
    alone = of_boxes.encode(boxes.select([2]))
    torch.testing.assert_close(alone, latent[2:], atol=1e-5, rtol=0)
    fine, reason, _ = of_boxes.refusals(boxes)
    assert fine is None
    assert reason is not None
    assert "no repeat" in reason
    assert of_boxes.max_atoms is None
    with pytest.raises(InputError, match="no fields of its own"):
        of_boxes.fields(latent)


def test_a_crystal_that_is_too_large_is_tried_in_its_primitive_cell(boxes):
    small = api.Model(StandIn(max_atoms=4)).of_boxes()  # conventional cells have eight atoms
    assert small.refusals(boxes.select([0])) == [None]
    found = small.reconstruct(boxes.select([0]))
    assert count_faults(found.crystals, boxes.select([0]), walls=True).tolist() == [0]
    tiny = api.Model(StandIn(max_atoms=1)).of_boxes()
    (reason,) = tiny.refusals(boxes.select([0]))
    assert reason is not None
    assert "the model holds up to 1" in reason


class Larger(StandIn):
    """Gives every crystal back 0.2 % too large."""

    def decode(self, latent, options=None):
        stretched = latent.clone()
        stretched[:, :9] *= 1.002
        return super().decode(stretched, options)


def test_errors_of_the_cell_are_shared_out_from_the_middle():
    boxes = boxes_of(5.0, 5.1, 5.3, side=14.0)
    loose = BoxModel(api.Model(Larger()), BoxWayOptions(settings=("conventional",)))
    found = loose.reconstruct(boxes)
    for i in range(3):
        cut = found.crystals.cart_coords[i][found.crystals.mask[i]]
        true = boxes.cart_coords[i][boxes.mask[i]]
        inner = ((true > 0.1) & (true < 13.9)).all(-1)
        error = torch.cdist(true[inner], cut).amin(-1)
        assert float(error.max()) < 0.002 * 12.2 + 0.03  # half a diagonal, and the nudge
        assert float(error.mean()) < 0.025
    plain = loose.reconstruct(boxes, refine=0)
    right = (found.crystals.num_atoms == boxes.num_atoms).sum()
    assert right >= (plain.crystals.num_atoms == boxes.num_atoms).sum()


def test_options_out_of_range_are_refused():
    with pytest.raises(ValueError, match="nudge must be above 0"):
        BoxWayOptions(nudge=0.0)
    with pytest.raises(ValueError, match="settings"):
        BoxWayOptions(settings=())


@pytest.fixture
def packed(boxes, tmp_path) -> Path:
    path = tmp_path / "set.nesf"
    PackedSet.from_batch(boxes, {"periodic": False}).save(path)
    return path


def command(*words: object) -> int:
    return main([str(word) for word in words])


@pytest.mark.parametrize("kind", ["model", "exact"])
def test_a_command_gives_boxes_back(packed, boxes, kind, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(model_config, "TRUSTED_PREFIXES", ("nesf.", "stand_in_model."))
    path = tmp_path / "model.safetensors"
    config = {"class_path": "stand_in_model.StandIn", "init_args": {}}
    save_model(path, config, StandIn().state_dict())
    out = tmp_path / "out" / "boxes.csv"
    way = ("--model", path) if kind == "model" else ("--field", "exact")
    assert command("reconstruct", packed, *way, "--boxes", "--output", out) == 1
    printed = capsys.readouterr()
    assert "2 reconstructed, 1 rejected" in printed.out
    assert "no repeat was found in this box of 10 Å" in printed.err
    assert "no repeat" in (out.parent / f"{out.stem}.rejected.csv").read_text()
    text = out.read_text()
    assert all(name in text for name in ("confidence", "faults", "residual"))
    kept = tmp_path / "kept.nesf"
    PackedSet.from_batch(boxes.select([0, 2]), {"periodic": False}).save(kept)
    scores = tmp_path / "scores.json"
    words = ("--reference", kept, "--boxes", "--json", scores, "--bootstrap", 10)
    assert command("evaluate", "--predicted", out, *words) == 0
    figures = json.loads(scores.read_text())["metrics"]
    assert figures["wrong_count"]["value"] == figures["species_error_actual"]["value"] == 0
    assert figures["position_error_actual"]["value"] < 1e-3


def test_commands_encode_and_decode_boxes(packed, boxes, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(model_config, "TRUSTED_PREFIXES", ("nesf.", "stand_in_model."))
    path, latents, out = (tmp_path / name for name in ("m.safetensors", "latents.npz", "out.jsonl"))
    config = {"class_path": "stand_in_model.StandIn", "init_args": {}}
    save_model(path, config, StandIn().state_dict())
    words = ("--model", path, "--boxes", "--output")
    assert command("encode", packed, *words, latents) == 1
    assert "2 encoded, 1 rejected" in capsys.readouterr().out
    assert command("decode", latents, *words, out) == 0
    found, _ = read_crystals([out], read_boxes(ReadOptions()), progress=False)
    assert [row.id for row in found] == ["b0", "b2"]
    assert [len(row.structure) for row in found] == boxes.select([0, 2]).num_atoms.tolist()


def test_boxes_and_walls_exclude_each_other(packed, tmp_path, capsys):
    words = ("--field", "exact", "--boxes", "--walls", "true", "--output", tmp_path / "o.csv")
    assert command("reconstruct", packed, *words) == 2
    assert "give either --boxes or --walls true" in capsys.readouterr().err


def test_real_boxes_come_back_through_exact_fields(shared_data):
    from nesf.boxes.way import reconstruct_boxes
    from nesf.exact import exact_fields
    from nesf.reconstruction.reconstruct import reconstruct

    rows, _ = read_crystals([shared_data / "lcs6" / "val.csv.gz"], progress=False)
    crystals = CrystalBatch.from_structures([row.structure for row in rows[::30]])
    boxes = random_boxes(crystals, BoxOptions(), torch.Generator().manual_seed(0))
    found = reconstruct_boxes(boxes, lambda given: reconstruct(exact_fields(given), ids=given.ids))
    assert not count_faults(found.crystals, boxes, walls=True).any()
