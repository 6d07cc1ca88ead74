"""Latents fitted to their crystals: decoded ever more rarely, and never for the worse."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pymatgen.core import Lattice, Structure
from refining import AT_THE_END, QUICK, exactly
from stand_in_model import StandIn

import nesf
from nesf.api import Model
from nesf.autoencoder import NeSF
from nesf.crystal import CrystalBatch
from nesf.errors import InputError
from nesf.reconstruction.reconstruct import Reconstruction, join_reconstructions
from nesf.refinement.latent_fit import LatentFit
from nesf.refinement.refine import (
    RefineOptions,
    iter_refined,
    join_refined,
)


def right_fields(first_only: bool = False) -> Callable[[LatentFit], torch.Tensor]:
    """In the place of `LatentFit.fields_right`: always, or only before the first step."""
    return lambda fit: torch.full((len(fit.latent),), not first_only or fit.step == 0)


def test_what_decodes_to_its_crystal_is_left_alone(
    model: NeSF, crystals: CrystalBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LatentFit, "fields_right", right_fields())
    latent = model.encode(crystals)
    refined = join_refined(
        iter_refined(model, crystals, latent, lambda _: exactly(crystals), QUICK)
    )
    assert torch.equal(refined.latent, latent)
    assert refined.faults.tolist() == refined.steps.tolist() == [0] * len(crystals)


def test_the_fewest_faults_win(
    model: NeSF, crystals: CrystalBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoded well, then badly for some: these keep what they had."""
    monkeypatch.setattr(LatentFit, "fields_right", right_fields(first_only=True))
    latent = model.encode(crystals)
    calls = []

    def decode(z: torch.Tensor) -> Reconstruction:
        calls.append(len(z))
        lost = crystals.mask.clone()
        lost[:, 1:] = False
        # first one atom is of another element; later all but one are missing, or all is well
        if len(calls) == 1:
            numbers = crystals.atomic_numbers.clone()
            numbers[:, 0] = numbers[:, 0] % 94 + 1
            return exactly(crystals.replace(atomic_numbers=numbers))
        found = crystals.select(range(1, len(crystals))) if len(z) < len(crystals) else crystals
        mask = lost[-len(found) :].clone()
        mask[-1] = crystals.mask[-1]
        return exactly(found.replace(mask=mask))

    refined = join_refined(iter_refined(model, crystals, latent, decode, AT_THE_END))
    several = crystals.num_atoms > 1
    assert several[:-1].any()
    assert refined.faults[-1] == 0  # all was well with the last one
    assert not torch.equal(refined.latent[-1], latent[-1])
    for i in range(len(crystals) - 1):
        if crystals.num_atoms[i] > 2:
            assert refined.faults[i] == 1
            assert torch.equal(refined.latent[i], latent[i])
            found = refined.found.crystals
            assert int(found.num_atoms[i]) == int(crystals.num_atoms[i])
    assert (refined.steps == 10).all()


def test_what_is_done_leaves(
    model: NeSF, crystals: CrystalBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of five crystals one comes right whenever they are decoded, which is ever less often."""
    sizes = []

    def decode(z: torch.Tensor) -> Reconstruction:
        sizes.append(len(z))
        part = crystals.select(range(len(crystals) - len(z), len(crystals)))
        numbers = part.atomic_numbers % 94 + 1
        if len(sizes) > 1:
            numbers[0] = part.atomic_numbers[0]
        return exactly(part.replace(atomic_numbers=numbers))

    monkeypatch.setattr(LatentFit, "fields_right", right_fields())
    options = RefineOptions(steps=9, first_steps=2, check_growth=1.6)
    came, parts = [], []
    for part in iter_refined(model, crystals, model.encode(crystals), decode, options):
        came.append((part[0].tolist(), len(sizes)))
        parts.append(part)
    assert sizes == [5, 5, 4, 3, 2, 1]
    assert came == [([0], 2), ([1], 3), ([2], 4), ([3], 5), ([4], 6)]  # at once, each of them
    refined = join_refined(reversed(parts))
    assert refined.steps.tolist() == [1, 2, 4, 7, 9]
    assert refined.faults.tolist() == [0] * 5


def test_only_fields_that_are_right_are_decoded(model: NeSF, crystals: CrystalBatch) -> None:
    """An untrained model's never are: decoded at the end, the encoder's latents too."""
    sizes = []

    def decode(z: torch.Tensor) -> Reconstruction:
        sizes.append(len(z))
        return model.decode(z)

    join_refined(iter_refined(model, crystals, model.encode(crystals), decode, QUICK))
    assert sizes == [5, 5]


def test_the_columns_are_those_of_the_crystals(crystals: CrystalBatch) -> None:
    found = exactly(crystals)
    small = crystals.num_atoms.argmin().reshape(1)
    part = found.select(small)
    assert part.site_spread.shape == part.site_size.shape == part.crystals.mask.shape
    assert part.crystals.mask.shape[1] == int(crystals.num_atoms[small])
    again = join_reconstructions([part, found])
    assert again.site_spread.shape == again.crystals.mask.shape
    torch.testing.assert_close(again.site_spread[1:], found.site_spread)


def test_looked_at_ever_more_rarely_and_never_beyond_the_end() -> None:
    options, looks, step = RefineOptions(steps=20, check_growth=1.4), [], 0
    while step < options.steps:
        step += options.until_check(step)
        looks.append(step)
    assert looks == [1, 2, 3, 5, 8, 12, 17, 20]
    options, looks, step = RefineOptions(steps=25, cycle=10, check_growth=1.4), [], 0
    while step < options.steps:
        step += options.until_check(step)
        looks.append(step)
    assert looks == [1, 2, 3, 5, 8, 10, 15, 20, 25]  # and at the end of each cycle
    assert [RefineOptions(steps=3, check_growth=1.0).until_check(step) for step in range(3)] == [
        1
    ] * 3


def test_memory_lengthens_in_the_last_quarter() -> None:
    options = RefineOptions(steps=8, memory=0.5, settled_memory=0.9)
    assert [options.memory_at(step) for step in range(8)] == [0.5] * 6 + [0.9] * 2
    options = RefineOptions(steps=10, cycle=4, memory=0.5, settled_memory=0.9)
    assert [options.memory_at(step) for step in range(10)] == [0.5, 0.5, 0.5, 0.9] * 2 + [0.5] * 2


def test_a_latent_that_was_lost_is_found_again() -> None:
    model = nesf.load("lcs6")
    rocksalt = Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5] * 3]
    )
    crystals = CrystalBatch.from_structures([rocksalt])
    latent = model.encode(crystals)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0))
    lost = latent + 2 * latent.square().mean().sqrt() * noise

    def refined(steps: int):
        options = RefineOptions(steps=steps)
        return join_refined(
            iter_refined(model.module, crystals, lost, model.decode_crystals, options)
        )

    assert refined(0).faults > 0
    found = refined(60)
    assert found.faults == 0
    assert found.steps < 60


@pytest.mark.parametrize(
    ("name", "value"),
    [("whitening", 1.5), ("steps", -1), ("check_growth", 0.9), ("damping", 0.0), ("memory", 1.0),
     ("settled_memory", -0.1), ("first_steps", -1), ("wrong", -1), ("wrong_width", -0.1),
     ("tolerance", -1.0), ("lattice_tolerance", float("nan"))],
)  # fmt: skip
def test_options_out_of_range(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        RefineOptions(**{name: value})


def test_other_models_have_no_refinement() -> None:
    model = Model(StandIn())
    assert model.refinement().steps == 0
    with pytest.raises(InputError, match="StandIn cannot be refined"):
        model.encode([Structure(Lattice.cubic(3), ["Fe"], [[0, 0, 0]])], refine=5)


def test_fewer_steps_than_none() -> None:
    with pytest.raises(InputError, match="refine is -5; give a number of steps, or 0"):
        nesf.load("lcs6").refinement(-5)
