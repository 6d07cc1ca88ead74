"""Repeats of boxes: proved by cutting them again, and held against pymatgen's primitive cells."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from crystals import random_crystals
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from nesf.boxes.cut import BoxOptions, cut_boxes, random_boxes, random_placements
from nesf.boxes.placement import CLEAR, Placements, cut_at, fit_placement
from nesf.boxes.repeats import RepeatOptions, Repeats, find_repeats
from nesf.crystal import CrystalBatch
from nesf.data.readers import read_crystals
from nesf.geometry import reduce_lattice
from nesf.random import generator_for

ROCKSALT = Structure.from_spacegroup(
    "Fm-3m", Lattice.cubic(4.2), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]]
)


def batch(*structures: Structure) -> CrystalBatch:
    return CrystalBatch.from_structures(list(structures), dtype=torch.float64)


def boxes_of(crystals: CrystalBatch, side: float, seed: int = 0) -> CrystalBatch:
    """Boxes in any rotation, at any offset."""
    options = BoxOptions(side=side)
    rotation, origin = random_placements(
        len(crystals), options, torch.Generator().manual_seed(seed)
    )
    left, _, right = torch.linalg.svd(rotation.double())  # a rotation in double precision, too
    return cut_boxes(crystals, options, left @ right, origin.double())


def cut_again(found: Repeats, side: float) -> CrystalBatch:
    places = found.places
    return cut_boxes(found.crystals, BoxOptions(side=side), places.rotation, places.origin)


def farthest(one: CrystalBatch, other: CrystalBatch) -> float:
    """Largest distance of an atom to the nearest of its element; inf for other numbers of atoms."""
    if one.num_atoms.tolist() != other.num_atoms.tolist():
        return math.inf
    distance = torch.cdist(one.cart_coords.double(), other.cart_coords.double())
    same = one.atomic_numbers[:, :, None] == other.atomic_numbers[:, None]
    same &= other.mask[:, None] & one.mask[:, :, None]
    nearest = distance.masked_fill(~same, math.inf).amin(-1)
    return float(torch.where(one.mask, nearest, 0.0).max())


def moved_as_one(one: CrystalBatch, other: CrystalBatch) -> torch.Tensor:
    """The mean displacement (3,) of one box's atoms from the nearest ones of the other, Å."""
    assert one.num_atoms.tolist() == other.num_atoms.tolist()
    there, here = one.cart_coords[0][one.mask[0]], other.cart_coords[0][other.mask[0]]
    return (there - here[torch.cdist(there, here).argmin(-1)]).mean(0)


def at_a_wall(found: Repeats, i: int) -> bool:
    """Whether an atom of the crystal, in the box or beside it, is next to one of its walls."""
    place = found.places.select(torch.tensor([i]))
    cart = cut_at(found.crystals.select([i]), place, beyond=5 * CLEAR).cart_coords
    return bool((np.minimum(abs(cart), abs(cart - 13.0)) < 5 * CLEAR).any())


def is_rotation(rotation: torch.Tensor) -> bool:
    eye = torch.eye(3, dtype=rotation.dtype).expand_as(rotation)
    right = torch.allclose(rotation @ rotation.mT, eye, atol=1e-9)
    return right and bool((torch.linalg.det(rotation) > 0).all())


@given(seed=st.integers(0, 10_000), setting=st.sampled_from(["conventional", "reduced"]))
@example(seed=4210, setting="conventional")  # an atom on a wall
@settings(max_examples=15, deadline=None)
def test_cells_of_any_shape_are_found_in_any_rotation(seed, setting):
    crystals = random_crystals(seed, count=2, max_atoms=4)
    length = reduce_lattice(crystals.lattice).norm(dim=-1).amax(-1)
    crystals = crystals.replace(lattice=crystals.lattice * (6 / length)[:, None, None])
    boxes = boxes_of(crystals, 13.0, seed)
    found = find_repeats(boxes, RepeatOptions(setting=setting))
    assert found.reasons == (None, None)
    assert is_rotation(found.places.rotation)
    again = cut_again(found, 13.0)
    for i in range(2):
        one, box = again.select([i]), boxes.select([i])
        shift = moved_as_one(one, box)
        assert farthest(one.replace(frac_coords=one.frac_coords - shift / 13.0), box) < 1e-6
        # an atom on a wall, to what float32 rounds, is moved off it, and all others with it
        assert float(shift.abs().max()) < 1e-6 + 3 * CLEAR * at_a_wall(found, i)
    if setting == "reduced":  # random crystals have no smaller cell than the one they are given in
        assert found.crystals.num_atoms.tolist() == crystals.num_atoms.tolist()
        volume = torch.linalg.det(found.crystals.lattice)
        torch.testing.assert_close(volume, torch.linalg.det(crystals.lattice).abs())


def test_real_boxes_come_back_and_are_of_their_crystals(shared_data):
    rows, _ = read_crystals([shared_data / "lcs6" / "test.csv.gz"], progress=False)
    structures = [row.structure for row in rows[::12]]
    boxes = boxes_of(batch(*structures), 10.0)
    found = find_repeats(boxes)
    assert set(found.reasons) == {None}
    assert farthest(cut_again(found, 10.0), boxes) < 1e-4
    primitive = find_repeats(boxes, RepeatOptions(setting="primitive")).crystals.to_structures()
    matcher = StructureMatcher(0.02, 0.02, 0.2, primitive_cell=False, scale=False)
    lengths = 0
    for true, cell, small in zip(
        structures, found.crystals.to_structures(), primitive, strict=True
    ):
        wanted = true.get_primitive_structure(tolerance=0.01)
        assert small.volume == pytest.approx(wanted.volume, rel=1e-4)
        assert matcher.fit(small, wanted)
        lengths += np.allclose(cell.lattice.abc, true.lattice.abc, atol=1e-3)
    assert lengths >= 0.9 * len(structures)  # most are in the cells in which the set has them


@pytest.mark.parametrize("length", [2.2, 3.0, 5.0])
def test_one_atom_in_the_cell(length):
    skew = Lattice.from_parameters(length, length * 1.1, length * 1.2, 65, 75, 55)
    boxes = boxes_of(batch(Structure(skew, ["Po"], [[0.2, 0.3, 0.4]])), 11.0)
    found = find_repeats(boxes, RepeatOptions(setting="primitive"))
    assert found.crystals.num_atoms.tolist() == [1]
    assert float(torch.linalg.det(found.crystals.lattice)) == pytest.approx(skew.volume)
    assert farthest(cut_again(found, 11.0), boxes) < 1e-6


def test_walls_through_atoms():
    """A plane of atoms on the wall at 0 is in the box, and that at the opposite wall is not."""
    crystals = batch(ROCKSALT)
    for side, origin in ((8.4, 0.0), (8.4, 0.5), (10.5, 0.25)):
        boxes = cut_boxes(
            crystals,
            BoxOptions(side=side),
            torch.eye(3).double()[None],
            torch.full((1, 3), origin, dtype=torch.float64),
        )
        single = boxes.to(dtype=torch.float32)
        found = find_repeats(single)
        assert found.reasons == (None,)
        assert farthest(cut_again(found, side), single) < 1e-3


def test_a_thousand_atoms_and_an_id():
    boxes = boxes_of(batch(ROCKSALT), 21.0).replace(ids=("this one",))
    assert 900 < int(boxes.num_atoms) < 1100
    found = find_repeats(boxes.to(dtype=torch.float32))
    assert found.crystals.ids == ("this one",)
    assert found.crystals.num_atoms.tolist() == [8]
    assert farthest(cut_again(found, 21.0), boxes) < 1e-4


def noisy(boxes: CrystalBatch, sigma: float, seed: int = 0) -> CrystalBatch:
    noise = torch.randn(boxes.frac_coords.shape, generator=torch.Generator().manual_seed(seed))
    frac = boxes.frac_coords + noise * sigma / boxes.lattice[0, 0, 0] * boxes.mask[..., None]
    return boxes.replace(frac_coords=frac.clamp(0, 1 - 1e-6))


def test_noise_is_averaged_out():
    exact = boxes_of(batch(ROCKSALT), 12.0)
    found = find_repeats(noisy(exact, 0.008))
    assert found.crystals.num_atoms.tolist() == [8]
    again = cut_again(found, 12.0)
    assert farthest(again, exact) < 0.008  # nearer to the crystal than the atoms that it is from
    refused = find_repeats(noisy(exact, 0.008), RepeatOptions(tolerance=0.003))
    assert refused.reasons != (None,)


def test_what_repeats_nothing_is_refused_in_a_sentence():
    generator = generator_for(0, "test")
    places = torch.rand(40, 3, generator=generator).double()
    cube = (torch.eye(3) * 10.0).double()[None]
    cluster = CrystalBatch.from_flat(
        places, torch.randint(1, 5, (40,), generator=generator), torch.tensor([40]), cube, ["a"]
    )
    lone = CrystalBatch.from_flat(places[:1], torch.tensor([8]), torch.tensor([1]), cube, ["b"])
    for box in (cluster, lone):
        found = find_repeats(box)
        assert len(found.crystals) == len(found.places) == 0
        assert found.reasons[0] is not None
        assert "no repeat was found in this box of 10 Å" in found.reasons[0]
    cell = batch(Structure(Lattice.hexagonal(4, 5), ["Fe"], [[0, 0, 0]]))
    assert "no box" in str(find_repeats(cell).reasons[0])


def test_good_boxes_beside_bad_ones_are_found():
    good = boxes_of(batch(ROCKSALT), 10.0)
    bad = good.replace(frac_coords=torch.rand(good.frac_coords.shape).double())
    count = int(good.num_atoms)
    both = CrystalBatch.from_flat(
        torch.cat([bad.frac_coords[0], good.frac_coords[0]]),
        torch.cat([good.atomic_numbers[0]] * 2),
        torch.tensor([count, count]),
        torch.cat([good.lattice] * 2),
        ["bad", "good"],
    )
    found = find_repeats(both)
    assert found.index.tolist() == [1]
    assert found.crystals.ids == ("good",)


def test_a_vacancy_makes_the_supercell_the_repeat():
    block = ROCKSALT.make_supercell([2, 2, 1], in_place=False)
    block.remove_sites([3])
    boxes = boxes_of(batch(block), 18.0)
    found = find_repeats(boxes, RepeatOptions(setting="primitive"))
    wanted = block.get_primitive_structure()
    assert found.crystals.num_atoms.tolist() == [len(wanted)]
    assert float(torch.linalg.det(found.crystals.lattice)) == pytest.approx(wanted.volume)
    assert farthest(cut_again(found, 18.0), boxes) < 1e-5
    # one atom taken from one box is no crystal any more
    whole = boxes_of(batch(ROCKSALT), 10.0)
    centre = (whole.frac_coords[0] - 0.5).norm(dim=-1).argmin()
    kept = torch.arange(int(whole.num_atoms)) != centre
    broken = CrystalBatch.from_flat(
        whole.frac_coords[0][kept],
        whole.atomic_numbers[0][kept],
        whole.num_atoms - 1,
        whole.lattice,
        whole.ids,
    )
    assert find_repeats(broken).reasons[0] is not None


def test_a_placement_is_fitted_and_its_numbers_come_back():
    crystals = batch(ROCKSALT)
    boxes = boxes_of(crystals, 12.0)
    found = find_repeats(boxes)
    again = Placements.of_numbers(found.places.numbers())
    assert torch.equal(again.rotation, found.places.rotation)
    assert torch.equal(again.origin, found.places.origin)
    turn = torch.linalg.matrix_exp(torch.tensor([[0, -0.01, 0], [0.01, 0, 0], [0, 0, 0.0]]))
    off = Placements(turn.double() @ again.rotation, again.origin + 0.02, again.side)
    fitted = fit_placement(found.crystals, off, boxes.cart_coords[0].numpy(), 0.4, 0.01)
    assert is_rotation(fitted.rotation)
    cut = cut_boxes(found.crystals, BoxOptions(side=12.0), fitted.rotation, fitted.origin)
    assert farthest(cut, boxes) < 1e-4


def test_a_shift_brings_atoms_to_their_side_of_the_wall():
    """A crystal that came back too large by 0.1 % has the atoms at the walls outside."""
    crystals = batch(ROCKSALT)
    origin = torch.full((1, 3), 0.001 / 4.2, dtype=torch.float64)
    eye = torch.eye(3).double()[None]
    boxes = cut_boxes(crystals, BoxOptions(side=8.4), eye, origin)
    place = Placements(eye, origin, torch.tensor([8.4]).double())
    larger = crystals.replace(lattice=crystals.lattice * 1.001)
    before = cut_boxes(larger, BoxOptions(side=8.4), eye, origin)
    assert before.num_atoms != boxes.num_atoms
    fitted = fit_placement(larger, place, boxes.cart_coords[0].numpy(), 0.4, 0.03)
    after = cut_boxes(larger, BoxOptions(side=8.4), fitted.rotation, fitted.origin)
    assert after.num_atoms == boxes.num_atoms


@pytest.mark.parametrize(
    "wrong",
    [
        {"exact": 0.0},
        {"exact": 0.1},
        {"tolerance": math.inf},
        {"min_copies": 0.5},
        {"min_support": 0},
    ],
)
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RepeatOptions(**wrong)


def test_no_boxes_repeat_nothing():
    none = random_boxes(random_crystals(0).select([]), BoxOptions(), torch.Generator())
    found = find_repeats(none)
    assert len(found.crystals) == len(found.reasons) == 0
