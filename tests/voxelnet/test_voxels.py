"""Voxels of reciprocal space: invariances, rotations, and the sum over points done plainly."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from crystals import random_crystals
from hypothesis import given, settings
from hypothesis import strategies as st
from recut import recut, shuffled_and_shifted

from baselines.voxelnet import grids
from baselines.voxelnet.channels import unknown_elements
from baselines.voxelnet.options import VoxelOptions
from baselines.voxelnet.turns import random_turns, turned
from baselines.voxelnet.voxels import reciprocal_voxels
from nesf import reciprocal
from nesf.crystal import CrystalBatch

SMALL = {
    "cartesian": VoxelOptions("cartesian", resolution=8, side=8.0),
    "spherical": VoxelOptions("spherical", resolution=8, side=8.0),
}
KINDS = pytest.mark.parametrize("options", SMALL.values(), ids=SMALL.keys())
CUBE = [
    torch.eye(3, dtype=torch.float64)[list(order)] * torch.tensor(signs).double()[:, None]
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]
CELLS = st.sampled_from(
    [
        [[1, 0, 0], [1, 1, 0], [0, -2, 1]],  # another cell of the same size
        [[2, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0, 1, 1], [1, 0, 1], [1, 1, 0]],  # as from primitive to conventional
        [[2, 1, 0], [0, 2, 0], [0, 0, 3]],
    ]
)


def dense(crystals: CrystalBatch, options: VoxelOptions) -> torch.Tensor:
    return reciprocal_voxels(crystals, options).dense()


def assert_same(a: torch.Tensor, b: torch.Tensor) -> None:
    assert a.abs().max() > 1e-3
    torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


@KINDS
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), cell=CELLS)
def test_cell_origin_and_order_do_not_matter(options, seed, cell):
    crystals = random_crystals(seed, 2, 4)
    other = shuffled_and_shifted(recut(crystals, torch.tensor(cell)), seed)
    assert_same(dense(crystals, options), dense(other, options))


@KINDS
def test_nor_in_cells_whose_points_lie_on_the_borders_of_voxels(options):
    """Where rounding could put a point on either side: a cubic cell, its points on a mesh."""
    length = 2 * math.pi / (options.side / options.resolution)
    frac = torch.tensor([[0.0, 0, 0], [0.5, 0.5, 0.5]], dtype=torch.float64)
    simple = CrystalBatch.from_flat(
        frac, torch.tensor([11, 17]), torch.tensor([2]), _eye() * length, ["a"]
    )
    for cell in ([[1, 0, 0], [1, 1, 0], [0, -2, 1]], [[2, 0, 0], [0, 1, 0], [0, 0, 1]]):
        other = recut(simple, torch.tensor(cell))
        assert_same(dense(simple, options), dense(other, options))
    fast = reciprocal_voxels(simple.to(dtype=torch.float32), options).dense()
    torch.testing.assert_close(fast.double(), dense(simple, options), rtol=0, atol=1e-5)


def _eye() -> torch.Tensor:
    return torch.eye(3, dtype=torch.float64)[None]


@KINDS
def test_the_grid_hardly_changes_with_a_hardly_changed_crystal(options):
    """Continuity everywhere, poles and the centre included."""
    cells = torch.cat([_eye() * 4, _eye() * torch.tensor([3.0, 4.0, 40.0])])
    crystals = CrystalBatch.from_flat(
        torch.zeros(2, 3).double(), torch.tensor([3, 3]), torch.tensor([1, 1]), cells, ["a", "b"]
    )
    generator = torch.Generator().manual_seed(0)
    small = 1e-7 * torch.randn(2, 3, 3, generator=generator, dtype=torch.float64)
    nearby = crystals.replace(lattice=crystals.lattice + small)
    change = (dense(crystals, options) - dense(nearby, options)).abs().max()
    assert change < 1e-5


def test_a_turned_cube_permutes_cartesian_voxels():
    options = SMALL["cartesian"]
    crystals = random_crystals(4, 1, 3)
    voxels = dense(crystals, options)[0]
    assert len(CUBE) == 48
    centres = torch.arange(8) - 3.5
    grid = torch.stack(torch.meshgrid(centres, centres, centres, indexing="ij"), -1).double()
    for turn in CUBE:
        after = dense(turned(crystals, turn[None]), options)[0]
        # the voxel at Q v has after what the one at v had before
        at = (grid @ turn.T + 3.5).round().long()
        assert_same(after[:, at[..., 0], at[..., 1], at[..., 2]], voxels)


def test_a_turn_about_the_axis_rolls_spherical_voxels():
    options = SMALL["spherical"]
    crystals = random_crystals(4, 2, 3)
    angle = 2 * math.pi / options.resolution * 3
    turn = torch.tensor(
        [[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]],
        dtype=torch.float64,
    )
    after = dense(turned(crystals, turn.expand(2, 3, 3)), options)
    assert_same(after, dense(crystals, options).roll(3, dims=-1))


def test_what_a_rotation_leaves_of_spherical_voxels():
    """Sums over directions do not depend on how the crystal is turned."""
    crystals = random_crystals(5, 3)
    turns = random_turns(3, "any", torch.Generator().manual_seed(1)).double()
    options = SMALL["spherical"]
    shells = [dense(c, options).sum((-1, -2)) for c in (crystals, turned(crystals, turns))]
    torch.testing.assert_close(*shells, rtol=0, atol=1e-6)


@KINDS
def test_voxels_are_even(options):
    voxels = dense(random_crystals(6, 2), options)
    if options.kind == "cartesian":
        assert_same(voxels, voxels.flip(2, 3, 4))
    else:
        assert_same(voxels, voxels.flip(3).roll(options.resolution // 2, dims=4))


def plain_cartesian(crystals: CrystalBatch, i: int, options: VoxelOptions) -> np.ndarray:
    """Point after point and voxel after voxel: hat functions around the centres."""
    n, width = options.resolution, options.side / options.resolution
    real = crystals.mask[i].numpy()
    lattice = crystals.lattice[i].numpy()
    frac, numbers = crystals.frac_coords[i].numpy()[real], crystals.atomic_numbers[i].numpy()[real]
    reciprocal = 2 * np.pi * np.linalg.inv(lattice).T
    centres = (np.arange(n) - (n - 1) / 2) * width
    grid = np.zeros((94, n, n, n))
    for hkl in itertools.product(range(-9, 10), repeat=3):
        g = np.array(hkl) @ reciprocal
        hats = [np.clip(1 - abs(centres - x) / width, 0, None) for x in g]
        if min(hat.max() for hat in hats) == 0:
            continue
        share = np.einsum("i,j,k->ijk", *hats)
        for z in set(numbers.tolist()):
            phases = np.exp(-2j * np.pi * frac[numbers == z] @ np.array(hkl))
            blur = np.exp(-(options.sigma**2) * (g @ g) / 2)
            grid[z - 1] += abs(phases.sum()) * blur / abs(np.linalg.det(lattice)) * share
    return grid


def test_cartesian_voxels_are_the_plain_sum():
    crystals = random_crystals(7, 2, 3)
    options = VoxelOptions("cartesian", resolution=4, side=5.0, sigma=0.3)
    found = dense(crystals, options).numpy()
    for i in range(len(crystals)):
        np.testing.assert_allclose(found[i], plain_cartesian(crystals, i, options), atol=1e-9)


def test_spherical_voxels_hold_what_lies_in_the_ball():
    """All shares of a point add up to one, within the outermost centres."""
    crystals = random_crystals(8, 2, 3)
    options = SMALL["spherical"]
    found = dense(crystals, options).sum((1, 2, 3, 4))
    near = dense(crystals, VoxelOptions("spherical", resolution=64, side=8.0)).sum((1, 2, 3, 4))
    assert torch.allclose(found, near, rtol=0.2)
    for i in range(2):
        one = crystals.select([i])
        wide = VoxelOptions("cartesian", resolution=4, side=1e-2)
        density = dense(one, wide).sum()  # g = 0 alone
        assert density == pytest.approx(float(one.num_atoms / one.lattice.det().abs()))


def test_property_channels_weigh_atoms():
    crystals = random_crystals(9, 2, 4)
    options = VoxelOptions(
        resolution=4, side=1e-2, channels="property", properties=("one", "atomic_number")
    )
    found = reciprocal_voxels(crystals, options)
    assert found.channels.tolist() == [[0, 1], [0, 1]]
    volume = crystals.lattice.det().abs()
    total = found.values.sum((2, 3, 4)) * volume[:, None]
    table = options.element_table()
    assert table[1:].square().mean(0).tolist() == pytest.approx([1, 1])
    wanted = (table[crystals.atomic_numbers] * crystals.mask[..., None]).sum(1)
    torch.testing.assert_close(total, wanted)


def test_elements_without_a_channel_are_told_and_empty():
    crystals = random_crystals(10, 3, 2)
    one = int(crystals.atomic_numbers[0, 0])
    options = VoxelOptions(resolution=4, side=8.0, elements=(one,))
    has_others = ((crystals.atomic_numbers != one) & crystals.mask).any(-1)
    assert unknown_elements(crystals, options).tolist() == has_others.tolist()
    everything = dense(crystals, VoxelOptions(resolution=4, side=8.0))
    torch.testing.assert_close(dense(crystals, options), everything[:, one - 1 : one])
    assert not unknown_elements(crystals, VoxelOptions()).any()


def test_the_fft_gives_the_same_voxels():
    crystals = random_crystals(11, 2, 6)
    exact, fast = (
        reciprocal_voxels(crystals, SMALL["cartesian"], route).dense() for route in ("sum", "fft")
    )
    torch.testing.assert_close(exact, fast, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"resolution": 7},
        {"side": 0.0},
        {"sigma": math.inf},
        {"elements": (95,)},
        {"elements": (8, 8)},
        {"channels": "property", "properties": ()},
        {"properties": ("mass",)},
    ],
)
def test_options_refuse_what_makes_no_sense(wrong):
    with pytest.raises(ValueError, match="must"):
        VoxelOptions(**wrong)


def test_random_turns_are_turns():
    generator = torch.Generator().manual_seed(0)
    for kind in ("any", "cube"):
        turns = random_turns(4000, kind, generator).double()
        square = turns @ turns.mT
        torch.testing.assert_close(
            square, torch.eye(3).double().expand_as(square), atol=1e-6, rtol=0
        )
        determinants = torch.linalg.det(turns)
        assert abs(float(determinants.mean())) < 0.06  # half of them reflections
        assert float(turns.mean(0).abs().max()) < 0.04
        assert turns.square().mean(0).sub(1 / 3).abs().max() < 0.03
    cube = random_turns(1000, "cube", generator)
    assert len({tuple(one.flatten().tolist()) for one in cube}) == 48


@KINDS
def test_memory_does_not_matter(options, monkeypatch):
    crystals = random_crystals(12, 3, 4)
    wanted = dense(crystals, options)
    monkeypatch.setattr(grids, "_AT_ONCE", 100)
    monkeypatch.setattr(reciprocal, "_AT_ONCE", 50)
    assert_same(dense(crystals, options), wanted)
