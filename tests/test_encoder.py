"""The encoders: what they must not see (order, padding, images) and what they must."""

import math

import numpy as np
import pytest
import torch
from crystals import random_crystals
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice
from torch import nn

from nesf.crystal import CrystalBatch
from nesf.encoder import (
    LENGTH_SCALE,
    PointNetEncoder,
    PublishedEncoder,
    cell_features,
    masked_pool,
    published_mlp,
)
from nesf.mlps import PointNorm


def pointnet(periodic: bool = False, margin: float = 0.02) -> nn.Module:
    torch.manual_seed(0)
    return PointNetEncoder(12, width=32, harmonics=3, periodic=periodic, margin=margin).eval()


def published() -> nn.Module:
    torch.manual_seed(0)
    encoder = PublishedEncoder(12)
    for norm in encoder.modules():
        if isinstance(norm, PointNorm):
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.5, 2)
    return encoder.eval()


ENCODERS = {"pointnet": pointnet, "periodic": lambda: pointnet(True), "published": published}
every_encoder = pytest.mark.parametrize("name", ENCODERS)


def crystals(seed: int = 0) -> CrystalBatch:
    return random_crystals(seed, 5, dtype=torch.float32)


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


@every_encoder
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000))
def test_the_order_of_the_atoms_does_not_matter(name, seed):
    encoder, batch = ENCODERS[name](), crystals(seed)
    draw = torch.rand(batch.mask.shape, generator=torch.Generator().manual_seed(seed))
    order = draw.masked_fill(~batch.mask, 2).argsort(-1)
    shuffled = batch.replace(
        frac_coords=batch.frac_coords.gather(1, order.unsqueeze(-1).expand(-1, -1, 3)),
        atomic_numbers=batch.atomic_numbers.gather(1, order),
    )
    close(encoder(shuffled), encoder(batch))


@every_encoder
@pytest.mark.parametrize("training", [True, False])
def test_padding_does_not_matter(name, training):
    encoder, batch = ENCODERS[name](), crystals()
    encoder.train(training)
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    wider = batch.replace(
        frac_coords=nn.functional.pad(batch.frac_coords, (0, 0, 0, 3), value=0.3),
        atomic_numbers=nn.functional.pad(batch.atomic_numbers, (0, 3), value=7),
        mask=nn.functional.pad(batch.mask, (0, 3)),
    )
    close(encoder(wider), encoder(batch))


@every_encoder
def test_crystals_do_not_see_each_other(name):
    encoder, batch = ENCODERS[name](), crystals()
    alone = torch.cat([encoder(batch.select([i])) for i in range(len(batch))])
    close(alone, encoder(batch))


@every_encoder
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000))
def test_atoms_may_be_given_in_any_cell(name, seed):
    # multiples of 1/64 keep their digits when whole numbers are added
    encoder, batch = ENCODERS[name](), crystals(seed)
    generator = torch.Generator().manual_seed(seed)
    frac = (batch.frac_coords * 64).round() / 64
    whole = torch.randint(-3, 4, frac.shape, generator=generator).float()
    close(
        encoder(batch.replace(frac_coords=frac + whole)), encoder(batch.replace(frac_coords=frac))
    )


def test_the_margin_keeps_atoms_on_one_side_of_a_face():
    batch = crystals()
    batch = batch.replace(frac_coords=torch.full_like(batch.frac_coords, 0.4))
    below, above = (
        batch.replace(frac_coords=batch.frac_coords + torch.tensor([x - 0.4, 0.0, 0.0]))
        for x in (-1e-4, 1e-4)
    )
    kept, jumped = pointnet(margin=0.02), pointnet(margin=0.0)
    assert (kept(below) - kept(above)).abs().max() < 1e-2
    assert (jumped(below) - jumped(above)).abs().max() > 1e-2


@every_encoder
def test_what_the_latent_must_tell(name):
    encoder, batch = ENCODERS[name](), crystals()
    batch = batch.select(batch.num_atoms > 1)
    latent = encoder(batch)
    assert latent.dtype == torch.float32
    other = batch.atomic_numbers % 90 + 1
    changes = {
        "elements": batch.replace(atomic_numbers=other),
        "places": batch.replace(frac_coords=batch.frac_coords * 0.9),
        "cell": batch.replace(lattice=batch.lattice * 1.05),
        "which atom is where": batch.replace(
            atomic_numbers=torch.where(batch.mask, batch.atomic_numbers.roll(1, 1), 0).clamp_min(1)
        ),
    }
    for what, changed in changes.items():
        assert (encoder(changed) - latent).norm(dim=-1).min() > 1e-4, what


@every_encoder
def test_gradients_reach_every_parameter(name):
    encoder, batch = ENCODERS[name]().train(), crystals()
    numbers = 2 * torch.arange(1, batch.mask.numel() + 1).view_as(batch.mask)
    batch = batch.replace(atomic_numbers=numbers, mask=torch.ones_like(batch.mask))
    encoder(batch).square().sum().backward()
    dead = [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []


def test_a_single_crystal_can_be_trained_on():
    # the last batch of an epoch may hold one crystal, which has no batch statistics
    latent = PublishedEncoder(12).train()(crystals().select([0]))
    assert torch.isfinite(latent).all()


def test_the_published_layers():
    sizes = [
        (layer.in_features, layer.out_features)
        for layer in PublishedEncoder().modules()
        if isinstance(layer, nn.Linear)
    ]
    assert sizes == [
        *[(3, 64), (64, 128), (128, 128)],
        (128, 128),
        (256, 512),
        *[(518, 256), (256, 256), (256, 192)],
    ]
    names = [type(layer).__name__ for layer in published_mlp([3, 4, 5], dropout=0.3)]
    assert names == ["Linear", "ReLU", "PointNorm", "Dropout", "Linear"]


def test_masked_pool_against_a_loop():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 5, 3, generator=generator)
    mask = torch.arange(5) < torch.tensor([[5], [1], [0], [3]])
    for row, (values, keep) in enumerate(zip(x.numpy(), mask.numpy(), strict=True)):
        some = values[keep]
        largest = some.max(0) if len(some) else np.zeros(3)
        mean = some.mean(0) if len(some) else np.zeros(3)
        pooled = masked_pool(x, mask)[row].numpy()
        np.testing.assert_allclose(pooled, np.concatenate([largest, mean]), atol=1e-6)
        np.testing.assert_array_equal(masked_pool(x, mask, mean=False)[row].numpy(), largest)


def test_cell_features_against_pymatgen():
    batch = crystals()
    for features, matrix in zip(cell_features(batch.lattice), batch.lattice, strict=True):
        cell = Lattice(matrix.numpy())
        lengths = np.array(cell.lengths) / LENGTH_SCALE - 1
        angles = np.radians(cell.angles) - math.pi / 2
        np.testing.assert_allclose(features.numpy(), [*lengths, *angles], atol=1e-5)
    cubic = LENGTH_SCALE * torch.eye(3).unsqueeze(0)
    torch.testing.assert_close(cell_features(cubic), torch.zeros(1, 6), atol=1e-6, rtol=0)
