from pathlib import Path

import pytest
import torch
from crystals import random_crystals

from baselines.voxel_icsg3d.inverse import devoxelize, refine_sites
from baselines.voxel_icsg3d.voxelize import VoxelOptions, voxelize
from nesf.crystal import CrystalBatch, standardised
from nesf.data.readers import read_crystals
from nesf.geometry import wrap_frac

PUBLISHED = VoxelOptions(label_fraction=1.0, label_floor=0.0)


@pytest.fixture(scope="module")
def real_crystals(shared_data: Path) -> dict[str, CrystalBatch]:
    """The test crystals of two sets."""
    found = {}
    for name in ("icsg3d_part", "perov5"):
        rows, rejected = read_crystals([shared_data / name / "test.csv.gz"], progress=False)
        assert not rejected
        found[name] = CrystalBatch.from_structures(
            [r.structure for r in rows], [r.id for r in rows]
        )
    return found


def voxel_errors(true: CrystalBatch, found: CrystalBatch, options: VoxelOptions) -> torch.Tensor:
    """Largest distance along an axis (voxels) from an atom to the nearest found one of its kind.

    Infinite where the counts, or the species in number, are not the same.
    """
    b, n = true.mask.shape
    counts_right = true.num_atoms == found.num_atoms
    delta = found.frac_coords.unsqueeze(1) - true.frac_coords.unsqueeze(2)  # (B, N, M, 3)
    far = (delta - delta.round()).abs().amax(-1) * options.resolution / options.extent
    other = true.atomic_numbers.unsqueeze(2) != found.atomic_numbers.unsqueeze(1)
    distance, index = far.masked_fill(other | ~found.mask.unsqueeze(1), torch.inf).min(-1)
    taken = torch.zeros(b, max(n, found.mask.shape[1]), dtype=torch.long)
    taken.scatter_add_(1, index, true.mask.long())  # each found atom answers for one true atom
    right = counts_right & (taken <= 1).all(-1)
    return torch.where(right, distance.masked_fill(~true.mask, 0.0).amax(-1), torch.inf)


def round_trip(
    crystals: CrystalBatch, options: VoxelOptions, refine: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Per crystal: the largest error of the lattice (Å), and of the sites (voxels)."""
    found = devoxelize(voxelize(crystals, options), refine)
    assert found.ids == tuple(str(i) for i in range(len(crystals)))
    assert bool(((found.frac_coords >= 0) & (found.frac_coords < 1)).all())
    lattice = standardised(crystals.to(dtype=torch.float64)).lattice
    return (found.lattice - lattice).abs().amax((1, 2)), voxel_errors(crystals, found, options)


@pytest.mark.parametrize("name", ["icsg3d_part", "perov5"])
@pytest.mark.parametrize("refine", ["none", "centroid"])
def test_real_crystals_come_back(real_crystals, name, refine):
    crystals = real_crystals[name]
    some = crystals.select(list(range(0, len(crystals), len(crystals) // 12)))
    lattice, sites = round_trip(some, VoxelOptions(), refine)
    assert float(lattice.max()) <= 1e-3
    assert float(sites.max()) <= (0.5 if refine == "none" else 0.1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["icsg3d_part", "perov5"])
@pytest.mark.parametrize("options", [VoxelOptions(), VoxelOptions(frame="box"), PUBLISHED])
def test_all_real_crystals_come_back(real_crystals, name, options):
    crystals = real_crystals[name]
    lattice, sites = round_trip(crystals, options, "centroid")
    assert float(lattice.max()) <= 1e-3
    assert float(sites.max()) <= 0.1
    if options != PUBLISHED:  # balls cut by the margin or by neighbours have other centroids
        assert float(round_trip(crystals, options, "none")[1].max()) <= 0.5


def rock_salt(numbers: tuple[int, int], length: float) -> CrystalBatch:
    """One corner atom and one in the middle of the cell's edge a, face and body: 8 atoms."""
    half = torch.cartesian_prod(*[torch.tensor([0.0, 0.5])] * 3)
    odd = (2 * half.sum(-1)).long() % 2
    return CrystalBatch(
        half.unsqueeze(0),
        torch.tensor(numbers)[odd].unsqueeze(0),
        torch.ones(1, 8, dtype=torch.bool),
        (torch.eye(3) * length).unsqueeze(0),
        ("0",),
    )


def test_a_large_ion_that_leaves_the_margin_is_refined_to_its_place():
    # caesium reaches 1.8 Å and the margin 0.9 Å: three sides of the corner atom are cut off
    crystal = rock_salt((55, 9), 3.6).select([0])
    crystal = crystal.replace(
        frac_coords=torch.tensor([[[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]]]),
        atomic_numbers=torch.tensor([[55, 9]]),
        mask=torch.ones(1, 2, dtype=torch.bool),
    )
    for options in (VoxelOptions(), PUBLISHED):
        plain, refined = (round_trip(crystal, options, r)[1] for r in ("none", "centroid"))
        assert float(refined) < 0.1
        assert float(refined) < float(plain)
    assert float(plain) > 0.5  # the published labels alone do not do


def test_small_ions_in_a_large_cell_need_the_floor():
    crystal = rock_salt((6, 5), 9.0)
    lattice, sites = round_trip(crystal, VoxelOptions(16), "centroid")
    assert float(lattice) < 1e-4
    assert float(sites) < 0.1
    without = VoxelOptions(16, label_floor=0.0)
    assert round_trip(crystal, without, "centroid")[1].isinf()


@pytest.mark.parametrize("images", [False, True])
def test_any_cell(images):
    options = VoxelOptions(24, sigma=0.45, images=images)
    generator = torch.Generator().manual_seed(3)
    crystals = random_crystals(3, 2, max_atoms=3)
    # three sites well apart, one of them near a face of the cell
    frac = torch.tensor([[0.01, 0.2, 0.3], [0.5, 0.7, 0.8], [0.6, 0.25, 0.2]]).double()
    crystals = crystals.replace(
        frac_coords=frac.expand(2, 3, 3) + 0.02 * torch.rand(2, 3, 3, generator=generator),
        atomic_numbers=torch.randint(1, 95, (2, 3), generator=generator),
        mask=torch.ones(2, 3, dtype=torch.bool),
        lattice=crystals.lattice * (6 / crystals.lattice.norm(dim=-1, keepdim=True).amin(1, True)),
    )
    lattice, sites = round_trip(crystals, options, "centroid")
    assert float(lattice.max()) < 1e-3
    assert float(sites.max()) < 0.1


def test_refinement_pulls_displaced_sites_back_and_leaves_true_ones():
    crystals = standardised(random_crystals(5, 3, max_atoms=1).to(dtype=torch.float32))
    crystals = crystals.replace(frac_coords=wrap_frac(crystals.frac_coords))
    options = VoxelOptions(16, sigma=0.8)
    density = voxelize(crystals, options).density
    stay = refine_sites(crystals, density, options)
    torch.testing.assert_close(stay.frac_coords, crystals.frac_coords, atol=1e-4, rtol=0)
    off = crystals.replace(frac_coords=crystals.frac_coords + 0.05)
    back = refine_sites(off, density, options)
    torch.testing.assert_close(back.frac_coords, crystals.frac_coords, atol=1e-3, rtol=0)


def test_voxels_without_labels_are_a_crystal_without_atoms():
    crystals = random_crystals(0, 2)
    crystals = crystals.replace(
        mask=torch.zeros_like(crystals.mask), atomic_numbers=torch.zeros_like(crystals.mask).long()
    )
    for images in (False, True):
        options = VoxelOptions(8, images=images)
        found = devoxelize(voxelize(crystals, options))
        assert found.num_atoms.tolist() == [0, 0]
        true = standardised(crystals).lattice.float()
        torch.testing.assert_close(found.lattice, true, atol=1e-4, rtol=0)
