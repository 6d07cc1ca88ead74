"""Boxes as voxels and back: density, labels, atoms found again."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.voxel_icsg3d.box_grid import BoxGrid, box_density, box_labels
from baselines.voxel_icsg3d.box_round_trip import round_trip
from baselines.voxel_icsg3d.box_sites import BoxReadOut, cover, find_atoms, refine_in_boxes
from nesf.boxes.cut import BoxOptions, random_boxes
from nesf.crystal import CrystalBatch
from nesf.data.packed import PackedSet, load_or_pack

GRID = BoxGrid()


def boxes(seed: int, count: int = 3, most: int = 12, side: float = 10.0) -> CrystalBatch:
    """Atoms anywhere in boxes, as near to one another as it happens."""
    generator = torch.Generator().manual_seed(seed)
    num_atoms = torch.randint(1, most + 1, (count,), generator=generator)
    total = int(num_atoms.sum())
    return CrystalBatch.from_flat(
        torch.rand(total, 3, generator=generator),
        torch.randint(1, 95, (total,), generator=generator),
        num_atoms,
        torch.eye(3).repeat(count, 1, 1) * side,
        [str(i) for i in range(count)],
    )


def one_box(places: list[list[float]], numbers: list[int]) -> CrystalBatch:
    """Atoms at places (Å) in a box of 10 Å."""
    return CrystalBatch.from_flat(
        torch.tensor(places) / 10,
        torch.tensor(numbers),
        torch.tensor([len(numbers)]),
        torch.eye(3).unsqueeze(0) * 10,
        ["0"],
    )


def found(made: CrystalBatch, grid: BoxGrid, options: BoxReadOut | None = None) -> CrystalBatch:
    """What the read-out makes of exact labels."""
    sites = [find_atoms(one.numpy(), grid, options) for one in box_labels(made, grid)]
    frac = [(one.centroids + 0.5) / grid.resolution for one in sites]
    return CrystalBatch.from_flat(
        torch.from_numpy(np.concatenate(frac)).float(),
        torch.from_numpy(np.concatenate([one.atomic_numbers for one in sites])),
        torch.tensor([len(one) for one in sites]),
        made.lattice,
        made.ids,
    )


def errors(made: CrystalBatch, again: CrystalBatch) -> list[float]:
    """Of each box, the largest distance (Å) of an atom to the nearest of its element found.

    Infinite where the elements or their numbers differ.
    """
    worst = []
    for i, (n, m) in enumerate(zip(made.num_atoms, again.num_atoms, strict=True)):
        true, said = made.atomic_numbers[i, :n], again.atomic_numbers[i, :m]
        if not torch.equal(true.sort().values, said.sort().values):
            worst.append(float("inf"))
            continue
        apart = torch.cdist(
            made.cart_coords[i, :n].double(),
            again.cart_coords[i, :m].double(),
            compute_mode="donot_use_mm_for_euclid_dist",
        )
        apart = apart.masked_fill(true.unsqueeze(1) != said, torch.inf)
        worst.append(float(apart.amin(1).amax()))
    return worst


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), resolution=st.sampled_from([12, 15, 20]))
def test_density_and_labels_are_those_of_every_pair_of_atom_and_voxel(seed, resolution):
    grid = BoxGrid(8.0, resolution, sigma=0.7, label_radius=0.65)
    made = boxes(seed, side=8.0)
    axis = (torch.arange(resolution) + 0.5) * 8.0 / resolution
    centres = torch.cartesian_prod(axis, axis, axis).double()
    density, labels = box_density(made, grid), box_labels(made, grid)
    for i, n in enumerate(made.num_atoms):
        squared = (centres.unsqueeze(1) - made.cart_coords[i, :n]).square().sum(-1)  # (V, N)
        number = made.atomic_numbers[i, :n]
        height = number / (0.7 * (2 * torch.pi) ** 0.5) ** 3
        wanted = (height * (-squared / (2 * 0.7**2)).exp()).sum(-1)
        torch.testing.assert_close(density[i].flatten().double(), wanted, rtol=1e-4, atol=1e-5)
        near, index = squared.min(1)
        clear = (near - 0.65**2).abs() > 1e-4  # not on the rim of a ball, nor between two atoms
        if n > 1:
            second = squared.kthvalue(2, dim=1).values
            clear &= (second - near) > 1e-4
        wanted_label = torch.where(near <= 0.65**2, number[index], 0)
        assert torch.equal(labels[i].flatten()[clear], wanted_label[clear])


def test_the_order_of_atoms_does_not_matter():
    made = boxes(0, count=1, most=40)
    order = torch.randperm(int(made.num_atoms[0]), generator=torch.Generator().manual_seed(0))
    other = made.replace(
        frac_coords=made.frac_coords[:, order], atomic_numbers=made.atomic_numbers[:, order]
    )
    assert torch.equal(box_labels(other, GRID), box_labels(made, GRID))
    torch.testing.assert_close(box_density(other, GRID), box_density(made, GRID))


def test_nothing_is_beyond_a_face():
    made = one_box([[0.1, 5.0, 5.0]], [8])
    assert box_labels(made, GRID)[0, -3:].sum() == 0
    assert box_density(made, GRID)[0, -3:].max() < 1e-12


def test_balls_that_could_miss_every_voxel_are_refused():
    with pytest.raises(ValueError, match="larger resolution"):
        BoxGrid(resolution=12)


@pytest.mark.parametrize(
    "places",
    [
        [[5.0, 5.0, 5.0], [5.95, 5.0, 5.0]],  # nearer than N2
        [[5.0, 5.0, 5.0], [5.6, 5.6, 5.6]],
        [[4.0, 5.0, 5.0], [5.2, 5.0, 5.0], [6.4, 5.0, 5.0]],  # a chain
        [[5.0, 5.0, 5.0], [6.0, 5.0, 5.0], [5.5, 5.9, 5.0]],  # a triangle
        [[5 + 1.4 * np.cos(a), 5 + 1.4 * np.sin(a), 5.1] for a in np.arange(6) * np.pi / 3],
    ],
)
def test_merged_balls_come_apart(places):
    made = one_box(places, [6] * len(places))
    again = found(made, GRID)
    assert errors(made, again)[0] < 0.2
    refined = refine_in_boxes(again, box_density(made, GRID), GRID)
    assert errors(made, refined)[0] < 1e-3


@pytest.mark.parametrize("place", [[0.0, 5.0, 5.0], [0.0, 0.0, 5.0], [0.0, 0.0, 0.0], [9.99] * 3])
def test_atoms_on_faces_edges_and_corners_are_found(place):
    made = one_box([place, [5.0, 5.0, 5.0]], [8, 26])
    again = found(made, GRID)
    # the centroid of half a ball is 3/8 of its radius off, along each axis that is cut
    assert 0.1 < errors(made, again)[0] < np.sqrt(3) * 3 / 8 * 0.65 + 0.1
    refined = refine_in_boxes(again, box_density(made, GRID), GRID)
    assert errors(made, refined)[0] < 1e-3


@pytest.mark.parametrize(("name", "count"), [("lcs6", 24), ("carbon24", 6)])
def test_repeating_crystals_there_and_back(shared_data: Path, name: str, count: int):
    packed = PackedSet.load(load_or_pack([shared_data / name / "val.csv.gz"], progress=False))
    options = BoxOptions(capacity=1000)
    made = random_boxes(packed.batch(range(count)), options, torch.Generator().manual_seed(0))
    again = found(made, GRID)
    assert max(errors(made, again)) < 0.6
    refined = refine_in_boxes(again, box_density(made, GRID), GRID)
    assert max(errors(made, refined)) < 1e-3


def test_an_atom_whose_voxels_nearer_atoms_take_is_lost():
    around = [[5 + x, 5 + y, 5 + z] for x in (-0.2, 0.2) for y in (-0.2, 0.2) for z in (-0.2, 0.2)]
    made = one_box([[5.0, 5.0, 5.0], *around], [8] + 8 * [26])
    assert 8 not in found(made, GRID).atomic_numbers


def test_labels_without_atoms_give_none():
    empty = np.zeros((30, 30, 30), dtype=np.int64)
    assert len(find_atoms(empty, GRID)) == 0
    assert len(find_atoms(empty + 8, GRID)) == 0  # a box full of oxygen is no set of atoms
    empty[3, 3, 3] = 8
    assert len(find_atoms(empty, GRID)) == 0
    assert len(find_atoms(empty, GRID, BoxReadOut(min_voxels=1))) == 1


def test_only_the_largest_atoms_are_kept():
    made = boxes(3, count=1, most=40)
    every = find_atoms(box_labels(made, GRID)[0].numpy(), GRID)
    some = find_atoms(box_labels(made, GRID)[0].numpy(), GRID, BoxReadOut(max_atoms=3))
    assert sorted(some.sizes) == sorted(every.sizes)[-3:]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 200), reach=st.floats(0.5, 4.0))
def test_every_point_is_in_a_ball_or_the_rounds_are_over(seed, count, reach):
    place = np.random.default_rng(seed).uniform(0, 6, (count, 3))
    centres, sizes = cover(place, reach)
    assert sizes.sum() == count
    assert len(centres) == len(sizes) <= count
    nearest = np.linalg.norm(place[:, None] - centres, axis=-1).min(1)
    assert nearest.max() <= reach + 0.1 or len(centres) > 4


def test_refinement_leaves_padding_and_empty_boxes_alone():
    made = boxes(5, count=2, most=6)
    made = made.replace(
        mask=made.mask & torch.tensor([[True], [False]]),
        atomic_numbers=made.atomic_numbers * torch.tensor([[1], [0]]),
        frac_coords=made.frac_coords * torch.tensor([1.0, 0.0]).view(2, 1, 1),
    )
    density = box_density(made, GRID)
    moved = refine_in_boxes(made, density, GRID)
    torch.testing.assert_close(moved.frac_coords, made.frac_coords, rtol=0, atol=1e-4)
    none = made.select([1])
    assert torch.equal(refine_in_boxes(none, density[1:], GRID).frac_coords, none.frac_coords)


def test_the_round_trip_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    caesium_chloride = CrystalBatch.from_flat(
        torch.tensor([[0.0, 0, 0], [0.5, 0.5, 0.5]]),
        torch.tensor([55, 17]),  # the cubic cell of CsCl
        torch.tensor([2]),
        torch.eye(3).unsqueeze(0) * 4.1,
        ["CsCl"],
    )
    PackedSet.from_batch(caesium_chloride).save(tmp_path / "one.nesf")
    round_trip(30, 5, [str(tmp_path / "one.nesf")])
    lines = capsys.readouterr().out.splitlines()
    assert "0 of 1 boxes with wrong counts" in lines[0]
    assert float(lines[2].split("worst ")[1].split()[0]) < 1e-3
