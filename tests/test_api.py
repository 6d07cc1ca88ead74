"""The Python interface, with a model that forgets nothing and with a small untrained NeSF."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pymatgen.core import Lattice, Structure
from stand_in_model import StandIn
from torch import nn

import nesf
from nesf.api import Model
from nesf.autoencoder import NeSF
from nesf.checkpoint import save_model
from nesf.device import resolve_device
from nesf.errors import InputError
from nesf.reconstruction.reconstruct import ReconstructOptions

TRUSTED = ("stand_in_model.",)


@pytest.fixture(scope="module")
def structures() -> list[Structure]:
    return [
        Structure(Lattice.cubic(3.9), ["Sr", "Ti", "O", "O", "O"],
                  [[0, 0, 0], [0.5] * 3, [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]),
        Structure(Lattice.cubic(4.12), ["Cs", "Cl"], [[0, 0, 0], [0.5] * 3]),
        Structure(Lattice.from_parameters(3.1, 4.2, 5.3, 75, 82, 68), ["Si", "C", "N"],
                  [[0.1, 0.2, 0.3], [0.6, 0.7, 0.1], [0.4, 0.5, 0.8]]),
    ]  # fmt: skip


@pytest.fixture
def model() -> Model:
    return Model(StandIn(), batch_size=2)


@pytest.fixture(scope="module")
def small() -> Model:
    torch.manual_seed(0)
    widths = {"position_widths": [16, 16], "species_widths": [16]}
    return Model(NeSF(latent_dim=12, max_atoms=6, encoder_width=16, **widths))


def same_crystal(found: Structure, true: Structure, tolerance: float = 1e-3) -> bool:
    """Every true site has one found site of its element on it, by pymatgen's image search."""
    if len(found) != len(true) or not np.allclose(
        found.lattice.parameters, true.lattice.parameters, atol=1e-4
    ):
        return False
    distances = true.lattice.get_all_distances(true.frac_coords, found.frac_coords)
    nearest = distances.argmin(1)
    return (
        len(set(nearest)) == len(true)
        and distances.min(1).max() < tolerance
        and all(found[j].specie == true[i].specie for i, j in enumerate(nearest))
    )


def test_there_and_back(model, structures):
    latent = model.encode(structures)
    assert latent.shape == (3, model.latent_dim)
    assert not latent.requires_grad
    found = model.decode(latent)
    assert all(map(same_crystal, found, structures))


def test_batch_size_changes_nothing(structures):
    one, many = Model(StandIn(), batch_size=1), Model(StandIn(), batch_size=100)
    a, b = one.reconstruct(structures), many.reconstruct(structures)
    assert torch.equal(one.encode(structures), many.encode(structures))
    assert torch.equal(a.crystals.mask, b.crystals.mask)
    assert torch.allclose(a.crystals.cart_coords, b.crystals.cart_coords, atol=1e-5)
    assert torch.equal(a.crystals.atomic_numbers, b.crystals.atomic_numbers)
    assert torch.allclose(a.confidence, b.confidence, atol=1e-5)
    assert a.count_agrees.tolist() == [True, True, True]
    assert a.site_size.shape == a.crystals.mask.shape


def test_reconstruct_keeps_ids(model, structures):
    crystals = nesf.CrystalBatch.from_structures(structures, ["a", "b", "c"])
    assert model.reconstruct(crystals).crystals.ids == ("a", "b", "c")


def test_fields_point_to_the_nearest_image(model, structures, generator):
    """Against pymatgen's own neighbour search."""
    latent = model.encode(structures)
    query = 4 * torch.rand(3, 20, 3, generator=generator)
    offsets = model.position_field(latent)(query)
    logits = model.species_field(latent)(query)
    assert offsets.shape == (3, 20, 3)
    assert logits.shape == (3, 20, 94)
    for i, structure in enumerate(structures):
        for point, offset, logit in zip(query[i], offsets[i], logits[i], strict=True):
            nearest = min(
                structure.get_sites_in_sphere(point.numpy(), 6), key=lambda s: s.nn_distance
            )
            assert offset.norm().item() == pytest.approx(nearest.nn_distance, abs=1e-4)
            assert np.allclose(point + offset, nearest.coords, atol=1e-3)
            assert logit.argmax().item() + 1 == nearest.specie.Z


def test_learned_fields_are_plain_differentiable_functions(small, structures):
    latent = small.encode(structures).requires_grad_()
    query = torch.rand(3, 7, 3, requires_grad=True)
    offset = small.position_field(latent)(query)
    assert offset.shape == (3, 7, 3)
    assert small.species_field(latent)(query).shape == (3, 7, 94)
    offset.square().sum().backward()
    assert latent.grad.abs().sum() > 0
    assert query.grad.abs().sum() > 0
    assert all(p.grad is None for p in small.module.parameters())
    assert len(small.fields(latent)) == 3


def test_untrained_model_decodes_to_something_or_nothing(small, structures):
    quick = ReconstructOptions(grid_spacing=2.0, moves=1, max_rounds=1)
    found = small.decode(small.encode(structures), quick)
    assert [type(s) for s in found] == [Structure] * 3


def test_load(tmp_path, structures):
    config = {"class_path": "stand_in_model.StandIn", "init_args": {"max_atoms": 5}}
    run = tmp_path / "run"
    run.mkdir()
    save_model(run / "model.safetensors", config, StandIn(5).state_dict())
    model = nesf.load(run, trusted_prefixes=TRUSTED)
    assert model.device == torch.device("cpu")
    assert "StandIn" in repr(model)
    assert model.module.max_atoms == 5
    assert not any(p.requires_grad for p in model.module.parameters())
    assert all(map(same_crystal, model.decode(model.encode(structures)), structures))
    with pytest.raises(nesf.CheckpointError, match="not of a trusted package"):
        nesf.load(run)


def test_a_saved_nesf_is_the_same_model(tmp_path, small, structures):
    config = {"class_path": "nesf.autoencoder.NeSF", "init_args": small.module.init_args}
    save_model(tmp_path / "small.safetensors", config, small.module.state_dict())
    again = nesf.load(tmp_path / "small.safetensors")
    assert torch.equal(again.encode(structures), small.encode(structures))


def test_options_reach_the_reconstruction(model, structures):
    latent = model.encode(structures)
    nothing = model.decode(latent, ReconstructOptions(min_cluster_size=1e6))
    assert [len(s) for s in nothing] == [0, 0, 0]


def test_what_is_refused(model, structures):
    with pytest.raises(InputError, match="list of Structures"):
        model.encode(structures[0])
    with pytest.raises(InputError, match="no structures"):
        model.encode([])
    model.module.num_species = 20
    with pytest.raises(InputError, match="atomic number 55"):
        model.encode(structures)
    with pytest.raises(InputError, match="disordered"):
        model.encode([Structure(Lattice.cubic(3), [{"Fe": 0.5, "Ni": 0.5}], [[0, 0, 0]])])
    for use in (model.decode, model.position_field, model.species_field):
        with pytest.raises(InputError, match="have the shape"):
            use(torch.zeros(2, 3))
    with pytest.raises(InputError, match="batch size"):
        Model(StandIn(), batch_size=0)
    with pytest.raises(InputError, match="no latents"):
        model.decode(torch.zeros(0, model.latent_dim))


def test_crystals_that_are_too_large(model, structures):
    """What the model would cut off it refuses, unless the primitive cell is small enough."""
    large = structures[1] * (5, 1, 1)
    crystals = nesf.CrystalBatch.from_structures([structures[0], large], ["a", "b"])
    told = "crystal b: 10 atoms in the cell are more than the 8 that this model can give back"
    with pytest.raises(InputError, match=told):
        model.encode(crystals)
    with pytest.raises(InputError, match=told):
        model.reconstruct(crystals, setting="given")
    for setting in ("best", "primitive"):
        found = model.reconstruct(crystals, setting=setting)
        assert found.settings[1] == "primitive"
        assert found.faults.tolist() == [0, 0]
        assert same_crystal(found.crystals.to_structures()[1], large)
    shaken = large.copy()
    shaken.perturb(0.2)
    with pytest.raises(InputError, match="crystal 0: 10 atoms in the cell are more"):
        model.reconstruct([shaken])


def test_crystals_come_one_by_one(model, structures):
    crystals = nesf.CrystalBatch.from_structures(structures, ["a", "b", "c"])
    whole = model.reconstruct(crystals)
    came = []
    for index, found in model.iter_reconstruct(crystals):
        came += index.tolist()
        assert found.crystals.ids == tuple("abc"[i] for i in index.tolist())
        again = whole.select(index).crystals
        assert torch.equal(found.crystals.cart_coords, again.cart_coords)
    assert sorted(came) == [0, 1, 2]
    with pytest.raises(InputError, match="no crystals were given"):
        model.reconstruct(crystals.select([]))
    with pytest.raises(InputError, match="a StandIn cannot be refined"):
        model.iter_reconstruct(crystals, refine=3)  # at the call


def test_faults_are_told(model, structures):
    found = model.reconstruct(structures)
    assert found.faults.tolist() == [0, 0, 0]
    assert found.settings == ("given",) * 3
    nothing = model.reconstruct(structures, ReconstructOptions(min_cluster_size=1e6))
    # atoms that are missed, and as many too few
    assert nothing.faults.tolist() == [2 * len(structure) for structure in structures]


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "", "meta:x"])
def test_devices_that_are_not_here(device):
    with pytest.raises(InputError, match="there is no device"):
        resolve_device(device)


def test_auto_device():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert resolve_device("auto").type == expected


def test_models_without_fields_say_so(structures):
    class Blind(nn.Module):
        def encode(self, crystals):
            return crystals.lattice.flatten(1)

        def decode(self, latent, options=None):
            raise NotImplementedError

    model = Model(Blind())
    with pytest.raises(InputError, match="Blind has no position"):
        model.position_field(model.encode(structures))


def test_a_network_that_makes_no_crystals_is_refused():
    with pytest.raises(InputError, match="a Linear makes no crystals"):
        Model(nn.Linear(2, 2))


def test_names_at_the_top():
    assert set(nesf.__all__) <= set(dir(nesf))
    for name in nesf.__all__:
        assert getattr(nesf, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = nesf.nothing
