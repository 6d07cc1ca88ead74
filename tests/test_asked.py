"""Fields in use: what is kept of a latent for many queries, and when nothing may be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nesf.asked import Asked
from nesf.decoders import PositionField

LATTICE = 4 * torch.eye(3).repeat(3, 1, 1)


def decoder(conditioning: str) -> PositionField:
    torch.manual_seed(0)
    field = PositionField(latent_dim=8, widths=[16, 16], conditioning=conditioning, harmonics=2)
    return field.eval().requires_grad_(False)


def drawn() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    return torch.randn(3, 8, generator=draw), 4 * torch.rand(3, 7, 3, generator=draw)


@pytest.mark.parametrize("conditioning", ["modulate", "concat"])
def test_some_of_the_latents_answer_as_among_all(conditioning: str) -> None:
    latent, query = drawn()
    field = Asked.of(decoder(conditioning), latent, LATTICE)
    index = torch.tensor([2, 0])
    torch.testing.assert_close(field.select(index)(query[index]), field(query)[index])


@pytest.mark.parametrize("conditioning", ["modulate", "concat"])
def test_each_answer_may_be_differentiated_by_the_latent(conditioning: str) -> None:
    """Without what the first derivative has freed."""
    own = decoder(conditioning)
    latent, query = drawn()
    latent.requires_grad_(True)
    field = Asked.of(own, latent, LATTICE)
    for points in (query, query + 0.3):
        (found,) = torch.autograd.grad(field(points).sum(), latent)
        (wanted,) = torch.autograd.grad(own(latent, points, LATTICE).sum(), latent)
        assert float(wanted.norm()) > 0
        # bfloat16 products where they pay
        assert float((found - wanted).norm() / wanted.norm()) < 0.05


def test_weights_that_are_trained_are_asked_as_they_are() -> None:
    latent, query = drawn()
    own = decoder("modulate").requires_grad_(True)
    field = Asked.of(own, latent, LATTICE)
    for _ in range(2):
        field(query).sum().backward()
        assert float(own.mlp.modulation.weight.grad.norm()) > 0
        with torch.no_grad():
            own.mlp.modulation.weight.mul_(0.5)
        own.zero_grad()
