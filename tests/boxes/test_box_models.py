"""Models of boxes: cut anew in each step of training, and seen in frames of their own."""

import pytest
import torch
from box_crystals import ROCKSALT
from crystals import random_crystals
from pymatgen.core import Lattice, Structure

from nesf.autoencoder import NeSF
from nesf.boxes.cut import BoxOptions, box_fits, is_box, random_boxes
from nesf.boxes.frames import NUMBERS, find_frames
from nesf.crystal import CrystalBatch, standardised
from nesf.geometry import cart_to_frac
from nesf.objective import total_loss
from nesf.queries import CellQueries
from nesf.refinement.refine import LatentFit, RefineOptions, iter_refined, join_refined
from nesf.rotations import random_rotations
from nesf.scoring import quick_scores
from nesf.training import FieldTraining, OptimizerOptions


def training(**changes: object) -> FieldTraining:
    shape = {"latent_dim": 8, "encoder_width": 16, "position_widths": [8], "species_widths": [8]}
    model = NeSF(**{"margin": 0.0, **shape, **changes})
    queries = CellQueries(uniform=4, near=4, species=4)
    return FieldTraining(model, queries, boxes=BoxOptions(side=6.0))


def test_training_cuts_crystals_and_takes_boxes_as_they_are():
    module = training()
    crystals = CrystalBatch.from_structures([ROCKSALT] * 2)
    cut = module.boxed(crystals, crystals, torch.Generator().manual_seed(0))
    assert bool(is_box(cut, 6.0).all())
    assert not torch.equal(cut.frac_coords[0, :5], cut.frac_coords[1, :5])  # each its own place
    again = module.boxed(crystals, crystals, torch.Generator().manual_seed(0))
    assert torch.equal(cut.frac_coords, again.frac_coords)
    assert module.boxed(cut, cut, torch.Generator()) is cut
    stretched = cut.replace(lattice=cut.lattice * 1.1)
    assert module.boxed(stretched, cut, torch.Generator()) is stretched
    parts = module.loss_parts(cut, torch.Generator().manual_seed(0))
    assert all(bool(torch.isfinite(value)) for value in parts.values())


@pytest.mark.parametrize("wrong", [{"margin": 0.02}, {"periodic": True}])
def test_boxes_need_fields_without_images(wrong):
    with pytest.raises(ValueError, match="faces are walls"):
        training(**wrong)


def framed(**changes: object) -> NeSF:
    torch.manual_seed(0)
    shape = {"latent_dim": 40, "encoder_width": 16, "position_widths": [16] * 2,
             "species_widths": [16], "max_atoms": 8}  # fmt: skip
    return NeSF(**{"margin": 0.0, "box": 10.0, "frame": "atoms", **shape, **changes}).eval()


def unit_boxes(seed: int = 0, count: int = 4) -> CrystalBatch:
    crystals = random_crystals(seed, count, 5, torch.float32)
    options = BoxOptions(mode="unit", side=10.0)
    crystals = crystals.select(box_fits(crystals, options))
    return random_boxes(crystals, options, torch.Generator().manual_seed(seed))


def test_latents_of_turned_boxes_differ_in_their_frames_alone():
    model, boxes = framed().requires_grad_(False), unit_boxes(count=30)
    boxes = boxes.select(boxes.num_atoms > 3)  # fewer have a plane, and several frames
    away = boxes.cart_coords - 5.0
    rotation = random_rotations(len(boxes), "any", torch.Generator().manual_seed(1))
    turned = boxes.replace(frac_coords=(away @ rotation.mT) / 10 + 0.5)
    first, second = model.encode(boxes), model.encode(turned)
    assert first.shape == (len(boxes), 40)
    torch.testing.assert_close(first[:, :-NUMBERS], second[:, :-NUMBERS], atol=1e-3, rtol=0)
    assert float((first[:, -NUMBERS:] - second[:, -NUMBERS:]).abs().max()) > 0.1
    # the fields turn, too
    query = torch.rand(len(boxes), 30, 3, generator=torch.Generator().manual_seed(2)) * 4 - 2
    plain = model.fields(first).position(query + 5)
    asked = model.fields(second).position(query @ rotation.mT + 5)
    torch.testing.assert_close(asked, plain @ rotation.mT, atol=0.05, rtol=0.02)  # bfloat16
    torch.testing.assert_close(model.fields(first).lattice, boxes.lattice)
    found = model.decode(first).crystals
    torch.testing.assert_close(found.lattice, boxes.lattice)


def test_framed_fields_learn_boxes_by_heart():
    """Boxes turned anew in each step; the reconstruction is in the box that was given."""
    torch.manual_seed(0)
    corner, middle = [0, 0, 0], [0.5, 0.5, 0.5]
    faces = [[0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    perovskite = Structure(
        Lattice.orthorhombic(3.7, 3.9, 4.2), ["Ca", "Ti", "O", "O", "O"], [corner, middle, *faces]
    )
    chloride = Structure(Lattice.cubic(4.1), ["Cs", "Cl"], [corner, middle])
    crystals = CrystalBatch.from_structures([perovskite, chloride])
    model = framed(latent_dim=48, position_widths=[32] * 3).train()
    queries = CellQueries(uniform=32, near=32, species=48, far=4)
    module = FieldTraining(model, queries, boxes=BoxOptions(mode="unit"))
    optimizer = OptimizerOptions(lr=4e-3).build(model)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 240)
    for step in range(240):
        generator = torch.Generator().manual_seed(step)
        boxes = module.boxed(crystals, crystals, generator)
        loss = total_loss(module.loss_parts(boxes, generator), module.losses)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval().requires_grad_(False)
    boxes = random_boxes(crystals, BoxOptions(mode="unit"), torch.Generator().manual_seed(10**6))
    found = model.decode(model.encode(boxes)).crystals
    scores = quick_scores(found, boxes, walls=True)
    assert int(scores.right_counts) == 2
    assert float(scores.distance / scores.atoms) < 0.1
    assert int(scores.wrong_species) == 0


def test_refinement_leaves_frames_as_they_are():
    model, boxes = framed().requires_grad_(False), unit_boxes(1)
    latent = model.encode(boxes)
    options = RefineOptions(steps=4, first_steps=2)
    refined = join_refined(iter_refined(model, boxes, latent, model.decode, options))
    torch.testing.assert_close(refined.latent[:, -NUMBERS:], latent[:, -NUMBERS:])
    fit = LatentFit(model, *model.seen(standardised(boxes), latent)[:2], options)
    for _ in range(4):
        fit.advance()
    assert float((fit.latent - latent[:, :-NUMBERS]).abs().max()) > 0.01
    torch.testing.assert_close(fit.crystals.lattice, find_frames(standardised(boxes)).cell)


@pytest.mark.parametrize(
    "wrong", [{"box": None}, {"periodic": True}, {"margin": 0.02}, {"variational": True}]
)
def test_frames_need_boxes_with_walls(wrong):
    with pytest.raises(ValueError, match="frame: atoms needs"):
        framed(**wrong)


def test_far_queries_reach_a_cell_beyond_the_cell():
    crystals = random_crystals(0, 3, 4, torch.float32)
    queries = CellQueries(uniform=0, near=1, near_width=0.0, species=1, far=4000)
    asked = queries(crystals, torch.Generator().manual_seed(0), 0.0).position[0].query[:, 1:]
    frac = cart_to_frac(asked, crystals.lattice)
    assert float(frac.min()) == pytest.approx(-1, abs=0.02)
    assert float(frac.max()) == pytest.approx(2, abs=0.02)
    inside = ((frac >= 0) & (frac < 1)).all(-1)
    assert float(inside.float().mean()) == pytest.approx(1 / 27, abs=0.01)
    # none are drawn where none are wanted: the other queries are what they were
    plain = CellQueries(uniform=3, near=3, species=3)(
        crystals, torch.Generator().manual_seed(0), 0.0
    )
    more = CellQueries(uniform=3, near=3, species=3, far=2)(
        crystals, torch.Generator().manual_seed(0), 0.0
    )
    assert torch.equal(plain.position[0].query, more.position[0].query[:, :6])
    assert torch.equal(plain.species[0].query, more.species[0].query)
