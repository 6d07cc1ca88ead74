"""Types of numbers, contexts and hands that a model may be met with."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import spglib
import torch
from pymatgen.core import Lattice, Structure
from torch import Tensor

import nesf
from nesf.api import Model
from nesf.autoencoder import NeSF
from nesf.cli import main
from nesf.crystal import CrystalBatch, standardised
from nesf.data.parsing import parse
from nesf.decoders import PositionField, SpeciesField
from nesf.errors import InputError
from nesf.mlps import FourierFeatures
from nesf.refinement.refine import refinement_for


@pytest.fixture(scope="module")
def small() -> Model:
    torch.manual_seed(0)
    return Model(NeSF(latent_dim=12, encoder_width=16, position_widths=[16], species_widths=[16]))


@pytest.fixture
def latent() -> Tensor:
    return torch.randn(2, 12, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def query() -> Tensor:
    return 3 * torch.rand(2, 5, 3, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("kind", [PositionField, SpeciesField])
@pytest.mark.parametrize("conditioning", ["modulate", "concat"])
@pytest.mark.parametrize("coordinates", ["fractional", "cartesian"])
def test_decoders_are_exact_in_float64(
    kind: Callable, conditioning: str, coordinates: str, latent: Tensor, query: Tensor
) -> None:
    torch.manual_seed(0)
    field = kind(12, widths=[8, 8], conditioning=conditioning, coordinates=coordinates)
    field.double().eval()
    lattice = (4 * torch.eye(3, dtype=torch.float64)).expand(2, 3, 3)
    inputs = latent.double().requires_grad_(), query.double().requires_grad_()
    assert field(*inputs, lattice).dtype == torch.float64
    assert torch.autograd.gradcheck(lambda z, q: field(z, q, lattice), inputs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_decoders_in_half_precision(dtype: torch.dtype, latent: Tensor, query: Tensor) -> None:
    torch.manual_seed(0)
    field = PositionField(12, widths=[8, 8])
    lattice = (4 * torch.eye(3)).expand(2, 3, 3)
    exact = field(latent, query, lattice)
    near = field.to(dtype)(latent.to(dtype), query.to(dtype), lattice.to(dtype))
    assert torch.allclose(near.float(), exact, atol=0.1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: PositionField(8, [4], conditioning="film"),
        lambda: PositionField(8, [4], coordinates="frac"),
        lambda: SpeciesField(8, widths=[4], harmonic_scale="log"),
        lambda: FourierFeatures(4, "log"),
        lambda: NeSF(encoder="pointnett"),
        lambda: NeSF(frame="atom", box=10.0, margin=0.0),
    ],
)
def test_misspelt_options_are_refused(make: Callable) -> None:
    # tests check types at every call; users' programs do not
    with pytest.raises((ValueError, TypeError)):
        make()


def test_misspelt_options_are_told_with_the_choices() -> None:
    from nesf.decoders import Conditioning
    from nesf.mlps import one_of

    with pytest.raises(ValueError, match="conditioning is modulate or concat, not 'film'"):
        one_of("conditioning", "film", Conditioning)


def test_latents_and_queries_of_any_kind(small: Model, latent: Tensor, query: Tensor) -> None:
    expected = small.position_field(latent)(query)
    for other in (latent.numpy(), latent.double(), latent.double().numpy()):
        assert torch.equal(small.position_field(other)(query), expected)
    assert torch.equal(small.position_field(latent)(query.double().numpy()), expected)
    broken = latent.clone()
    broken[1, 3] = torch.nan
    for refuse in (small.decode, small.fields):
        with pytest.raises(InputError, match="latent 1 of 2, counted from 0, is not finite"):
            refuse(broken)
    with pytest.raises((InputError, TypeError)):
        refinement_for(small.module, 2.5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="give pymatgen Structures, not a str"):
        small.encode(["a.cif"])


def test_a_model_does_not_depend_on_where_it_is_loaded() -> None:
    structure = Structure(Lattice.cubic(3.9), ["Cs", "Cl"], [[0, 0, 0], [0.5] * 3])
    expected = nesf.load("general").encode([structure])
    with torch.inference_mode():
        model = nesf.load("general")
        assert torch.equal(model.encode([structure]), expected)
        assert len(model.decode(expected)[0]) == 2
    torch.set_default_dtype(torch.float64)
    try:
        model = nesf.load("general")
        assert torch.equal(model.encode([structure]), expected)
        assert len(model.decode(expected)[0]) == 2
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.encode([structure]), expected)


def test_refinement_does_not_depend_on_the_callers_mode() -> None:
    odd = Lattice.from_parameters(4.1, 4.4, 5.2, 78, 85, 70)
    structure = Structure(
        odd, ["Si", "C", "N"], [[0.1, 0.2, 0.3], [0.6, 0.7, 0.1], [0.4, 0.5, 0.8]]
    )
    crystals = CrystalBatch.from_structures([structure] * 2)
    model = nesf.load("general")
    expected = model.encode(crystals, refine=6)
    assert not torch.equal(expected, model.encode(crystals))  # it was refined
    for mode in (torch.inference_mode(), torch.autocast("cpu", torch.bfloat16)):
        with mode:
            assert torch.equal(model.encode(crystals, refine=6), expected)
            begun = model.iter_reconstruct(crystals, refine=6)
            index, found = next(begun)
        rest = [(index, found), *begun]  # gone on with outside
        whole = model.reconstruct(crystals, refine=6).crystals
        for index, found in rest:
            assert torch.is_grad_enabled()
            assert not found.crystals.lattice.is_inference()
            assert torch.equal(found.crystals.lattice, whole.select(index).lattice)
        assert sorted(int(i) for index, _ in rest for i in index) == [0, 1]


def test_float32_is_the_decoder_itself() -> None:
    structure = Structure(Lattice.cubic(3.9), ["Cs", "Cl"], [[0, 0, 0], [0.5] * 3])
    query = 3.9 * torch.rand(1, 50, 3, generator=torch.Generator().manual_seed(0))
    model = nesf.load("general", precision="float32")
    latent = model.encode([structure])
    lattice = model.fields(latent).lattice
    decoder = model.module.position_decoder
    assert torch.allclose(model.position_field(latent)(query), decoder(latent, query, lattice))
    rounded = nesf.load("general").position_field(latent)(query)
    off = (rounded - decoder(latent, query, lattice)).norm(dim=-1)
    assert off.median() < 0.03
    with pytest.raises((InputError, TypeError)):
        nesf.load("general", precision="double")


def quartz(hand: float) -> Structure:
    """Quartz of space group P3_121, its axes given right- or left-handed."""
    lattice = Lattice.hexagonal(4.913, 5.405)
    one = Structure.from_spacegroup(
        "P3_121", lattice, ["Si", "O"], [[0.4697, 0, 1 / 3], [0.4135, 0.2669, 0.1191]]
    )
    return Structure(Lattice(hand * one.lattice.matrix), one.species, hand * one.frac_coords)


def space_group(one: Structure, symprec: float = 1e-2) -> int:
    cell = one.lattice.matrix, one.frac_coords, one.atomic_numbers
    return spglib.get_symmetry_dataset(cell, symprec=symprec).number


@pytest.mark.parametrize("hand", [1.0, -1.0])
def test_left_handed_axes_keep_the_crystals_hand(hand: float) -> None:
    given = quartz(hand)
    assert np.sign(np.linalg.det(given.lattice.matrix)) == hand
    assert space_group(given) == 152
    turned = standardised(CrystalBatch.from_structures([given])).to_structures()[0]
    assert space_group(turned) == 152  # and not 154, its mirror image
    read = parse({"structure": given.as_dict()}, {})
    again = Structure(Lattice(read["lattice"]), read["numbers"], read["frac"])
    assert np.allclose(again.cart_coords, given.cart_coords)
    assert np.linalg.det(again.lattice.matrix) > 0
    back = nesf.load("general").reconstruct([given])
    assert int(back.faults[0]) == 0
    assert space_group(back.crystals.to_structures()[0], 0.1) == 152


@pytest.mark.parametrize("hand", [1.0, -1.0])
def test_exact_fields_of_a_turned_cell_have_no_faults(hand: float, tmp_path: Path) -> None:
    turn = Lattice(quartz(hand).lattice.matrix @ np.linalg.qr(np.arange(9).reshape(3, 3) ** 2)[0])
    turned = Structure(turn, quartz(hand).species, quartz(hand).frac_coords)
    turned.to(str(tmp_path / "POSCAR"), fmt="poscar")
    output = tmp_path / "out.csv"
    said = ["--field", "exact", "--output", str(output), "--progress", "false"]
    assert main(["reconstruct", str(tmp_path / "POSCAR"), *said]) == 0
    (row,) = csv.DictReader(output.open())
    assert (row["faults"], float(row["residual"])) == ("0", 0.0)
