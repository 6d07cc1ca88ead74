"""Lattices against pymatgen and against brute force over many images."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice

from nesf.geometry import (
    NearestImage,
    cart_to_frac,
    frac_to_cart,
    lattice_to_parameters,
    parameters_to_lattice,
    plane_spacings,
    reduce_lattice,
    standard_orientation,
    wrap_frac,
)

seeds = st.integers(0, 2**31 - 1)


def random_lattices(seed: int, count: int = 8, shears: int = 0) -> torch.Tensor:
    """Cells of some Å with a volume, sheared by whole multiples: the same lattices, skewed."""
    generator = torch.Generator().manual_seed(seed)
    lattice = torch.randn(count * 8, 3, 3, generator=generator, dtype=torch.float64) * 4
    lattice = lattice[plane_spacings(lattice).amin(-1) > 0.5][:count]
    for _ in range(shears):
        i, step = torch.randint(0, 3, (1,), generator=generator), 1
        factor = torch.randint(-6, 7, (len(lattice), 1), generator=generator)
        lattice = lattice.clone()
        lattice[:, i] += (factor * lattice[:, (int(i) + step) % 3]).unsqueeze(1)
    return lattice


def brute_shortest(delta: torch.Tensor, lattice: torch.Tensor, reach: int = 3) -> torch.Tensor:
    """Length of the shortest of (2 reach + 1)³ images around the rounded one."""
    frac = delta @ torch.linalg.inv(lattice)
    delta = (frac - frac.round()) @ lattice
    steps = torch.arange(-reach, reach + 1, dtype=delta.dtype)
    shifts = torch.cartesian_prod(steps, steps, steps) @ lattice
    return (delta.unsqueeze(1) + shifts).norm(dim=-1).amin(-1)


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.tuples(*[st.floats(1.0, 30.0)] * 3),
    angles=st.tuples(*[st.floats(50.0, 115.0)] * 3),
)
def test_parameters_agree_with_pymatgen(lengths, angles):
    # flat cells are where we differ: they are kept a little open
    assume(max(angles) < sum(angles) - max(angles) - 1 and sum(angles) < 359)
    expected = Lattice.from_parameters(*lengths, *angles).matrix
    lattice = parameters_to_lattice(
        torch.tensor([lengths], dtype=torch.float64),
        torch.deg2rad(torch.tensor([angles], dtype=torch.float64)),
    )
    np.testing.assert_allclose(lattice[0].numpy(), expected, atol=1e-9)
    found_lengths, found_angles = lattice_to_parameters(lattice)
    np.testing.assert_allclose(found_lengths[0], lengths, rtol=1e-12)
    np.testing.assert_allclose(found_angles[0].rad2deg(), angles, rtol=1e-9)


@pytest.mark.parametrize("angles", [(0, 0, 0), (180, 90, 90), (30, 30, 120), (90, 0, 180)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_impossible_angles_give_finite_cells(angles, dtype):
    radians = torch.deg2rad(torch.tensor([angles], dtype=dtype)).requires_grad_()
    lattice = parameters_to_lattice(torch.full((1, 3), 4.0, dtype=dtype), radians)
    lattice.sum().backward()
    assert torch.isfinite(lattice).all()
    assert torch.isfinite(radians.grad).all()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-4), (torch.float64, 1e-10)])
def test_fractions_round_trip(dtype, tolerance):
    lattice = random_lattices(0).to(dtype)
    frac = torch.rand(len(lattice), 5, 3, dtype=dtype)
    back = cart_to_frac(frac_to_cart(frac, lattice), lattice)
    assert (back - frac).abs().max() < tolerance


def test_plane_spacings_agree_with_reciprocal_lattice():
    for lattice in random_lattices(1):
        expected = 1 / np.array(Lattice(lattice.numpy()).reciprocal_lattice_crystallographic.abc)
        np.testing.assert_allclose(plane_spacings(lattice).numpy(), expected, rtol=1e-9)
    assert plane_spacings(torch.ones(1, 3, 3)).max() == 0


@pytest.mark.parametrize("margin", [0.0, 0.02])
def test_wrap_stays_in_range_and_keeps_the_point(margin):
    frac = torch.tensor([[-1e-9, 0.999999, 1.0], [-0.01, 2.5, -3.75], [0.3, 0.0, -0.0]])
    wrapped = wrap_frac(frac, margin)
    assert (wrapped >= -margin).all()
    assert (wrapped < 1 - margin).all()
    whole = frac - wrapped
    assert (whole - whole.round()).abs().max() < 1e-6


def test_standard_orientation_keeps_lengths_and_angles():
    lattice = random_lattices(2)
    turned = standard_orientation(lattice)
    for a, b in zip(lattice_to_parameters(lattice), lattice_to_parameters(turned), strict=True):
        torch.testing.assert_close(a, b)
    assert (torch.linalg.det(turned) > 0).all()


@settings(max_examples=20, deadline=None)
@given(seed=seeds, shears=st.integers(0, 5))
def test_reduction_spans_the_same_lattice_with_the_shortest_vectors(seed, shears):
    plain = random_lattices(seed)
    reduced = reduce_lattice(random_lattices(seed, shears=shears))
    change = reduced @ torch.linalg.inv(plain)
    assert (change - change.round()).abs().max() < 1e-6
    torch.testing.assert_close(torch.linalg.det(change).abs(), torch.ones(len(plain)).double())
    # Minkowski: no vector gets shorter by adding others, and successive minima agree with pymatgen
    lengths = reduced.norm(dim=-1)
    steps = torch.arange(-2, 3, dtype=plain.dtype)
    whole = torch.cartesian_prod(steps, steps, steps)
    combined = (whole @ reduced).norm(dim=-1)  # (B, 125)
    for axis in range(3):
        with_axis = combined[:, whole[:, axis].abs() == 1]
        assert (with_axis.amin(-1) >= lengths[:, axis] * (1 - 1e-9)).all()
    niggli = Lattice(plain[0].numpy()).get_niggli_reduced_lattice(1e-8)
    np.testing.assert_allclose(sorted(niggli.abc), lengths[0].numpy(), rtol=1e-5)


@settings(max_examples=25, deadline=None)
@given(seed=seeds, shears=st.integers(0, 4), scale=st.floats(0.1, 100.0))
def test_nearest_image_is_the_shortest_of_many(seed, shears, scale):
    lattice = random_lattices(seed, shears=shears)
    generator = torch.Generator().manual_seed(seed)
    delta = torch.randn(len(lattice), 10, 3, generator=generator, dtype=torch.float64) * scale
    shortest = NearestImage.of(lattice)(delta)
    whole = (shortest - delta) @ torch.linalg.inv(lattice)
    assert (whole - whole.round()).abs().max() < 1e-6
    reduced = reduce_lattice(lattice)
    for i in range(len(lattice)):
        expected = brute_shortest(delta[i], reduced[i])
        torch.testing.assert_close(shortest[i].norm(dim=-1), expected, rtol=0, atol=1e-8)


def test_nearest_image_agrees_with_pymatgen():
    lattice = random_lattices(3, shears=2)
    a, b = torch.rand(2, len(lattice), 6, 3, dtype=torch.float64)
    found = NearestImage.of(lattice)((b - a) @ lattice).norm(dim=-1)
    for i in range(len(lattice)):
        cell = Lattice(lattice[i].numpy()).get_niggli_reduced_lattice(1e-8)
        # pymatgen looks at 27 images, which is enough in the reduced cell only
        cart_a, cart_b = (a[i] @ lattice[i]).numpy(), (b[i] @ lattice[i]).numpy()
        turned = Lattice(reduce_lattice(lattice)[i].numpy())
        expected = turned.get_all_distances(
            turned.get_fractional_coords(cart_a), turned.get_fractional_coords(cart_b)
        ).diagonal()
        assert cell.volume == pytest.approx(turned.volume)
        np.testing.assert_allclose(found[i].numpy(), expected, atol=1e-8)


def test_orthogonal_cells_need_no_further_images():
    assert NearestImage.of(torch.diag(torch.tensor([3.0, 4.0, 5.0]))[None]).shifts.shape[1] == 1


def test_reduction_ends_on_broken_cells():
    flat = torch.tensor([[1.0, 0, 0], [2, 0, 0], [math.pi, 0, 0]])
    broken = torch.stack([flat, torch.full((3, 3), math.nan), torch.zeros(3, 3)])
    assert reduce_lattice(broken).shape == (3, 3, 3)
