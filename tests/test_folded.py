"""Rounded decoders answer as the ones they are made from, and follow their weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nesf.decoders import PositionField, SpeciesField
from nesf.folded import FoldedMLP, rounded
from nesf.mlps import ConcatMLP, ModulatedMLP


def scattered(module: nn.Module, seed: int = 0) -> nn.Module:
    """With weights and biases that all matter."""
    draw = torch.Generator().manual_seed(seed)
    for weight in module.parameters():
        size = 1 / weight.shape[-1] ** 0.5 if weight.ndim > 1 else 0.3
        weight.data.copy_(size * torch.randn(weight.shape, generator=draw))
    return module.eval().requires_grad_(False)


@pytest.mark.parametrize("depth", [1, 4])
def test_folded_biases_change_nothing(depth: int) -> None:
    """With all arithmetic in float32 there is nothing left but the order of the sums."""
    mlp = scattered(ModulatedMLP(8, 5, [16] * depth, 7))
    draw = torch.Generator().manual_seed(1)
    latent = torch.randn(3, 8, generator=draw)
    features = torch.randn(3, 11, 5, generator=draw)
    torch.testing.assert_close(
        FoldedMLP(mlp, torch.float32)(latent, features), mlp(latent, features)
    )
    with torch.no_grad():  # in place
        given = features.clone()
        torch.testing.assert_close(
            FoldedMLP(mlp, torch.float32)(latent, features), mlp(latent, features)
        )
        assert torch.equal(features, given)


@pytest.mark.parametrize("conditioning", ["modulate", "concat"])
@pytest.mark.parametrize("kind", [PositionField, SpeciesField])
def test_near_the_decoder_itself(kind: type[nn.Module], conditioning: str) -> None:
    decoder = scattered(kind(latent_dim=8, widths=[32, 32], conditioning=conditioning))
    draw = torch.Generator().manual_seed(2)
    latent, query = torch.randn(3, 8, generator=draw), 4 * torch.rand(3, 9, 3, generator=draw)
    lattice = 4 * torch.eye(3).repeat(3, 1, 1)
    exact, found = decoder(latent, query, lattice), None
    with torch.autocast("cpu", torch.bfloat16):
        found = rounded(decoder)(latent, query, lattice)
    assert found.dtype == torch.float32
    assert float((found - exact).norm() / exact.norm()) < 0.03


def test_made_once_and_again_when_weights_change() -> None:
    decoder = scattered(PositionField(latent_dim=4, widths=[8]))
    twin = rounded(decoder)
    assert isinstance(twin.mlp, FoldedMLP)
    assert isinstance(decoder.mlp, ModulatedMLP)
    assert rounded(decoder) is twin
    with torch.no_grad():
        decoder.mlp.leave.weight.mul_(2)
    again = rounded(decoder)
    assert again is not twin
    torch.testing.assert_close(again.mlp.leave_weight, 2 * twin.mlp.leave_weight)
    state = {name: torch.zeros_like(value) for name, value in decoder.state_dict().items()}
    decoder.load_state_dict(state)
    assert float(rounded(decoder).mlp.expand.abs().max()) == 0


def test_a_twin_is_no_part_of_the_decoder() -> None:
    decoder = scattered(PositionField(latent_dim=4, widths=[8], conditioning="concat"))
    names = set(decoder.state_dict())
    twin = rounded(decoder)
    assert isinstance(twin.mlp, ConcatMLP)
    assert set(decoder.state_dict()) == names
    assert all(p.dtype == torch.float32 for p in decoder.parameters())
