"""The whole model: heads, fields, precision, the published size, and learning by heart."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from crystals import random_crystals, site_errors
from pymatgen.core import Lattice

import nesf.asked
from nesf.autoencoder import Heads, NeSF
from nesf.boxes.cut import BoxOptions
from nesf.crystal import CrystalBatch, standardised
from nesf.objective import LossOptions, total_loss
from nesf.precision import autocast
from nesf.queries import CellQueries
from nesf.training import FieldTraining, OptimizerOptions

PAPER = Path(__file__).resolve().parents[1] / "configs/nesf/paper.yaml"
TINY = {
    "latent_dim": 32,
    "encoder_width": 32,
    "position_widths": [32, 32],
    "species_widths": [32],
    "harmonics": 3,
    "encoder_harmonics": 3,
}


def tiny(**options) -> NeSF:
    torch.manual_seed(0)
    return NeSF(**{**TINY, **options}).eval()


def crystals() -> CrystalBatch:
    return standardised(random_crystals(0, 4, dtype=torch.float32))


def paper_arguments() -> dict:
    config = yaml.safe_load(PAPER.read_text())["model"]["init_args"]
    return config["model"]["init_args"]


def test_head_lattices_against_pymatgen():
    cell = torch.tensor([[0.0, 0.2, -0.3, 0.0, 0.1, -0.2], [1.4, -0.5, 0.3, 0.3, 0.2, 0.1]])
    heads = Heads(cell, torch.zeros(2, 3), torch.zeros(2, 4))
    for matrix, row in zip(heads.lattice, cell.double().numpy(), strict=True):
        expected = Lattice.from_parameters(*(5 * (row[:3] + 1)), *(np.degrees(row[3:]) + 90))
        np.testing.assert_allclose(matrix.numpy(), expected.matrix, atol=1e-4)


def test_head_lattices_are_valid_whatever_the_heads_say():
    cell = 20 * torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    lattice = Heads(cell, torch.zeros(50, 3), torch.zeros(50, 4)).lattice
    assert torch.isfinite(lattice).all()
    assert lattice.norm(dim=-1).min() > 0.499


def test_counts_are_the_most_likely_ones():
    count = torch.tensor([[0.0, 3.0, 1.0], [5.0, 0.0, 2.0]])
    assert Heads(torch.zeros(2, 6), count, torch.zeros(2, 4)).num_atoms.tolist() == [1, 0]


def test_the_published_network_has_the_published_size():
    model = NeSF(**paper_arguments())
    # the heads that the published network does not have get no weight in its loss
    idle = sum(p.numel() for p in model.set_head.parameters())
    size = sum(p.numel() for p in model.parameters()) - idle
    assert 0.765e6 < size < 0.775e6
    features = NeSF(**{**paper_arguments(), "harmonics": 10})
    size = sum(p.numel() for p in features.parameters()) - idle
    assert 0.84e6 < size < 0.87e6


def test_the_paper_configuration_claims_nothing_it_does_not_train():
    model = NeSF(**paper_arguments()).eval()
    fields = model.fields(torch.zeros(1, 192))
    assert fields.num_atoms is None
    assert fields.element_logits is None
    options = model.options
    assert (options.grid_spacing, options.moves, options.max_last_step) == (0.5, 64, 0.9)
    assert (options.min_cluster_size, options.species_queries) == (10, 216)


@pytest.mark.parametrize("options", [{}, {"periodic": True, "count_head": False}])
def test_init_args_are_plain_and_build_the_model_again(options):
    model = tiny(reconstruction={"moves": 3}, **options)
    again = NeSF(**json.loads(json.dumps(model.init_args)))
    again.load_state_dict(model.state_dict())
    again.eval()
    latent = model.encode(crystals())
    assert torch.equal(again.encode(crystals()), latent)
    query = torch.rand(4, 5, 3)
    assert torch.equal(again.fields(latent).position(query), model.fields(latent).position(query))
    assert again.options == model.options
    assert again.options.moves == 3


def test_fields_are_the_decoders_in_the_predicted_cell():
    model = tiny()
    latent = model.encode(crystals())
    fields = model.fields(latent)
    torch.testing.assert_close(fields.lattice, model.heads(latent).lattice)
    torch.testing.assert_close(fields.num_atoms, model.heads(latent).num_atoms)
    query = 5 * torch.rand(4, 6, 3, generator=torch.Generator().manual_seed(0))
    expected = model.position_decoder(latent, query, fields.lattice)
    assert (fields.position(query) - expected).norm() < 0.05 * expected.norm()
    true = crystals().lattice
    given = model.fields(latent, true)
    assert torch.equal(given.lattice, true)
    expected = model.species_decoder(latent, query, true)
    assert (given.species(query) - expected).norm() < 0.05 * expected.norm()


def test_selected_fields_are_those_of_the_selected_crystals():
    model = tiny()
    latent = model.encode(crystals())
    fields, picked = model.fields(latent), model.fields(latent).select([2, 0])
    query = 5 * torch.rand(2, 6, 3, generator=torch.Generator().manual_seed(0))
    whole = fields.position(query[[1, 0, 0, 0]])
    torch.testing.assert_close(picked.position(query)[0], whole[2], atol=0.02, rtol=0.02)
    torch.testing.assert_close(picked.position(query)[1], whole[0], atol=0.02, rtol=0.02)
    assert torch.equal(picked.lattice, fields.lattice[[2, 0]])


def test_encode_does_not_see_the_orientation():
    model, batch = tiny(), crystals()
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))[0]
    turned = batch.replace(lattice=batch.lattice @ turn)
    torch.testing.assert_close(model.encode(turned), model.encode(batch), atol=1e-4, rtol=1e-3)


def test_decode_does_not_see_an_outer_autocast():
    model = tiny()
    latent = model.encode(crystals()).detach()
    plain = model.decode(latent).crystals
    with torch.autocast("cpu", torch.bfloat16):
        under = model.decode(latent).crystals
    assert under.lattice.dtype == torch.float32
    assert torch.equal(under.lattice, plain.lattice)
    assert torch.equal(under.num_atoms, plain.num_atoms)
    assert torch.equal(under.frac_coords, plain.frac_coords)


def four_crystals() -> CrystalBatch:
    """Cells of 1 to 5 atoms: caesium chloride, a skewed cell, a perovskite, one atom."""
    cells = [
        (Lattice.cubic(4.1), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
        (
            Lattice.from_parameters(3.5, 4.2, 5.1, 80, 95, 100),
            ["Fe", "O", "Fe"],
            [[0.1, 0.2, 0.15], [0.6, 0.7, 0.4], [0.3, 0.4, 0.8]],
        ),
        (
            Lattice.cubic(3.9),
            ["Sr", "Ti", "O", "O", "O"],
            [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],
        ),
        (Lattice.cubic(3.3), ["Po"], [[0.4, 0.3, 0.2]]),
    ]
    from pymatgen.core import Structure

    return CrystalBatch.from_structures([Structure(*cell) for cell in cells], list("abcd"))


def test_four_crystals_are_learned_by_heart():
    torch.manual_seed(0)
    model = NeSF(
        latent_dim=32,
        encoder_width=64,
        encoder_harmonics=4,
        harmonics=4,
        position_widths=[96, 96, 96],
        species_widths=[64],
        max_atoms=8,
    )
    module = FieldTraining(
        model,
        CellQueries(64, 64, species=32),
        losses=LossOptions(),
        optimizer=OptimizerOptions(lr=2e-3, warmup_steps=10),
    )
    batch = standardised(four_crystals())
    optimizer = module.optimizer_options.build(model)
    steps = 200
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: module.optimizer_options.factor(step, step / steps, 1)
    )
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        loss = total_loss(module.loss_parts(batch, generator), module.losses)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()
    found = model.decode(model.encode(batch))
    error, wrong = site_errors(batch, found.crystals)
    assert found.crystals.num_atoms.tolist() == [2, 3, 5, 1]
    assert error.max() < 0.1
    assert wrong.sum() == 0
    assert (found.crystals.lattice - batch.lattice).abs().max() < 0.15
    assert bool(found.count_agrees.all())


def test_fields_in_use_answer_as_the_decoders_do(monkeypatch):
    """Rounded once, and asked a few crystals at a time, without a trace in what they say."""
    model = tiny().requires_grad_(False)
    crystals = standardised(random_crystals(5, 6, 4, torch.float32))
    latent = model.encode(crystals)
    query = torch.rand(6, 9, 3, generator=torch.Generator().manual_seed(0)) * 4
    fields = model.fields(latent, crystals.lattice)
    with autocast("cpu"):
        offset = model.position_decoder(latent, query, crystals.lattice)
        logits = model.species_decoder(latent, query, crystals.lattice)
    for found, wanted in ((fields.position(query), offset), (fields.species(query), logits)):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, wanted, atol=0.02, rtol=0.02)
    monkeypatch.setattr(nesf.asked, "QUERIES_IN_CACHE", 20)  # two crystals
    some = model.fields(latent, crystals.lattice)
    torch.testing.assert_close(some.position(query), fields.position(query), atol=0.02, rtol=0.02)
    part = torch.tensor([4, 1])
    chosen = fields.select(part)
    torch.testing.assert_close(
        chosen.position(query[part]), fields.position(query)[part], atol=0.02, rtol=0.02
    )
    torch.testing.assert_close(chosen.element_logits, fields.element_logits[part])
    assert chosen.num_atoms.tolist() == fields.num_atoms[part].tolist()
    # the weights that are trained stay as they are
    assert all(weight.dtype == torch.float32 for weight in model.parameters())


def test_a_model_of_boxes_gives_back_boxes():
    model = tiny(box=7.5).requires_grad_(False)
    boxes = CrystalBatch(
        torch.rand(2, 3, 3), torch.ones(2, 3).long(), torch.ones(2, 3).bool(),
        7.5 * torch.eye(3).repeat(2, 1, 1), ("a", "b"),
    )  # fmt: skip
    found = model.decode(model.encode(boxes))
    torch.testing.assert_close(found.crystals.lattice, boxes.lattice, atol=1e-5, rtol=0)
    assert model.walls
    assert not tiny().walls
    # in training, every head has a gradient all the same
    trained = tiny(box=7.5)
    trained.heads(trained.encode(boxes)).cell.sum().backward()
    assert (trained.cell_head[0].weight.grad == 0).all()


def test_training_boxes_are_the_models():
    with pytest.raises(ValueError, match=r"boxes.side is 10.0 Å, and the model's box 7.5 Å"):
        FieldTraining(tiny(box=7.5, margin=0.0), CellQueries(), boxes=BoxOptions(side=10.0))
