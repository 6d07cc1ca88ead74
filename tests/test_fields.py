"""Periodic fields from in-cell ones, against the exact periodic fields of the same crystals."""

from dataclasses import replace

import pytest
import torch
from crystals import random_crystals
from pymatgen.core import Lattice, Structure
from torch import Tensor

import nesf
from nesf.crystal import CrystalBatch, standardised
from nesf.exact import exact_fields
from nesf.fields import CrystalFields
from nesf.geometry import (
    NearestImage,
    cart_to_frac,
    frac_to_cart,
    plane_spacings,
    reduce_lattice,
)
from nesf.reconstruction.reconstruct import ReconstructOptions, reconstruct


def reduced_crystals(seed: int, count: int = 8) -> CrystalBatch:
    """Random crystals in oblique, reduced cells."""
    crystals = random_crystals(seed, count)
    lattice = reduce_lattice(crystals.lattice)
    lattice = torch.where(torch.linalg.det(lattice).view(-1, 1, 1) < 0, -lattice, lattice)
    return standardised(crystals.replace(lattice=lattice))


def queries(crystals: CrystalBatch, seed: int, count: int = 200) -> Tensor:
    """Points in and around the cell, Å."""
    generator = torch.Generator().manual_seed(seed)
    frac = torch.rand(len(crystals), count, 3, generator=generator, dtype=torch.float64)
    return frac_to_cart(4 * frac - 1.5, crystals.lattice)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("margin", [0.0, 0.02])
def test_in_cell_fields_become_the_periodic_ones(seed: int, margin: float) -> None:
    crystals = reduced_crystals(seed)
    angles = torch.nn.functional.normalize(crystals.lattice, dim=-1)
    assert (angles @ angles.mT).triu(1).abs().amax() > 0.2  # oblique
    fields = exact_fields(crystals, periodic=False, margin=margin)
    found, true = fields.to_periodic(), exact_fields(crystals, periodic=True)
    query = queries(crystals, seed)
    assert found.periodic
    assert torch.equal(found.num_atoms, true.num_atoms)
    torch.testing.assert_close(found.position(query), true.position(query), rtol=0, atol=1e-9)
    assert torch.equal(found.species(query).argmax(-1), true.species(query).argmax(-1))
    # which is more than the cell's own atoms say
    near = fields.position(query).norm(dim=-1) - true.position(query).norm(dim=-1)
    assert (near > 0.1).double().mean() > 0.3


def test_they_repeat_with_the_lattice_and_can_be_selected() -> None:
    crystals = reduced_crystals(3)
    found = exact_fields(crystals, periodic=False).to_periodic()
    query = queries(crystals, 3, 20)
    moved = query + (torch.tensor([5.0, -3.0, 2.0]).double() @ crystals.lattice).unsqueeze(1)
    torch.testing.assert_close(found.position(moved), found.position(query), rtol=0, atol=1e-9)
    part = found.select([4, 1])
    assert part.periodic
    torch.testing.assert_close(
        part.position(query[[4, 1]]), found.position(query)[[4, 1]], rtol=0, atol=1e-9
    )
    assert found.to_periodic() is found


def test_cells_far_from_reduced_need_more_images() -> None:
    crystals = reduced_crystals(4)
    shear = torch.eye(3).double()
    shear[1, 0] = 2.0  # b + 2 a: the same lattice
    frac = cart_to_frac(crystals.cart_coords, shear @ crystals.lattice)
    sheared = crystals.replace(lattice=shear @ crystals.lattice, frac_coords=frac)
    assert bool((plane_spacings(sheared.lattice) < plane_spacings(crystals.lattice) - 0.1).any())
    true, query = exact_fields(crystals, periodic=True), queries(crystals, 4)
    fields = exact_fields(sheared, periodic=False)

    def far(images: int) -> Tensor:
        found = fields.to_periodic(images).position(query)
        return (found.norm(dim=-1) - true.position(query).norm(dim=-1)).amax()

    assert far(1) > 0.1
    assert far(3) == pytest.approx(0.0, abs=1e-9)
    with pytest.raises(ValueError, match="images"):
        fields.to_periodic(0)


def blind_outside(fields: CrystalFields) -> CrystalFields:
    """Fields that say of every place outside of the cell that an atom is there."""

    def position(query: Tensor) -> Tensor:
        frac = cart_to_frac(query, fields.lattice)
        inside = ((frac >= 0) & (frac < 1)).all(-1, keepdim=True)
        return torch.where(inside, fields.position(query), 0.0)

    return replace(fields, position=position)


def test_what_does_not_end_at_an_atom_of_the_cell_is_not_believed() -> None:
    crystals = reduced_crystals(5)
    fields = exact_fields(crystals, periodic=False)
    generator = torch.Generator().manual_seed(5)
    frac = torch.rand(len(crystals), 50, 3, generator=generator, dtype=torch.float64)
    query = frac_to_cart(0.1 + 0.8 * frac, crystals.lattice)  # images are 0.1 beyond the faces
    found = blind_outside(fields).to_periodic().position(query)
    torch.testing.assert_close(found, fields.position(query), rtol=0, atol=1e-9)


def test_the_crystal_is_read_from_them() -> None:
    crystals = reduced_crystals(6, 4).to(dtype=torch.float32)
    fields = exact_fields(crystals, periodic=False, margin=0.02).to_periodic()
    found = reconstruct(fields, ReconstructOptions())
    assert torch.equal(found.crystals.num_atoms, crystals.num_atoms)


def test_nearest_images_in_reduced_cells_hardly_reach_beyond_the_next_cell() -> None:
    generator = torch.Generator().manual_seed(7)
    lattice = torch.randn(2000, 3, 3, generator=generator, dtype=torch.float64)
    lattice[1000:, :, 2] *= 0.1  # flat ones
    lattice = reduce_lattice(lattice[torch.linalg.det(lattice).abs() > 1e-3])
    frac = torch.rand(len(lattice), 200, 3, generator=generator, dtype=torch.float64)
    nearest = NearestImage.of(lattice)(frac @ lattice)
    reach = (nearest @ torch.linalg.inv(lattice)).abs().amax((1, 2))
    assert reach.amax() < 1.1
    assert (reach > 1).double().mean() < 0.02
    # and never beyond it where the covering radius is within the spacing of the planes
    radius = lattice.square().sum((1, 2)).sqrt() / 2
    assert reach[plane_spacings(lattice).amin(-1) >= radius].amax() <= 1 + 1e-9


def test_learned_fields_become_periodic() -> None:
    rutile = Structure.from_spacegroup(
        "P4_2/mnm", Lattice.tetragonal(4.594, 2.959), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]]
    )
    crystal = standardised(CrystalBatch.from_structures([rutile]))
    module = nesf.load("general").module
    frac = torch.rand(1, 300, 3, generator=torch.Generator().manual_seed(0))
    query = frac_to_cart(frac, crystal.lattice)
    true = exact_fields(crystal, periodic=True)
    with torch.no_grad():
        learned = module.fields(module.encode(crystal), crystal.lattice)
        assert not learned.periodic

        def far(fields: CrystalFields) -> float:
            error = (fields.position(query) - true.position(query)).norm(dim=-1)
            return float((error > 0.3).double().mean())

        assert far(learned.to_periodic()) < 0.1 < 0.3 < far(learned)
        species = learned.to_periodic().species(query).argmax(-1)
    wrong = (species != true.species(query).argmax(-1)).double().mean()
    assert wrong < 0.1
