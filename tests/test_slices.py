"""Planes through fields, against the nearest atoms of the plane's points."""

import numpy as np
import pytest
import torch
from crystals import random_crystals

from nesf.crystal import CrystalBatch
from nesf.exact import exact_fields
from nesf.slices import cell_extent, draw_distance, slice_fields


def two_atoms() -> CrystalBatch:
    return CrystalBatch.from_flat(
        torch.tensor([[0.25, 0.25, 0.5], [0.75, 0.5, 0.25]]),
        torch.tensor([8, 26]),
        torch.tensor([2]),
        torch.diag(torch.tensor([4.0, 6.0, 8.0])).unsqueeze(0),
        ["two"],
    )


def test_a_plane_of_exact_fields():
    crystals = two_atoms()
    plane = slice_fields(exact_fields(crystals, periodic=False), 4.0, (0.0, 4.0, 0.0, 6.0), 25)
    y, x = np.meshgrid(np.linspace(0, 6, 25), np.linspace(0, 4, 25), indexing="ij")
    points = np.stack([x, y, np.full_like(x, 4.0)], axis=-1)
    atoms = crystals.cart_coords[0].numpy()
    distance = np.linalg.norm(points[..., None, :] - atoms, axis=-1)  # (H, W, 2)
    np.testing.assert_allclose(plane.distance, distance.min(-1), atol=1e-5)
    np.testing.assert_array_equal(plane.atomic_numbers, np.array([8, 26])[distance.argmin(-1)])
    # row by row from the smallest y: the oxygen at (1.0, 1.5)
    assert plane.distance[6, 6] == pytest.approx(0.25, abs=0.26)
    assert plane.distance[:12].min() < plane.distance[13:].min()


def test_only_the_first_crystal_is_asked():
    crystals = random_crystals(0, 3, dtype=torch.float32)
    extent = (0.0, 2.0, 0.0, 3.0)
    together = slice_fields(exact_fields(crystals), 1.0, extent, 8)
    alone = slice_fields(exact_fields(crystals.select([0])), 1.0, extent, 8)
    np.testing.assert_array_equal(together.distance, alone.distance)
    assert together.extent == extent


def test_cell_extent_holds_every_corner():
    lattice = torch.tensor([[2.0, 0, 0], [-1.0, 3.0, 0], [0.5, -0.5, 4.0]])
    assert cell_extent(lattice) == pytest.approx((-1.0, 2.5, -0.5, 3.0))
    assert cell_extent(torch.eye(3)) == (0.0, 1.0, 0.0, 1.0)


def test_the_picture_shows_three_panels():
    fields = exact_fields(two_atoms(), periodic=False)
    plane = slice_fields(fields, 4.0, (0.0, 4.0, 0.0, 6.0), 8)
    figure = draw_distance(plane, plane, "Fe and O")
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["exact, Å", "learned, Å", "difference, Å"]
    np.testing.assert_array_equal(figure.axes[2].images[0].get_array(), np.zeros((8, 8)))


def test_in_cell_fields_are_known_in_their_cell_only():
    lattice = torch.tensor([[[4.0, 0, 0], [-2.0, 3.0, 0], [0, 0, 5.0]]])
    crystals = two_atoms().replace(lattice=lattice)
    extent = cell_extent(lattice[0])
    plane = slice_fields(exact_fields(crystals, periodic=False), 1.0, extent, 61)
    # a parallelogram of 4 Å by 3 Å in a box of 6 Å by 3 Å
    assert plane.known.mean() == pytest.approx(4 / 6, abs=0.02)
    assert plane.known[0, -1]
    assert plane.known[-1, 0]
    assert not plane.known[0, 0]
    assert np.isnan(plane.known_distance).sum() == (~plane.known).sum() > 0
    assert (plane.known_numbers == 0).sum() == (~plane.known).sum()
    assert slice_fields(exact_fields(crystals), 1.0, extent, 61).known.all()
