"""Frames of clusters: they turn and move with the atoms, and structure types look alike in them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from crystals import random_crystals
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from torch import Tensor

from nesf.boxes.cut import BoxOptions, box_fits, random_boxes
from nesf.boxes.frames import FIRST, LAST, NUMBERS, SHORTEST, Frame, find_frames, outward
from nesf.boxes.planes import shared_planes
from nesf.boxes.poses import best_poses
from nesf.crystal import CrystalBatch, standardised
from nesf.data.readers import read_crystals
from nesf.exact import exact_fields

SIDE = 10.0


def clusters(*places: object, numbers: object = None) -> CrystalBatch:
    """Boxes with atoms at given places, Å from the middle."""
    counts = torch.tensor([len(one) for one in places])
    flat = torch.cat([torch.as_tensor(one, dtype=torch.float64) for one in places])
    z = torch.ones(len(flat)).long() if numbers is None else torch.as_tensor(numbers)
    box = SIDE * torch.eye(3, dtype=torch.float64).repeat(len(places), 1, 1)
    return CrystalBatch.from_flat(flat / SIDE + 0.5, z, counts, box, [""] * len(places))


def general_clusters(seed: int, count: int = 3) -> CrystalBatch:
    """Boxes of atoms on general positions, which have no symmetry."""
    draw = np.random.default_rng(seed)
    sizes = draw.integers(5, 9, count)
    places = [draw.uniform(-3, 3, (size, 3)) for size in sizes]
    return clusters(*places, numbers=draw.integers(1, 90, sizes.sum()))


def turned(boxes: CrystalBatch, rotation: Tensor, move: Tensor) -> CrystalBatch:
    """The atoms x of each box at rotation @ (x - middle) + middle + move."""
    away = boxes.cart_coords - SIDE / 2
    place = away @ rotation.mT + SIDE / 2 + move.unsqueeze(1)
    return boxes.replace(frac_coords=place / SIDE * boxes.mask.unsqueeze(-1))


def same_atoms(first: Tensor, second: Tensor, numbers: Tensor, atol: float) -> bool:
    """Whether each atom of a set (N, 3) has one of its element in the other at its place."""
    apart = torch.cdist(first.double(), second.double())
    apart = apart + 10.0 * (numbers.unsqueeze(-1) != numbers)
    return bool((apart.amin(-1) < atol).all()) and len(set(apart.argmin(-1).tolist())) == len(first)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), mirrored=st.booleans())
def test_the_frame_turns_and_moves_with_the_atoms(seed: int, mirrored: bool) -> None:
    boxes = general_clusters(seed)
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(3, 3, 3, generator=generator, dtype=torch.float64))[0]
    rotation = rotation * torch.linalg.det(rotation).view(-1, 1, 1) * (-1 if mirrored else 1)
    move = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    order = torch.randperm(int(boxes.num_atoms.min()), generator=generator)
    moved = turned(boxes, rotation, move)
    shuffled = moved.frac_coords.clone()
    shuffled[:, : len(order)] = moved.frac_coords[:, order]
    numbers = moved.atomic_numbers.clone()
    numbers[:, : len(order)] = moved.atomic_numbers[:, order]
    first = find_frames(boxes)
    second = find_frames(moved.replace(frac_coords=shuffled, atomic_numbers=numbers))
    # any point, and not the atoms alone, has the same fractions in both
    points = torch.rand(3, 20, 3, generator=generator, dtype=torch.float64) * SIDE
    carried = (points - SIDE / 2) @ rotation.mT + SIDE / 2 + move.unsqueeze(1)
    torch.testing.assert_close(second.inside(carried), first.inside(points), atol=1e-4, rtol=0)
    torch.testing.assert_close(second.cell, first.cell, atol=1e-4, rtol=0)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_atoms_fill_the_cell_up_to_its_room(seed: int) -> None:
    boxes = general_clusters(seed)
    frame = find_frames(boxes)
    frac = frame.cell_of(boxes).frac_coords
    for i in range(len(boxes)):
        own = frac[i][boxes.mask[i]]
        extent = (own.amax(0) - own.amin(0)) / (LAST - FIRST)
        assert float(own.min()) > FIRST - 1e-6
        assert float(own.max()) < LAST + 1e-6
        # of the distance across the cell: the whole of it, or atoms almost in one plane
        across = 1 / torch.linalg.inv(frame.cell[i]).norm(dim=0) * (LAST - FIRST)
        flat = (across - SHORTEST).abs() < 1e-6
        assert bool(((extent > 1 - 1e-6) | flat).all())


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_cells_keep_distances_and_give_the_box_back(seed: int) -> None:
    boxes = general_clusters(seed)
    frame = find_frames(boxes)
    inside = frame.cell_of(boxes)
    plain = torch.cdist(boxes.cart_coords, boxes.cart_coords)
    both = boxes.mask.unsqueeze(1) & boxes.mask.unsqueeze(2)
    found = torch.cdist(inside.cart_coords, inside.cart_coords)
    torch.testing.assert_close(found[both], plain[both], atol=1e-6, rtol=1e-6)
    back = frame.box_of(inside, SIDE)
    torch.testing.assert_close(back.frac_coords, boxes.frac_coords, atol=1e-7, rtol=0)
    torch.testing.assert_close(back.lattice, boxes.lattice)
    # by its numbers, which carry reflections, too
    numbers = frame.numbers(SIDE)
    assert numbers.shape == (3, NUMBERS)
    assert float(numbers.abs().max()) < 4
    again = Frame.of_numbers(numbers, SIDE)
    for name in ("cell", "rotation", "origin"):
        torch.testing.assert_close(getattr(again, name), getattr(frame, name), atol=1e-6, rtol=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_any_numbers_are_those_of_a_frame(seed: int) -> None:
    numbers = 2 * torch.randn(8, NUMBERS, generator=torch.Generator().manual_seed(seed))
    frame = Frame.of_numbers(numbers, SIDE)
    eye = torch.eye(3).expand(8, 3, 3)
    torch.testing.assert_close(frame.rotation @ frame.rotation.mT, eye, atol=1e-5, rtol=0)
    assert bool(torch.isfinite(frame.cell).all())
    assert bool((torch.linalg.det(frame.cell) > 0).all())
    sign = torch.linalg.det(frame.rotation).sign()
    assert torch.equal(sign, torch.where(numbers[:, 12] < 0, -1.0, 1.0))


def test_few_atoms_have_a_frame() -> None:
    boxes = clusters(
        [[1.0, 2.0, 3.0]],
        [[0.0, 0.0, 0.0], [1.0, 1.0, 0.5]],
        [[0.1, 0.2, 0.3], [1.1, 1.2, 0.8], [-1.9, -1.8, -0.7]],  # on one line
        [[0, 0, 0], [1.5, 0.3, 0], [0.2, 1.9, 0], [1.7, 2.2, 0.0]],  # in one plane
    )
    frame = find_frames(boxes)
    inside = frame.cell_of(boxes)
    for i in range(len(boxes)):
        mask = boxes.mask[i]
        both = boxes.cart_coords[i][mask], inside.cart_coords[i][mask]
        torch.testing.assert_close(torch.cdist(both[0], both[0]), torch.cdist(both[1], both[1]))
        assert float(torch.linalg.det(frame.cell[i])) > 1.0
    torch.testing.assert_close(inside.frac_coords[0, 0], torch.full((3,), 0.5).double())
    # along the line the third atom is 2/3 from one end and 1/3 from the other
    along = inside.frac_coords[2, :3].sort(dim=0).values
    line = int(along.std(0).argmax())
    torch.testing.assert_close(along[[0, 2], line], torch.tensor([FIRST, LAST]).double())
    thirds = torch.tensor([FIRST + (LAST - FIRST) / 3, FIRST + (LAST - FIRST) * 2 / 3]).double()
    assert float((along[1, line] - thirds).abs().min()) < 1e-6
    others = [axis for axis in range(3) if axis != line]
    torch.testing.assert_close(along[:, others], torch.full((3, 2), 0.5).double())


def test_nothing_has_a_frame_too() -> None:
    empty = CrystalBatch(
        torch.zeros(2, 1, 3), torch.zeros(2, 1).long(), torch.zeros(2, 1).bool(),
        SIDE * torch.eye(3).repeat(2, 1, 1), ("", ""),
    )  # fmt: skip
    frame = find_frames(empty)
    assert bool(torch.isfinite(frame.numbers(SIDE)).all())
    assert len(find_frames(empty.select([])).cell) == 0


def perovskite(a: float, b: float, c: float, elements: str = "Ca Ti O O O") -> Structure:
    places = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    return Structure(Lattice.orthorhombic(a, b, c), elements.split(), places)


def test_a_structure_type_looks_the_same_whatever_its_lengths_and_elements() -> None:
    cells = [
        perovskite(3.9, 3.9, 3.9), perovskite(3.7, 4.2, 4.0), perovskite(4.4, 3.8, 3.8),
        perovskite(3.9, 3.9, 3.9, "Sr Fe F F F"),
    ]  # fmt: skip
    crystals = CrystalBatch.from_structures(cells, dtype=torch.float64)
    boxes = random_boxes(crystals, BoxOptions(mode="unit"), torch.Generator().manual_seed(0))
    inside = find_frames(boxes).cell_of(boxes)
    kinds = torch.tensor([1, 2, 3, 3, 3])
    ends = torch.tensor([FIRST, LAST]).double()
    for frac in inside.frac_coords:
        # along the axes of the cell there are two layers, half a cell apart
        assert float((frac.unsqueeze(-1) - ends).abs().amin(-1).max()) < 1e-5
        assert same_atoms(inside.frac_coords[0], frac, kinds, 1e-5)


def test_planes_of_a_crystal_are_found_by_counting() -> None:
    """Against all normals through three atoms: none shares more than the best triple's best."""
    crystals = CrystalBatch.from_structures([perovskite(3.7, 4.2, 4.0)], dtype=torch.float64)
    box = random_boxes(crystals, BoxOptions(mode="unit"), torch.Generator().manual_seed(1))
    atoms, mask = box.cart_coords, box.mask
    normals, value = shared_planes(atoms, mask, mask.double())
    assert bool((value[0, 0] >= value[0]).all())

    def shared(normal: np.ndarray) -> int:
        return int((np.diff(np.sort(atoms[0].numpy() @ normal)) < 1e-4).sum())

    most = 0
    for i, j, k in itertools.combinations(range(5), 3):
        edges = atoms[0][[j, k]] - atoms[0][i]
        normal = np.cross(edges[0], edges[1])
        if np.linalg.norm(normal) > 1e-3:
            most = max(most, shared(normal / np.linalg.norm(normal)))
    assert most == 3
    assert [shared(normal) for normal in normals[0, 0].numpy()] == [3, 3, 3]


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_poses_by_trying_them_all(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    placed = torch.rand(2, 1, 6, 3, generator=draw, dtype=torch.float64) * 2 - 1
    weight = torch.rand(2, 6, generator=draw, dtype=torch.float64)
    value, pose = best_poses(placed, weight)
    # every other order and sign of the axes begins elsewhere, and ends in the same pose
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            other = placed[..., list(order)] * torch.tensor(signs).double()
            other_value, other_pose = best_poses(other, weight)
            torch.testing.assert_close(other_value, value)
            torch.testing.assert_close(
                torch.einsum("btij,btnj->btni", other_pose, other),
                torch.einsum("btij,btnj->btni", pose, placed),
            )


def test_fields_of_the_cell_are_fields_of_the_box() -> None:
    boxes = general_clusters(3)
    frame = find_frames(boxes)
    query = torch.rand(3, 50, 3, generator=torch.Generator().manual_seed(0)).double() * SIDE
    wanted = exact_fields(boxes, periodic=False)
    found = outward(exact_fields(frame.cell_of(boxes), periodic=False), frame, SIDE)
    torch.testing.assert_close(found.position(query), wanted.position(query), atol=1e-6, rtol=0)
    assert torch.equal(found.species(query).argmax(-1), wanted.species(query).argmax(-1))
    torch.testing.assert_close(found.lattice, boxes.lattice)
    some = torch.tensor([2, 0])
    torch.testing.assert_close(
        found.select(some).position(query[some]), wanted.position(query)[some], atol=1e-6, rtol=0
    )


def test_real_cells_have_one_pose_in_any_rotation(shared_data) -> None:
    rows, _ = read_crystals(shared_data / "lcs6" / "val.csv.gz", progress=False)
    crystals = standardised(CrystalBatch.from_structures([row.structure for row in rows]))
    options = BoxOptions(mode="unit")
    crystals = crystals.select(box_fits(crystals, options))
    generator = torch.Generator().manual_seed(0)
    first, second = (random_boxes(crystals, options, generator) for _ in range(2))
    seen = [find_frames(boxes).cell_of(boxes) for boxes in (first, second)]
    same = [
        same_atoms(a[m], b[m], numbers[m], 1e-3)
        for a, b, numbers, m in zip(
            seen[0].frac_coords, seen[1].frac_coords, first.atomic_numbers, first.mask, strict=True
        )
    ]
    assert sum(same) / len(same) > 0.97


@pytest.mark.parametrize("seed", [0, 1])
def test_a_cluster_has_the_same_frame_in_any_batch(seed: int) -> None:
    boxes = random_boxes(
        random_crystals(seed, 4, 6), BoxOptions(mode="unit"), torch.Generator().manual_seed(seed)
    )
    together = find_frames(boxes)
    for i in range(len(boxes)):
        alone = find_frames(boxes.select([i]))
        torch.testing.assert_close(alone.inside(boxes.cart_coords[i : i + 1]),
                                   together.inside(boxes.cart_coords)[i : i + 1])  # fmt: skip
