"""The U-Net: shapes, gradients, the published size, and that it learns what it is for."""

import pytest
import torch
from torch.nn import functional as F

from baselines.voxel_icsg3d.losses import (
    VoxelLosses,
    inverse_frequency_weights,
    occupancy_loss,
    released_species_loss,
    weighted_species_loss,
)
from baselines.voxel_icsg3d.unet import AtomUNet

SMALL = (4, 8, 8, 16)  # two levels and the bottom


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_the_published_network_has_its_published_size():
    """By hand: 27 n m + m a convolution, 2 m a normalisation, n m + m a head."""
    convolutions = [
        (4, 32), (32, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 512), (512, 512),
        (768, 512), (512, 256), (384, 256), (256, 128), (192, 128), (128, 128),
    ]  # fmt: skip
    by_hand = sum(27 * n * m + 3 * m for n, m in convolutions) + (128 + 1) * 96
    assert parameters(AtomUNet()) == by_hand == 31_156_800


@pytest.mark.parametrize(("widths", "resolution"), [(SMALL, 8), (SMALL, 12), ((4, 8, 8), 6)])
def test_shapes(widths, resolution):
    network = AtomUNet(widths, num_classes=7).eval()
    channels = torch.randn(2, 4, *(resolution,) * 3)
    said = network(channels)
    assert said.species.shape == (2, 7, *(resolution,) * 3)
    assert said.occupancy.shape == (2, *(resolution,) * 3)
    sizes = [(f.shape[1], f.shape[-1]) for f in network.features(channels)]
    levels = len(widths) - 2
    assert sizes == [
        *((widths[i + 1], resolution // 2**i) for i in range(levels)),
        (widths[-1], resolution // 2**levels),
    ]


def test_too_few_widths_are_refused():
    with pytest.raises(ValueError, match="at least 3"):
        AtomUNet((8, 16))


def test_features_are_what_the_second_activation_gives():
    network = AtomUNet(SMALL).eval()
    channels = torch.randn(1, 4, 8, 8, 8)
    seen = []
    for block in (*network.down, network.bottom):
        block.second.register_forward_hook(lambda module, args, out: seen.append(out.relu()))
    network(channels)
    for found, wanted in zip(network.features(channels), seen, strict=False):
        torch.testing.assert_close(found, wanted)
        assert (found >= 0).all()
        assert (found > 0).any()


def test_species_of_some_voxels_are_those_of_all():
    network = AtomUNet(SMALL, num_classes=7).eval()
    channels = torch.randn(2, 4, 8, 8, 8)
    chosen = torch.rand(2, 8, 8, 8) < 0.2
    some = network.species_at(network.trunk(channels).movedim(1, -1)[chosen])
    torch.testing.assert_close(some, network(channels).species.movedim(1, -1)[chosen])


def test_every_parameter_learns():
    network = AtomUNet(SMALL, num_classes=7)
    said = network(torch.randn(2, 4, 8, 8, 8))
    (said.species.square().mean() + said.occupancy.square().mean()).backward()
    idle = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    # a constant before a normalisation changes nothing at all
    assert all(name.endswith("bias") for name in idle), idle
    assert all(p.grad is not None for p in network.parameters())


def blobs() -> tuple[torch.Tensor, torch.Tensor]:
    """Channels and labels of two grids with two atoms each, heavy and light."""
    steps = torch.arange(8.0)
    grid = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij"))  # (3, D, D, D)
    density, species = torch.zeros(2, 8, 8, 8), torch.zeros(2, 8, 8, 8, dtype=torch.long)
    places = [[((2, 2, 2), 1), ((5, 5, 4), 5)], [((2, 5, 3), 3), ((5, 1, 5), 6)]]
    for i, atoms in enumerate(places):
        for centre, number in atoms:
            distance = (grid - torch.tensor(centre)[:, None, None, None]).norm(dim=0)
            density[i] += number * torch.exp(-(distance**2) / 2)
            species[i][distance < 1.5] = number
    return torch.cat([density[:, None], grid.expand(2, -1, -1, -1, -1)], dim=1), species


@pytest.mark.parametrize("class_weights", [True, False])
def test_it_learns_one_batch_by_heart(class_weights):
    torch.manual_seed(0)
    channels, species = blobs()
    network = AtomUNet((8, 16, 16, 32), num_classes=7)
    weights = inverse_frequency_weights(torch.bincount(species.flatten(), minlength=7).float())
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=100)
    labelled = species > 0
    for _ in range(100):
        said = network(channels)
        if class_weights:
            logits = said.species.movedim(1, -1)[labelled]
            loss = weighted_species_loss(logits, species[labelled], weights)
        else:
            loss = released_species_loss(said.species, species)
        optimizer.zero_grad()
        (loss + occupancy_loss(said.occupancy, labelled)).backward()
        optimizer.step()
        decay.step()
    network.eval()  # the statistics of the normalisation must serve, too
    said = network(channels)
    assert (((said.occupancy > 0) == labelled).float().mean()) > 0.99
    assert (said.species[:, 1:].argmax(1) + 1 == species)[labelled].all()


def test_class_weights_balance_the_classes():
    counts = torch.tensor([1000.0, 30.0, 0.0, 10.0])
    weights = inverse_frequency_weights(counts)
    assert weights[0] == weights[2] == 0
    assert weights[1] * 30 == pytest.approx(float(weights[3] * 10))
    assert (weights * counts)[1:].sum() / counts[1:].sum() == pytest.approx(1.0)


def test_species_losses_against_their_definitions():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 7, 3, 3, 3, generator=generator)
    numbers = torch.randint(0, 7, (2, 3, 3, 3), generator=generator)
    weights = torch.rand(7, generator=generator)
    weights[0] = 0
    log_p = logits.log_softmax(1).gather(1, numbers[:, None])[:, 0]
    assert released_species_loss(logits, numbers) == pytest.approx(float(-7 * log_p.mean()))
    kept = numbers > 0
    found = weighted_species_loss(logits.movedim(1, -1)[kept], numbers[kept], weights)
    assert found == pytest.approx(float(-(weights[numbers] * log_p).sum() / kept.sum()))
    empty = weighted_species_loss(logits.movedim(1, -1)[kept][:0], numbers[kept][:0], weights)
    assert empty == 0


def test_occupancy_loss_is_the_mean_over_voxels():
    logits = torch.tensor([[[[2.0]]], [[[-1.0]]]])
    occupied = torch.tensor([[[[True]]], [[[True]]]])
    wanted = (F.softplus(torch.tensor(-2.0)) + F.softplus(torch.tensor(1.0))) / 2
    assert occupancy_loss(logits, occupied) == pytest.approx(float(wanted))


def test_losses_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="kl must be a weight"):
        VoxelLosses(kl=-1.0)
