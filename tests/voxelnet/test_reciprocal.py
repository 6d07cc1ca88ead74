"""The Fourier coefficients of periodic Gaussian fields, and what does not change them."""

from __future__ import annotations

import math

import pytest
import torch
from crystals import random_crystals
from hypothesis import given, settings
from hypothesis import strategies as st

from nesf.crystal import CrystalBatch
from nesf.reciprocal import (
    element_weights,
    field_coefficients,
    reciprocal_points,
    structure_factors,
)
from nesf.reciprocal_fft import structure_factors_fft


def test_points_are_those_of_the_reciprocal_lattice():
    crystals = random_crystals(0, 4)
    for region, order in (("ball", 2), ("cube", math.inf)):
        points = reciprocal_points(crystals.lattice, 5.0, region)
        for i, lattice in enumerate(crystals.lattice):
            steps = torch.arange(-25, 26, dtype=lattice.dtype)
            everything = torch.cartesian_prod(steps, steps, steps)
            vectors = 2 * math.pi * everything @ torch.linalg.inv(lattice).T
            wanted = vectors[vectors.norm(dim=-1, p=order) <= 5.0]
            mine = points.vectors[i][points.mask[i]]
            assert points.multiplicity[i].sum() == len(wanted)
            both = torch.cat([mine, -mine[(mine != 0).any(-1)]])
            nearest = torch.cdist(wanted, both).min(-1).values  # of squares that cancel
            assert nearest.max() < 1e-6
            # whole phases between cell vectors and points
            turns = mine @ lattice.T / (2 * math.pi)
            assert torch.allclose(turns, points.indices[i][points.mask[i]].to(turns), atol=1e-9)


def test_coefficients_are_the_integral_of_the_real_space_field():
    """(1/V) ∫ ρ exp(-ig·r) over the cell, on a grid of points, with a Gaussian for each image."""
    crystals, sigma = random_crystals(3, 2, 3), 0.4
    points = reciprocal_points(crystals.lattice, 5.0)
    elements, weights = element_weights(crystals)
    found = field_coefficients(crystals, points, weights, sigma, "sum")
    steps = torch.arange(-2, 3, dtype=torch.float64)
    images = torch.cartesian_prod(steps, steps, steps)
    for i, lattice in enumerate(crystals.lattice):
        axes = [torch.arange(n, dtype=torch.float64) / n for n in _fine(lattice)]
        where = torch.cartesian_prod(*axes) @ lattice
        centres = crystals.cart_coords[i][:, None] + images @ lattice  # (N, images, 3)
        for channel in range(int((elements[i] > 0).sum())):
            atoms = centres[weights[i, channel] > 0].flatten(0, 1)
            square = torch.cdist(where, atoms).square()
            field = torch.exp(-square / (2 * sigma**2)).sum(-1)
            field = field / (2 * math.pi * sigma**2) ** 1.5
            vectors = points.vectors[i][points.mask[i]][::7]
            phase = -(where @ vectors.T)
            wanted = torch.complex(
                (field[:, None] * phase.cos()).mean(0), (field[:, None] * phase.sin()).mean(0)
            )
            mine = found[i, channel][points.mask[i]][::7]
            assert torch.allclose(mine, wanted, atol=1e-5 * float(wanted.abs().max()))


def _fine(lattice: torch.Tensor) -> list[int]:
    return [int(length / 0.4) + 4 for length in lattice.norm(dim=-1)]


def test_batches_and_padding_do_not_matter():
    crystals = random_crystals(1, 5)
    points = reciprocal_points(crystals.lattice, 6.0)
    together = field_coefficients(crystals, points, element_weights(crystals)[1], 0.2)
    for i in range(len(crystals)):
        alone = crystals.select([i])
        its = reciprocal_points(alone.lattice, 6.0)
        mine = field_coefficients(alone, its, element_weights(alone)[1], 0.2)
        c, g = mine.shape[1:]
        assert torch.allclose(mine[0], together[i, :c, :g])
        assert (together[i, c:] == 0).all()
        assert (together[i, :, g:] == 0).all()


def test_elements_have_channels_of_their_own():
    numbers = torch.tensor([[8, 26, 8, 3], [11, 0, 0, 0]])
    crystals = CrystalBatch(
        torch.rand(2, 4, 3), numbers, numbers > 0, 4 * torch.eye(3).expand(2, 3, 3), ("a", "b")
    )
    elements, weights = element_weights(crystals)
    assert elements.tolist() == [[3, 8, 26], [11, 0, 0]]
    assert weights[0].tolist() == [[0, 0, 0, 1], [1, 0, 1, 0], [0, 1, 0, 0]]
    assert weights[1].tolist() == [[1, 0, 0, 0], [0] * 4, [0] * 4]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_fft_agrees_with_the_sum(seed):
    crystals = random_crystals(seed, 2, 12)
    points = reciprocal_points(crystals.lattice, 4.0)
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(len(crystals), 2, crystals.mask.shape[1], generator=generator).double()
    weights = weights * crystals.mask[:, None]
    exact = structure_factors(crystals.frac_coords, points.indices, weights)
    fast = structure_factors_fft(crystals.frac_coords, points.indices, weights)
    allowed = 1e-6 * weights.abs().sum(-1, keepdim=True)
    assert ((fast - exact).abs() <= allowed).all()
    single = structure_factors_fft(crystals.frac_coords.float(), points.indices, weights.float())
    assert ((single - exact).abs() <= 10 * allowed).all()


def test_the_sum_is_exact_in_single_precision_far_out():
    """Phases of hundreds of turns keep their fractions."""
    frac = torch.tensor([[[0.1234, 0.7, 0.3]]], dtype=torch.float64)
    indices = torch.tensor([[[400, -300, 250]]])
    ones = torch.ones(1, 1, 1, dtype=torch.float64)
    exact = structure_factors(frac, indices, ones)
    rough = structure_factors(frac.float(), indices, ones.float())
    assert (rough - exact).abs().max() < 1e-3


@pytest.mark.parametrize("region", ["ball", "cube"])
def test_a_crystal_without_points_but_zero_is_its_density(region):
    crystals = random_crystals(2, 2)
    points = reciprocal_points(crystals.lattice, 1e-3, region)
    assert points.multiplicity.tolist() == [[1.0], [1.0]]
    everything = crystals.mask[:, None].double()
    found = field_coefficients(crystals, points, everything, 0.1)
    wanted = crystals.num_atoms / torch.linalg.det(crystals.lattice).abs()
    assert torch.allclose(found[:, 0, 0].real, wanted)
