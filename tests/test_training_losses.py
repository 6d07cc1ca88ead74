"""The parts of the training loss, step by step against numpy; the options; the schedules."""

import dataclasses
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from crystals import random_crystals

from nesf.autoencoder import NeSF
from nesf.crystal import CrystalBatch, standardised
from nesf.exact import exact_fields
from nesf.objective import LossOptions, total_loss
from nesf.queries import CellQueries, PublishedQueries
from nesf.training import FieldTraining, OptimizerOptions

TINY = {
    "latent_dim": 16,
    "encoder_width": 16,
    "position_widths": [16, 16],
    "species_widths": [16],
    "harmonics": 2,
    "encoder_harmonics": 2,
    "max_atoms": 10,
}


def training(losses: LossOptions | None = None, queries=None, **model) -> FieldTraining:
    torch.manual_seed(0)
    return FieldTraining(
        NeSF(**{**TINY, **model}),
        queries=queries or CellQueries(16, 16, species=8),
        losses=losses or LossOptions(),
    )


def crystals() -> CrystalBatch:
    return standardised(random_crystals(0, 5, dtype=torch.float32))


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def parts_of(module: FieldTraining) -> dict[str, float]:
    with torch.no_grad():
        return {k: v.item() for k, v in module.loss_parts(crystals(), seeded()).items()}


def answers(module: FieldTraining) -> dict[str, np.ndarray]:
    """What the network and the exact fields say at the queries of `loss_parts`."""
    batch = crystals()
    asked = module.queries(batch, seeded(), module.model.margin)
    exact = exact_fields(batch, module.model.periodic, margin=module.model.margin)
    with torch.no_grad():
        latent = module.model.encode(batch)
        position, species = asked.position[0].query, asked.species[0].query
        heads = module.model.heads(latent)
        return {
            "predicted": module.model.position_decoder(latent, position, batch.lattice).numpy(),
            "offset": exact.position(position).numpy(),
            "logits": module.model.species_decoder(latent, species, batch.lattice).numpy(),
            "species": exact.species(species).argmax(-1).numpy(),
            "count": heads.count.numpy(),
            "lattice": heads.lattice.numpy(),
            "cell": heads.cell.numpy(),
        }


def cross_entropy(logits: np.ndarray, classes: np.ndarray) -> float:
    log_p = logits - np.log(np.exp(logits.astype(float)).sum(-1, keepdims=True))
    return -np.take_along_axis(log_p, classes[..., None], -1).mean()


@pytest.mark.parametrize("periodic", [False, True])
def test_field_losses_against_numpy(periodic):
    module = training(periodic=periodic)
    parts, said = parts_of(module), answers(module)
    error = np.linalg.norm(said["predicted"] - said["offset"], axis=-1)
    distance = np.linalg.norm(said["offset"], axis=-1)
    assert parts["position_error"] == pytest.approx(error.mean(), rel=1e-4)
    assert parts["position"] == pytest.approx((error / (0.1 + 0.5 * distance)).mean(), rel=1e-4)
    expected = cross_entropy(said["logits"], said["species"])
    assert parts["species"] == pytest.approx(expected, rel=1e-4)


def test_head_losses_against_numpy():
    module = training()
    parts, said = parts_of(module), answers(module)
    expected = cross_entropy(said["count"], crystals().num_atoms.numpy())
    assert parts["count"] == pytest.approx(expected, rel=1e-4)
    structures = crystals().to_structures()
    lengths = np.array([s.lattice.abc for s in structures]) / 5 - 1
    angles = np.radians([s.lattice.angles for s in structures]) - math.pi / 2
    error = np.abs(said["cell"] - np.concatenate([lengths, angles], axis=1))
    huber = np.where(error < 0.02, error**2 / 0.04, error - 0.01)
    assert parts["cell"] == pytest.approx(huber.mean(), rel=1e-3)


def test_published_losses_are_in_angstrom_and_radians():
    module = training(LossOptions(position_kind="squared", cell_kind="squared"))
    parts, said = parts_of(module), answers(module)
    expected = ((said["predicted"] - said["offset"]) ** 2).mean()
    assert parts["position"] == pytest.approx(expected, rel=1e-4)
    structures = crystals().to_structures()
    lengths = (said["cell"][:, :3] + 1) * 5 - [s.lattice.abc for s in structures]
    angles = said["cell"][:, 3:] + math.pi / 2 - np.radians([s.lattice.angles for s in structures])
    expected = (lengths**2).mean() + (angles**2).mean()
    assert parts["cell"] == pytest.approx(expected, rel=1e-3)


def test_published_queries_weigh_every_query_alike():
    queries = PublishedQueries(box=((0.0, 0.0, 0.0), (2.0, 2.0, 2.0)), species_side=2)
    module = training(LossOptions(position_kind="squared"), queries)
    batch = crystals()
    block = queries(batch, seeded(), module.model.margin).position[0]
    exact = exact_fields(batch, periodic=False, margin=0.02)
    squares: list[np.ndarray] = []
    with torch.no_grad():
        latent = module.model.encode(batch)
        for i in range(len(batch)):
            query = block.query[block.crystal == i].reshape(1, -1, 3)
            said = module.model.position_decoder(latent[[i]], query, batch.lattice[[i]])
            true = exact.select([i]).position(query)
            squares.append(((said - true) ** 2).numpy().ravel())
    # crystals of many atoms have many queries, and count for so many
    assert parts_of(module)["position"] == pytest.approx(np.concatenate(squares).mean(), rel=1e-4)


def test_exact_answers_cost_nothing():
    module = training()
    batch = crystals()
    exact = exact_fields(batch, periodic=False, margin=0.02)
    module.model.position_decoder.forward = lambda latent, query, cell: exact.position(query)
    module.model.species_decoder.forward = lambda latent, query, cell: exact.species(query)
    parts = parts_of(module)
    assert parts["position"] == pytest.approx(0, abs=1e-6)
    assert parts["position_error"] == pytest.approx(0, abs=1e-6)
    assert parts["species"] == pytest.approx(0, abs=1e-6)


def test_the_total_is_the_weighted_sum():
    weights = {"position": 2.0, "species": 3.0, "cell": 5.0, "count": 7.0, "elements": 11.0}
    module = training(LossOptions(**weights))
    parts = module.loss_parts(crystals(), seeded())
    expected = sum(weight * parts[name].item() for name, weight in weights.items())
    assert total_loss(parts, module.losses).item() == pytest.approx(expected, rel=1e-5)


def test_gradients_reach_every_parameter_of_every_model():
    published = {
        "encoder": "published",
        "conditioning": "concat",
        "coordinates": "cartesian",
        "harmonics": 0,
    }
    for options in ({}, {"periodic": True}, published):
        module = training(**options)
        total_loss(module.loss_parts(crystals(), seeded()), module.losses).backward()
        dead = [n for n, p in module.named_parameters() if p.grad is None or not p.grad.any()]
        assert dead == [], options


def test_larger_crystals_than_the_count_head_knows():
    parts = parts_of(training(max_atoms=2))
    assert math.isfinite(parts["count"])


def test_the_loss_is_the_same_from_the_same_generator():
    module = training()
    assert parts_of(module) == parts_of(module)
    other = module.loss_parts(crystals(), torch.Generator().manual_seed(1))
    assert other["position"].item() != parts_of(module)["position"]


def test_autocast_leaves_the_loss_nearly_as_it_is():
    module = training(periodic=True)
    exact = parts_of(module)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = parts_of(module)
    assert rounded == {name: pytest.approx(value, rel=0.02) for name, value in exact.items()}


def test_cosine_schedule():
    options = OptimizerOptions(warmup_steps=10, final_lr=0.1)
    factors = [options.factor(step, step / 1000, 100) for step in range(1001)]
    assert factors[0] == pytest.approx(0.1, rel=0.01)
    assert max(factors) == max(factors[8:12])
    assert factors[500] == pytest.approx(0.55)
    assert factors[1000] == pytest.approx(0.1)
    assert all(a >= b for a, b in pairwise(factors[10:]))
    assert options.factor(5000, 1.0, 100) == pytest.approx(0.1)


def test_halving_schedule():
    options = OptimizerOptions(schedule="halving", warmup_steps=0, halving_epochs=640)
    epochs = (0, 639, 640, 1279, 1280, 3199)
    factors = [options.factor(84 * epoch, epoch / 3200, 84) for epoch in epochs]
    assert factors == [1, 1, 0.5, 0.5, 0.25, 0.0625]
    constant = OptimizerOptions(schedule="constant", warmup_steps=0)
    assert constant.factor(12345, 1.0, 10) == 1


@pytest.mark.parametrize(
    ("kind", "expected"), [("muon", "MuonAdamW"), ("adamw", "AdamW"), ("adam", "Adam")]
)
def test_optimizers_are_built_as_asked(kind, expected):
    module = training()
    optimizer = OptimizerOptions(kind=kind, lr=0.02).build(module.model)
    assert type(optimizer).__name__ == expected
    assert {group["lr"] for group in optimizer.param_groups} == {0.02}
    held = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
    assert held == sum(p.numel() for p in module.model.parameters())


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (LossOptions, "position", -1.0),
        (LossOptions, "species", math.nan),
        (LossOptions, "cell", math.inf),
        (LossOptions, "count", -0.1),
        (LossOptions, "elements", -0.1),
        (OptimizerOptions, "lr", 0.0),
        (OptimizerOptions, "muon_lr", -1.0),
        (OptimizerOptions, "weight_decay", -0.1),
        (OptimizerOptions, "warmup_steps", -1),
        (OptimizerOptions, "final_lr", 1.5),
        (OptimizerOptions, "halving_epochs", 0),
    ],
)
def test_nonsense_is_refused_by_name(kind, name, value):
    with pytest.raises(ValueError, match=name):
        dataclasses.replace(kind(), **{name: value})


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_clipped_gradients_need_plain_steps(kind):
    options = OptimizerOptions(kind=kind)
    module = torch.nn.Linear(2, 2)
    assert not options.build(module, clipped=True).defaults["fused"]
    assert options.build(module).defaults["fused"]
