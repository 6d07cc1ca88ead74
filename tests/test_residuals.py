"""The loss as squares: its gradient is the loss's own, by automatic differentiation."""

from __future__ import annotations

import itertools

import pytest
import torch
from crystals import random_crystals
from torch import Tensor

from nesf.autoencoder import NeSF
from nesf.crystal import CrystalBatch, standardised
from nesf.objective import LossOptions, loss_parts, total_loss
from nesf.precision import full_precision
from nesf.queries import CellQueries, TrainingQueries
from nesf.random import generator_for
from nesf.refinement.residuals import Quadratic, Residuals, Weights, random_signs

QUERIES = CellQueries(uniform=9, near=8, species=7, shared=True)
KINDS = [
    {},
    {"conditioning": "concat", "coordinates": "cartesian", "harmonics": 2},
    {"periodic": True},
]


def small(**arguments) -> NeSF:
    torch.manual_seed(0)
    widths = {"position_widths": [16, 16], "species_widths": [16]}
    model = NeSF(latent_dim=8, max_atoms=8, encoder_width=16, **(widths | arguments))
    return model.eval().requires_grad_(False)


def given(model: NeSF) -> tuple[CrystalBatch, Tensor, TrainingQueries]:
    crystals = standardised(random_crystals(1, 4, 4, torch.float32))
    latent = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    return crystals, latent, QUERIES(crystals, generator_for(0, "asked"), model.margin)


def near(model: NeSF, weights: Weights, turn: Tensor) -> Quadratic:
    crystals, latent, asked = given(model)
    with torch.no_grad(), full_precision("cpu"):
        return Residuals(model, turn, weights)(crystals, latent, asked)


@pytest.mark.parametrize("arguments", KINDS)
def test_the_slope_is_the_gradient_of_the_training_loss(arguments: dict) -> None:
    model = small(**arguments)
    crystals, latent, asked = given(model)
    latent.requires_grad_(True)
    weights = LossOptions()
    with full_precision("cpu"):
        parts = loss_parts(model, crystals, latent, asked, weights)
        # the loss is a mean over crystals
        wanted = torch.autograd.grad(total_loss(parts, weights) * len(latent), latent)[0]
    turn = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(2)))[0]
    found = near(model, Weights(), turn)
    # bfloat16 products where they pay
    assert float((found.slope @ turn.mT - wanted).norm() / wanted.norm()) < 0.03


def test_the_curvature_is_that_of_squares() -> None:
    found = near(small(), Weights(), torch.eye(8))
    torch.testing.assert_close(found.curvature, found.curvature.mT)
    assert float(torch.linalg.eigvalsh(found.curvature).amin()) > -1e-4


@pytest.mark.parametrize("arguments", KINDS)
def test_the_mean_over_signs_is_the_whole(arguments: dict) -> None:
    """Of the eight sign vectors four differ by more than their own sign."""
    model = small(**arguments)
    crystals, latent, asked = given(model)
    residuals = Residuals(model, torch.eye(8), Weights())
    queries = asked.position[0].query.shape[1]
    signs = [torch.tensor([1.0, *rest]) for rest in itertools.product((1.0, -1.0), repeat=2)]
    with torch.no_grad(), full_precision("cpu"):
        whole = residuals(crystals, latent, asked)
        parts = [residuals(crystals, latent, asked, one.expand(queries, 3)) for one in signs]
    for name in ("curvature", "slope"):
        mean = torch.stack([getattr(part, name) for part in parts]).mean(0)
        assert float((mean - getattr(whole, name)).norm() / mean.norm()) < 0.02


def test_signs_have_the_mean_square_one() -> None:
    signs = random_signs(4000, torch.Generator().manual_seed(0))
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    torch.testing.assert_close(signs.mT @ signs / 4000, torch.eye(3), atol=0.06, rtol=0.0)


def test_each_part_has_its_weight() -> None:
    model, eye = small(), torch.eye(8)
    names = ("species", "cell", "count", "elements")
    none = near(model, Weights(**dict.fromkeys(names, 0.0)), eye).slope
    for name in names:
        once, twice = (
            near(model, Weights(**(dict.fromkeys(names, 0.0) | {name: value})), eye).slope - none
            for value in (1.0, 2.0)
        )
        assert float(once.norm()) > 1e-3
        torch.testing.assert_close(twice, 2 * once, rtol=0.02, atol=0.02 * float(once.norm()))
