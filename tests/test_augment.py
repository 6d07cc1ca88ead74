"""Augmentation: what changes, how much, and what stays."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from crystals import random_crystals
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from nesf.augment import Augmentation
from nesf.crystal import CrystalBatch, standardised
from nesf.geometry import frac_to_cart, lattice_to_parameters


def crystals(seed: int = 0, count: int = 6) -> CrystalBatch:
    return standardised(random_crystals(seed, count, dtype=torch.float32))


def cubes(count: int, atoms: int = 4) -> CrystalBatch:
    generator = torch.Generator().manual_seed(0)
    return CrystalBatch.from_flat(
        torch.rand(count * atoms, 3, generator=generator),
        torch.randint(1, 95, (count * atoms,), generator=generator),
        torch.full((count,), atoms),
        5 * torch.eye(3).expand(count, 3, 3),
        [str(i) for i in range(count)],
    )


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


EVERYTHING = Augmentation(
    relabel=0.5, strain=0.02, scale=0.03, axes=0.02, displace=0.1, displaced=0.5, shift_origin=True
)


def test_everything_off_changes_nothing():
    batch = crystals()
    assert Augmentation()(batch, seeded()) is batch


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_relabelling_is_a_permutation_of_the_elements(seed):
    batch = crystals(seed)
    changed = Augmentation(relabel=1.0)(batch, seeded(seed))
    assert torch.equal(changed.frac_coords, batch.frac_coords)
    assert torch.equal(changed.lattice, batch.lattice)
    assert (changed.atomic_numbers[~batch.mask] == 0).all()
    for old, new, mask in zip(
        batch.atomic_numbers, changed.atomic_numbers, batch.mask, strict=True
    ):
        pairs = set(zip(old[mask].tolist(), new[mask].tolist(), strict=True))
        # one new name for each old one, and no two old ones with the same
        assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
        assert all(1 <= b <= 94 for _, b in pairs)


def test_relabelling_takes_its_share_and_every_element():
    batch = cubes(4000, 1)
    changed = Augmentation(relabel=0.5)(batch, seeded())
    share = (changed.atomic_numbers != batch.atomic_numbers).float().mean()
    assert abs(share - 0.5 * 93 / 94) < 0.03
    whole = Augmentation(relabel=1.0)(batch, seeded())
    hits = torch.bincount(whole.atomic_numbers.flatten(), minlength=95)[1:].numpy()
    assert stats.chisquare(hits).pvalue > 1e-4


def test_relabelling_stays_within_num_species():
    batch = cubes(500).replace(atomic_numbers=torch.randint(1, 11, (500, 4), generator=seeded()))
    changed = Augmentation(relabel=1.0, num_species=10)(batch, seeded())
    assert changed.atomic_numbers.min() >= 1
    assert changed.atomic_numbers.max() == 10


@pytest.mark.parametrize("options", [{"strain": 0.03}, {"scale": 0.03}, {"axes": 0.03}])
def test_deformed_cells_keep_their_fractions(options):
    batch = crystals()
    changed = Augmentation(**options)(batch, seeded())
    assert torch.equal(changed.frac_coords, batch.frac_coords)
    assert torch.equal(changed.atomic_numbers, batch.atomic_numbers)
    relative = changed.lattice.det() / batch.lattice.det() - 1
    assert (relative.abs() > 1e-5).all()
    assert (relative.abs() < 0.4).all()
    torch.testing.assert_close(standardised(changed).lattice, changed.lattice, atol=1e-4, rtol=1e-4)


def test_scale_keeps_the_shape_and_axes_keep_the_angles():
    batch = crystals()
    lengths, angles = lattice_to_parameters(batch.lattice)
    scaled = lattice_to_parameters(Augmentation(scale=0.03)(batch, seeded()).lattice)
    ratio = scaled[0] / lengths
    torch.testing.assert_close(ratio, ratio[:, :1].expand(-1, 3), atol=1e-4, rtol=0)
    torch.testing.assert_close(scaled[1], angles, atol=1e-3, rtol=0)
    stretched = lattice_to_parameters(Augmentation(axes=0.03)(batch, seeded()).lattice)
    torch.testing.assert_close(stretched[1], angles, atol=1e-3, rtol=0)
    ratio = stretched[0] / lengths
    assert (ratio.amax(-1) - ratio.amin(-1)).min() > 1e-4


def test_sizes_of_the_deformations():
    batch = cubes(4000, 1)
    log_scale = (Augmentation(scale=0.03)(batch, seeded()).lattice.det() / 125).log() / 3
    assert abs(log_scale.std() - 0.03) < 0.002
    lengths, angles = lattice_to_parameters(Augmentation(axes=0.02)(batch, seeded()).lattice)
    assert abs((lengths / 5).log().std() - 0.02) < 0.002
    assert (angles - math.pi / 2).abs().max() < 1e-4
    # of a symmetric strain e the length a changes by e_11 and the angle by about -2 e_12;
    # (n + nᵀ)/2 has off-diagonals of sigma/√2
    lengths, angles = lattice_to_parameters(Augmentation(strain=0.01)(batch, seeded()).lattice)
    assert abs((lengths / 5 - 1).std() - 0.01) < 0.001
    assert abs((angles - math.pi / 2).std() - 2 * 0.01 / math.sqrt(2)) < 0.001


def test_displacements_have_the_right_size():
    batch = cubes(4000)
    changed = Augmentation(displace=0.3)(batch, seeded())
    shift = frac_to_cart(changed.frac_coords - batch.frac_coords, batch.lattice)
    # sigma uniform in [0, d] for each crystal: mean square d²/3 along an axis
    assert abs(shift.square().mean().sqrt() - 0.3 / math.sqrt(3)) < 0.005
    sizes = shift.flatten(1).std(dim=1)
    assert sizes.min() < 0.02
    assert sizes.max() < 0.3 * 2
    assert torch.equal(changed.lattice, batch.lattice)
    some = Augmentation(displace=0.3, displaced=0.25)(batch, seeded())
    moved = (some.frac_coords != batch.frac_coords).flatten(1).any(-1).float().mean()
    assert abs(moved - 0.25) < 0.03


def test_displacements_are_isotropic_in_skewed_cells():
    batch = cubes(4000).replace(
        lattice=torch.tensor([[5.0, 0, 0], [3.0, 4.0, 0], [1.0, 2.0, 6.0]]).expand(4000, 3, 3)
    )
    changed = Augmentation(displace=0.3)(batch, seeded())
    shift = frac_to_cart(changed.frac_coords - batch.frac_coords, batch.lattice)
    covariance = np.cov(shift.reshape(-1, 3).numpy().T)
    np.testing.assert_allclose(covariance, np.eye(3) * 0.03, atol=0.002)


def test_padding_is_not_displaced():
    batch = crystals()
    changed = Augmentation(displace=0.5)(batch, seeded())
    assert torch.equal(changed.frac_coords[~batch.mask], batch.frac_coords[~batch.mask])


def test_a_shifted_origin_moves_all_atoms_of_a_crystal_together():
    batch = crystals()
    changed = Augmentation(shift_origin=True)(batch, seeded())
    shift = changed.frac_coords - batch.frac_coords
    torch.testing.assert_close(shift, shift[:, :1].expand_as(shift), atol=1e-6, rtol=0)
    assert len(shift[:, 0].unique(dim=0)) == len(batch)
    distances = [s.distance_matrix for b in (batch, changed) for s in b.to_structures()]
    for before, after in zip(distances[: len(batch)], distances[len(batch) :], strict=True):
        np.testing.assert_allclose(before, after, atol=1e-4)


def test_draws_depend_on_the_generator_alone():
    batch = crystals()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = EVERYTHING(batch, seeded(3))
    assert torch.equal(torch.get_rng_state(), state)
    second, third = EVERYTHING(batch, seeded(3)), EVERYTHING(batch, seeded(4))
    for name in ("frac_coords", "atomic_numbers", "lattice"):
        assert torch.equal(getattr(first, name), getattr(second, name))
        assert not torch.equal(getattr(first, name), getattr(third, name))


def test_crystals_are_not_rounded_under_autocast():
    batch = crystals()
    exact = EVERYTHING(batch, seeded())
    with torch.autocast("cpu", torch.bfloat16):
        under = EVERYTHING(batch, seeded())
    assert under.lattice.dtype == torch.float32
    assert torch.equal(under.lattice, exact.lattice)
    assert torch.equal(under.frac_coords, exact.frac_coords)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("relabel", 1.1),
        ("relabel", -0.1),
        ("relabel", math.nan),
        ("strain", -0.1),
        ("scale", -0.1),
        ("axes", math.inf),
        ("displace", -1.0),
        ("displaced", 2.0),
        ("num_species", 0),
        ("num_species", 95),
    ],
)
def test_nonsense_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=name):
        dataclasses.replace(Augmentation(), **{name: value})
