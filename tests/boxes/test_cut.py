"""Boxes against brute force: whole blocks of cells, pymatgen's supercells, scipy's rotations."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from box_crystals import (
    ROCKSALT,
    assert_same,
    assert_same_within,
    atoms_of,
    brute_force,
    sorted_atoms,
)
from crystals import random_crystals
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

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
from nesf.crystal import CrystalBatch
from nesf.errors import InputError
from nesf.exact import exact_fields
from nesf.reconstruction.options import ReconstructOptions
from nesf.reconstruction.reconstruct import reconstruct
from nesf.rotations import quarter_turns, random_rotations


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
    wanted = sorted_atoms(cart[inside], np.array(block.atomic_numbers)[inside])
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
