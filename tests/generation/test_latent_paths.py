"""Latents between two, around one and from a fitted normal."""

from __future__ import annotations

import pytest
import torch
from generating import Conditional
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_in_model import StandIn
from torch import Tensor

from nesf.generation.latent_paths import (
    LatentGaussian,
    condition_dims,
    linear,
    prior_spread,
    spherical,
)

LATENTS = st.tuples(st.integers(0, 10_000), st.integers(2, 9), st.integers(2, 12))


def pair(seed: int, dim: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(2, dim, generator=generator))  # type: ignore[return-value]


@settings(max_examples=30, deadline=None)
@given(LATENTS)
def test_paths_have_exact_ends_and_even_steps(case):
    seed, steps, dim = case
    first, last = pair(seed, dim)
    for path in (linear(first, last, steps), spherical(first, last, steps)):
        assert path.shape == (steps, dim)
        assert torch.equal(path[0], first)
        assert torch.equal(path[-1], last)
    gaps = linear(first, last, steps).diff(dim=0)
    torch.testing.assert_close(gaps, gaps[:1].expand_as(gaps), rtol=1e-3, atol=1e-5)
    path = spherical(first, last, steps)
    lengths = path.norm(dim=-1)
    expected = torch.linspace(float(first.norm()), float(last.norm()), steps)
    torch.testing.assert_close(lengths, expected, rtol=1e-3, atol=1e-4)
    unit = (path / lengths.unsqueeze(-1)).double()
    angles = (unit[1:] * unit[:-1]).sum(-1).clamp(-1, 1).arccos()
    torch.testing.assert_close(angles, angles[:1].expand_as(angles), rtol=1e-2, atol=1e-3)


def test_a_great_circle_that_is_none_is_a_line():
    one = torch.tensor([1.0, 2.0])
    for other in (2 * one, -one, torch.zeros(2)):
        torch.testing.assert_close(spherical(one, other, 5), linear(one, other, 5))


def test_a_fitted_normal_has_their_mean_and_covariance():
    generator = torch.Generator().manual_seed(0)
    mixing = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.3, 0.0], [0.0, 0.0, 2.0]])
    data = torch.randn(4000, 3, generator=generator) @ mixing.T + torch.tensor([1.0, -2.0, 0.5])
    fitted = LatentGaussian.fit(data)
    torch.testing.assert_close(fitted.mean, data.mean(0))
    covariance = fitted.factor @ fitted.factor.T
    torch.testing.assert_close(covariance, mixing @ mixing.T, atol=0.15, rtol=0)
    assert torch.equal(fitted.latent_of(torch.zeros(3)), fitted.mean)
    # fewer latents than dimensions, and latents that are all the same
    for few in (torch.randn(2, 50, generator=generator), torch.ones(3, 5)):
        assert LatentGaussian.fit(few).latent_of(torch.ones(few.shape[1])).isfinite().all()


def test_the_condition_is_no_part_of_the_prior():
    module = Conditional()
    spread = prior_spread(module)
    told = condition_dims(module, torch.zeros(1, len(spread)))
    assert told.tolist() == [False] * (len(spread) - 3) + [True] * 3
    assert spread[:9] == pytest.approx(0.01, rel=0.05)
    assert spread[told].max() == 0
    assert not condition_dims(StandIn(), torch.zeros(1, 7)).any()
