"""Exact fields: displacements to nearest atoms and images, their species, and subsets."""

import pytest
import torch
from crystals import random_crystals
from pymatgen.core import Lattice, Structure

from nesf.crystal import CrystalBatch
from nesf.exact import exact_fields


@pytest.mark.parametrize("periodic", [True, False])
def test_offsets_end_on_atoms_of_the_species_named(periodic):
    crystals = random_crystals(0)
    fields = exact_fields(crystals, periodic)
    query = torch.rand(len(crystals), 40, 3, dtype=torch.float64) @ crystals.lattice
    end = query + fields.position(query)
    named = fields.species(query).argmax(-1)
    for b, structure in enumerate(crystals.to_structures()):
        for point, species in zip(end[b].numpy(), named[b].tolist(), strict=True):
            sites = structure.get_sites_in_sphere(point, 1e-6)
            assert species + 1 in {site.specie.Z for site in sites}
            # in-cell fields know no images
            assert periodic or any(max(map(abs, site.image)) == 0 for site in sites)


def test_periodic_fields_agree_with_pymatgen_in_a_skewed_cell():
    lattice = Lattice([[3.1, 0, 0], [9.5, 3.3, 0], [-7.0, 6.9, 3.7]])
    structure = Structure(lattice, ["Na", "Cl"], [[0.1, 0.2, 0.9], [0.7, 0.5, 0.3]])
    fields = exact_fields(CrystalBatch.from_structures([structure], dtype=torch.float64))
    query = torch.randn(1, 50, 3, dtype=torch.float64) * 5
    offset, species = fields.position(query)[0], fields.species(query)[0].argmax(-1)
    for i, point in enumerate(query[0].numpy()):
        nearest = min(structure.get_sites_in_sphere(point, 6.0), key=lambda site: site.nn_distance)
        assert offset[i].norm().item() == pytest.approx(nearest.nn_distance, abs=1e-9)
        assert species[i] + 1 == nearest.specie.Z


def test_fields_repeat_with_the_lattice():
    crystals = random_crystals(1)
    fields = exact_fields(crystals)
    query = torch.randn(len(crystals), 20, 3, dtype=torch.float64)
    moved = query + (torch.tensor([2.0, -3.0, 1.0]).double() @ crystals.lattice).unsqueeze(1)
    here, there = fields.position(query), fields.position(moved)
    torch.testing.assert_close(here, there, rtol=0, atol=1e-9)


def test_margin_moves_atoms_at_the_far_faces():
    carbon = Structure(Lattice.cubic(4.0), ["C"], [[0.99, 0.5, 0.5]])
    crystals = CrystalBatch.from_structures([carbon])
    query = torch.tensor([[[0.0, 2.0, 2.0]]])
    assert exact_fields(crystals, periodic=False).position(query)[0, 0, 0] == pytest.approx(3.96)
    fields = exact_fields(crystals, periodic=False, margin=0.02)
    assert fields.position(query)[0, 0, 0] == pytest.approx(-0.04, abs=1e-6)
    assert fields.margin == 0.02
    assert not fields.periodic


@pytest.mark.parametrize("periodic", [True, False])
def test_select_answers_as_the_whole(periodic):
    crystals = random_crystals(2)
    fields = exact_fields(crystals, periodic, num_species=94)
    query = torch.randn(len(crystals), 9, 3, dtype=torch.float64)
    index = [4, 0, 4]
    part = fields.select(index)
    assert torch.equal(part.position(query[index]), fields.position(query)[index])
    assert torch.equal(part.species(query[index]), fields.species(query)[index])
    assert torch.equal(part.num_atoms, crystals.num_atoms[index])
    assert len(fields.select(crystals.num_atoms > 100)) == 0


def test_a_crystal_without_atoms_has_no_answer():
    crystals = random_crystals(3, count=2)
    crystals = crystals.replace(mask=crystals.mask & torch.tensor([[True], [False]]))
    for periodic in (True, False):
        offset = exact_fields(crystals, periodic).position(torch.zeros(2, 4, 3).double())
        assert torch.isfinite(offset[0]).all()
        assert offset[1].isnan().all()
