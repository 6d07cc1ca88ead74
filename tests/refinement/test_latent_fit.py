"""Steps on latents: each crystal for itself, by the decoder alone, asked where it errs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from crystals import random_crystals
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from refining import QUICK

import nesf
from nesf.autoencoder import NeSF
from nesf.crystal import CrystalBatch, standardised
from nesf.exact import exact_fields
from nesf.objective import LossOptions, loss_parts, total_loss
from nesf.queries import CellQueries
from nesf.random import generator_for
from nesf.refinement.latent_fit import LatentFit, whitened
from nesf.refinement.refine import RefineOptions, iter_refined, join_refined


def loss(model: NeSF, crystals: CrystalBatch, latent: torch.Tensor) -> float:
    queries = CellQueries(uniform=256, near=256, species=128)
    asked = queries(crystals, generator_for(7, "other queries"), model.margin)
    parts = loss_parts(model, crystals, latent, asked, LossOptions())
    return float(total_loss(parts, LossOptions()))


def test_the_loss_falls_and_the_weights_stay(model: NeSF, crystals: CrystalBatch) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    latent = model.encode(crystals)
    fit = LatentFit(model, crystals, latent, QUICK)
    for _ in range(20):
        fit.advance()
    # an untrained decoder can say little, whatever its latent
    assert loss(model, crystals, fit.latent) < 0.9 * loss(model, crystals, latent)
    assert not fit.latent.requires_grad
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_crystal_alone_and_among_others(model: NeSF, crystals: CrystalBatch) -> None:
    def fitted(part: CrystalBatch) -> torch.Tensor:
        fit = LatentFit(model, part, model.encode(part), QUICK)
        for _ in range(3):
            fit.advance()
        return fit.latent

    together = fitted(crystals)
    size = float((together - model.encode(crystals)).norm(dim=-1).amin())
    for i in range(len(crystals)):
        alone = fitted(crystals.select([i]))
        # bfloat16 products of other shapes are rounded otherwise
        assert float((alone[0] - together[i]).norm()) < 0.1 * size


def test_chunks_change_nothing(
    model: NeSF, crystals: CrystalBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fitted() -> torch.Tensor:
        fit = LatentFit(model, crystals, model.encode(crystals), QUICK)
        fit.advance()
        fit.advance()
        return fit.latent

    whole = fitted()
    monkeypatch.setitem(nesf.refinement.latent_fit.CRYSTALS_AT_ONCE, "cpu", 2)
    moved = (whole - model.encode(crystals)).norm(dim=-1)
    assert ((fitted() - whole).norm(dim=-1) < 0.1 * moved).all()


def test_latents_that_no_step_can_change_stay(model: NeSF, crystals: CrystalBatch) -> None:
    """Decoders that do not listen have no curvature; nothing moves, and nothing is NaN."""
    deaf = NeSF(latent_dim=16, max_atoms=8, encoder_width=32, position_widths=[8],
                species_widths=[8]).eval().requires_grad_(False)  # fmt: skip
    for layer in (
        deaf.position_decoder.mlp.modulation, deaf.species_decoder.mlp.modulation,
        deaf.cell_head[0], deaf.set_head[0],
    ):  # fmt: skip
        layer.weight.zero_()
    latent = model.encode(crystals)
    fit = LatentFit(deaf, crystals, latent, RefineOptions(whitening=0.0))
    fit.advance()
    assert torch.equal(fit.latent, latent)


def test_the_fields_of_a_trained_model_are_right_where_it_decodes() -> None:
    model = nesf.load("general")
    diamond = Structure.from_spacegroup("Fd-3m", Lattice.cubic(3.57), ["C"], [[0, 0, 0]])
    crystals = standardised(CrystalBatch.from_structures([diamond.get_primitive_structure()]))
    latent = join_refined(
        iter_refined(
            model.module, crystals, model.encode(crystals), model.decode_crystals, RefineOptions()
        )
    ).latent
    fit = LatentFit(model.module, crystals, latent, RefineOptions())
    assert fit.fields_right().tolist() == [True]
    other = crystals.replace(atomic_numbers=crystals.atomic_numbers + 1)
    assert LatentFit(model.module, other, latent, RefineOptions()).fields_right().tolist() == [
        False
    ]
    moved = crystals.frac_coords.clone()
    moved[0, 0] += 0.1
    fit = LatentFit(model.module, crystals.replace(frac_coords=moved), latent, RefineOptions())
    assert fit.fields_right().tolist() == [False]


def test_fields_that_still_point_to_a_false_site_are_not_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = nesf.load("general")
    salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.2), ["Mg", "O"], [[0] * 3, [0.5] * 3])
    crystals = standardised(CrystalBatch.from_structures([salt]))
    latent = model.encode(crystals, refine=20)
    exact = exact_fields(crystals, periodic=False, margin=model.module.margin)
    # the last decoding had one site more, in the middle between two
    extra = torch.tensor([[[0.25, 0.0, 0.0]]])
    found = CrystalBatch(
        torch.cat([crystals.frac_coords, extra], dim=1),
        torch.cat([crystals.atomic_numbers, torch.full((1, 1), 8)], dim=1),
        torch.cat([crystals.mask, torch.ones(1, 1, dtype=torch.bool)], dim=1),
        crystals.lattice,
        crystals.ids,
    )
    false = extra @ crystals.lattice

    def resting(query: torch.Tensor) -> torch.Tensor:
        return torch.where((query - false).norm(dim=-1, keepdim=True) < 0.3, false - query, 0.0)

    for fields, right in (
        (exact, True),
        (replace(exact, position=lambda q: exact.position(q) + 0.3 * resting(q)), True),
        (replace(exact, position=resting), False),
    ):
        fit = LatentFit(model.module, crystals, latent, RefineOptions())
        monkeypatch.setattr(model.module, "fields_seen", lambda *_, fields=fields: fields)
        assert fit.fields_right().tolist() == [True]  # at the atoms
        fit.ask_where_wrong(torch.tensor([0]), found)
        assert fit._places.count.tolist() == [1]
        assert fit.fields_right().tolist() == [right]


@pytest.mark.parametrize("margin", [0.0, 0.1])
def test_asked_where_the_model_has_the_atoms(margin: float) -> None:
    """An atom just below a face is far from its image on the other side."""
    torch.manual_seed(0)
    widths = {"position_widths": [8], "species_widths": [8], "encoder_width": 8}
    model = NeSF(latent_dim=8, margin=margin, **widths).eval().requires_grad_(False)
    alone = Structure(Lattice.cubic(10.0), ["O"], [[0.95, 0.5, 0.5]])
    crystals = standardised(CrystalBatch.from_structures([alone]))
    asked = LatentFit(model, crystals, model.encode(crystals), QUICK)._asked(generator_for(0, "x"))
    atom = torch.tensor([9.5 - 10.0 * (margin > 0.05), 5.0, 5.0])
    for block, near in ((asked.species[0], 1.0), (asked.position[0], 0.5)):
        away = (block.query[0] - atom).norm(dim=-1)
        assert float((away < 2.5).float().mean()) >= near


def test_asked_where_the_last_decoding_erred(model: NeSF, crystals: CrystalBatch) -> None:
    fit = LatentFit(model, crystals, model.encode(crystals), QUICK)
    asked = []
    residuals = fit._residuals

    def watched(some, latent, queries, along):
        asked.append(queries.position[0].query[:, -QUICK.wrong :])
        assert along.shape == (queries.position[0].query.shape[1], 3)
        return residuals(some, latent, queries, along)

    fit._residuals = watched
    fit.advance()
    atoms = crystals.cart_coords[crystals.mask.nonzero(as_tuple=True)]
    assert len(asked[-1]) == len(crystals)
    assert len(atoms) > len(crystals)
    # an atom of the second crystal is read 1 Å off: both places are asked, and nothing else
    frac = crystals.frac_coords.clone()
    frac[1, 0] += torch.linalg.inv(crystals.lattice[1]).T @ torch.tensor([1.0, 0, 0])
    fit.ask_where_wrong(torch.tensor([1]), crystals.select([1]).replace(frac_coords=frac[[1]]))
    fit.advance()
    places = fit._places
    assert int(places.count[1]) == 2
    near = torch.cdist(asked[-1][1], places.points[1, :2]).amin(1)
    assert float(near.max()) < 6 * QUICK.wrong_width
    assert places.count[0] == crystals.num_atoms[0]
    fit.keep(torch.tensor([False, True, False, False, False]))
    assert fit._places.count.tolist() == [2]
    fit.advance()


@pytest.mark.parametrize("conditioning", ["modulate", "concat"])
def test_whitening_evens_out_the_decoders_first_answers(conditioning: str) -> None:
    torch.manual_seed(1)
    model = NeSF(latent_dim=6, conditioning=conditioning, encoder_width=8, position_widths=[16],
                 species_widths=[16])  # fmt: skip
    decoders = (model.position_decoder.mlp, model.species_decoder.mlp)

    @torch.no_grad()
    def entering(latent: torch.Tensor) -> torch.Tensor:
        # what the first layer makes of the latent alone
        if conditioning == "modulate":
            return torch.cat([mlp.modulation(latent) for mlp in decoders], dim=-1)
        widths = [mlp.layers[0].weight.shape[1] - 6 for mlp in decoders]
        padded = [torch.nn.functional.pad(latent, (0, width)) for width in widths]
        return torch.cat([m.layers[0](x) for m, x in zip(decoders, padded, strict=True)], dim=-1)

    zero = entering(torch.zeros(1, 6))
    for exponent, spread in ((1.0, 1.0), (0.5, None), (0.0, None)):
        basis = whitened(model, exponent, ridge=0.0).detach()
        change = entering(basis.mT) - zero  # row: what a unit step along a basis vector does
        gram = change @ change.mT
        off = gram - torch.diag(gram.diagonal())
        assert float(off.abs().max()) < 1e-3 * float(gram.diagonal().max())
        sizes = gram.diagonal().sqrt()
        if spread is not None:
            assert float(sizes.max() / sizes.min()) == pytest.approx(spread, rel=1e-3)
        assert float(basis.square().sum(-1).mean()) == pytest.approx(1, rel=1e-4)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_shared_queries_do_not_depend_on_the_batch(seed: int) -> None:
    crystals = random_crystals(seed, 4, 5)
    queries = CellQueries(uniform=5, near=6, species=7, shared=True)
    together = queries(crystals, generator_for(seed), 0.02)
    for i in range(len(crystals)):
        alone = queries(crystals.select([i]), generator_for(seed), 0.02)
        for kind in ("position", "species"):
            (one,), (all_,) = getattr(alone, kind), getattr(together, kind)
            torch.testing.assert_close(one.query[0], all_.query[i])
