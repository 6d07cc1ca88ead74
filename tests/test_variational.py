"""The variational encoder: its distribution, the KL divergence, its prior, and what it is told."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from crystals import random_crystals
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from nesf.api import Model
from nesf.autoencoder import NeSF
from nesf.checkpoint import load_model, model_entry, save_model
from nesf.crystal import CrystalBatch, standardised
from nesf.encoder import FIRST_LOG_VARIANCE, LOG_VARIANCE_RANGE, Posterior
from nesf.errors import InputError
from nesf.generation import commands as generate
from nesf.generation.latent_sources import has_prior
from nesf.objective import LossOptions, kl_divergence, loss_parts, total_loss
from nesf.queries import CellQueries
from nesf.random import generator_for
from nesf.training import FieldTraining, OptimizerOptions

ROOT = Path(__file__).resolve().parents[1]
L = 16
TINY = {
    "latent_dim": L,
    "encoder_width": 32,
    "position_widths": [32, 32],
    "species_widths": [32],
    "harmonics": 3,
    "encoder_harmonics": 3,
}


def tiny(variational: bool = True, **options) -> NeSF:
    torch.manual_seed(0)
    return NeSF(**{**TINY, "variational": variational, **options}).eval()


def training(kl: float = 1e-3) -> FieldTraining:
    queries = CellQueries(16, 16, species=8)
    return FieldTraining(tiny(), queries=queries, losses=LossOptions(kl=kl))


def crystals(count: int = 4) -> CrystalBatch:
    return standardised(random_crystals(0, count, dtype=torch.float32))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def posterior(seed: int = 0, scale: float = 1.0) -> Posterior:
    draw = scale * torch.randn(2, 3, L, generator=seeded(seed))
    return Posterior(draw[0], draw[1])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.0, 2.0))
def test_kl_against_torch_distributions(seed, scale):
    said = posterior(seed, scale)
    normal = torch.distributions.Normal(said.mean, (0.5 * said.log_variance).exp())
    prior = torch.distributions.Normal(torch.zeros(()), torch.ones(()))
    expected = torch.distributions.kl_divergence(normal, prior).sum(-1).mean()
    torch.testing.assert_close(kl_divergence(said), expected, rtol=1e-4, atol=1e-4)


def test_kl_is_0_for_the_prior_alone():
    blank = torch.zeros(3, L)
    assert kl_divergence(Posterior(blank, blank)) == 0
    assert kl_divergence(Posterior(blank + 0.1, blank)) > 0
    assert kl_divergence(Posterior(blank, blank - 0.1)) > 0


def test_draws_have_the_mean_and_deviation_that_were_said():
    said = posterior()
    generator = seeded(1)
    draws = torch.stack([said.sample(generator) for _ in range(4000)])
    deviation = (0.5 * said.log_variance).exp()
    error = (draws.mean(0) - said.mean) / deviation
    assert error.abs().max() < 5 / math.sqrt(4000)
    np.testing.assert_allclose(draws.std(0) / deviation, 1.0, atol=0.06)


def test_gradients_reach_mean_and_variance_through_a_draw():
    said = posterior()
    mean, log_variance = said.mean.requires_grad_(True), said.log_variance.requires_grad_(True)
    Posterior(mean, log_variance).sample(seeded()).square().sum().backward()
    assert mean.grad is not None
    assert log_variance.grad is not None
    assert (mean.grad != 0).all()
    assert (log_variance.grad != 0).all()


@pytest.mark.parametrize("encoder", ["pointnet", "published"])
def test_encode_gives_the_mean(encoder):
    model = tiny(encoder=encoder)
    said = model.posterior(crystals())
    assert torch.equal(model.encode(crystals()), said.mean)
    assert said.mean.shape == said.log_variance.shape == (4, L)
    # a fresh one is as sure of every latent
    assert (said.log_variance == FIRST_LOG_VARIANCE).all()


def test_extreme_outputs_stay_finite():
    said = Posterior.of(torch.full((2, 2 * L), 1e6))
    assert (said.log_variance == LOG_VARIANCE_RANGE[1]).all()
    small = Posterior.of(torch.full((2, 2 * L), -1e3))
    assert torch.isfinite(small.sample(seeded())).all()
    assert torch.isfinite(kl_divergence(small))


def test_training_draws_and_validation_does_not():
    module = training()
    batch = crystals()
    module.train()
    generator = seeded()
    asked = module.queries(batch, generator, module.model.margin)
    latent = module.model.posterior(batch).sample(generator)
    drawn = loss_parts(module.model, batch, latent, asked, module.losses)
    assert module.loss_parts(batch, seeded())["position"] == drawn["position"]
    module.eval()
    sure = loss_parts(module.model, batch, module.model.encode(batch), asked, module.losses)
    assert module.loss_parts(batch, seeded())["position"] == sure["position"] != drawn["position"]


def test_the_loss_holds_the_weighted_divergence():
    module = training(kl=0.25).eval()
    parts = module.loss_parts(crystals(), seeded())
    said = module.model.posterior(crystals())
    assert parts["kl"] == kl_divergence(said)
    without = {name: value for name, value in parts.items() if name != "kl"}
    difference = total_loss(parts, module.losses) - total_loss(without, module.losses)
    assert difference.item() == pytest.approx(0.25 * parts["kl"].item(), rel=1e-4)


def test_a_plain_encoder_has_no_divergence():
    queries = CellQueries(16, 16, species=8)
    parts = FieldTraining(tiny(variational=False), queries=queries).loss_parts(crystals(), seeded())
    assert "kl" not in parts


def test_learning_brings_latents_to_the_prior():
    """With the divergence alone to be minimised, mean 0 and variance 1 are what is learned."""
    names = ("position", "species", "cell", "count", "elements")
    losses = LossOptions(**dict.fromkeys(names, 0.0), kl=1.0)
    options = OptimizerOptions(kind="adamw", lr=1e-2, weight_decay=0.0)
    module = FieldTraining(tiny(), CellQueries(4, 4, species=4), losses=losses, optimizer=options)
    optimizer = options.build(module.train())
    batch = crystals()
    begun = kl_divergence(module.model.posterior(batch))
    for step in range(60):
        optimizer.zero_grad()
        parts = module.loss_parts(batch, generator_for(0, step))
        total_loss(parts, losses).backward()
        optimizer.step()
    left = kl_divergence(module.model.posterior(batch))
    assert left < 0.05 * begun


@pytest.mark.parametrize(("kl", "variational"), [(1e-3, False), (0.0, True)])
def test_weight_and_encoder_must_agree(kl, variational):
    with pytest.raises(ValueError, match=r"losses\.kl"):
        FieldTraining(tiny(variational), losses=LossOptions(kl=kl))


@pytest.mark.parametrize("kl", [-1.0, math.nan, math.inf])
def test_bad_weights_are_refused(kl):
    with pytest.raises(ValueError, match="kl must be a weight"):
        LossOptions(kl=kl)


def test_the_prior_is_standard_normal_and_seeded():
    model = tiny()
    draw = model.sample_latents(5000, seeded())
    assert draw.shape == (5000, L)
    assert torch.equal(draw, model.sample_latents(5000, seeded()))
    assert draw.mean(0).abs().max() < 0.08
    np.testing.assert_allclose(draw.std(0), 1.0, atol=0.06)
    with pytest.raises(ValueError, match="condition"):
        model.sample_latents(2, seeded(), condition=1)


def test_a_plain_model_has_no_prior():
    plain = tiny(variational=False)
    assert not has_prior(Model(plain))
    assert has_prior(Model(tiny()))
    with pytest.raises(ValueError, match="no prior"):
        plain.sample_latents(2, seeded())
    with pytest.raises(ValueError, match="one latent"):
        plain.posterior(crystals())


def test_saved_and_loaded(tmp_path):
    model = tiny()
    path = tmp_path / "model.safetensors"
    entry = model_entry("nesf.autoencoder.NeSF", model.init_args)
    save_model(path, entry["model"], model.state_dict())
    loaded = load_model(path)
    assert loaded.variational
    assert torch.equal(loaded.encode(crystals()), model.encode(crystals()))


def test_models_from_before_the_option_are_plain():
    """The shipped ones were saved without it."""
    model = load_model("lcs6")
    assert not model.variational
    assert load_file(ROOT / "nesf/weights/lcs6.safetensors")["encoder.leave.2.weight"].shape[0] == (
        model.latent_dim
    )


@pytest.fixture
def weights(tmp_path) -> str:
    model = tiny()
    path = tmp_path / "model.safetensors"
    entry = model_entry("nesf.autoencoder.NeSF", model.init_args)
    save_model(path, entry["model"], model.state_dict())
    return str(path)


def test_sample_needs_no_crystals(weights, tmp_path):
    """An untrained network makes no sound crystals; each of them counts all the same."""
    output = tmp_path / "new.jsonl"
    code = generate.sample_files(weights, str(output), 5, picture=False, progress=False)
    assert code in (0, 1)
    with (tmp_path / "new.validity.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 5


def test_sample_of_a_property_is_refused_in_a_sentence(weights, tmp_path):
    with pytest.raises(InputError, match="no property"):
        generate.sample_files(weights, str(tmp_path / "new"), 5, property_bin=1, progress=False)


def test_config_is_a_variational_lcs6():
    ours, plain = (
        yaml.safe_load((ROOT / "configs/nesf" / name).read_text())
        for name in ("variational.yaml", "lcs6.yaml")
    )
    arguments = ours["model"]["init_args"]
    assert arguments["model"]["init_args"].pop("variational") is True
    assert arguments.pop("losses")["kl"] > 0
    assert ours["model"] == plain["model"]
    assert ours["data"] == plain["data"]
