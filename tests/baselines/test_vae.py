"""The VAE: shapes, gradients, its condition, and that it learns one batch by heart."""

import math

import pytest
import torch
from torch.distributions import Normal
from torch.distributions import kl_divergence as exact_kl

from baselines.voxel_icsg3d.losses import feature_loss, kl_divergence
from baselines.voxel_icsg3d.vae import ConditionalVAE

SMALL = {"widths": (8, 16), "latent_dim": 12, "num_conditions": 3}


def batch(resolution: int = 8, count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    channels = torch.rand(count, 4, *(resolution,) * 3, generator=generator)
    return channels, torch.eye(3)[torch.arange(count) % 3]


@pytest.mark.parametrize("resolution", [16, 32, 48, 64])
def test_shapes_at_the_published_depth(resolution):
    network = ConditionalVAE(resolution, (2, 2, 2, 2), latent_dim=6, num_conditions=3).eval()
    channels, condition = batch(resolution, count=1)
    mean, log_variance = network.encode(channels, condition)
    assert mean.shape == log_variance.shape == (1, 6)
    assert network.decode(mean, condition).shape == channels.shape


def test_the_published_network():
    network = ConditionalVAE()
    assert network.dense.in_features == 4 * 2**3
    assert network.expand.in_features == 256 + 10
    assert network.expand.out_features == 256 == 4 * 4**3
    assert sum(p.numel() for p in network.parameters()) == 825_872


@pytest.mark.parametrize(("resolution", "widths"), [(24, (4, 4, 4, 4)), (8, (4, 4, 4, 4))])
def test_a_resolution_that_cannot_be_halved_is_refused(resolution, widths):
    with pytest.raises(ValueError, match="cannot be halved 4 times"):
        ConditionalVAE(resolution, widths)


def test_published_output_is_positive_and_the_other_is_free():
    channels, condition = batch()
    for output, least in (("relu", 0.0), ("identity", -math.inf)):
        torch.manual_seed(0)
        network = ConditionalVAE(8, output=output, **SMALL)
        decoded = network.decode(network.encode(channels, condition)[0], condition)
        assert decoded.min() >= least
        assert (decoded < 0).any() == (output == "identity")


def test_every_parameter_learns():
    network = ConditionalVAE(8, output="identity", **SMALL)
    channels, condition = batch()
    mean, log_variance = network.encode(channels, condition)
    decoded = network.decode(mean, condition)
    ((decoded - channels).square().mean() + kl_divergence(mean, log_variance)).backward()
    assert all(p.grad is not None for p in network.parameters())
    idle = [n for n, p in network.named_parameters() if not p.grad.any()]
    # a constant before a normalisation changes nothing at all
    assert all(name.endswith("bias") for name in idle), idle


def test_the_condition_is_heard_on_both_sides():
    torch.manual_seed(0)
    network = ConditionalVAE(8, output="identity", **SMALL).eval()
    channels, condition = batch()
    other = condition.roll(1, dims=-1)
    mean, _ = network.encode(channels, condition)
    assert not torch.allclose(mean, network.encode(channels, other)[0])
    decoded = network.decode(mean, condition)
    assert not torch.allclose(decoded, network.decode(mean, other))


def test_it_learns_one_batch_by_heart():
    torch.manual_seed(0)
    steps = torch.arange(8.0) / 8
    grid = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij"))
    scale = torch.tensor([1.0, 1.5, 2.0]).view(3, 1, 1, 1, 1)
    centre = torch.tensor([[0.25] * 3, [0.5] * 3, [0.75] * 3]).view(3, 3, 1, 1, 1)
    density = torch.exp(-((grid - centre).square().sum(1, keepdim=True)) * 20)
    channels, condition = torch.cat([density, grid * scale], dim=1), torch.eye(3)
    network = ConditionalVAE(8, output="identity", **SMALL)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(150):
        mean, log_variance = network.encode(channels, condition)
        noise = torch.randn_like(mean) * (0.5 * log_variance).exp()
        loss = (network.decode(mean + noise, condition) - channels).square().mean()
        optimizer.zero_grad()
        (loss + 3e-4 * kl_divergence(mean, log_variance)).backward()
        optimizer.step()
    network.eval()  # the statistics of the normalisation must serve, too
    with torch.no_grad():
        decoded = network.decode(network.encode(channels, condition)[0], condition)
    assert (decoded - channels).square().mean() < 0.05 * channels.var()


def test_kl_against_torch():
    generator = torch.Generator().manual_seed(0)
    mean, log_variance = torch.randn(2, 5, 7, generator=generator)
    exact = exact_kl(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).sum(-1).mean()
    torch.testing.assert_close(kl_divergence(mean, log_variance), exact)


def test_feature_loss_sums_the_levels():
    found = [torch.zeros(2, 3), torch.ones(2, 4, 5)]
    wanted = [torch.full((2, 3), 2.0), torch.ones(2, 4, 5) + 0.5]
    assert feature_loss(found, wanted) == pytest.approx(4 + 0.25)
