"""Boxes against brute force: whole blocks of cells, pymatgen's supercells, scipy's rotations."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from crystals import random_crystals
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from torch import Tensor

from nesf.autoencoder import NeSF
from nesf.boxes import cut as boxes
from nesf.boxes.cut import (
    BoxOptions,
    box_fits,
    box_refusals,
    cut_boxes,
    is_box,
    random_boxes,
    random_placements,
    training_boxes,
)
from nesf.boxes.frames import NUMBERS, find_frames
from nesf.crystal import CrystalBatch, standardised
from nesf.errors import InputError
from nesf.exact import exact_fields
from nesf.geometry import cart_to_frac
from nesf.objective import total_loss
from nesf.queries import CellQueries
from nesf.reconstruction.options import ReconstructOptions
from nesf.reconstruction.reconstruct import reconstruct
from nesf.refinement.refine import LatentFit, RefineOptions, refine_latents
from nesf.rotations import quarter_turns, random_rotations
from nesf.scoring import quick_scores
from nesf.training import FieldTraining, OptimizerOptions

ROCKSALT = Structure.from_spacegroup(
    "Fm-3m", Lattice.cubic(4.2), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]]
)


def brute_force(
    crystals: CrystalBatch, i: int, options: BoxOptions, rotation: Tensor, origin: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Sorted (x, y, z, Z) inside the box of one crystal, from a large block of cells."""
    frac = crystals.frac_coords[i][crystals.mask[i]].double().numpy()
    numbers = crystals.atomic_numbers[i][crystals.mask[i]].numpy()
    lattice = crystals.lattice[i].double().numpy()
    spacing = 1 / np.linalg.norm(np.linalg.inv(lattice), axis=0)
    reach = options.side * np.sqrt(3) / 2
    spans = [range(-k, k + 1) for k in (np.ceil(reach / spacing) + 3).astype(int)]
    shifts = np.array(list(itertools.product(*spans)))
    cart = (frac[:, None] + shifts - origin[i].double().numpy()) @ lattice
    cart = cart.reshape(-1, 3) @ rotation[i].double().numpy().T
    inside = (np.abs(cart) < options.side / 2).all(-1)
    if options.mode == "cluster":
        inside = np.linalg.norm(cart, axis=-1) <= options.side / 2
    found = cart[inside] + options.side / 2
    return _sorted(found, np.repeat(numbers, len(shifts))[inside])


def _sorted(cart: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.lexsort(np.round(cart, 4).T)
    return cart[order], numbers[order]


def atoms_of(crystals: CrystalBatch, i: int) -> tuple[np.ndarray, np.ndarray]:
    mask = crystals.mask[i]
    return _sorted(crystals.cart_coords[i][mask].numpy(), crystals.atomic_numbers[i][mask].numpy())


def assert_same(found: tuple[np.ndarray, np.ndarray], wanted: tuple[np.ndarray, np.ndarray]):
    assert found[0].shape == wanted[0].shape
    np.testing.assert_allclose(found[0], wanted[0], atol=1e-6)
    np.testing.assert_array_equal(found[1], wanted[1])


@given(seed=st.integers(0, 10_000), mode=st.sampled_from(["repeat", "cluster"]))
@settings(max_examples=12, deadline=None)
def test_boxes_of_cells_of_any_shape_are_those_of_brute_force(seed, mode):
    crystals = random_crystals(seed, count=3, max_atoms=4)
    crystals = crystals.replace(frac_coords=crystals.frac_coords * 7 - 3)  # not wrapped
    options = BoxOptions(side=6.1, mode=mode)
    rotation, origin = random_placements(3, options, torch.Generator().manual_seed(seed))
    rotation, origin = rotation.double(), origin.double()
    cut = cut_boxes(crystals, options, rotation, origin)
    assert cut.ids == crystals.ids
    assert bool(is_box(cut, 6.1).all())
    inside = cut.frac_coords[cut.mask]
    assert bool(((inside >= 0) & (inside < 1)).all())
    for i in range(3):
        assert_same(atoms_of(cut, i), brute_force(crystals, i, options, rotation, origin))


def test_a_flat_skewed_cell_fills_its_box():
    sharp = Lattice.from_parameters(4, 9, 11, 25, 28, 15)
    crystals = CrystalBatch.from_structures(
        [Structure(sharp, ["Cs", "I"], [[0.1] * 3, [0.6] * 3])], dtype=torch.float64
    )
    options = BoxOptions()
    rotation, origin = random_placements(1, options, torch.Generator().manual_seed(1))
    rotation, origin = rotation.double(), origin.double()
    cut = cut_boxes(crystals, options, rotation, origin)
    assert_same(atoms_of(cut, 0), brute_force(crystals, 0, options, rotation, origin))
    assert int(cut.num_atoms[0]) == pytest.approx(2 * 10**3 / sharp.volume, rel=0.3)


def test_a_box_without_rotation_is_a_part_of_pymatgens_supercell():
    crystals = CrystalBatch.from_structures([ROCKSALT], dtype=torch.float64)
    origin = torch.tensor([[0.03, 0.07, 0.11]], dtype=torch.float64)
    cut = cut_boxes(crystals, BoxOptions(side=13.0), torch.eye(3).double()[None], origin)
    block = ROCKSALT.make_supercell([6, 6, 6], in_place=False)
    middle = (np.array([3.0, 3.0, 3.0]) + origin[0].numpy()) * 4.2
    cart = block.cart_coords - middle + 6.5
    inside = ((cart >= 0) & (cart < 13)).all(-1)
    wanted = _sorted(cart[inside], np.array(block.atomic_numbers)[inside])
    assert len(wanted[0]) > 200
    assert_same(atoms_of(cut, 0), wanted)


def test_a_cut_in_small_groups_is_the_same(monkeypatch):
    crystals = random_crystals(3, count=4, max_atoms=6)
    options = BoxOptions(side=7.0)
    whole = random_boxes(crystals, options, torch.Generator().manual_seed(0))
    monkeypatch.setattr(boxes, "MAX_IMAGES", 50)
    parts = random_boxes(crystals, options, torch.Generator().manual_seed(0))
    assert torch.equal(whole.frac_coords, parts.frac_coords)
    assert torch.equal(whole.atomic_numbers, parts.atomic_numbers)


def test_a_crystal_has_the_same_box_in_any_batch():
    crystals = random_crystals(4, count=3, max_atoms=6)
    rotation, origin = random_placements(3, BoxOptions(), torch.Generator().manual_seed(0))
    rotation, origin = rotation.double(), origin.double()
    together = cut_boxes(crystals, BoxOptions(), rotation, origin)
    alone = cut_boxes(crystals.select([1]), BoxOptions(), rotation[1:2], origin[1:2])
    assert_same(atoms_of(together, 1), atoms_of(alone, 0))


def test_the_unit_cell_stands_in_the_middle_and_keeps_its_distances():
    crystals = CrystalBatch.from_structures([ROCKSALT])
    options = BoxOptions(mode="unit")
    cut = random_boxes(crystals, options, torch.Generator().manual_seed(0))
    assert cut.num_atoms.tolist() == [8]
    centre = torch.full((3,), 5.0)
    spread = (cut.cart_coords[0] - centre).norm(dim=-1)
    # corners, face centres and edge centres of the half-open cell, from its middle
    wanted = np.linalg.norm((ROCKSALT.frac_coords % 1 - 0.5) * 4.2, axis=-1)
    np.testing.assert_allclose(np.sort(spread.numpy()), np.sort(wanted), atol=1e-5)
    plain = torch.cdist(cut.cart_coords[0], cut.cart_coords[0])
    cart = torch.from_numpy((ROCKSALT.frac_coords % 1) * 4.2).float()
    torch.testing.assert_close(plain, torch.cdist(cart, cart), atol=1e-4, rtol=0)


def test_random_rotations_are_rotations_of_their_kind():
    generator = torch.Generator().manual_seed(0)
    for kind in ("none", "quarter", "any"):
        turned = random_rotations(500, kind, generator)
        torch.testing.assert_close(turned @ turned.mT, torch.eye(3).expand(500, 3, 3))
        torch.testing.assert_close(torch.linalg.det(turned), torch.ones(500))
    assert len({tuple(turn.flatten().tolist()) for turn in quarter_turns()}) == 24
    # uniform over SO(3): the images of a vector have no mean, and the angle the density 1 - cos
    turned = random_rotations(20_000, "any", generator)
    assert float(turned.mean(0).abs().max()) < 0.03
    cosine = (turned.diagonal(dim1=1, dim2=2).sum(-1) - 1) / 2
    assert float(cosine.mean()) == pytest.approx(-0.5, abs=0.02)


def test_no_crystals_have_no_boxes():
    none = random_crystals(0).select([])
    assert len(random_boxes(none, BoxOptions(), torch.Generator())) == 0
    assert box_refusals(none, BoxOptions()) == []


def test_what_has_no_box_is_refused_with_the_reason():
    long = Structure(Lattice.orthorhombic(3, 3, 30), ["Fe"] * 2, [[0, 0, 0], [0.5, 0.5, 0.02]])
    crystals = CrystalBatch.from_structures([ROCKSALT, long])
    unit = BoxOptions(mode="unit")
    fine, reason = box_refusals(crystals, unit)
    assert fine is None
    assert reason is not None
    assert "leaves the box of 10 Å" in reason
    assert box_fits(crystals, unit).tolist() == [True, False]
    dense, _ = box_refusals(crystals, BoxOptions(capacity=100))
    assert dense is not None
    assert "108 atoms" in dense  # 8 atoms in 4.2³ Å³
    assert box_refusals(crystals, BoxOptions(capacity=110)) == [None, None]
    # without rotation the diagonal of the cell may be as long as the box's
    wide = CrystalBatch.from_structures([Structure(Lattice.cubic(9.0), ["Fe"], [[0, 0, 0]])])
    assert box_refusals(wide, replace(unit, rotate="quarter")) == [None]
    assert box_refusals(wide, unit) != [None]


def test_training_leaves_out_what_is_refused():
    dense = Structure(Lattice.cubic(2.0), ["Fe"], [[0, 0, 0]])
    crystals = CrystalBatch.from_structures([ROCKSALT, dense, ROCKSALT], ["a", "b", "c"])
    generator = torch.Generator().manual_seed(0)
    kept = training_boxes(crystals, BoxOptions(capacity=124), generator)
    assert kept.ids == ("a", "c")
    with pytest.raises(InputError, match="none of 3 crystals"):
        training_boxes(crystals, BoxOptions(capacity=10), generator)


@pytest.mark.parametrize("wrong", [{"side": 0.0}, {"side": math.inf}, {"capacity": 0}])
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        BoxOptions(**wrong)


def test_exact_fields_of_boxes_give_the_boxes_back():
    # opposite faces 0.1 Å apart around the corner: in a periodic cell these would be one site
    walls = CrystalBatch.from_structures(
        [Structure(Lattice.cubic(10.0), ["Fe", "O"], [[0.003, 0.5, 0.5], [0.995, 0.5, 0.5]])]
    )
    crystals = CrystalBatch.from_structures([ROCKSALT])
    options = ReconstructOptions(walls=True)
    cut = random_boxes(crystals, BoxOptions(), torch.Generator().manual_seed(0))
    for box in (walls, cut):
        found = reconstruct(exact_fields(box, periodic=False), options).crystals
        assert_same_within(atoms_of(found, 0), atoms_of(box, 0))
    merged = reconstruct(exact_fields(walls, periodic=False)).crystals
    assert merged.num_atoms.tolist() == [1]


@pytest.mark.parametrize(("mode", "side"), [("repeat", 21.0), ("cluster", 26.0)])
def test_a_thousand_atoms_come_back_from_their_exact_fields(mode, side):
    options = BoxOptions(side, mode, capacity=1100)
    crystals = CrystalBatch.from_structures([ROCKSALT])
    box = random_boxes(crystals, options, torch.Generator().manual_seed(0))
    assert int(box.num_atoms) == pytest.approx(1000, abs=20)
    found = reconstruct(exact_fields(box, periodic=False), ReconstructOptions(walls=True))
    assert_same_within(atoms_of(found.crystals, 0), atoms_of(box, 0))


def assert_same_within(found: tuple[np.ndarray, np.ndarray], wanted: tuple[np.ndarray, np.ndarray]):
    distance = np.linalg.norm(found[0][:, None] - wanted[0], axis=-1)
    assert distance.shape == (len(wanted[0]), len(wanted[0]))
    assert distance.min(0).max() < 1e-3
    np.testing.assert_array_equal(found[1][distance.argmin(0)], wanted[1])


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
    refined = refine_latents(model, boxes, latent, model.decode, options)
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
