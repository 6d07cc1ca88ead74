import numpy as np
import pytest
import torch
from crystals import random_crystals
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.voxel_icsg3d.radii import IONIC_RADII, UNKNOWN_RADIUS
from baselines.voxel_icsg3d.voxelize import (
    VoxelOptions,
    Voxels,
    lattice_from_coords,
    refusals,
    representable,
    voxel_coords,
    voxelize,
)
from nesf.crystal import CrystalBatch, standardised
from nesf.geometry import parameters_to_lattice

SMALL = VoxelOptions(resolution=8)


def orthogonal_crystals(seed: int, count: int = 4) -> CrystalBatch:
    generator = torch.Generator().manual_seed(seed)
    crystals = random_crystals(seed, count)
    lengths = 3 + 4 * torch.rand(count, 3, generator=generator, dtype=torch.float64)
    return crystals.replace(lattice=torch.diag_embed(lengths))


def brute_force(
    crystals: CrystalBatch, which: int, options: VoxelOptions, shells: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Density, species and where the labels are clear of any border, voxel by voxel in float64."""
    d = options.resolution
    lattice = standardised(crystals).lattice[which].numpy()
    if options.frame == "box":
        lattice = np.diag(np.linalg.norm(lattice, axis=1))
    edge = max(np.linalg.norm(lattice, axis=1)) * (1 + 2 * options.margin) / d
    atoms = []
    for site, z in zip(
        crystals.frac_coords[which].numpy(), crystals.atomic_numbers[which].tolist(), strict=True
    ):
        if z:
            inside = (site + 0.02) % 1.0 - 0.02
            for shift in np.ndindex(*(2 * shells + 1,) * 3):
                atoms.append(((inside + np.array(shift) - shells) @ lattice, z))
    density, species = np.zeros((d, d, d)), np.zeros((d, d, d), dtype=int)
    clear = np.ones((d, d, d), dtype=bool)
    for index in np.ndindex(d, d, d):
        fraction = -options.margin + (1 + 2 * options.margin) * (np.array(index) + 0.5) / d
        near = []
        for place, z in atoms:
            sigma = options.sigma or IONIC_RADII[z - 1]
            distance = np.linalg.norm(fraction @ lattice - place)
            reach = max(options.label_fraction * sigma, options.label_floor * edge)
            density[index] += (
                z / sigma**3 * np.exp(-(distance**2) / (2 * sigma**2)) / (2 * np.pi) ** 1.5
            )
            if abs(distance - reach) < 1e-3:
                clear[index] = False
            if distance <= reach:
                near.append((distance, z))
        near.sort()
        species[index] = near[0][1] if near else 0
        if len(near) > 1 and near[1][0] - near[0][0] < 1e-2 and near[0][1] != near[1][1]:
            clear[index] = False
    return density, species, clear


def assert_same(first: Voxels, second: Voxels, doubtful: float = 0.005) -> None:
    """Equal up to float32, and up to labels of voxels on a border."""
    largest = second.density.amax()
    torch.testing.assert_close(first.density / largest, second.density / largest, atol=1e-5, rtol=0)
    torch.testing.assert_close(first.coords, second.coords, atol=1e-4, rtol=0)
    assert (first.species != second.species).float().mean() <= doubtful


@pytest.mark.parametrize("frame", ["cell", "box"])
@pytest.mark.parametrize("sigma", [None, 0.7])
def test_voxels_are_those_of_a_loop_over_voxels_and_atoms(frame, sigma):
    crystals = orthogonal_crystals(1, 2) if frame == "box" else random_crystals(1, 2)
    options = VoxelOptions(8, sigma=sigma, frame=frame, label_fraction=0.9, label_floor=0.5)
    voxels = voxelize(crystals, options)
    for i in range(len(crystals)):
        density, species, clear = brute_force(crystals, i, options)
        np.testing.assert_allclose(voxels.density[i], density, atol=1e-5 * density.max(), rtol=1e-4)
        assert clear.mean() > 0.8
        np.testing.assert_array_equal(voxels.species[i].numpy()[clear], species[clear])


@pytest.mark.parametrize("frame", ["cell", "box"])
def test_images_are_those_of_a_loop_over_cells(frame):
    crystals = orthogonal_crystals(2, 1) if frame == "box" else random_crystals(2, 1, max_atoms=3)
    options = VoxelOptions(6, sigma=0.6, frame=frame, images=True)
    voxels = voxelize(crystals, options)
    density, species, clear = brute_force(crystals, 0, options, shells=2)
    np.testing.assert_allclose(voxels.density[0], density, atol=2e-5 * density.max())
    np.testing.assert_array_equal(voxels.species[0].numpy()[clear], species[clear])
    without = voxelize(crystals, VoxelOptions(6, sigma=0.6, frame=frame))
    assert (voxels.density > without.density + 1e-3).any()


@given(seed=st.integers(0, 50), shift=st.integers(-3, 3), frame=st.sampled_from(["cell", "box"]))
@settings(max_examples=10, deadline=None)
def test_lattice_vectors_and_the_order_of_atoms_change_nothing(seed, shift, frame):
    crystals = orthogonal_crystals(seed)
    options = VoxelOptions(8, frame=frame)
    generator = torch.Generator().manual_seed(seed)
    whole = torch.randint(-3, 4, crystals.frac_coords.shape, generator=generator) + shift
    order = torch.rand(crystals.mask.shape, generator=generator).argsort(dim=1)  # padding too
    moved = CrystalBatch(
        (crystals.frac_coords + whole).gather(1, order.unsqueeze(-1).expand(-1, -1, 3)),
        crystals.atomic_numbers.gather(1, order),
        crystals.mask.gather(1, order),
        crystals.lattice,
        crystals.ids,
    )
    assert_same(voxelize(moved, options), voxelize(crystals, options))


@given(seed=st.integers(0, 50), resolution=st.sampled_from([4, 8, 12]))
@settings(max_examples=10, deadline=None)
def test_the_frames_agree_on_right_angles(seed, resolution):
    crystals = orthogonal_crystals(seed)
    cell, box = (
        voxelize(crystals, VoxelOptions(resolution, frame=frame)) for frame in ("cell", "box")
    )
    assert_same(cell, box)


def test_voxels_do_not_depend_on_the_batch_nor_on_what_is_padding():
    crystals = random_crystals(3, 5)
    voxels = voxelize(crystals, SMALL)
    for i in range(len(crystals)):
        alone = voxelize(crystals.select([i]), SMALL)
        torch.testing.assert_close(alone.density[0], voxels.density[i])
        assert torch.equal(alone.species[0], voxels.species[i])


def test_large_grids_are_made_slab_by_slab(monkeypatch):
    crystals = random_crystals(4, 3)
    whole = voxelize(crystals, SMALL)
    monkeypatch.setattr("baselines.voxel_icsg3d.gaussians._CPU_CHUNK", 8 * 8 * 8 * 3)
    parts = voxelize(crystals, SMALL)
    torch.testing.assert_close(parts.density, whole.density)
    assert torch.equal(parts.species, whole.species)


def test_full_precision_under_autocast():
    crystals = orthogonal_crystals(5).to(dtype=torch.float32)
    for frame in ("cell", "box"):
        options = VoxelOptions(8, frame=frame)
        plain = voxelize(crystals, options)
        with torch.autocast("cpu", torch.bfloat16):
            cast = voxelize(crystals, options)
            lattice = lattice_from_coords(cast.coords, options)
        assert cast.density.dtype == cast.coords.dtype == lattice.dtype == torch.float32
        assert torch.equal(cast.density, plain.density)
        assert torch.equal(cast.coords, plain.coords)


@pytest.mark.parametrize("resolution", [16, 32, 48, 64])
def test_sizes_of_the_tensors(resolution):
    voxels = voxelize(random_crystals(0, 2), VoxelOptions(resolution))
    grid = (resolution,) * 3
    assert voxels.channels.shape == (2, 4, *grid)
    assert voxels.species.shape == voxels.occupancy.shape == (2, *grid)
    assert voxels.channels.dtype == torch.float32
    assert voxels.species.dtype == torch.long
    assert len(voxels) == len(voxels.to("cpu")) == 2


def test_a_batch_of_no_crystals_and_a_crystal_of_no_atoms():
    crystals = random_crystals(0, 2)
    assert voxelize(crystals.select([]), SMALL).channels.shape == (0, 4, 8, 8, 8)
    bare = crystals.replace(
        mask=torch.zeros_like(crystals.mask), atomic_numbers=torch.zeros_like(crystals.mask).long()
    )
    for images in (False, True):
        voxels = voxelize(bare, VoxelOptions(8, images=images))
        assert not voxels.density.any()
        assert not voxels.species.any()


@pytest.mark.parametrize("frame", ["cell", "box"])
def test_the_lattice_comes_back_from_its_coordinates(frame):
    crystals = orthogonal_crystals(6) if frame == "box" else random_crystals(6)
    options = VoxelOptions(16, frame=frame)
    coords = voxelize(crystals, options).coords
    true = standardised(crystals).lattice.float()
    torch.testing.assert_close(lattice_from_coords(coords, options), true, atol=1e-4, rtol=0)
    # a constant error of a channel, as a network may make it, is no error of the lattice
    torch.testing.assert_close(lattice_from_coords(coords + 0.5, options), true, atol=1e-4, rtol=0)


def test_the_least_squares_lattice_is_that_of_numpy():
    options = VoxelOptions(6)
    generator = torch.Generator().manual_seed(0)
    coords = torch.randn(1, 3, 6, 6, 6, generator=generator, dtype=torch.float64)
    axis = options.axis().double()
    place = torch.cartesian_prod(axis, axis, axis)
    design = torch.cat([place, torch.ones(len(place), 1)], dim=1).numpy()
    best = np.linalg.lstsq(design, coords[0].flatten(1).T.numpy(), rcond=None)[0][:3]
    np.testing.assert_allclose(lattice_from_coords(coords, options)[0], best, atol=1e-6)


def test_the_released_read_out_is_short_by_one_voxel():
    crystals = orthogonal_crystals(7)
    options = VoxelOptions(16, frame="box")
    coords = voxelize(crystals, options).coords
    found = lattice_from_coords(coords, options, "released")
    expected = crystals.lattice.float() * (1 - 1 / 16)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_coordinates_count_from_the_corner_of_the_grid():
    lattice = torch.diag(torch.tensor([4.0, 5.0, 6.0])).unsqueeze(0)
    coords = voxel_coords(lattice, VoxelOptions(8))
    # a margin of a quarter on either side: 8 voxels over 1.5 cells
    assert coords[0, :, 0, 0, 0].tolist() == pytest.approx([0.375, 0.46875, 0.5625])
    assert float(coords[0, 1, 0, 7, 0]) == pytest.approx(7.5 * 5 * 1.5 / 8)


def test_the_box_refuses_other_angles_and_names_them():
    angles = torch.tensor([[90.0, 90.0, 90.05], [90.0, 90.0, 100.0]], dtype=torch.float64)
    lattice = parameters_to_lattice(torch.full_like(angles, 4.0), angles.deg2rad())
    crystals = random_crystals(0, 2).replace(lattice=lattice, ids=("right", "skew"))
    first, second = refusals(crystals, VoxelOptions(frame="box"))
    assert first is None
    assert second is not None
    assert "skew" in second
    assert "90.0, 90.0, 100.0" in second
    assert representable(crystals, VoxelOptions(frame="box")).tolist() == [True, False]
    assert representable(crystals).tolist() == [True, True]


def test_cells_without_a_volume_are_refused():
    crystals = random_crystals(0, 2)
    lattice = crystals.lattice.clone()
    lattice[0, 2] = lattice[0, 1]
    lattice[1, 0, 0] = torch.nan
    reasons = refusals(crystals.replace(lattice=lattice))
    assert all(reason and "volume" in reason for reason in reasons)
    for frame in ("cell", "box"):
        held = representable(crystals.replace(lattice=lattice), VoxelOptions(frame=frame))
        assert held.tolist() == [False, False]


@pytest.mark.parametrize("frame", ["cell", "box"])
def test_whether_crystals_fit_is_found_without_waiting_for_the_device(frame):
    # on the meta device there are no values: whatever asked for one would fail
    held = representable(random_crystals(0, 2).to("meta"), VoxelOptions(frame=frame))
    assert (held.device.type, held.shape, held.dtype) == ("meta", (2,), torch.bool)


@pytest.mark.parametrize(
    "wrong",
    [
        {"resolution": 7},
        {"resolution": 0},
        {"margin": -0.1},
        {"sigma": 0.0},
        {"label_fraction": 0.0},
        {"label_floor": -1.0},
    ],
)
def test_options_check_themselves(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        VoxelOptions(**wrong)


def test_radii_are_those_of_pymatgen():
    from pymatgen.core import Element

    assert len(IONIC_RADII) == 94
    for z, radius in enumerate(IONIC_RADII, start=1):
        known = float(Element.from_Z(z).average_ionic_radius)
        assert radius == pytest.approx(known if known > 0 else UNKNOWN_RADIUS, abs=1e-4), z
