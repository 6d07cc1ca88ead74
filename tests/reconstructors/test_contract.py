"""What every model with `encode` and `decode` owes to the commands and to `eval`."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from contract import MODELS, make, right_angled
from crystals import random_crystals
from torch import Tensor

from nesf import api
from nesf.checkpoint import load_model, save_model
from nesf.crystal import CrystalBatch
from nesf.geometry import plane_spacings
from nesf.reconstruction.reconstruct import Reconstruction


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Any:
    return make(request.param)


# all but the stand-in, whose latent is the crystal as it is written down
@pytest.fixture(params=[name for name in MODELS if name != "stand-in"])
def learner(request: pytest.FixtureRequest) -> Any:
    return make(request.param)


def check(found: Reconstruction, count: int, model: Any) -> None:
    """Every promise of `Reconstruction` that needs no truth."""
    crystals = found.crystals
    assert len(crystals) == len(crystals.ids) == len(found.confidence) == count
    assert crystals.mask.shape == found.site_spread.shape == found.site_size.shape
    real, padded = crystals.mask, ~crystals.mask
    assert (real.cummin(-1).values == real).all()  # atoms come first
    frac, numbers = crystals.frac_coords, crystals.atomic_numbers
    assert ((frac[real] >= 0) & (frac[real] < 1)).all()
    assert (frac[padded] == 0).all()
    assert (numbers[padded] == 0).all()
    assert ((numbers[real] >= 1) & (numbers[real] <= model.num_species)).all()
    assert ((found.confidence >= 0) & (found.confidence <= 1)).all()
    assert (found.confidence[crystals.num_atoms == 0] == 0).all()
    filled = crystals.num_atoms > 0
    assert crystals.lattice[filled].isfinite().all()
    assert (plane_spacings(crystals.lattice[filled]) > 0).all()
    assert len(crystals.to_structures()) == count


def same_latents(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-3)  # bfloat16 where it is fast


def test_latents(model: Any):
    crystals = right_angled(0)
    latent = model.encode(crystals)
    assert latent.shape[0] == len(crystals)
    assert latent.ndim == 2
    assert latent.isfinite().all()
    assert not latent.requires_grad
    assert model.encode(crystals.select([1])).shape[-1] == latent.shape[-1]
    assert (latent[0] - latent[1]).abs().max() > 1e-6  # it tells crystals apart


def test_a_latent_is_of_one_crystal_alone(model: Any):
    crystals = right_angled(1)
    together = model.encode(crystals)
    for i in range(len(crystals)):
        same_latents(model.encode(crystals.select([i])), together[i : i + 1])


def test_the_order_of_atoms_does_not_matter(learner: Any):
    crystals = right_angled(2)
    counts = crystals.num_atoms.tolist()
    backwards = torch.stack(
        [
            torch.cat([torch.arange(n - 1, -1, -1), torch.arange(n, crystals.mask.shape[1])])
            for n in counts
        ]
    )
    turned = crystals.replace(
        frac_coords=crystals.frac_coords.gather(1, backwards.unsqueeze(-1).expand(-1, -1, 3)),
        atomic_numbers=crystals.atomic_numbers.gather(1, backwards),
    )
    same_latents(learner.encode(turned), learner.encode(crystals))


def test_a_lattice_vector_more_does_not_matter(learner: Any):
    crystals = right_angled(3)
    shift = torch.randint(-2, 3, crystals.frac_coords.shape).float()
    moved = crystals.replace(frac_coords=crystals.frac_coords + shift * crystals.mask.unsqueeze(-1))
    same_latents(learner.encode(moved), learner.encode(crystals))


def test_a_turned_lattice_does_not_matter(learner: Any):
    crystals = right_angled(4)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))[0]
    rotation = rotation * rotation.det().sign()
    turned = crystals.replace(lattice=crystals.lattice @ rotation)
    same_latents(learner.encode(turned), learner.encode(crystals))


def test_decoding_keeps_the_promises(model: Any):
    latent = model.encode(right_angled(5))
    check(model.decode(latent), len(latent), model)


def test_decoding_is_repeatable_and_of_one_latent_alone(model: Any):
    latent = model.encode(right_angled(6, 4))
    first, again = model.decode(latent), model.decode(latent)
    assert torch.equal(first.crystals.frac_coords, again.crystals.frac_coords)
    assert torch.equal(first.crystals.atomic_numbers, again.crystals.atomic_numbers)
    alone = model.decode(latent[2:3]).crystals.lattice
    torch.testing.assert_close(alone, first.crystals.lattice[2:3], rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
def test_any_latent_gives_an_answer(learner: Any, scale: float):
    size = learner.encode(right_angled(7, 1)).shape[-1]
    latent = scale * torch.randn(3, size, generator=torch.Generator().manual_seed(1))
    check(learner.decode(latent), 3, learner)


def test_a_latent_that_is_not_finite_gives_no_atoms(learner: Any):
    latent = learner.encode(right_angled(8, 2))
    latent[0] = torch.nan
    found = learner.decode(latent)
    check(found, 2, learner)
    assert found.crystals.num_atoms[0] == 0


def test_any_cell_is_encoded_or_refused(model: Any):
    crystals = random_crystals(9, 8, dtype=torch.float32)
    latent = model.encode(crystals)
    reasons = model.refusals(crystals) if hasattr(model, "refusals") else [None] * len(crystals)
    assert len(reasons) == len(latent) == len(crystals)
    for row, reason in zip(latent, reasons, strict=True):
        assert row.isfinite().all() == (reason is None)
    check(model.decode(latent), len(crystals), model)


def test_a_file_gives_the_same_model(learner: Any, tmp_path: Path):
    class_path = f"{type(learner).__module__}.{type(learner).__qualname__}"
    entry = {"class_path": class_path, "init_args": learner.init_args}
    assert json.loads(json.dumps(entry)) == entry
    path = tmp_path / "model.safetensors"
    save_model(path, entry, learner.state_dict())
    again = load_model(path)
    crystals = right_angled(10)
    assert torch.equal(again.encode(crystals), learner.encode(crystals))


def test_the_python_interface(model: Any):
    crystals: CrystalBatch = right_angled(11)
    loaded = api.Model(model, batch_size=4)
    before = copy.deepcopy(model.state_dict())
    found = loaded.reconstruct(crystals, refine=2 if loaded.refinement().steps else 0)
    check(found, len(crystals), model)
    assert found.crystals.ids == crystals.ids
    after = model.state_dict()
    torch.testing.assert_close(after, before, rtol=0, atol=0, equal_nan=True)
    assert len(loaded.decode(loaded.encode(crystals.to_structures()))) == len(crystals)
    assert loaded.refusals(crystals) == [None] * len(crystals)
